"""What the report is made of: a `StageResult` per checkpoint, the claims that they prove or not, the stage table.

A claim whose numbers are missing says so; nothing is claimed that the numbers do not show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.display.progress import human

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What one run left."""

    kind: str  # pretrain | anneal | sft | dpo
    reference: str  # kind/name, or kind/name@step-N where the evaluation is of an earlier checkpoint
    parent: str | None = None  # the reference it began from
    tokens_start: int = 0  # trained on by its ancestors
    tokens_end: int  # ancestors included
    curve: Sequence[Mapping[str, Any]] = ()  # rows of `train.run.loop.read_metrics`
    asked: Mapping[str, float] = field(default_factory=dict)  # source -> weight in the mixture
    delivered: Mapping[str, int] = field(default_factory=dict)  # source -> samples read
    evaluation: Mapping[str, Any] | None = None  # content of `results.json`
    seconds: float | None = None
    artifact: str | None = None  # where the result lies, when not `reference`

    @property
    def label(self) -> str:
        """`anneal/demo` as `anneal demo`; a checkpoint keeps its step."""
        return self.reference.replace("/", " ")

    @property
    def run_label(self) -> str:
        """The same without the step, for what is of the whole run."""
        return run_of(self.label)

    def overall(self, name: str) -> float | None:
        """A number of the evaluation's summary, or None."""
        value: float | None = (self.evaluation or {}).get("overall", {}).get(name)
        return value


@dataclass(frozen=True)
class Claim:
    """Something that the recipe should show, and whether this run does."""

    text: str
    holds: bool | None  # None: the numbers to tell are missing
    numbers: str


def claims(results: Sequence[StageResult]) -> list[Claim]:
    """The three claims, computed.

    The annealed branch is compared with a pretrain result of the same tokens (within 1 %) at stable LR; SFT with its
    parent; DPO with its parent.
    """
    anneal, sft, dpo = (last(results, kind) for kind in ("anneal", "sft", "dpo"))
    rival = _trunk_beside(results, anneal) if anneal else None
    return [
        _claim("The annealed branch ends below the trunk trained on at stable LR for the same tokens", "bits per byte", "bits_per_byte", anneal, rival, lower=True),
        _claim("SFT lowers held-out assistant loss", "nats per token", "assistant_loss", sft, _parent(results, sft), lower=True),
        _claim("DPO raises held-out preference accuracy above SFT's", "of pairs", "preference_accuracy", dpo, _parent(results, dpo), lower=False),
    ]  # fmt: skip


def stage_table(results: Sequence[StageResult]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: stage, tokens, LR, bits per byte by source, assistant loss, preference accuracy, seconds, artifact."""
    names = sources(results)
    header = ["stage", "tokens", "LR", *names, "mean", "assistant loss", "preference accuracy", "seconds", "artifact"]
    rows = []
    for result in results:
        accuracy = result.overall("preference_accuracy")
        rows.append([
            result.kind, human(result.tokens_end), _rates(result), *(_rounded(bits(result, source)) for source in names),
            _rounded(result.overall("bits_per_byte")), _rounded(result.overall("assistant_loss")),
            None if accuracy is None else f"{accuracy:.1%}", None if result.seconds is None else round(result.seconds),
            result.artifact or result.reference,
        ])  # fmt: skip
    return header, rows


def given_over_tokens(result: StageResult) -> tuple[Floats, Floats, dict[str, float], Floats] | None:
    """What each source gave against what was asked, at every logged step; None without a mixture or without such counts.

    Returns: tokens trained on, ancestors included, the start first [n + 1]; share of the tokens since the step before
        [sources, n + 1], the first point repeating the second; source -> share asked, the largest first; windows ahead
        (or behind) of that share since the stage began [sources, n + 1].
    """
    rows = [row for row in result.curve if "tokens_by_source" in row]
    if not rows or not result.asked or len(result.curve) < 2:
        return None
    asked = dict(sorted(result.asked.items(), key=lambda item: (-item[1], item[0])))
    given = np.array([[0, *(row["tokens_by_source"].get(name, 0) for row in rows)] for name in asked], float)
    total = given.sum(axis=0)
    share = np.diff(given, axis=1) / np.diff(total)
    first, last_row = result.curve[0], result.curve[-1]
    window = (last_row["tokens"] - first["tokens"]) / (last_row["samples"] - first["samples"])
    off = (given - np.array(list(asked.values()))[:, None] * total) / window
    return result.tokens_start + total, np.concatenate([share[:, :1], share], axis=1), asked, off


def _claim(
    text: str, unit: str, number: str, ours: StageResult | None, theirs: StageResult | None, lower: bool
) -> Claim:
    mine, other = (result.overall(number) if result else None for result in (ours, theirs))
    if ours is None or theirs is None or mine is None or other is None:
        absent = "no run to compare with" if theirs is None else "not evaluated"
        return Claim(text, None, absent)
    share = unit == "of pairs"
    shown = [f"{value:.1%}" if share else f"{value:.4f}" for value in (mine, other)]
    difference = f"{mine - other:+.1%}" if share else f"{mine - other:+.4f}"
    numbers = f"{ours.reference} {shown[0]}, {theirs.reference} {shown[1]} {unit} ({difference})"
    return Claim(text, mine < other if lower else mine > other, numbers)


def _trunk_beside(results: Sequence[StageResult], branch: StageResult) -> StageResult | None:
    """The evaluated pretrain result nearest to the branch's tokens, within 1 %."""
    trunks = [result for result in results if result.kind == "pretrain" and result.evaluation]
    nearest = min(trunks, key=lambda result: abs(result.tokens_end - branch.tokens_end), default=None)
    if nearest is None or abs(nearest.tokens_end - branch.tokens_end) > 0.01 * branch.tokens_end:
        return None
    return nearest


def _parent(results: Sequence[StageResult], child: StageResult | None) -> StageResult | None:
    if child is None or child.parent is None:
        return None
    exact = [result for result in results if result.reference == child.parent]
    return next(
        iter([*exact, *(result for result in results if run_of(result.reference) == run_of(str(child.parent)))]), None
    )


def last(results: Sequence[StageResult], kind: str) -> StageResult | None:
    return next((result for result in reversed(results) if result.kind == kind), None)


def runs(results: Sequence[StageResult]) -> list[StageResult]:
    """Each run once, with the curve that goes furthest: a trunk evaluated at two checkpoints is two results of one run."""
    furthest: dict[str, StageResult] = {}
    for result in results:
        held = furthest.get(run_of(result.reference))
        if held is None or _reach(result) >= _reach(held):
            furthest[run_of(result.reference)] = result
    return list(furthest.values())


def _reach(result: StageResult) -> int:
    return int(result.curve[-1]["tokens"]) if result.curve else -1


def run_of(reference: str) -> str:
    return reference.split("@")[0]


def sources(results: Sequence[StageResult]) -> list[str]:
    """Document sources with bits per byte, in the order of their first appearance."""
    found: dict[str, None] = {}
    for result in results:
        for name, score in (result.evaluation or {}).get("text", {}).items():
            if score["kind"] == "documents" and score["bits_per_byte"] is not None:
                found[name] = None
    return list(found)


def bits(result: StageResult, source: str) -> float | None:
    score = (result.evaluation or {}).get("text", {}).get(source)
    return None if score is None else score["bits_per_byte"]


def _rates(result: StageResult) -> str | None:
    if not result.curve:
        return None
    first, last = result.curve[0]["learning_rate"], result.curve[-1]["learning_rate"]
    return f"{last:.2g}" if math.isclose(first, last) or result.kind == "pretrain" else f"{first:.2g} → {last:.2g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
