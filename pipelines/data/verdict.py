"""What becomes of every cleaned document: trained on, held out, or dropped as a copy.

Enters: the cleaned pieces of all sources in the recipe's order, and the near-duplicate pairs. Leaves: one verdict for each
document, a function of the documents alone.

    cap       the first documents of a source, up to its cap; what lies beyond takes part in nothing
    held out  by the hash of the id, before any copy is removed
    exact     of equal texts (within one kind of source) one stays
    near      of each connected component of near-copies one stays
    asked     no conversation or pair is trained on that asks what a held-out one asks, whatever its answers
    survivor  held out first, then the longest, then the smallest hash of the id

Memory: 80 bytes per document in this one process (a hundred million documents: 6.4 GB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.artifacts import Draft
from pipelines.data.clusters import components, survivors
from pipelines.data.corpus import SourceConfig
from pipelines.data.exact import group_exact
from pipelines.data.holdout import held_out
from pipelines.data.near import Placed
from pipelines.errors import DataError

TRAIN, HELDOUT, EXACT, NEAR, NEAR_HELDOUT, ASKED = range(6)
REASONS = {
    EXACT: "dedup.exact",
    NEAR: "dedup.near",
    NEAR_HELDOUT: "dedup.near_heldout",
    ASKED: "dedup.heldout_question",
}


@dataclass(frozen=True)
class Census:
    """Every document that is under its source's cap, by node."""

    pieces: dict[str, list[Placed]]  # by source
    digest: npt.NDArray[np.uint64]  # (nodes, 2) of the text
    asked: npt.NDArray[np.uint64]  # (nodes, 2) of the question
    position: npt.NDArray[np.uint64]
    bytes: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]  # index into `names`
    names: tuple[str, ...]
    capped: frozenset[str]  # sources that had more than their cap

    def near_pieces(self, sources: Mapping[str, SourceConfig]) -> tuple[Placed, ...]:
        """The pieces whose documents lose their near-copies."""
        wanted = (name for name, s in sources.items() if s.kind == "documents" and s.duplicates == "near")
        return tuple(piece for name in wanted for piece in self.pieces[name])


@dataclass(frozen=True)
class Verdict:
    """For every node its fate (TRAIN ... ASKED), and the node whose copy it is."""

    fate: npt.NDArray[np.int64]
    survivor: npt.NDArray[np.int64]
    statistics: dict[str, Any]


def take_census(work: Draft, keys: Mapping[str, Sequence[str]], sources: Mapping[str, SourceConfig]) -> Census:
    """Number the documents of all pieces, up to the cap of each source.

    Args:
        keys: the keys of each source's pieces, in order.

    Raises: DataError when two documents of a source have the same id.
    """
    first = 0
    pieces: dict[str, list[Placed]] = {}
    columns: dict[str, list[npt.NDArray[Any]]] = {"digest": [], "asked": [], "position": [], "bytes": [], "source": []}
    capped = set()
    for index, (name, source) in enumerate(sources.items()):
        pieces[name] = []
        documents = size = 0
        for key in keys[name]:
            with np.load(work.storage.fetch(f"{work.folder}/facts/{key}.npz")) as facts:
                found = {column: facts[column] for column in ("digest", "asked", "position", "bytes")}
            count = _within_cap(found["bytes"], documents, size, source)
            if count < len(found["bytes"]):
                capped.add(name)
            pieces[name].append(Placed(key, first, count))
            for column, values in found.items():
                columns[column].append(values[:count])
            columns["source"].append(np.full(count, index, np.int64))
            first, documents, size = first + count, documents + count, size + int(found["bytes"][:count].sum())
        if source.max_documents == documents or (source.max_bytes is not None and size >= source.max_bytes):
            capped.add(name)
        _refuse_same_ids(name, columns["position"][-len(keys[name]) :] if keys[name] else [])
    pair = np.empty((0, 2), np.uint64)
    empty = {"digest": pair, "asked": pair, "position": np.empty(0, np.uint64)}
    joined = {c: np.concatenate([empty.get(c, np.empty(0, np.int64)), *values]) for c, values in columns.items()}
    return Census(pieces=pieces, names=tuple(sources), capped=frozenset(capped), **joined)


def decide(census: Census, pairs: npt.NDArray[np.int64], sources: Mapping[str, SourceConfig]) -> Verdict:
    """The fate of every node.

    Args:
        pairs: (pairs, 2) near-copies among the nodes.
    """
    count = len(census.source)
    configs = [sources[name] for name in census.names]
    held = np.zeros(count, bool)
    for index, config in enumerate(configs):
        nodes = np.flatnonzero(census.source == index)
        held[nodes] = held_out(census.position[nodes], config.heldout, config.heldout_minimum)
    # texts are compared within their kind; a source that keeps its copies is in no group but its own
    kinds = np.array([kind_number(config.kind) for config in configs], np.uint64)[census.source]
    exact = group_exact(np.column_stack([census.digest, kinds]))
    keeps = np.array([config.duplicates == "keep" for config in configs], bool)[census.source]
    exact[keeps] = np.flatnonzero(keeps) + count  # a label no other node has
    exact_survivor = survivors(exact, held, census.bytes, census.position)
    near = components(count, pairs)
    near_survivor = survivors(near, held, census.bytes, census.position)
    nodes = np.arange(count)
    fate = np.where(held, HELDOUT, TRAIN)
    copies = near_survivor != nodes
    fate[copies] = np.where(held[near_survivor[copies]] & ~held[copies], NEAR_HELDOUT, NEAR)
    repeated = exact_survivor != nodes
    fate[repeated] = EXACT
    survivor = np.where(repeated, exact_survivor, near_survivor)
    talks = kinds != kind_number("documents")
    first_asked = survivors(
        group_exact(np.column_stack([census.asked, talks])), fate == HELDOUT, census.bytes, census.position
    )
    asked = talks & (fate == TRAIN) & (fate[first_asked] == HELDOUT)
    fate[asked], survivor[asked] = ASKED, first_asked[asked]
    sizes = np.bincount(near, minlength=count)
    statistics = {
        "near_pairs": len(pairs),
        "near_clusters": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max(initial=0)),
        "exact_copies": int(repeated.sum()),
    }
    return Verdict(fate, survivor, statistics)


def kind_number(kind: str) -> int:
    """A number for each kind of source."""
    return ("documents", "conversations", "preferences").index(kind)


def _within_cap(sizes: npt.NDArray[np.int64], documents: int, size: int, source: SourceConfig) -> int:
    """How many of a piece's documents still fit; the one that crosses the byte cap is left out, unless it is the first."""
    count = len(sizes)
    if source.max_documents is not None:
        count = min(count, source.max_documents - documents)
    if source.max_bytes is not None:
        fitting = int(np.searchsorted(np.cumsum(sizes), source.max_bytes - size, side="right"))
        count = min(count, max(fitting, 1 if documents == 0 else 0))
    return max(count, 0)


def _refuse_same_ids(name: str, positions: Sequence[npt.NDArray[np.uint64]]) -> None:
    joined = np.concatenate([np.empty(0, np.uint64), *positions])
    repeated = len(joined) - len(np.unique(joined))
    if repeated:
        raise DataError(
            f"source {name}: {repeated} documents have the id of another; expected a different id for each: "
            f"correct corpus.sources.{name}.reader.id_field, or leave it out to name documents by file and line"
        )
