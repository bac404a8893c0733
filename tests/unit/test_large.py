"""The large corpus's tools: planted copies whose answer is true, rounds that share nothing, synthetic keys that follow
their law.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.large import EDITS, _alphabet, multiply
from benchmarks.scaling import COPIED, clusters_of, keys_of
from pipelines.data.dedup.minhash import jaccard, shingles


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = [f"word{'abcdefghij'[i % 10]}{i}" for i in range(500)] + ["图", "书", "馆"]
    texts = [" ".join(rng.choice(words, 120)) for _ in range(90)]
    (tmp_path / "corpus/train/mine").mkdir(parents=True)
    pq.write_table(
        pa.table({"id": [str(i) for i in range(90)], "text": texts}), tmp_path / "corpus/train/mine/00000.parquet"
    )
    sources = {"mine": {"duplicates": "near"}, "problems": {"duplicates": "exact"}}
    (tmp_path / "corpus/train/problems").mkdir()
    pq.write_table(pa.table({"id": ["0"], "text": ["left out"]}), tmp_path / "corpus/train/problems/00000.parquet")
    (tmp_path / "corpus/manifest.json").write_text(json.dumps({"config": {"corpus": {"sources": sources}}}))
    return tmp_path / "corpus"


def test_planted_copies_and_their_answers(corpus: Path, tmp_path: Path) -> None:
    multiply(corpus, tmp_path / "out", megabytes=0.3)
    rows = [json.loads(line) for file in sorted((tmp_path / "out").glob("*.jsonl")) for line in file.open()]
    texts = {row["id"]: row["text"] for row in rows}
    assert len(texts) == len(rows)
    assert "left out" not in texts.values()
    assert 0.295e6 < sum(len(text.encode()) for text in texts.values()) < 0.31e6
    answers = pq.read_table(tmp_path / "out/answers.parquet").to_pylist()
    assert [a["percent"] for a in answers[:5]] == list(EDITS)
    for answer in answers:
        original, copy = texts[answer["original"]], texts[answer["copy"]]
        assert answer["jaccard"] == jaccard(shingles(original), shingles(copy))
        assert (original == copy) == (answer["percent"] == 0)
    by_edit = [np.mean([a["jaccard"] for a in answers if a["percent"] == percent]) for percent in EDITS]
    assert by_edit == sorted(by_edit, reverse=True)
    first = [shingles(texts[f"0-{i}"]) for i in range(30)]
    assert max(jaccard(a, shingles(texts[f"1-{90 + i}"])) for i, a in enumerate(first)) == 0


def test_an_alphabet_moves_each_kind_of_character_within_itself() -> None:
    table = _alphabet(3)
    assert "".join(chr(table[ord(c)]) for c in "xyz XYZ 789, é") == "abc ABC 012, é"
    assert 0x4E00 <= table[ord("龥")] < 0x9FA6
    assert len(np.unique(table[:0xA000])) == 0xA000


def test_synthetic_keys_meet_where_the_law_says() -> None:
    clusters = clusters_of(20_000)
    sizes = np.bincount(clusters[clusters >= 0])
    assert abs((clusters >= 0).mean() - COPIED) < 0.15
    assert sizes.min() >= 2
    records = keys_of(0, clusters, bands=14, rows=8)
    assert len(records) == 16 * 20_000
    keys, counts = np.unique(records["key"], return_counts=True)
    shared = records["row"][np.isin(records["key"], keys[counts > 1])]
    assert (clusters[shared] >= 0).all()
    alone = np.setdiff1d(np.flatnonzero(clusters >= 0), shared)
    assert len(alone) < 0.1 * (clusters >= 0).sum()  # 14 bands miss few of these similarities
