"""The corpus's files, in the form that the tokenizer and training read.

Enters: the cleaned pieces and the fates of their rows. Leaves: `train/<source>/00000.parquet`, `heldout/<source>/...`,
each committed with a receipt, and beside it, for later corpora that are compared with this one, the facts and keys of
its documents: `index/facts/train/<source>/00000.npy`, `index/keys/train/<source>/00000.bin`.

File k of a split of a source holds its documents that begin within [k, k+1) × `file_bytes` of its text. The cut looks
at the documents alone, so the bytes of every file are the same however the input was split and however many workers
wrote; a document longer than that leaves out a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipelines.data.corpus.profile import profile
from pipelines.data.dedup.facts import FACT, KEY
from pipelines.data.dedup.places import Job, Placed, keys_of_rows
from pipelines.data.dedup.settle import SPLITS
from pipelines.data.dedup.shuffle import blocks_of_hashes, concatenated, write_shuffled
from pipelines.data.sources.config import SourceConfig
from pipelines.data.text.document import schema
from pipelines.data.text.row_groups import take_rows
from pipelines.identity import fingerprint
from pipelines.store.draft import Draft

_ROW_GROUP = 10_000


@dataclass(frozen=True)
class WriteTask:
    """One output file."""

    draft: Draft
    job: Job
    source: str
    kind: str
    split: str
    number: int
    file_bytes: int
    parts: tuple[tuple[Placed, str, int], ...]  # a piece, the file of its fates, bytes of this split before it

    @property
    def piece(self) -> str:
        """The name of its receipt."""
        return f"{self.split}-{self.source}-{self.number:05d}"

    @property
    def stem(self) -> str:
        """Its name inside the artifact, without the ending."""
        return f"{self.split}/{self.source}/{self.number:05d}"


def plan_files(
    draft: Draft,
    job: Job,
    settled: Sequence[tuple[Placed, Mapping[str, Any]]],
    sources: Mapping[str, SourceConfig],
    file_bytes: int,
) -> list[WriteTask]:
    """The files to write, by source and split, from the sums of the pieces."""
    tasks = []
    parties = job.census().parties
    for name, source in sources.items():
        mine = [(place, done) for place, done in settled if parties[place.party].name == name]
        for split in SPLITS:
            files: dict[int, list[tuple[Placed, str, int]]] = {}
            before = 0
            for place, done in mine:
                if done["documents"][split]:
                    # its last document may begin in any file up to the one in which the piece ends
                    for number in range(before // file_bytes, (before + done["bytes"][split]) // file_bytes + 1):
                        files.setdefault(number, []).append((place, done["fates"], before))
                before += done["bytes"][split]
            for number, parts in files.items():
                tasks.append(WriteTask(draft, job, name, source.kind, split, number, file_bytes, tuple(parts)))
    return tasks


def write_file(task: WriteTask) -> dict[str, Any]:
    """Write one file and its index, or return what an earlier run left of the same rows.

    Returns: statistics: source, split, file (null when no document begins in it), documents, bytes.
    """
    chosen = [(place, rows) for place, rows in _rows(task) if len(rows)]
    empty = {"source": task.source, "split": task.split, "file": None, "documents": 0, "bytes": 0}
    if not chosen:  # nor may what an earlier run left under this name reach the manifest
        task.draft.storage.delete(f"{task.draft.folder}/receipts/{task.piece}.json")
        return empty
    made_of = fingerprint([[place.key, xxhash.xxh3_128_hexdigest(rows.tobytes())] for place, rows in chosen])
    published = task.draft.receipt(task.piece)
    if published is not None and published["statistics"]["made_of"] == made_of:
        return dict(published["statistics"])
    storage = task.job.work.storage
    table = pa.concat_tables(take_rows(storage.fetch(place.text), rows) for place, rows in chosen)
    facts = concatenated((place.read_facts(storage)[rows] for place, rows in chosen), FACT)
    names = [
        f"{task.stem}.parquet",
        f"index/facts/{task.stem}.npy",
        f"index/keys/{task.stem}.bin",
    ]
    files = {name: task.draft.scratch(name) for name in names}
    text_file, facts_file, keys_file = files.values()
    pq.write_table(
        table.combine_chunks().cast(schema(task.kind)), text_file, compression="zstd", row_group_size=_ROW_GROUP
    )
    with facts_file.open("wb") as handle:
        np.save(handle, facts)
    keys = _keys(task, chosen)
    # an id says nothing about another corpus, which may name its documents alike
    ids = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in table.column("id").to_pylist()], np.uint64)
    keys = keys[keys["key"] != ids[keys["row"]]]
    write_shuffled(keys_file, keys, blocks_of_hashes(keys["key"]))
    statistics = {
        **empty,
        "file": f"{task.stem}.parquet",
        "documents": len(table),
        "bytes": int(facts["bytes"].sum()),
        **profile(table, task.kind),
        "made_of": made_of,
    }
    task.draft.publish(task.piece, files, statistics)
    return statistics


def _rows(task: WriteTask) -> list[tuple[Placed, npt.NDArray[np.int64]]]:
    storage, chosen = task.job.work.storage, []
    low, high = task.number * task.file_bytes, (task.number + 1) * task.file_bytes
    for place, file, before in task.parts:
        fates = np.load(storage.fetch(f"{task.job.work.folder}/{file}"))
        rows = np.flatnonzero(fates == SPLITS[task.split])
        sizes = place.read_facts(storage)["bytes"][rows]
        begins = before + np.cumsum(sizes) - sizes
        chosen.append((place, rows[(begins >= low) & (begins < high)]))
    return chosen


def _keys(task: WriteTask, chosen: Sequence[tuple[Placed, npt.NDArray[np.int64]]]) -> npt.NDArray[Any]:
    """The keys of the rows of this file, in an order that does not depend on the pieces they came from."""
    parts, first = [], 0
    for place, rows in chosen:
        part = keys_of_rows(task.job.work.storage, place, rows)
        part["row"] += np.uint32(first)
        parts.append(part)
        first += len(rows)
    keys = concatenated(parts, KEY)
    return keys[np.lexsort((keys["row"], keys["key"]))]
