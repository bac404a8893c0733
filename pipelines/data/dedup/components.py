"""Connected components over ranges of nodes: which documents have to be looked at together.

Enters: links between nodes, in files shared out by the hashes of nodes. Leaves: for every linked node the smallest node
of its component, in files shared out by the nodes.

The alternation of *large-star* and *small-star* (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond"):
a task holds the links of one range of nodes, whole arrays at a time, and its links go to the ranges of their other
ends. A range is one of the nodes' hashes: the centres of stars are the smallest nodes, and would all lie in the first
range of the nodes themselves.

    large-star   a node links its larger neighbours to the smallest of itself and all its neighbours
    small-star   a node links itself and its smaller neighbours to the smallest of them

Both keep what is connected connected; when neither changes anything, every component is a star around its smallest
node. The number of rounds is O(log² n) in theory, three or four on buckets. Where one task may hold all links, it
contracts them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.cluster.cluster import ShardMap
from pipelines.data.dedup.places import Job, Nodes
from pipelines.data.dedup.shuffle import (
    Blocks,
    blocks_of_hashes,
    blocks_of_nodes,
    concatenated,
    mixed,
    read_many,
    span,
    starts,
    write_shuffled,
)
from pipelines.data.text.kernels import compiled

LINK = np.dtype([("node", "<i8"), ("other", "<i8")])
LABEL = np.dtype([("node", "<i8"), ("label", "<i8")])


@dataclass(frozen=True)
class StarTask:
    """One range of nodes in one step; `files` are what the step before left."""

    job: Job
    step: Literal["large", "small", "label", "sort", "contract"]
    round: int
    part: int
    parts: int
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.step}-{self.round:02d}-of-{self.parts:04d}/{self.part:04d}"


def label_components(job: Job, files: Sequence[str], parts: int, map_shards: ShardMap) -> tuple[list[str], int]:
    """Run the rounds over `parts` ranges of nodes.

    Args:
        files: links, both ways, in `blocks_of_links`.

    Returns: the files of labels, one for each range, in order; how many rounds it took.
    """

    def step(
        kind: Literal["large", "small", "label", "sort", "contract"], number: int, read: Sequence[str]
    ) -> list[Any]:
        tasks = [StarTask(job, kind, number, part, parts, tuple(read)) for part in range(parts)]
        done = map_shards(star, tasks, f"components, round {number}")
        for folder in {Path(file).parent.name for file in read}:
            job.forget(folder)
        return done

    if parts == 1:
        return [made["file"] for made in step("contract", 1, files)], 1
    for number in range(1, 100):
        large = step("large", number, files)
        small = step("small", number, [made["file"] for made in large])
        files = [made["file"] for made in small]
        if not sum(made["changed"] for made in (*large, *small)):
            break
    labels = step("label", number, files)
    return [made["file"] for made in step("sort", number, [made["file"] for made in labels])], number


def star(task: StarTask) -> dict[str, Any]:
    """One step over one range.

    Returns: statistics: file, records in it, changed (nodes whose links this step moved).
    """
    return task.job.once(task.name, lambda: _step(task))


def _step(task: StarTask) -> tuple[dict[str, Any], dict[str, Any]]:
    job, count = task.job, task.job.census().nodes
    blocks, dtype = span(task.part, task.parts), LABEL if task.step == "sort" else LINK
    files = [f"{job.work.folder}/{file}" for file in task.files]
    read = concatenated(read_many(job.work.storage, files, dtype, *blocks), dtype)
    node, other, changed = *(read[name] for name in dtype.names or ()), 0
    if task.step == "sort":
        records = np.sort(read, order="node")
    elif task.step == "large":
        node, other, changed = large_star(node, other)
        records = as_links(node, other)
    elif task.step == "small":
        node, other, changed = small_star(node, other)
        records = both_ways(node, other)
    elif task.step == "contract":
        label, member = contract(other, node)
        records = _labels(label, member)
    else:  # stars: the label of a node is its smallest neighbour, or itself
        node, other = _ordered(node, other)
        first = starts(node)
        smallest = np.minimum.reduceat(other, first) if len(first) else other
        records = np.empty(len(first), LABEL)
        records["node"], records["label"] = node[first], np.minimum(node[first], smallest)
    file = job.file(f"{task.name}.bin")
    path = job.work.scratch(file)
    shared_out = blocks_of_links(records) if records.dtype == LINK else blocks_of_nodes(records["node"], count)
    write_shuffled(path, records, shared_out)
    return {file: path}, {"file": file, "records": len(records), "changed": changed}


def large_star(node: Nodes, other: Nodes) -> tuple[Nodes, Nodes, int]:
    """Large-star for the nodes of one range.

    Args:
        node, other: (links,) each; every link of every node of the range, whichever end is the larger.

    Returns: links (larger, smaller), no link twice; how many nodes moved their links.
    """
    node, other = _ordered(node, other)
    first = starts(node)
    if not len(first):
        return node, other, 0
    smallest = np.minimum(np.minimum.reduceat(other, first), node[first])
    centre = np.repeat(smallest, np.diff(first, append=len(node)))
    larger = other > node
    changed = len(np.unique(node[larger & (centre < node)]))
    return *_ordered(other[larger], centre[larger]), changed


def small_star(node: Nodes, other: Nodes) -> tuple[Nodes, Nodes, int]:
    """Small-star for the nodes of one range.

    Args:
        node, other: (links,) each; of every node of the range the links to smaller nodes.

    Returns: links (larger, smaller), no link twice; how many nodes moved their links.
    """
    node, other = _ordered(node, other)
    first = starts(node)
    if not len(first):
        return node, other, 0
    sizes = np.diff(first, append=len(node))
    centre = np.repeat(other[first], sizes)  # ordered: the first is the smallest
    moved = other != centre
    changed = int((sizes > 1).sum())
    return *_ordered(
        np.concatenate([node[first], other[moved]]), np.concatenate([other[first], centre[moved]])
    ), changed


def contract(left: Nodes, right: Nodes) -> tuple[Nodes, Nodes]:
    """Components in one process: a union-find.

    Args:
        left, right: (links,) each, in any order and direction.

    Returns: (label, node) for every node that is not its own label: the smallest of its component. Nodes ascend.
    """
    nodes, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    root = _union(len(nodes), index[: len(left)], index[len(left) :])
    moved = np.flatnonzero(root != np.arange(len(root)))
    return nodes[root[moved]], nodes[moved]


def blocks_of_links(links: npt.NDArray[Any]) -> Blocks:
    """The block of a link: by the hash of its first node."""
    return blocks_of_hashes(mixed(links["node"]))


def as_links(node: Nodes, other: Nodes) -> npt.NDArray[Any]:
    """Links as records."""
    records = np.empty(len(node), LINK)
    records["node"], records["other"] = node, other
    return records


def both_ways(left: Nodes, right: Nodes) -> npt.NDArray[Any]:
    """Links as records, each once from either end."""
    return as_links(np.concatenate([left, right]), np.concatenate([right, left]))


def _labels(label: Nodes, member: Nodes) -> npt.NDArray[Any]:
    roots = np.unique(label)
    records = np.empty(len(member) + len(roots), LABEL)
    records["node"], records["label"] = np.concatenate([member, roots]), np.concatenate([label, roots])
    return np.sort(records, order="node")


def _ordered(node: Nodes, other: Nodes) -> tuple[Nodes, Nodes]:
    """Links by node, then by the other end, no link twice."""
    order = np.lexsort((other, node))
    node, other = node[order], other[order]
    new = np.ones(len(node), bool)
    new[1:] = (node[1:] != node[:-1]) | (other[1:] != other[:-1])
    return node[new], other[new]


@compiled
def _union(count: int, left: Any, right: Any) -> Any:
    root = np.arange(count)
    for i in range(len(left)):
        a, b = left[i], right[i]
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        while root[b] != b:
            root[b] = root[root[b]]
            b = root[b]
        if a < b:  # the smaller stays the root, so a root is the smallest of its tree
            root[b] = a
        else:
            root[a] = b
    for i in range(count):  # parents are smaller, so they are done before
        root[i] = root[root[i]]
    return root
