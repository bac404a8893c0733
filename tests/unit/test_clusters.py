"""Clusters against SciPy on random graphs, survivors against the stated rule."""

import numpy as np
import pytest

from pipelines.data.clusters import candidate_pairs, components, survivors, verified_pairs
from pipelines.data.exact import digest, group_exact


@pytest.mark.parametrize(("nodes", "edges", "seed"), [(1, 0, 0), (50, 20, 1), (2_000, 900, 2), (2_000, 4_000, 3)])
def test_components_equal_scipy(nodes: int, edges: int, seed: int) -> None:
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    sparse = pytest.importorskip("scipy.sparse")
    pairs = np.random.default_rng(seed).integers(0, nodes, (edges, 2))
    graph = sparse.coo_matrix((np.ones(edges), (pairs[:, 0], pairs[:, 1])), (nodes, nodes))
    _, expected = csgraph.connected_components(graph, directed=False)
    label = components(nodes, pairs)
    for group in np.unique(expected):
        members = np.flatnonzero(expected == group)
        assert (label[members] == members.min()).all()


def test_a_long_chain_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(5_000)
    label = components(5_000, np.stack([order[:-1], order[1:]], axis=1))
    assert (label == 0).all()


def test_pairs_are_stars_without_repeats() -> None:
    keys = np.array([7, 5, 7, 5, 7, 9, 5], np.uint64)
    nodes = np.array([4, 1, 2, 2, 3, 8, 1])
    assert candidate_pairs(keys, nodes).tolist() == [[1, 2], [2, 3], [2, 4]]


def test_verification_does_not_depend_on_a_strange_centre() -> None:
    """Nodes 1 and 2 are near-copies in a bucket whose smallest node, 0, resembles neither."""
    near = {(1, 2)}
    pairs = verified_pairs(
        np.array([3, 3, 3], np.uint64), np.array([0, 1, 2]), lambda a, b: 1.0 if (a, b) in near else 0.1, 0.7
    )
    assert pairs.tolist() == [[1, 2]]


def test_survivor_is_held_out_then_longest_then_smallest_hash() -> None:
    label = np.array([0, 0, 0, 3, 3, 3, 6, 6, 8])
    held = np.array([0, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    length = np.array([9, 1, 8, 5, 7, 6, 4, 4, 1])
    tie = np.array([1, 2, 3, 4, 5, 6, 9, 8, 7], np.uint64)
    assert survivors(label, held, length, tie).tolist() == [1, 1, 1, 4, 4, 4, 7, 7, 8]


def test_exact_groups() -> None:
    texts = ["b", "a", "b", "c", "a", "b", ""]
    groups = group_exact(np.array([digest(text) for text in texts], np.uint64))
    assert groups.tolist() == [0, 1, 0, 3, 1, 0, 6]
    assert group_exact(np.empty((0, 2), np.uint64)).tolist() == []
