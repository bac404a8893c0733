"""Lines that many documents share: menus, licences, footers.

Enters: the cleaned pieces of sources that remove copies. Leaves: the same pieces without the lines (or paragraphs) of
at least `min_characters` that occur in more than `max_documents` documents of the corpus. The first document that has
such a line keeps it. A document of which nothing is left is dropped as `quality.boilerplate`; what is left of the
others is judged again, as a document that never had these lines would have been: by the quality rules (too short now,
…), the evaluation sets and the quality model.

    list    the hashes of a piece's lines             a task per piece
    find    hashes that too many documents share      a task per range of hashes
    strip   the piece, its facts and keys anew        a task per piece (see `stripping`)

The same external shuffle as for documents (see `shuffle`), before signatures are computed from what is left. Off by
default.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipelines.cluster.cluster import ShardMap
from pipelines.data.cleaning.aids import Aids
from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.dedup import sizing
from pipelines.data.dedup.lines import hashed_lines
from pipelines.data.dedup.places import Job, Placed, range_of_hashes
from pipelines.data.dedup.shuffle import (
    blocks_of_hashes,
    blocks_of_nodes,
    parts_for,
    span,
    starts,
    write_shuffled,
)
from pipelines.data.dedup.stripping import REMOVED, StripTask, strip_piece
from pipelines.data.sources.config import SourceConfig

LINE = np.dtype([("hash", "<u8"), ("row", "<u4")])
_EXAMPLES = 20  # of the most frequent lines
_Piece = tuple[str, Mapping[str, Any]]  # key and statistics


@dataclass(frozen=True)
class ListTask:
    """One piece."""

    job: Job
    place: Placed


@dataclass(frozen=True)
class FindTask:
    """One range of hashes, of the lines of all places."""

    job: Job
    places: tuple[Placed, ...]
    part: int
    parts: int


def remove_boilerplate(
    job: Job,
    cleaned: Sequence[_Piece],
    sources: Mapping[str, SourceConfig],
    recipe: CleaningRecipe,
    aids: Aids,
    map_shards: ShardMap,
) -> tuple[list[_Piece], dict[str, Any]]:
    """Strip all pieces.

    Args:
        job: with the census of the cleaned pieces, whose caps are applied here: a stripped piece holds what is under
            them.

    Returns: the pieces in the same order, under new keys where they were stripped; statistics: removed (lines),
        distinct (lines), documents (that lost any), and examples of the most frequent with the documents that had them.
    """
    census = job.census()
    source_of = {place.key: sources[census.parties[place.party].name] for place in census.places}
    places = tuple(p for p in census.places if _takes_part(source_of[p.key]) and p.documents)
    shared = _find_all(job, places, map_shards)
    frequent = heapq.nlargest(_EXAMPLES, ((count, value) for done in shared for value, count in done["frequent"]))
    files = tuple(done["file"] for done in shared)
    wanted = tuple(value for _, value in frequent)
    statistics = dict(cleaned)
    tasks = [
        StripTask(job, place, files, source_of[place.key], recipe, aids, dict(statistics[place.key]), wanted)
        for place in places
    ]
    stripped = map_shards(strip_piece, tasks, "boilerplate: strip")
    anew = {place.key: (done["key"], done["piece"]) for place, done in zip(places, stripped, strict=True)}
    texts = {int(value): text for done in stripped for value, text in done["examples"].items()}
    nothing = {"documents": 0, "bytes": 0, "keys": 0, "smallest": []}
    beyond = {place.key for place in census.places if not place.documents}
    pieces = [anew.get(key, (key, {**done, **nothing} if key in beyond else done)) for key, done in cleaned]
    return pieces, {
        "removed": sum(done["removed"] for done in stripped),
        "distinct": sum(done["distinct"] for done in shared),
        "documents": sum(done["touched"] for done in stripped),
        "examples": [{"text": texts.get(value, ""), "documents": count} for count, value in frequent],
    }


def _find_all(job: Job, places: tuple[Placed, ...], map_shards: ShardMap) -> list[dict[str, Any]]:
    """What `find_shared` gives for every range of hashes."""
    listed = map_shards(list_lines, [ListTask(job, place) for place in places], "boilerplate: list")
    need_bytes = sum(done["lines"] for done in listed) * sizing.PAIR_BYTES
    parts = parts_for(need_bytes, job.dedup.task_memory, "the lines")
    tasks = [FindTask(job, places, part, parts) for part in range(parts)]
    return map_shards(find_shared, tasks, "boilerplate: find")


def list_lines(task: ListTask) -> dict[str, Any]:
    """Publish the hashes of one piece's lines, each once per document. Returns: statistics: lines."""
    place, job, file = task.place, task.job, _lines_file(task.job, task.place)

    def make() -> tuple[dict[str, Path], dict[str, Any]]:
        hashes: list[int] = []
        rows: list[int] = []
        for row, text in enumerate(_texts(job, place)):
            own = {value for value, _ in hashed_lines(text, job.dedup.lines) if value}
            hashes.extend(sorted(own))
            rows.extend([row] * len(own))
        records = np.empty(len(rows), LINE)
        records["hash"], records["row"] = np.array(hashes, np.uint64), rows
        path = job.work.scratch(file)
        write_shuffled(path, records, blocks_of_hashes(records["hash"]))
        return {file: path}, {"lines": len(records)}

    return job.once(f"lines/{place.key}", make)


def find_shared(task: FindTask) -> dict[str, Any]:
    """Publish which documents lose which lines, of one range of hashes.

    Returns: statistics: file; distinct (lines that are removed somewhere); frequent, up to 20 of [hash, documents].
    """
    job, name = task.job, f"shared-of-{task.parts:04d}/{task.part:04d}"

    def make() -> tuple[dict[str, Path], dict[str, Any]]:
        files = [f"{job.work.folder}/{_lines_file(job, place)}" for place in task.places]
        hashes, nodes = range_of_hashes(job.work.storage, task.places, files, LINE, span(task.part, task.parts))
        removed, counted = shared_lines(hashes, nodes, job.dedup.lines.max_documents or 0)
        file = job.file(f"{name}.bin")
        path = job.work.scratch(file)
        write_shuffled(path, removed, blocks_of_nodes(removed["node"], job.census().nodes))
        frequent = heapq.nlargest(_EXAMPLES, ((count, value) for value, count in counted))
        return {file: path}, {
            "file": file,
            "distinct": len(counted),
            "frequent": [[value, count] for count, value in frequent],
        }

    return job.once(name, make)


def shared_lines(
    hashes: npt.NDArray[np.uint64], nodes: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[Any], list[tuple[int, int]]]:
    """Which documents lose which lines.

    Args:
        hashes, nodes: (records,) each line of each document once. most: documents that may share a line.

    Returns: records of `REMOVED`: of every line in more than `most` documents all but the first of them; and (hash,
        documents) of these lines.
    """
    order = np.lexsort((nodes, hashes))
    hashes, nodes = hashes[order], nodes[order]
    first = starts(hashes)
    sizes = np.diff(first, append=len(hashes))
    gone = np.repeat(sizes > most, sizes)
    gone[first] = False
    removed = np.empty(int(gone.sum()), REMOVED)
    removed["node"], removed["hash"] = nodes[gone], hashes[gone]
    many = sizes > most
    return removed, list(zip(hashes[first[many]].tolist(), sizes[many].tolist(), strict=True))


def _takes_part(source: SourceConfig) -> bool:
    return source.kind == "documents" and source.duplicates != "keep"


def _texts(job: Job, place: Placed) -> list[str]:
    table = pq.read_table(job.work.storage.fetch(place.text), columns=["text"])
    texts: list[str] = table.column("text").slice(0, place.documents).to_pylist()
    return texts


def _lines_file(job: Job, place: Placed) -> str:
    return job.file(f"lines/{place.key}.bin")
