"""The ranges of keys and the components of a trillion-token corpus, at their true size per task, with synthetic
signatures.

python -m benchmarks.scaling                        1/128 of 1.5 billion documents: 32 of 4,096 key ranges; about 3 GB
                                                    of disk
python -m benchmarks.scaling --share 0.25           another fraction of these; memory per task should not change

A corpus is cut into ranges until a task fits `dedup.task_memory`, so a larger one has more tasks and no larger ones.
This makes the key files that cleaning would leave for a fraction of the corpus, of such a size that every range holds
as many records as it would of the whole, and runs the real tasks of `pairs` and `components` on them, each in a process
of its own. Nothing of it needs text.

The law of the copies, from what is published: half of the documents have copies (SlimPajama dropped 49.6 % of the bytes
of
RedPajama; FineWeb's MinHash, dump by dump, kept 20 of 36 trillion tokens), the sizes of their clusters follow a power
law (a straight line in Zyphra's log-log histograms of DCLM and FineWeb-Edu; the largest cluster there held about a
million documents), and copies lie anywhere, as in dumps of different years. A third of them are exact; the others have
a Jaccard similarity of 0.95, 0.9, 0.85 or 0.8 to what they are copies of, and share a band with it with probability
J^8.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.data.dedup import sizing
from pipelines.data.dedup.components import LABEL, contract, label_components
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.dedup.deduplicate import parts_of
from pipelines.data.dedup.facts import KEY
from pipelines.data.dedup.pairs import PairTask, pair_range
from pipelines.data.dedup.places import Census, Party, Placed, open_job
from pipelines.data.dedup.shuffle import blocks_of_hashes, mixed, read_all, write_shuffled
from pipelines.data.plan.metering import Meter
from pipelines.display.progress import human
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

WHOLE = 1_500_000_000  # documents: 4 TB of text, 1T tokens
PIECE_DOCUMENTS = 100_000  # 270 MB of text
COPIED = 0.5  # share of the documents that have a copy
EXPONENT, LARGEST = 2.2, 1_000_000  # of the sizes of clusters
EXACT = 1 / 3  # of the copies
SIMILAR = (0.95, 0.9, 0.85, 0.8)  # the others, in equal parts
Uints = npt.NDArray[np.uint64]
R = TypeVar("R")


def clusters_of(documents: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """(documents,) int32: the cluster of each document, scattered; -1 where it has no copy."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(2, min(LARGEST, documents // 4) + 1)
    weights = sizes**-EXPONENT
    mean = (weights * sizes).sum() / weights.sum()
    drawn = rng.choice(sizes, int(documents * COPIED / mean), p=weights / weights.sum())
    drawn[0] = (
        sizes[-1] if documents >= WHOLE else min(LARGEST * documents // WHOLE, sizes[-1])
    )  # the largest, to scale
    owners = np.repeat(np.arange(len(drawn), dtype=np.int32), drawn)[:documents]
    found = np.full(documents, -1, np.int32)
    found[rng.permutation(documents)[: len(owners)]] = owners
    return found


def keys_of(first: int, clusters: npt.NDArray[np.int32], bands: int, rows: int) -> npt.NDArray[np.void]:
    """The records that cleaning would leave for these documents: `bands` keys each, one of the text and one of the
    id.
    """
    count = len(clusters)
    nodes = np.arange(first, first + count, dtype=np.uint64)
    luck = mixed(nodes, 1) / np.float64(1 << 64)
    nearness = np.array(SIMILAR)[(luck * 1e6).astype(np.int64) % len(SIMILAR)]
    exact = luck < EXACT
    shares = np.where(exact, 1.0, nearness**rows)
    shares[clusters < 0] = 0.0
    columns: list[Uints] = []
    for band in range(bands):
        own = nodes * np.uint64(bands) + np.uint64(band)
        common = clusters.astype(np.uint64) * np.uint64(bands) + np.uint64(band)
        together = mixed(own, 2) / np.float64(1 << 64) < shares
        columns.append(np.where(together, mixed(common, 3), mixed(own, 4)))
    columns.append(np.where(exact & (clusters >= 0), mixed(clusters.astype(np.uint64), 5), mixed(nodes, 6)))
    columns.append(mixed(nodes, 7))
    records = np.empty(count * len(columns), KEY)
    records["key"] = np.concatenate(columns)
    records["row"] = np.tile(np.arange(count, dtype=np.uint32), len(columns))
    return records[np.argsort(records["key"])]


def prepare(work: Draft, documents: int, dedup: DedupConfig) -> Census:
    """Key files of all pieces, and the census over them."""
    clusters = clusters_of(documents)
    print(
        f"{documents:,} documents, {(clusters >= 0).mean():.1%} with copies, in {clusters.max() + 1:,} clusters, the "
        f"largest of {np.bincount(clusters[clusters >= 0]).max():,}"
    )
    places = []
    for number, first in enumerate(range(0, documents, PIECE_DOCUMENTS)):
        part = clusters[first : first + PIECE_DOCUMENTS]
        records = keys_of(first, part, dedup.minhash.bands, dedup.minhash.rows)
        place = Placed(work.folder, f"piece-{number:05d}", 0, first, len(part), len(records))
        path = work.scratch(f"keys/{place.key}.bin")
        write_shuffled(path, records, blocks_of_hashes(records["key"]))
        work.storage.put(path, place.keys)
        places.append(place)
    return Census((Party("synthetic", "documents", "near", 0),), tuple(places), ())


def in_processes(
    function: Callable[[Any], R],
    shards: Sequence[Any],
    label: str,
    describe: Callable[[R], dict[str, Any]] | None = None,
) -> list[R]:
    """A `ShardMap` that gives each shard a process of its own, one after another: memory is not reused from task to
    task.
    """
    found = []
    context = multiprocessing.get_context("fork")
    for shard in shards:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=lambda s=shard, out=there: out.send(function(s)))
        process.start()
        there.close()
        found.append(here.recv())
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of 1/128 of the corpus")
    parser.add_argument("--folder", type=Path, default=None, help="for the files; default: a temporary one")
    arguments = parser.parse_args()
    documents = int(WHOLE / 128 * arguments.share)
    folder = Path(tempfile.mkdtemp(prefix="trunkline-scaling-", dir=arguments.folder))
    os.environ.setdefault("TRUNKLINE_CACHE", str(folder / "cache"))
    try:
        _run(documents, folder)
    finally:
        shutil.rmtree(folder)


def _run(documents: int, folder: Path) -> None:
    dedup = DedupConfig()
    draft = ArtifactStore(str(folder)).begin("corpus", "scaling", {"documents": documents})
    assert isinstance(draft, Draft)
    work = dataclasses.replace(draft, folder=f"{draft.folder}/work")
    began = time.monotonic()
    census = prepare(work, documents, dedup)
    records = sum(place.records for place in census.places)
    print(
        f"{records:,} keys in {len(census.places)} files made in {time.monotonic() - began:.0f} s; dedup.task_memory "
        f"{human(dedup.task_memory, 'B')}\n"
    )
    job = open_job(work, census, dedup)
    contract(np.arange(1, 2), np.arange(1))  # compiled once, before there are processes to count its memory
    meter = Meter(in_processes, folder)
    ranges = parts_of(records, sizing.PAIR_BYTES, dedup, "the keys")
    paired = meter(pair_range, [PairTask(job, part, ranges) for part in range(ranges)], "pairs")
    links = sum(done["links"] for done in paired)
    node_ranges = parts_of(links, sizing.LINK_BYTES, dedup, "the links between documents")
    labels, rounds = label_components(job, [done["file"] for done in paired], node_ranges, meter)
    linked = sum(len(read_all(work.storage, f"{work.folder}/{file}", LABEL)) for file in labels)
    print(
        f"\n{links:,} links from {sum(done['shared'] for done in paired):,} shared keys; {linked:,} documents linked; "
        f"{rounds} rounds over {node_ranges} ranges"
    )
    print(f"\n{'stage':28} {'tasks':>6} {'memory of a task':>18} {'predicted':>10} {'core s':>8} {'M records/s':>12}")
    for name, stage in meter.stages.items():
        count, each = (records, sizing.PAIR_BYTES) if name == "pairs" else (links, sizing.LINK_BYTES)
        predicted = human(count * each / (ranges if name == "pairs" else node_ranges), "B")
        print(
            f"{name:28} {stage.tasks:6} {human(stage.memory_bytes, 'B'):>18} {predicted:>10} "
            f"{stage.core_seconds:8.1f} {count / 1e6 / stage.core_seconds:12.1f}"
        )


if __name__ == "__main__":
    main()
