"""Buckets to stars, stars to components: against SciPy on random graphs, for any number of ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.data.dedup.components import (
    LABEL,
    LINK,
    blocks_of_links,
    both_ways,
    contract,
    label_components,
    large_star,
    small_star,
)
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.dedup.pairs import candidates
from pipelines.data.dedup.places import Census, Job, Party, Placed, open_job
from pipelines.data.dedup.shuffle import read_all, span, write_shuffled
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft


@pytest.fixture
def job_of(tmp_path: Path) -> Any:
    def made(nodes: int) -> Job:
        draft = ArtifactStore(str(tmp_path)).begin("corpus", f"n{nodes}", {})
        assert isinstance(draft, Draft)
        census = Census((Party("a", "documents", "near", 0),), (Placed(draft.folder, "a", 0, 0, nodes, 0),), ())
        return open_job(draft, census, DedupConfig())

    return made


def labels_over_ranges(job: Job, nodes: int, pairs: np.ndarray, parts: int) -> tuple[np.ndarray, int]:
    """The label of every node; the links come in three files, as from three ranges of keys."""
    files = []
    for i, part in enumerate(np.array_split(pairs, 3)):
        links = both_ways(part[:, 0], part[:, 1])
        files.append(job.file(f"links/{i}.bin"))
        path = job.work.storage.scratch(job.key(f"links/{i}.bin"))
        write_shuffled(path, links, blocks_of_links(links))
        job.work.storage.put(path, job.key(f"links/{i}.bin"))
    found, rounds = label_components(job, files, parts, serial_map)
    label = np.arange(nodes)
    for file in found:
        records = read_all(job.work.storage, f"{job.work.folder}/{file}", LABEL)
        label[records["node"]] = records["label"]
    return label, rounds


def expected(nodes: int, pairs: np.ndarray) -> np.ndarray:
    from scipy import sparse
    from scipy.sparse import csgraph

    graph = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (nodes, nodes))
    _, groups = csgraph.connected_components(graph, directed=False)
    smallest = np.full(groups.max() + 1, nodes)
    np.minimum.at(smallest, groups, np.arange(nodes))
    return smallest[groups]


def graphs() -> dict[str, tuple[int, np.ndarray]]:
    rng = np.random.default_rng(0)
    order, hub = rng.permutation(3_000), rng.permutation(500)
    return {
        "none": (5, np.empty((0, 2), np.int64)),
        "sparse": (2_000, rng.integers(0, 2_000, (900, 2))),
        "dense": (2_000, rng.integers(0, 2_000, (4_000, 2))),
        "chain": (3_000, np.stack([order[:-1], order[1:]], axis=1)),
        "star": (500, np.stack([np.full(499, hub[0]), hub[1:]], axis=1)),
        "beyond 32 bits": (6_000_000_000, np.array([[5_999_999_999, 3], [3, 4_300_000_000], [7, 8]])),
    }


@pytest.mark.parametrize("parts", [1, 2, 8])
@pytest.mark.parametrize("name", ["none", "sparse", "dense", "chain", "star"])
def test_components_equal_scipy(job_of: Any, name: str, parts: int) -> None:
    nodes, pairs = graphs()[name]
    label, rounds = labels_over_ranges(job_of(nodes), nodes, pairs, parts)
    assert np.array_equal(label, expected(nodes, pairs))
    assert rounds <= (1 if parts == 1 else 12)


def test_hubs_are_spread_over_the_ranges() -> None:
    """Each component's smallest node has a link from all the others, and the smallest nodes are small numbers."""
    hubs, members = np.repeat(np.arange(1_000), 99), np.arange(1_000, 100_000)
    blocks = blocks_of_links(both_ways(hubs, members))
    ends = [sum((blocks >= first) & (blocks < stop)) for first, stop in (span(part, 8) for part in range(8))]
    assert max(ends) < 1.2 * min(ends)


def test_labels_lie_in_the_order_of_nodes(job_of: Any) -> None:
    nodes, pairs = graphs()["dense"]
    job = job_of(nodes)
    labels_over_ranges(job, nodes, pairs, 4)
    found, _ = label_components(job, [], 4, serial_map)
    stretches = [read_all(job.work.storage, f"{job.work.folder}/{file}", LABEL)["node"] for file in found]
    assert (np.diff(np.concatenate(stretches)) > 0).all()
    assert [(part.min() * 4 // nodes, part.max() * 4 // nodes) for part in stretches] == [(i, i) for i in range(4)]


def test_contraction_knows_large_numbers() -> None:
    _, pairs = graphs()["beyond 32 bits"]
    label, node = contract(pairs[:, 0], pairs[:, 1])
    assert list(zip(node, label, strict=True)) == [(8, 7), (4_300_000_000, 3), (5_999_999_999, 3)]


def test_a_rerun_reads_no_file_of_rounds_that_are_done(job_of: Any) -> None:
    nodes, pairs = graphs()["dense"]
    job = job_of(nodes)
    first, rounds = labels_over_ranges(job, nodes, pairs, 4)
    kept = {Path(key).parent.name.split("-")[0] for key in job.work.storage.keys(job.key(""))}
    assert kept == {"sort", job.name.split("-")[0]}  # what was read is gone
    again, rounds_again = labels_over_ranges(job, nodes, pairs, 4)
    assert np.array_equal(first, again)
    assert rounds == rounds_again


def test_stars_by_hand() -> None:
    """The chain 1 – 5 – 2 – 7: by the paper's definitions."""
    links = both_ways(np.array([5, 5, 2]), np.array([1, 2, 7]))
    assert links.dtype == LINK
    node, other, changed = large_star(links["node"], links["other"])
    assert (list(zip(node, other, strict=True)), changed) == ([(5, 1), (5, 2), (7, 2)], 0)
    node, other, changed = small_star(node, other)
    assert (list(zip(node, other, strict=True)), changed) == ([(2, 1), (5, 1), (7, 2)], 1)
    again = both_ways(node, other)
    node, other, changed = large_star(again["node"], again["other"])
    assert (list(zip(node, other, strict=True)), changed) == ([(2, 1), (5, 1), (7, 1)], 1)


def test_every_document_of_a_bucket_is_linked_to_its_smallest() -> None:
    keys = np.array([7, 5, 7, 5, 7, 9], np.uint64)
    nodes = np.array([4, 2, 2, 1, 3, 8])
    centres, others = candidates(keys, nodes, own=100)
    assert sorted(zip(centres, others, strict=True)) == [(1, 2), (2, 3), (2, 4)]


def test_a_bucket_of_finished_corpora_alone_links_nothing() -> None:
    keys, nodes = np.array([5, 5, 7, 7], np.uint64), np.array([10, 11, 3, 11])
    centres, others = candidates(keys, nodes, own=10)
    assert list(zip(centres, others, strict=True)) == [(3, 11)]
