"""The deduplication's report on itself: planted pairs, exact similarities, and no bias from the sampling."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipelines.data.dedup.minhash import MinHashConfig, jaccard, keys_and_samples, shingles
from pipelines.data.dedup.report import choose, compare, figure, interval, similar_pairs, threshold, words

WORDS = [f"word{i}" for i in range(3000)]


def text(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edited(original: str, seed: int, share: float) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) if rng.random() < share else word for word in original.split(" "))


def test_similar_pairs_are_those_of_brute_force() -> None:
    texts = [edited(text(i // 4), i, 0.04) for i in range(40)]
    sets = [shingles(one) for one in texts]
    left, right, similarity = similar_pairs(sets, 0.3)
    expected = {
        (i, j): jaccard(sets[i], sets[j])
        for i in range(40)
        for j in range(i + 1, 40)
        if jaccard(sets[i], sets[j]) >= 0.3
    }
    assert len(expected) > 20
    found = dict(zip(zip(left.tolist(), right.tolist(), strict=True), similarity.tolist(), strict=True))
    assert found == pytest.approx(expected)
    assert all(len(column) == 0 for column in similar_pairs([], 0.3))
    assert all(len(column) == 0 for column in similar_pairs([np.empty(0, np.uint64)] * 3, 0.3))


def test_two_documents_agree_in_their_sample_hash_as_often_as_they_are_similar() -> None:
    originals = [text(i) for i in range(2000)]
    copies = [edited(one, i, 0.05) for i, one in enumerate(originals)]
    config = MinHashConfig()
    _, _, first = keys_and_samples(originals, config)
    _, _, second = keys_and_samples(copies, config)
    mean = np.mean([jaccard(shingles(a), shingles(b)) for a, b in zip(originals[:300], copies[:300], strict=True)])
    assert (first == second).mean() == pytest.approx(mean, abs=0.05)
    quarters = np.bincount((first >> np.uint64(62)).astype(np.int64), minlength=4)
    assert quarters.min() > 400  # uniform, whatever the length of the text
    # and another hash than the signatures': keys say nothing about it
    assert len(set(first.tolist())) == 2000


def test_chosen_documents_are_those_with_a_partner_and_few_of_each_hash() -> None:
    hashes = np.array([5, 1, 9, 1, *[7] * 20, 3], np.uint64)
    chosen = choose(hashes).tolist()
    assert chosen[:2] == [1, 3]
    assert chosen[2:] == list(range(4, 12))
    assert choose(np.empty(0, np.uint64)).tolist() == []
    assert threshold(1000) > np.uint64(1 << 63)
    assert threshold(2_000_000_000) == np.uint64((1 << 64) // 10_000)


def test_the_report_counts_what_lsh_proposes_and_what_stayed() -> None:
    originals = [text(i) for i in range(300)]
    copies = [edited(one, 1000 + i, 0.02 if i % 2 else 0.3) for i, one in enumerate(originals)]
    kept = [True] * 300 + [i % 2 == 0 for i in range(300)]  # the near ones were dropped
    report = compare([*originals, *copies], kept, MinHashConfig(), 0.7)
    assert report["documents"] == 600
    near = [one for one in report["bins"] if one["from"] >= 0.7]
    far = [one for one in report["bins"] if one["from"] < 0.5]
    assert sum(one["pairs"] for one in near) > 100
    assert all(one["resolved"] == one["pairs"] for one in near)
    assert sum(one["resolved"] for one in far) == 0
    measured, theory = (sum(one[key] for one in report["bins"]) for key in ("proposed", "expected"))
    assert measured == pytest.approx(theory, rel=0.1)
    assert 0.7 < report["candidate_precision"] <= 1
    assert "100.0% are no longer both in the corpus" in words(report)
    assert "<svg" in figure(MinHashConfig(), report)
    alone = compare(originals, [True] * 300, MinHashConfig(), None)
    assert (alone["pairs"], alone["candidate_precision"]) == (0, None)
    assert "No two sampled documents" in words(alone)
    assert compare([], [], MinHashConfig(), 0.7)["documents"] == 0


def test_intervals_are_wilsons() -> None:
    assert interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert interval(0, 5)[0] == 0.0
    assert interval(5, 5)[1] == 1.0
