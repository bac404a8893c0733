"""Documents that share a key, range by range of the keys: which documents may have to do with each other.

Enters: the keys of every place (see `facts`). Leaves: for each range of keys a file of links between documents, both
ways, for `components` to follow.

A task takes one range of the keys of all places, groups its records, and links every document of a bucket to the
bucket's smallest node: a star, so a bucket of n documents costs n - 1 links, not n²/2. No text is read. The links of
one range are contracted at once (a union-find in this process): what is left is at most one link for each document in
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.dedup.components import blocks_of_links, both_ways, contract
from pipelines.data.dedup.facts import KEY
from pipelines.data.dedup.places import Job, Nodes, range_of_hashes
from pipelines.data.dedup.shuffle import span, starts, write_shuffled


@dataclass(frozen=True)
class PairTask:
    """One range of the keys of all places."""

    job: Job
    part: int
    parts: int

    @property
    def name(self) -> str:
        return f"links-of-{self.parts:04d}/{self.part:04d}"


def pair_range(task: PairTask) -> dict[str, Any]:
    """Find the links of one range.

    Returns: statistics: file; records (keys read); shared (pairs of a document and the first of its bucket, over all
        buckets, before any is contracted); links (records in the file).
    """
    return task.job.once(task.name, lambda: _find(task))


def _find(task: PairTask) -> tuple[dict[str, Any], dict[str, Any]]:
    job, file = task.job, task.job.file(f"{task.name}.bin")
    places = [place for place in job.census().places if place.documents]
    files = [place.keys for place in places]
    keys, nodes = range_of_hashes(job.work.storage, places, files, KEY, span(task.part, task.parts))
    centres, others = candidates(keys, nodes, job.census().own_nodes)
    left, right = contract(centres, others)
    links = both_ways(left, right)
    path = job.work.scratch(file)
    write_shuffled(path, links, blocks_of_links(links))
    return {file: path}, {"file": file, "records": len(keys), "shared": len(centres), "links": len(links)}


def candidates(keys: npt.NDArray[np.uint64], nodes: Nodes, own: int) -> tuple[Nodes, Nodes]:
    """Every node of a bucket but its smallest, and that smallest one.

    Args:
        keys: (records,) uint64. nodes: (records,) int64, the document of each record.
        own: nodes from here on are of finished corpora: a bucket of such alone decides nothing.

    Returns: centres and others, (links,) int64 each, by bucket.
    """
    order = np.argsort(keys, kind="stable")  # few long ascending runs, which a merge sort finds
    keys, nodes = keys[order], nodes[order]
    first = starts(keys)
    sizes = np.diff(first, append=len(keys))
    several = np.repeat(sizes > 1, sizes)
    nodes, sizes = nodes[several], sizes[sizes > 1]
    if not len(nodes):
        return nodes, nodes
    smallest = np.minimum.reduceat(nodes, np.cumsum(sizes) - sizes)
    centres = np.repeat(smallest, sizes)
    linked = (centres != nodes) & (centres < own)
    return centres[linked], nodes[linked]
