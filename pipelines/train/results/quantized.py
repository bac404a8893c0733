"""What quantizing costs, as numbers with intervals: each method against the full model and against the others.

Enters: the answers of the full model and of quantized ones on the same held-out passages and pairs. Leaves: plain data,
the `measured` of `quantization.json`, and sentences that say what can be told.

All differences are paired: a document that is hard for one model is hard for all, so documents are drawn with
replacement, the same ones for every model, and each difference or ratio is worked out anew in every draw. Documents of
each source are drawn apart, as the mean over sources counts sources alike. The ends of an interval are the quantiles of
the draws, moved away from the value by √(n/(n-1)) · t/z for few documents (`laws/bootstrap.py`). Where zero lies within
an interval, the sentence says that it cannot be told.

    bits per byte   as in tasks/text.py; lost = quantized - full; the mean is that over document sources
    loss            nats per predicted token, of conversations together: the assistant's
    preferences     share of pairs whose chosen answer is likelier by its mean log-probability; lost = full - quantized
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.laws.bootstrap import interval, student_ratio
from pipelines.train.results.quantized_evidence import Answers, Floats, Heldout, HeldoutPassages, by_document, unit_of

LEVEL = 0.95
_SAMPLES = 2000
FULL = "full"

Content = dict[str, Any]


@dataclass(frozen=True)
class _Drawn:
    """One number: worked out of all documents, and in every draw.

    Attributes: draws, the value first; sizes, how many documents (or pairs) of each source are behind it.
    """

    draws: Floats
    sizes: tuple[int, ...]

    def __sub__(self, other: _Drawn) -> _Drawn:
        return _Drawn(self.draws - other.draws, self.sizes)

    def plain(self) -> Content:
        """Value and interval; its ends are null where there is too little to draw from."""
        value, samples = float(self.draws[0]), self.draws[1:]
        if not self.sizes or min(self.sizes) < 2:
            return {"value": value, "low": None, "high": None}
        low, high = interval(samples, LEVEL)
        mean = sum(self.sizes) / len(self.sizes)
        stretch = math.sqrt(mean / (mean - 1)) * student_ratio(LEVEL, sum(size - 1 for size in self.sizes))
        return {
            "value": value,
            "low": min(value, value - stretch * (value - low)),
            "high": max(value, value + stretch * (high - value)),
        }


def _mean(parts: Sequence[_Drawn]) -> _Drawn:
    """The plain mean of a number over sources."""
    draws = np.mean([part.draws for part in parts], axis=0)
    return _Drawn(draws, tuple(size for part in parts for size in part.sizes))


class _Source:
    """The documents of one source, drawn again and again: sums over passages become ratios of sums."""

    def __init__(self, read: HeldoutPassages, generator: np.random.Generator, compared: bool = False):
        self.read, self.compared = unit_of(read, compared), compared
        passages = self.read.passages[: self.read.compared] if compared else self.read.passages
        self.size = len({passage.document for passage in passages})
        self.tokens = self._summed([float(passage.counted.sum()) for passage in passages])
        self.bytes = self._summed([passage.bytes for passage in passages])
        there = (self._summed([1.0] * len(passages)) > 0).nonzero()[0]
        chances = np.zeros(len(self.tokens))
        chances[there] = 1 / len(there)
        drawn = generator.multinomial(len(there), chances, size=_SAMPLES)
        self.weights = np.concatenate([(chances > 0)[None], drawn]).astype(np.float64)

    def _summed(self, values: Iterable[float]) -> Floats:
        return by_document(self.read, np.asarray(list(values), np.float64), self.compared)

    def ratio(self, values: Floats, by: Floats) -> _Drawn:
        """Σ values / Σ by. Args: values, of each passage; by, of each document."""
        return _Drawn((self.weights @ self._summed(values)) / (self.weights @ by), (self.size,))


def compared(heldout: Heldout, full: Answers, models: Mapping[str, Answers], vocabulary: int, seed: int) -> Content:
    """All numbers. Args: models, by a method's name; seed, of the draws."""
    generator = np.random.default_rng(seed)
    texts = {name: _Source(read, generator) for name, read in heldout.sources.items()}
    near = {name: _Source(read, generator, compared=True) for name, read in heldout.sources.items()}
    pairs = {
        name: np.concatenate(
            [np.ones((1, len(rows) // 2)), generator.multinomial(n := len(rows) // 2, [1 / n] * n, size=_SAMPLES)]
        )
        for name, rows in heldout.pairs.items()
    }
    losses = {name: _lost_bits(texts, full, own) for name, own in models.items()}
    content: Content = {
        "level": LEVEL,
        "sources": {name: _about(read) for name, read in heldout.sources.items()},
        "preferences": {name: len(rows) // 2 for name, rows in heldout.pairs.items()},
        "unmeasured": dict(heldout.unmeasured),
        "models": {FULL: _levels(heldout, full, vocabulary)},
    }
    for name, own in models.items():
        content["models"][name] = {
            **_levels(heldout, own, vocabulary),
            "lost_bits_per_byte": _by_source(losses[name], _document_sources(heldout)),
            "lost_assistant_loss": _lost_assistant(texts, full, own),
            "lost_preference_accuracy": _lost_accuracy(pairs, full, own),
            "kl": _by_source({s: at.ratio(own.kl[s], at.tokens) for s, at in near.items()}, heldout.sources),
            "top1": _by_source({s: at.ratio(own.agreeing[s], at.tokens) for s, at in near.items()}, heldout.sources),
            "drift": list(own.drift),
        }
    means = {
        name: _mean([by_name[source] for source in _document_sources(heldout) if source in by_name])
        for name, by_name in losses.items()
        if any(source in by_name for source in _document_sources(heldout))
    }
    content["between"] = _between(means)
    return content


def _about(read: HeldoutPassages) -> Content:
    return {
        "kind": read.kind,
        "language": read.language,
        "documents": read.documents,
        "tokens": read.tokens,
        "bytes": round(sum(passage.bytes for passage in read.passages)),
        "compared_tokens": sum(int(passage.counted.sum()) for passage in read.passages[: read.compared]),
        "drawn": "documents" if unit_of(read) is read else "windows of its one document",
    }


def _document_sources(heldout: Heldout) -> list[str]:
    """Those that the mean of bits per byte is over."""
    return [name for name, read in heldout.sources.items() if read.kind == "documents" and _has_bytes(read)]


def _has_bytes(read: HeldoutPassages) -> bool:
    return read.has_bytes and any(passage.bytes for passage in read.passages)


def _levels(heldout: Heldout, own: Answers, vocabulary: int) -> Content:
    """The numbers of one model by itself, as `workflows.evaluate` has them."""
    bits: dict[str, float] = {}
    for name, read in heldout.sources.items():
        if _has_bytes(read):
            charged = float(own.nats[name].sum()) + sum(p.opens for p in read.passages) * math.log(vocabulary)
            bits[name] = charged / (math.log(2) * sum(p.bytes for p in read.passages))
    means = [bits[name] for name in _document_sources(heldout)]
    answers = [name for name, read in heldout.sources.items() if read.kind == "conversations"]
    spoken = sum(heldout.sources[name].tokens for name in answers)
    signs = np.concatenate([own.margins[name] for name in heldout.pairs]) if heldout.pairs else np.zeros(0)
    return {
        "bits_per_byte": {"by_source": bits, "mean": float(np.mean(means)) if means else None},
        "assistant_loss": sum(float(own.nats[name].sum()) for name in answers) / spoken if spoken else None,
        "preference_accuracy": float(np.mean(signs > 0)) if len(signs) else None,
    }


def _lost_bits(texts: Mapping[str, _Source], full: Answers, own: Answers) -> dict[str, _Drawn]:
    """By source; what the first ids are charged is the same for both and falls out."""
    return {
        name: at.ratio((own.nats[name] - full.nats[name]) / math.log(2), at.bytes)
        for name, at in texts.items()
        if _has_bytes(at.read)
    }


def _by_source(drawn: Mapping[str, _Drawn], means: Iterable[str]) -> Content:
    own = [drawn[name] for name in means if name in drawn]
    return {
        "by_source": {name: one.plain() for name, one in drawn.items()},
        "mean": _mean(own).plain() if own else None,
    }


def _lost_assistant(texts: Mapping[str, _Source], full: Answers, own: Answers) -> Content | None:
    """Of all conversations together, in nats per token."""
    spoken = {name: at for name, at in texts.items() if at.read.kind == "conversations"}
    if not spoken:
        return None
    lost = [at.weights @ by_document(at.read, own.nats[name] - full.nats[name]) for name, at in spoken.items()]
    tokens = [at.weights @ at.tokens for at in spoken.values()]
    return _Drawn(np.sum(lost, axis=0) / np.sum(tokens, axis=0), tuple(at.size for at in spoken.values())).plain()


def _lost_accuracy(pairs: Mapping[str, Floats], full: Answers, own: Answers) -> Content | None:
    """Of all pairs together, as a share."""
    if not pairs:
        return None
    lost = [
        weights @ ((full.margins[name] > 0).astype(np.float64) - (own.margins[name] > 0))
        for name, weights in pairs.items()
    ]
    count = sum(weights.shape[1] for weights in pairs.values())
    return _Drawn(np.sum(lost, axis=0) / count, tuple(weights.shape[1] for weights in pairs.values())).plain()


# ── What can be told ──────────────────────────────────────────────────────────────────────────────────────────────────


def _between(means: Mapping[str, _Drawn]) -> list[Content]:
    """Each method against each other one, by the mean of bits per byte that it loses."""
    found = []
    names = list(means)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            better, worse = sorted((one, other), key=lambda name: float(means[name].draws[0]))
            difference = (means[worse] - means[better]).plain()
            entry: Content = {"better": better, "worse": worse, "difference": difference, "share": None}
            if _above_zero(difference) and _above_zero(means[worse].plain()) and means[better].draws[0] > 0:
                shares = means[better].draws / np.where(means[worse].draws > 0, means[worse].draws, np.nan)
                entry["share"] = _Drawn(shares, means[worse].sizes).plain()
            found.append({**entry, "told": _above_zero(difference)})
    return found


def _above_zero(estimate: Content | None) -> bool:
    return estimate is not None and estimate["low"] is not None and estimate["low"] > 0


def sentences(measured: Content) -> list[str]:
    """What the numbers say, each with its interval, or that it cannot be told."""
    pairs = sum(measured["preferences"].values())
    said = []
    for name, model in measured["models"].items():
        if name != FULL:
            said += _against_full(name, model, pairs)
    return said + [_of_two(pair) for pair in measured["between"]]


def _of_two(pair: Content) -> str:
    better, worse = pair["better"], pair["worse"]
    difference = f"{with_interval(pair['difference'])} bits per byte"
    if not pair["told"]:
        return f"which of {better} and {worse} loses less bits per byte cannot be told: {difference} between them"
    if pair["share"] is None:
        return f"{better} loses {difference} less than {worse}"
    return f"{better} loses {with_interval(pair['share'], share=True)} of what {worse} loses: {difference} less"


def _against_full(name: str, model: Content, pairs: int) -> list[str]:
    rows = (
        ("bits per byte of held-out text", model["lost_bits_per_byte"]["mean"], False),
        ("nats per assistant token", model["lost_assistant_loss"], False),
        ("of preference accuracy", model["lost_preference_accuracy"], True),
    )
    said = []
    for unit, lost, share in rows:
        if lost is None:
            continue
        if share and lost["low"] == lost["high"] == 0:
            said.append(
                f"{name} and the full model are right about the same pairs, of {pairs:,}: too few to tell a loss"
            )
        elif _above_zero(lost):
            said.append(f"{name} loses {with_interval(lost, share)} {unit}")
        elif lost["high"] is not None and lost["high"] < 0:
            gained = {"value": -lost["value"], "low": -lost["high"], "high": -lost["low"]}
            said.append(f"{name} gains {with_interval(gained, share)} {unit}")
        else:
            said.append(f"whether {name} loses {unit.removeprefix('of ')} cannot be told: {with_interval(lost, share)}")
    return said


def with_interval(estimate: Content | None, share: bool = False) -> str:
    """A number and its interval for people, with two digits of the largest of the three. Args: share, in percent."""
    if estimate is None:
        return "–"
    ends = [estimate[end] for end in ("value", "low", "high") if estimate[end] is not None]
    largest = max(abs(end) for end in ends) * (100 if share else 1)
    decimals = 1 - math.floor(math.log10(largest)) if largest > 0 else 1
    form = f"{{:.{min(8, max(0, decimals))}{'%' if share else 'f'}}}"
    value = form.format(estimate["value"])
    if estimate["low"] is None:
        return f"{value} (no interval: too few documents)"
    return f"{value} ({form.format(estimate['low'])} to {form.format(estimate['high'])})"
