"""A quality score for every document, from examples of what is good and what is bad.

Enters: the names of good and bad sources, then batches of documents. Leaves: a score in [0, 1] for each document, and
in the artifact `quality_model.json`: the ROC curve on documents the model had not seen, and what every threshold would
keep.

The model is linear, over hashed words and pairs of words (characters and their pairs where a script has no spaces), as
fastText's classifiers are (Joulin et al. 2016; DCLM, Li et al. 2024, found them the best filter of those it compared):
a document's score is σ(bias + mean weight of its features), so its length does not matter by itself. Logistic loss,
AdaGrad, documents in a fixed random order, one thread: the same examples and seed give the same weights. Buckets that
fewer than `LEAST_DOCUMENTS` documents fill stay at zero, so that names and typing errors do not decide.

What a score means is decided by the examples: see the curve, and examples at `show_dropped=quality.model`, before a
threshold.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.cleaning.config import QualityModelConfig
from pipelines.data.cleaning.normalise import normalise_all
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.data.text.document import Document, Dropped
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import Packed, pack
from pipelines.data.text.words import characters, mixed, words_of
from pipelines.display.charts import Series, curves
from pipelines.errors import DataError
from pipelines.store.draft import Draft

FILE = "quality_model.json"
LEAST_DOCUMENTS = 3  # that fill a bucket, of the examples
BUCKETS = 1 << 18  # of 4 bytes: the weights stay in a core's cache
STEPS = 100  # of the score, in the histograms by which thresholds are drawn
_RATE = 2.0  # AdaGrad's: a first step moves a weight by this much, a score by as much as its words agree
_FEWEST = 20  # examples of a class: fewer tell nothing
_PIECE_BYTES = 4_000_000  # of raw input, whatever the corpus is cut into: the examples must not depend on it
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Poor(Dropped):
    """A document dropped for its score."""

    score: float = 0.0


def examples(
    sources: Mapping[str, SourceConfig], names: Sequence[str], config: QualityModelConfig, unread: Counter[str]
) -> list[str]:
    """Up to `config.documents` normalised texts, as many from each source, from pieces in a random order by the seed.

    Args:
        unread: takes the number of records on the way that cannot be read, by reason.
    """
    share = -(-config.documents // len(names))
    chosen_texts: list[str] = []
    for name in names:
        source = sources[name]
        pieces = plan_pieces(name, source, _PIECE_BYTES)
        texts: list[str] = []
        for i in np.random.default_rng(config.seed).permutation(len(pieces)):
            items = list(read_piece(pieces[i], source))
            unread.update(item.reason for item in items if isinstance(item, Dropped))
            read = [item.text for item in items if isinstance(item, Document)]
            texts += [text for text in normalise_all(read, source.content) if text.strip()]
            if len(texts) >= share:
                break
        chosen = np.random.default_rng(config.seed).permutation(len(texts))[:share]
        chosen_texts += [texts[i] for i in sorted(chosen)]
    return chosen_texts


def train(good: Sequence[str], bad: Sequence[str], config: QualityModelConfig) -> tuple[Weights, dict[str, Any]]:
    """Fit the model, and judge it on parts of the examples that it was not fitted on.

    Returns: (BUCKETS + 1,) float32 weights, the bias last; and the report: examples, AUC, its folds, the ROC curve.

    Raises: DataError when a class has too few examples.
    """
    for side, texts in (("good", good), ("bad", bad)):
        if len(texts) < _FEWEST:
            raise DataError(
                f"corpus.quality.model.{side} gives {len(texts)} documents; expected {_FEWEST} or more, better "
                "thousands: name more sources"
            )
    batch = pack([*good, *bad])
    labels = np.repeat([1.0, 0.0], [len(good), len(bad)]).astype(np.float32)
    features, offsets = _features(batch.data, batch.offsets, characters(), np.uint64(BUCKETS - 1))
    order = np.random.default_rng(config.seed).permutation(len(labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % config.folds
    scores, areas = np.empty(len(labels)), []
    for k in range(config.folds):
        weights = _fit(features, offsets, labels, order[fold[order] != k], config.epochs, _RATE)
        scores[fold == k] = score(Packed(batch.data, batch.offsets), weights)[fold == k]
        areas.append(round(area(labels[fold == k], scores[fold == k]), 4))
    report = {
        "good": len(good),
        "bad": len(bad),
        "auc": round(area(labels, scores), 4),
        "auc_by_fold": areas,
        "roc": roc(labels, scores),
    }
    return _fit(features, offsets, labels, order, config.epochs, _RATE), report


def score(batch: Packed, weights: Weights) -> npt.NDArray[np.float64]:
    """(documents,) scores in [0, 1]; a text without a word has the bias alone."""
    out = np.empty(len(batch), np.float64)
    _score(batch.data, batch.offsets, characters(), weights, out)
    return out


def area(labels: npt.NDArray[Any], scores: npt.NDArray[np.float64]) -> float:
    """The area under the ROC curve: how often a good example scores above a bad one, ties half."""
    good, bad = np.sort(scores[labels > 0.5]), np.sort(scores[labels <= 0.5])
    below, upto = np.searchsorted(bad, good, "left"), np.searchsorted(bad, good, "right")
    return float((below + upto).sum() / 2 / max(1, len(good) * len(bad)))


def roc(labels: npt.NDArray[Any], scores: npt.NDArray[np.float64]) -> list[dict[str, float]]:
    """By threshold 0, 0.01, … 1: the share of good and of bad examples that score at least so much."""
    thresholds = np.arange(STEPS + 1) / STEPS
    shares = []
    for label in (1, 0):
        sorted_scores = np.sort(scores[labels == label])
        shares.append(1 - np.searchsorted(sorted_scores, thresholds, "left") / max(1, len(sorted_scores)))
    rows = zip(thresholds.tolist(), *(share.tolist() for share in shares), strict=True)
    return [{"threshold": t, "good": round(good, 4), "bad": round(bad, 4)} for t, good, bad in rows]


@functools.lru_cache(maxsize=2)
def load(path: Path) -> Weights:
    """Weights that `numpy.save` wrote, kept for the next piece of the same process."""
    weights: Weights = np.load(path)
    return weights


def histogram(scores: Iterable[float]) -> list[int]:
    """How many documents have each hundredth of the score; 1.0 is in the last."""
    places = np.minimum((np.array(list(scores), float) * STEPS).astype(int), STEPS - 1)
    counts: list[int] = np.bincount(places, minlength=STEPS).tolist()
    return counts


def publish_model(
    draft: Draft, report: Mapping[str, Any], threshold: float | None, cleaned: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write `quality_model.json`: the report, and by source the share that each threshold keeps.

    Returns: what the statistics hold of it.
    """
    histograms: dict[str, npt.NDArray[np.int64]] = {}
    for done in cleaned:
        if done["scores"]:
            own = histograms.setdefault(done["source"], np.zeros(STEPS, np.int64))
            own += np.array(done["scores"])
    kept = {
        name: [round(float(counts[step:].sum() / max(1, counts.sum())), 4) for step in range(STEPS + 1)]
        for name, counts in histograms.items()
    }
    whole = {**report, "threshold": threshold, "kept_by_threshold": kept}
    path = draft.scratch(FILE)
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    draft.publish("quality_model", {FILE: path})
    return whole


def unread_words(model: Mapping[str, Any]) -> str:
    """How many records of the examples could not be read, by reason; "" for none."""
    return ", ".join(f"{reason} {count:,}" for reason, count in model.get("unread", {}).items())


def figures(model: Mapping[str, Any]) -> str:
    """The section of the data card: the ROC curve, and what a threshold keeps of each source."""
    curve = [(row["bad"], row["good"]) for row in model["roc"]]
    series = [
        Series(f"good examples kept, by bad ones kept (area {model['auc']:.3f})", curve),
        Series("chance", [(0, 0), (1, 1)], "line"),
    ]
    parts = [
        '<h2 id="model">Quality model</h2>',
        f"<p>Fitted on {model['good']:,} good and {model['bad']:,} bad examples; measured on those it had not seen, a "
        "fold at a time. "
        + (
            f"Documents below {model['threshold']} are dropped."
            if model["threshold"] is not None
            else "It drops nothing."
        )
        + "</p>",
        f"<p>Records among the examples that could not be read: {unread_words(model)}.</p>"
        if model.get("unread")
        else "",
        curves(series, (0, 1), "ROC of the quality model", "share of bad examples kept"),
    ]
    drawn = [
        f"<figure><b>{name}</b>"
        + curves(
            [Series("kept by a threshold", [(step / STEPS, share) for step, share in enumerate(shares)])],
            (0, 1), f"{name}: share kept", "threshold", model["threshold"], (300, 200),
        )
        + "</figure>"
        for name, shares in model["kept_by_threshold"].items()
    ]  # fmt: skip
    return "".join([*parts, f'<div class="grid">{"".join(drawn)}</div>'])


_PAIR = np.uint64(0x9E3779B97F4A7C15)


@compiled
def _features(data: Any, offsets: Any, table: Any, mask: Any) -> Any:
    """Buckets of the words and word pairs of every document, one after another, and where each document begins."""
    documents = len(offsets) - 1
    longest = 1
    for d in range(documents):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words, places = np.empty(longest + 1, np.uint64), np.empty((longest + 1, 2), np.int64)
    begins = np.zeros(documents + 1, np.int64)
    for d in range(documents):
        begins[d + 1] = begins[d] + 2 * words_of(data, offsets[d], offsets[d + 1], table, words, places)
    out = np.empty(begins[documents], np.uint32)
    for d in range(documents):
        count = words_of(data, offsets[d], offsets[d + 1], table, words, places)
        before, at = np.uint64(0), begins[d]
        for w in range(count):
            out[at] = words[w] & mask
            out[at + 1] = mixed(before * _PAIR + words[w]) & mask
            before = words[w]
            at += 2
    return out, begins


@compiled
def _fit(features: Any, offsets: Any, labels: Any, order: Any, epochs: int, rate: float) -> Any:
    """Weights by AdaGrad on the logistic loss; each class weighs as much as the other."""
    weights, squares = np.zeros(BUCKETS + 1, np.float32), np.zeros(BUCKETS + 1, np.float32)
    filled, last = np.zeros(BUCKETS, np.int32), np.full(BUCKETS, -1, np.int64)
    good = 0.0
    for d in order:
        good += labels[d]
        for k in range(offsets[d], offsets[d + 1]):
            if last[features[k]] != d:
                last[features[k]] = d
                filled[features[k]] += 1
    weigh_good, weigh_bad = 0.5 * len(order) / good, 0.5 * len(order) / (len(order) - good)
    for _ in range(epochs):
        for d in order:
            first, stop = offsets[d], offsets[d + 1]
            count = max(1, stop - first)
            total = 0.0
            for k in range(first, stop):
                total += weights[features[k]]
            guess = 1.0 / (1.0 + np.exp(-(weights[BUCKETS] + total / count)))
            slope = (guess - labels[d]) * (weigh_good if labels[d] > 0.5 else weigh_bad)
            squares[BUCKETS] += slope * slope
            weights[BUCKETS] -= rate * slope / (np.sqrt(squares[BUCKETS]) + 1e-8)
            step = slope / count
            for k in range(first, stop):
                f = features[k]
                if filled[f] >= LEAST_DOCUMENTS:
                    squares[f] += step * step
                    weights[f] -= rate * step / (np.sqrt(squares[f]) + 1e-8)
    return weights


@compiled
def _score(data: Any, offsets: Any, table: Any, weights: Any, out: Any) -> None:
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words, places = np.empty(longest + 1, np.uint64), np.empty((longest + 1, 2), np.int64)
    mask = np.uint64(BUCKETS - 1)
    for d in range(len(offsets) - 1):
        count = words_of(data, offsets[d], offsets[d + 1], table, words, places)
        before, total = np.uint64(0), 0.0
        for w in range(count):
            total += weights[words[w] & mask] + weights[mixed(before * _PAIR + words[w]) & mask]
            before = words[w]
        out[d] = 1.0 / (1.0 + np.exp(-(weights[BUCKETS] + total / max(1, 2 * count))))
