"""Near-duplicates of the whole corpus, partition by partition.

Enters: the facts of every cleaned piece. Leaves: pairs of nodes, one file of them for each partition.

A node is a document's place among all documents in the recipe's order of sources, pieces and rows, counted after the sources'
caps: the same number however the input was cut. One task groups the keys of one partition; with `verify` it reads the texts of
its candidates and keeps the pairs whose exact Jaccard similarity reaches the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipelines.artifacts import Draft
from pipelines.config import fingerprint
from pipelines.data.clusters import candidate_pairs, verified_pairs
from pipelines.data.corpus import DedupConfig
from pipelines.data.minhash import jaccard, shingles


@dataclass(frozen=True)
class Placed:
    """A cleaned piece, the node of its first document, and how many of its documents the source's cap leaves."""

    key: str
    first: int
    documents: int


@dataclass(frozen=True)
class PairTask:
    """One partition of the band keys of all pieces that take part in near-duplicate removal."""

    work: Draft
    partition: int
    pieces: tuple[Placed, ...]
    dedup: DedupConfig


def pair_partition(task: PairTask) -> dict[str, Any]:
    """Find the pairs of one partition; committed as `pairs/<partition>.npy`.

    Returns: statistics: the file, records read, candidate pairs, pairs kept.
    """
    name = f"pairs-{task.partition:04d}-{fingerprint([vars(piece) for piece in task.pieces])[:8]}"
    held = task.work.receipt(name)
    if held is not None:
        return dict(held["statistics"])
    keys, nodes = _records(task)
    candidates = candidate_pairs(keys, nodes)
    pairs = candidates
    if task.dedup.verify and len(candidates):
        shingled = _Shingled(task, np.unique(candidates))
        pairs = verified_pairs(keys, nodes, shingled.similarity, task.dedup.threshold)
    path = task.work.scratch(f"pairs/{name}.npy")
    with path.open("wb") as handle:
        np.save(handle, pairs)
    statistics = {"file": f"pairs/{name}.npy", "records": len(keys), "candidates": len(candidates), "pairs": len(pairs)}
    task.work.publish(name, {f"pairs/{name}.npy": path}, statistics)
    return statistics


def read_pairs(work: Draft, files: Sequence[str]) -> npt.NDArray[np.int64]:
    """The pairs of all partitions, (pairs, 2)."""
    parts = [np.load(work.storage.fetch(f"{work.folder}/{file}")) for file in files]
    return np.concatenate([np.empty((0, 2), np.int64), *parts])


def _records(task: PairTask) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    keys, nodes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for piece in task.pieces:
        with np.load(task.work.storage.fetch(f"{task.work.folder}/facts/{piece.key}.npz")) as facts:
            start, stop = facts["offsets"][task.partition : task.partition + 2]
            rows = facts["rows"][start:stop]
            taken = rows < piece.documents
            keys.append(facts["keys"][start:stop][taken])
            nodes.append(rows[taken] + piece.first)
    return np.concatenate(keys), np.concatenate(nodes)


class _Shingled:
    """Shingle sets of the candidates of one partition, computed once each."""

    def __init__(self, task: PairTask, wanted: npt.NDArray[np.int64]):
        self._sets: dict[int, npt.NDArray[np.uint64]] = {}
        for piece in task.pieces:
            rows = wanted[(wanted >= piece.first) & (wanted < piece.first + piece.documents)] - piece.first
            if len(rows):
                path = task.work.storage.fetch(f"{task.work.folder}/clean/{piece.key}.parquet")
                texts = pq.read_table(path, columns=["text"]).column("text").take(rows).to_pylist()
                for row, text in zip(rows, texts, strict=True):
                    self._sets[piece.first + int(row)] = shingles(text, task.dedup.minhash.ngram)

    def similarity(self, left: int, right: int) -> float:
        return jaccard(self._sets[left], self._sets[right])
