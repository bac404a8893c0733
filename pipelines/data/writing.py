"""The corpus's files, in the form that the tokenizer and training read.

Enters: the cleaned pieces and which of their rows stay. Leaves: `train/<source>/00000.parquet`, `heldout/<source>/...`, each
committed with a receipt.

A file holds a run of the source's own order, cut every `file_bytes` of text; the cut looks at the documents alone, so the
bytes of every file are the same however the input was split and however many workers wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import Draft
from pipelines.config import fingerprint
from pipelines.data.corpus import SourceConfig
from pipelines.data.document import schema
from pipelines.data.near import Placed
from pipelines.data.verdict import HELDOUT, TRAIN, Census, Verdict

_ROW_GROUP = 10_000
SPLITS = {"train": TRAIN, "heldout": HELDOUT}


@dataclass(frozen=True)
class WriteTask:
    """One output file: rows of one or more cleaned pieces, in order."""

    draft: Draft
    work: Draft
    source: str
    kind: str
    split: str
    number: int
    parts: tuple[tuple[str, npt.NDArray[np.int64]], ...]  # piece key, rows
    bytes: int

    @property
    def file(self) -> str:
        """Its name inside the artifact."""
        return f"{self.split}/{self.source}/{self.number:05d}.parquet"


def plan_files(
    draft: Draft, work: Draft, census: Census, verdict: Verdict, sources: Mapping[str, SourceConfig], file_bytes: int
) -> list[WriteTask]:
    """The files to write, by split and source."""
    tasks = []
    for name, source in sources.items():
        for split, fate in SPLITS.items():
            nodes = np.flatnonzero((census.source == census.names.index(name)) & (verdict.fate == fate))
            before = np.cumsum(census.bytes[nodes]) - census.bytes[nodes]
            files = before // file_bytes
            for number, file in enumerate(np.unique(files)):
                held = nodes[files == file]
                parts = tuple(rows_by_piece(census.pieces[name], held))
                size = int(census.bytes[held].sum())
                tasks.append(WriteTask(draft, work, name, source.kind, split, number, parts, size))
    return tasks


def write_file(task: WriteTask) -> dict[str, Any]:
    """Write one file, or return what an earlier run left of the same rows.

    Returns: statistics: source, split, file, documents, bytes.
    """
    piece = f"{task.split}-{task.source}-{task.number:05d}"
    made_of = fingerprint([[key, rows.tolist()] for key, rows in task.parts])
    held = task.draft.receipt(piece)
    if held is not None and held["statistics"]["made_of"] == made_of:
        return dict(held["statistics"])
    tables = [
        pq.read_table(task.work.storage.fetch(f"{task.work.folder}/clean/{key}.parquet")).take(rows)
        for key, rows in task.parts
    ]
    table = pa.concat_tables(tables).combine_chunks().cast(schema(task.kind))
    path = task.draft.scratch(task.file)
    pq.write_table(table, path, compression="zstd", row_group_size=_ROW_GROUP)
    statistics = {
        "source": task.source,
        "split": task.split,
        "file": task.file,
        "documents": len(table),
        "bytes": task.bytes,
        "made_of": made_of,
    }
    task.draft.publish(piece, {task.file: path}, statistics)
    return statistics


def rows_by_piece(pieces: list[Placed], nodes: npt.NDArray[np.int64]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """(piece key, rows) for the pieces that hold any of the nodes, which are ascending."""
    for piece in pieces:
        low, high = np.searchsorted(nodes, [piece.first, piece.first + piece.documents])
        if high > low:
            yield piece.key, nodes[low:high] - piece.first
