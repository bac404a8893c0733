"""The quality model separates what its examples separate, says how well, and is the same each time."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.cluster.cluster import serial_map
from pipelines.config import parse
from pipelines.data.cleaning.classifier import FILE, area, examples, histogram, roc, score, train, unread_words
from pipelines.data.cleaning.config import QualityModelConfig
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.text.packed import pack
from pipelines.errors import ConfigError, DataError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

COMMON = ["the", "of", "and", "to", "in", "that", "with", "for", "it", "was", "on", "as"]
GOOD = [
    "river",
    "council",
    "harbour",
    "theorem",
    "proof",
    "winter",
    "teacher",
    "history",
    "forest",
    "letter",
    "engine",
    "evening",
]
BAD = ["winner", "click", "free", "casino", "prize", "cheap", "pills", "offer", "bonus", "loan", "viagra", "subscribe"]
SETTINGS = QualityModelConfig(good=["g"], bad=["b"], documents=300)


def texts(words: list[str], count: int, seed: int, share: float = 0.3) -> list[str]:
    """Documents of 15 lines; `share` of their words are from `words`, the rest is common to all."""
    chooser = random.Random(seed)

    def line() -> str:
        return (
            " ".join(chooser.choice(words if chooser.random() < share else COMMON) for _ in range(9)).capitalize() + "."
        )

    return ["\n".join(line() for _ in range(15)) for _ in range(count)]


def test_it_separates_unseen_documents_and_says_so() -> None:
    weights, report = train(texts(GOOD, 200, 1), texts(BAD, 150, 2), SETTINGS)
    assert report["auc"] > 0.99
    assert len(report["auc_by_fold"]) == SETTINGS.folds
    assert (report["good"], report["bad"]) == (200, 150)
    unseen = score(pack([*texts(GOOD, 50, 3), *texts(BAD, 50, 4)]), weights)
    assert unseen[:50].min() > 0.5 > unseen[50:].max()
    again, _ = train(texts(GOOD, 200, 1), texts(BAD, 150, 2), SETTINGS)
    assert np.array_equal(weights, again)


def test_it_claims_nothing_where_there_is_nothing_to_learn() -> None:
    _, report = train(texts(GOOD, 200, 1), texts(GOOD, 200, 2), SETTINGS)
    assert 0.35 < report["auc"] < 0.65


def test_chinese_is_scored_by_characters_and_an_empty_text_by_the_bias_alone() -> None:
    good = [f"春天的河边开满了花，孩子们在第{i}座桥上唱歌。" for i in range(60)]
    bad = [f"点击领取第{i}个红包，免费大奖马上到账！" for i in range(60)]
    weights, report = train(good, bad, SETTINGS)
    assert report["auc"] > 0.99
    found = score(pack(["河边的孩子们在唱歌。", "免费领取大奖。", "", "…"]), weights)
    assert found[0] > 0.5 > found[1]
    assert found[2] == found[3] == pytest.approx(1 / (1 + np.exp(-weights[-1])))


def test_length_does_not_matter_by_itself() -> None:
    weights, _ = train(texts(GOOD, 100, 1), texts(BAD, 100, 2), SETTINGS)
    line = texts(GOOD, 1, 9)[0]
    once, often = score(pack([line, "\n".join([line] * 20)]), weights)
    assert once == pytest.approx(often, abs=0.01)


def test_area_and_curve_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 500)
    scores = np.round(np.clip(0.5 + 0.2 * (labels - 0.5) + generator.normal(0, 0.2, 500), 0, 1), 2)  # with ties
    assert area(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    curve = roc(labels, scores)
    assert curve[0] == {"threshold": 0.0, "good": 1.0, "bad": 1.0}
    at = curve[50]
    assert at["good"] == pytest.approx((scores[labels == 1] >= 0.5).mean(), abs=1e-4)
    assert at["bad"] == pytest.approx((scores[labels == 0] >= 0.5).mean(), abs=1e-4)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(DataError, match=r"model\.bad gives 5 documents; expected 20 or more"):
        train(texts(GOOD, 50, 1), texts(BAD, 5, 2), SETTINGS)


def test_a_histogram_has_a_place_for_every_score() -> None:
    counts = histogram([0.0, 0.004, 0.999, 1.0])
    assert (counts[0], counts[-1], sum(counts), len(counts)) == (2, 2, 4, 100)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """web: 60 good documents and 20 bad ones; spam and books, read for the model alone."""
    found = {}
    for name, written in {
        "web": texts(GOOD, 60, 11) + texts(BAD, 20, 12),
        "books": texts(GOOD, 100, 13),
        "spam": texts(BAD, 100, 14),
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in written))
        reader = {"type": "files", "path": str(tmp_path / f"{name}.jsonl")}
        found[name] = {"licence": "MIT", "language": "en", "reader": reader, "duplicates": "keep"}
    return found


def config_of(web: dict[str, Any], piece_bytes: int = 4_000_000, **model: Any) -> CorpusConfig:
    shown = {"good": ["books"], "bad": ["spam"], "examples": {k: web[k] for k in ("books", "spam")}, **model}
    recipe = {"sources": {"web": web["web"]}, "quality": {"model": shown}, "piece_bytes": piece_bytes}
    return parse(CorpusConfig, {"name": "t", "corpus": recipe})


def make(store: Path, config: CorpusConfig) -> Artifact:
    draft = ArtifactStore(str(store)).begin("corpus", "t", identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, serial_map)


def scores_of(corpus: Artifact) -> list[float]:
    facts = corpus.statistics["sources"]["web"]
    files = [file for split in ("train", "heldout") for file in facts[split]["files"]]
    return [
        json.loads(row)["quality"] for file in files for row in pq.read_table(corpus.path(file))["metadata"].to_pylist()
    ]


def test_every_document_is_scored_and_a_threshold_drops_the_poor(tmp_path: Path, sources: dict[str, Any]) -> None:
    scored = make(tmp_path / "a", config_of(sources))
    values = scores_of(scored)
    assert len(values) == 80
    assert sum(value < 0.5 for value in values) == 20
    assert scored.statistics["sources"]["web"]["dropped"] == {}
    model = json.loads(scored.path(FILE).read_text())
    assert model["auc"] > 0.99
    kept = model["kept_by_threshold"]["web"]
    assert (kept[0], kept[50], kept[100]) == (1.0, 0.75, 0.0)
    assert "ROC of the quality model" in scored.path("data_card.html").read_text()

    cut = make(tmp_path / "b", config_of(sources, piece_bytes=10_000, threshold=0.5))
    assert cut.statistics["sources"]["web"]["dropped"] == {"quality.model": 20}
    assert sorted(scores_of(cut)) == sorted(value for value in values if value >= 0.5)  # however the sources are cut
    assert json.loads(cut.path(FILE).read_text())["kept_by_threshold"] == model["kept_by_threshold"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"good": []}, "model.good is empty"),
        ({"bad": ["nobody"]}, "model.bad names 'nobody'; accepted: web, books, spam"),
        ({"bad": ["books"]}, "books cannot be good and bad"),
        ({"sources": ["spam"]}, "model.sources names 'spam'; accepted: web"),
        ({"threshold": 1.0}, "threshold is 1.0; expected a score between 0 and 1"),
        ({"folds": 1}, "folds is 1; expected a whole number of at least 2"),
    ],
)
def test_mistakes_are_named(sources: dict[str, Any], model: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(sources, **model)


def test_examples_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    rows = [{"text": text} for text in texts(GOOD, 30, 1)] + [{"text": 5}, {"body": "x"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    source = SourceConfig(licence="MIT", reader=ReaderConfig(type="files", path=str(tmp_path)))
    unread: Counter[str] = Counter()
    model = QualityModelConfig(good=["a"], bad=["b"], documents=30)
    assert len(examples({"a": source}, ["a"], model, unread)) == 30
    assert unread == {"read.no_text": 2, "read.not_json": 1}
    assert unread_words({"unread": unread}) == "read.no_text 2, read.not_json 1"
