"""Clusters of near-copies: band keys to pairs, pairs to connected components, components to survivors.

Enters: (key, node) records of one partition; later all pairs. A node is a document's place in the corpus's own order, so it
depends on no worker and no shard. Leaves: for every node the survivor of its cluster.

    pairs        records sorted by key; within a bucket every node is linked to the smallest, a star: a bucket of n documents
                 costs n-1 pairs, not n²/2, and is connected all the same
    components   hooking and pointer jumping over the pairs (Shiloach & Vishkin 1982), whole arrays at a time; it ends when
                 no label changes, after a few rounds: labels fall to the smallest node of the component
    survivor     of each component: held out first, then the longest text, then the smallest hash of the id

The components of a graph and the survivor rule are functions of the documents alone, so the result is the same for any number
of workers, shards and partitions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Nodes = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
_MAX_LEADERS = 32  # of one bucket: bounds the work in a bucket of boilerplate at 32 comparisons a document


def candidate_pairs(keys: npt.NDArray[np.uint64], nodes: Nodes) -> Pairs:
    """(pairs, 2) int64: every node of a bucket linked to the bucket's smallest node; no pair twice.

    Args:
        keys: (records,) uint64 band keys. nodes: (records,) int64, the document of each record.
    """
    order = np.lexsort((nodes, keys))
    keys, nodes = keys[order], nodes[order]
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    centre = nodes[np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))] if len(keys) else nodes
    linked = centre != nodes
    return np.unique(np.stack([centre[linked], nodes[linked]], axis=1), axis=0)


def verified_pairs(
    keys: npt.NDArray[np.uint64], nodes: Nodes, similarity: Callable[[int, int], float], threshold: float
) -> Pairs:
    """Pairs of the buckets whose exact similarity reaches `threshold`.

    A star alone would lose a true pair whose centre happens to be a stranger. So a document joins the first *leader* of its
    bucket that it resembles, leaders in node order, and becomes a leader itself when it resembles none.

    Args:
        keys, nodes: as for `candidate_pairs`. similarity: exact similarity of two nodes in [0, 1].
    """
    order = np.lexsort((nodes, keys))
    keys, nodes = keys[order], nodes[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    known: dict[tuple[int, int], bool] = {}
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        leaders: list[int] = []
        for node in (int(n) for n in nodes[start:stop]):
            for leader in leaders:
                pair = (leader, node)
                if pair not in known:
                    known[pair] = similarity(leader, node) >= threshold
                if known[pair]:
                    break
            else:
                if len(leaders) < _MAX_LEADERS:
                    leaders.append(node)
    found = sorted(pair for pair, near in known.items() if near)
    return np.array(found, np.int64).reshape(-1, 2)


def components(count: int, pairs: Pairs) -> Nodes:
    """The smallest node of every node's connected component.

    Args:
        count: number of nodes. pairs: (pairs, 2) int64, in any order and direction.

    Returns: (count,) int64 labels, `label[label] == label`.
    """
    label = np.arange(count, dtype=np.int64)
    left, right = (pairs[:, 0], pairs[:, 1]) if len(pairs) else (label[:0], label[:0])
    while True:
        a, b = label[left], label[right]
        low, high = np.minimum(a, b), np.maximum(a, b)
        if (low == high).all():
            return label
        np.minimum.at(label, high, low)  # hook the larger root under the smaller
        while True:  # then every node jumps to its root
            jumped = label[label]
            if (jumped == label).all():
                break
            label = jumped


def survivors(
    label: Nodes, held: npt.NDArray[np.bool_], length: npt.NDArray[np.int64], tie: npt.NDArray[np.uint64]
) -> Nodes:
    """The node that stays of every node's cluster.

    Args:
        label: (nodes,) any numbering of the clusters.
        held: whether a node is held out: it goes before every one that is not.
        length: size of the text; longer goes first.
        tie: hash of the id; smaller goes first.

    Returns: (nodes,) int64; `survivor[i] == i` for those that stay.
    """
    order = np.lexsort((tie, -length, ~held, label))
    ordered = label[order]
    first = np.ones(len(order), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    survivor = np.empty(len(order), np.int64)
    survivor[order] = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))] if len(order) else order
    return survivor
