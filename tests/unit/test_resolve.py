"""Who stays of a cluster: the stated rule, decided by exact comparison with the very document that stays."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.data.dedup.census import take_census
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.dedup.deduplicate import deduplicate
from pipelines.data.dedup.duplicates import choose_clusters
from pipelines.data.dedup.facts import write_facts
from pipelines.data.dedup.holdout import position
from pipelines.data.dedup.minhash import MinHashConfig
from pipelines.data.dedup.places import Census, open_job
from pipelines.data.dedup.resolve import REASONS
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.text.document import Document, rows_to_table, to_row
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

SURE = MinHashConfig(bands=40, rows=2)  # whatever is alike becomes a candidate
FATES = {0: "train", 1: "heldout", **{fate: reason.removeprefix("dedup.") for fate, reason in REASONS.items()}}


def words(first: int, count: int = 100) -> list[str]:
    return [f"word{i:05d}" for i in range(first, first + count)]


def replaced(base: list[str], count: int, salt: int) -> list[str]:
    """The first `count` words become others: of 96 shingles 96 - count are left."""
    return [*words(10_000 * salt, count), *base[count:]]


@pytest.fixture
def fates_of(tmp_path: Path) -> Any:
    """Runs deduplication over pieces of documents; gives each document's fate, and the rows of the clusters."""
    numbers = itertools.count()

    def run(pieces: list[list[Any]], policies: tuple[str, ...] = ("near",), **dedup: Any) -> tuple[list[str], Any]:
        work = ArtifactStore(str(tmp_path)).begin("corpus", f"r{next(numbers)}", {})
        assert isinstance(work, Draft)
        config = DedupConfig(minhash=SURE, **dedup)
        sources = {
            f"s{i}": SourceConfig(licence="MIT", reader=ReaderConfig(type="files"), duplicates=policy, heldout=0)  # type: ignore[arg-type]
            for i, policy in enumerate(policies)
        }
        cleaned = []
        for i, piece in enumerate(pieces):
            name, source = list(sources.items())[i % len(sources)]
            documents = []
            for n, (text, quality) in enumerate(piece):
                metadata = {"source": name, "language": "en", "licence": "MIT", "quality": quality}
                documents.append(Document(text=" ".join(text), id=f"{name}/{i}-{n}", metadata=metadata))
            files = {file: work.scratch(file) for file in (f"facts/p{i}.npy", f"keys/p{i}.bin", f"clean/p{i}.parquet")}
            facts, keys, clean = files.values()
            stats = write_facts(documents, source, SURE, facts, keys)
            pq.write_table(rows_to_table([to_row(document, "documents") for document in documents], "documents"), clean)
            size = sum(len(document.text) for document in documents)
            stats = {"source": name, "documents": len(documents), "bytes": size, **stats}
            work.publish(f"p{i}", files, stats)
            cleaned.append((f"p{i}", stats))
        cleaned.sort(key=lambda held: held[1]["source"])
        census = take_census(work, cleaned, sources)
        found = deduplicate(work, census, config, serial_map)
        fates = {}
        for place, settled in found.pieces:
            held = np.load(work.storage.fetch(f"{work.folder}/{settled['fates']}"))
            fates[int(place.key[1:])] = [FATES[int(fate)] for fate in held]
        return [fate for _, piece in sorted(fates.items()) for fate in piece], choose_clusters(
            found.job, found.clusters
        )

    return run


def test_quality_then_length_decides(fates_of: Any) -> None:
    base = words(0)
    longer, good = [*base, "more", "words"], [*base[:-1], "end"]
    assert fates_of([[(base, 0), (longer, 0)]])[0] == ["near", "train"]
    assert fates_of([[(longer, 0.5), (good, 0.9), (base, 0.2)]])[0] == ["near", "train", "near"]


@pytest.mark.parametrize("task_memory", [1 << 30, 3_000])
def test_a_document_is_dropped_only_for_one_that_stays_and_resembles_it(fates_of: Any, task_memory: int) -> None:
    """A chain: each resembles the next (82/110 = 0.75), the ends do not (68/124 = 0.55)."""
    a, b = words(0), replaced(words(0), 14, 1)
    c = [*b[:-14], *words(20_000, 14)]
    first_best = [[([*a, "x"], 0)], [(b, 0)], [(c[:-1], 0)]]
    assert fates_of(first_best, task_memory=task_memory)[0] == ["train", "near", "train"]
    middle_best = [[(a[:-1], 0)], [([*b, "x"], 0)], [(c[:-1], 0)]]
    fates, clusters = fates_of(middle_best, task_memory=task_memory)
    assert fates == ["near", "train", "near"]
    assert clusters["size"].tolist() == [3, 3, 3]
    # by hand: 95 shingles without the last word, 97 with one more; the first 14, or the last 14, are others
    assert clusters["similarity"].tolist() == pytest.approx([1, 81 / (95 + 97 - 81), 82 / (95 + 97 - 82)])
    assert fates_of(first_best, task_memory=task_memory, verify=False)[0] == ["train", "near", "near"]


@pytest.mark.parametrize("task_memory", [1 << 30, 60_000])
def test_survivors_equal_a_plain_reading_of_the_rule(fates_of: Any, task_memory: int) -> None:
    """Families of copies edited at random, against the rule in a few lines of Python over all pairs."""
    rng = random.Random(5)
    documents = []
    for family in range(30):
        base = words(1_000 * family, rng.randint(60, 120))
        for _ in range(rng.randint(1, 9)):
            text = [f"edit{rng.randrange(10**6)}" if rng.random() < rng.choice((0, 0.02, 0.06)) else w for w in base]
            documents.append((text[: len(text) - rng.randint(0, 3)], rng.choice((0, 0, 0.5))))
    rng.shuffle(documents)
    pieces = [documents[:40], documents[40:90], documents[90:]]
    fates, _ = fates_of(pieces, task_memory=task_memory)

    def sort_key(i: int) -> Any:
        piece = 0 if i < 40 else 1 if i < 90 else 2
        text, quality = documents[i]
        name = f"s0/{piece}-{i - (0, 40, 90)[piece]}"
        return -round(255 * quality), -len(" ".join(text)), position(name)

    leaders: list[set[tuple[str, ...]]] = []
    expected, seen = ["near"] * len(documents), set()
    for i in sorted(range(len(documents)), key=sort_key):
        text = documents[i][0]
        grams = {tuple(text[j : j + 5]) for j in range(len(text) - 4)}
        if " ".join(text) in seen:
            expected[i] = "exact"
        elif not any(len(grams & held) / len(grams | held) >= 0.7 for held in leaders):
            leaders.append(grams)
            expected[i] = "train"
        seen.add(" ".join(text))
    assert fates == expected
    assert {"near", "exact", "train"} == set(expected)


def test_a_pair_below_the_threshold_stays(fates_of: Any) -> None:
    pair = [[(words(0), 0), (replaced(words(0), 14, 1), 0)]]
    assert fates_of(pair, threshold=0.74)[0].count("near") == 1
    assert fates_of(pair, threshold=0.75)[0] == ["train", "train"]


def test_the_copy_of_a_near_copy_is_told_what_stays(fates_of: Any) -> None:
    base, near = [*words(0), "x"], [*words(0)[:-1], "y"]
    fates, clusters = fates_of([[(near, 0), (base, 0), (near, 0)]])
    assert sorted(fates) == ["exact", "near", "train"]
    assert fates[1] == "train"
    assert set(clusters["leader"].tolist()) == {1}
    assert clusters["similarity"].tolist() == pytest.approx([1, 95 / 98, 95 / 98])  # 96 and 97 shingles, 95 common


def test_what_each_policy_gives_up(fates_of: Any) -> None:
    """A source of exact copies alone loses no near-copy, but its text stands for the equal one that did not stay."""
    base = words(0)
    near = base[:-1]
    near_source, exact_source, keep_source = [(near, 0), (base, 0)], [(base, 1)], [(base, 0), (base, 0)]
    fates, _ = fates_of([near_source, exact_source, keep_source], policies=("near", "exact", "keep"))
    assert fates == ["near", "exact", "train", "train", "train"]
    fates, _ = fates_of([[(base, 0)], [(near, 1)]], policies=("near", "exact"))
    assert fates == ["train", "train"]


def test_strangers_in_one_bucket_all_stay(fates_of: Any) -> None:
    """Three hundred documents that share a header and little else: candidates by the hundred, and no copy among
    them.
    """
    header = words(90_000, 40)
    strangers = [([*header, *words(100 * i, 60)], 0) for i in range(300)]
    fates, _ = fates_of([strangers[:100], strangers[100:]])
    assert fates == ["train"] * 300


def test_too_little_memory_is_refused_with_what_would_do(fates_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"task_memory is 1 bytes; .* at least 2, set it"):
        fates_of([[(words(0), 0), (words(50), 0)]], task_memory=1)


def test_a_job_is_named_after_its_settings(tmp_path: Path) -> None:
    """Steps that another rule made would pass for those of this one."""
    work = ArtifactStore(str(tmp_path)).begin("corpus", "r", {})
    assert isinstance(work, Draft)
    settings = [{}, {"threshold": 0.9}, {"verify": False}, {"task_memory": 1 << 20}]
    names = [open_job(work, Census((), (), ()), DedupConfig(**some)).name for some in settings]  # type: ignore[arg-type]
    assert len(set(names)) == len(settings)
    assert open_job(work, Census((), (), ()), DedupConfig()).name == names[0]
