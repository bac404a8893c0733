"""From what studies propose to values for a target: each with the law, the interval and the runs that it comes from.

Enters: `results.json` of a sandbox and the target's sizes. Leaves: `Value`s. A proposal with a value is taken as it is;
one without is read off its law at the target. Two studies may propose one key: the first is taken, and the other told.

    schedule.peak_lr    the law's optimum at the target's width
    tokens              where C = 6·N·D is best spent at the target's N: αC_N·N^-α = βC_D·D^-β, solved for D
    batch_tokens        a/L^b at the loss that the scaling law foresees for the target, whose interval goes into it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.train.budget.loss import LOSS_LAWS

# times the largest size that was tried: MiniCPM itself went five times beyond its largest small model
FAR = 10.0
_WIDEST = 1e4  # high / low of a number of tokens that still says something


@dataclass(frozen=True)
class Value:
    """A value for the target's config.

    Attributes: key, as the proposal has it. comment, sentences: why, law, interval. runs, folders.
    beyond, how many times the target is larger than what was tried, where it is more than `FAR`; else None.
    """

    key: str
    value: Any
    comment: tuple[str, ...]
    runs: tuple[str, ...]
    beyond: float | None = None


@dataclass(frozen=True)
class Target:
    """What is to be trained: non-embedding parameters, width, and the tokens where they are given."""

    parameters: int
    width: int
    tokens: float | None


@dataclass(frozen=True)
class _Offered:
    study: str
    proposal: Mapping[str, Any]
    law: FittedLaw | None
    law_name: str


def values_for(results: Mapping[str, Any], target: Target) -> tuple[list[Value], list[str]]:
    """The values, and sentences about what could not be taken. Raises: ConfigError where nothing is proposed."""
    offered, notes = _offered(results)
    sizes = _sizes(results)
    tokens, notes_of_tokens = _tokens(offered, target)
    scaling = next((one for one in offered.values() if one.law is not None and one.law.law in LOSS_LAWS), None)
    law = scaling.law if scaling is not None else _any_loss_law(results)
    made = [tokens]
    for key, one in offered.items():
        if key == "tokens":
            continue
        if one.proposal["value"] is not None:
            made.append(_as_proposed(one, target, sizes.get(one.study, 0)))
        elif one.law is None:
            notes.append(f"{one.study} proposes {key}, but gives neither a value nor a law: left out")
        elif (value := _read_off(key, one, target, float(tokens.value), law)) is not None:
            made.append(value)
        else:
            notes.append(
                f"{one.study} proposes {key} by law {one.law_name} ({one.law.law}), which gives none: left out"
            )
    return made, [*notes, *notes_of_tokens]


def _offered(results: Mapping[str, Any]) -> tuple[dict[str, _Offered], list[str]]:
    offered: dict[str, _Offered] = {}
    notes = []
    for study, outcome in results["studies"].items():
        laws = {name: FittedLaw.read(values) for name, values in outcome.get("laws", {}).items()}
        for proposal in outcome.get("proposals", ()):
            one = _Offered(study, proposal, laws.get(proposal.get("law") or ""), proposal.get("law") or "")
            if proposal["key"] in offered:
                first = offered[proposal["key"]]
                notes.append(f"{proposal['key']} is of {first.study}; {study} proposes {proposal['value']} as well")
                continue
            offered[proposal["key"]] = one
    if not offered:
        raise ConfigError(
            f"the recipe's studies ({', '.join(results['studies']) or 'none'}) propose no value yet: wait until they "
            "are finished, or add studies such as lr, batch and scaling"
        )
    return offered, notes


def _sizes(results: Mapping[str, Any]) -> dict[str, int]:
    """Study -> non-embedding parameters of its largest trial."""
    largest: dict[str, int] = {}
    for trial in results.get("trials", ()):
        study, parameters = trial.get("study", ""), trial.get("parameters") or 0
        largest[study] = max(largest.get(study, 0), parameters)
    return largest


def _any_loss_law(results: Mapping[str, Any]) -> FittedLaw | None:
    laws = (law for outcome in results["studies"].values() for law in outcome.get("laws", {}).values())
    return next((FittedLaw.read(law) for law in laws if law.get("law") in LOSS_LAWS), None)


def _tokens(offered: Mapping[str, _Offered], target: Target) -> tuple[Value, list[str]]:
    """How many tokens: as the user says, else as the law proposes."""
    one = offered.get("tokens")
    if target.tokens is not None:
        notes = [] if one is None else ["tokens are yours; the scaling study's proposal is in the comment"]
        comment = ["as you said (tokens=…)"]
        if one is not None and one.law is not None and (best := _best_tokens(one.law, target.parameters)) is not None:
            comment.append(f"the law's own: {best}")
        return Value("tokens", target.tokens, tuple(comment), () if one is None else tuple(one.proposal["runs"])), notes
    if one is None:
        raise ConfigError(
            "no study of the recipe says how many tokens to train on: add a scaling study, or say it: tokens=1.1e12"
        )
    if one.proposal["value"] is not None:
        return _as_proposed(one, target, 0), []
    best = None if one.law is None else _best_tokens(one.law, target.parameters)
    if best is None or one.law is None or best.high > _WIDEST * best.low:
        if best is not None:
            raise ConfigError(
                f"study {one.study} does not tell how many tokens are best: its law says anything from {best.low:.2g} "
                f"to {best.high:.2g}: add seeds, sizes or longer trunks, or say it: tokens=1.1e12"
            )
        raise ConfigError(
            f"the law of study {one.study} gives no best number of tokens (its exponents may be 0): add seeds or "
            "sizes, or say it: tokens=1.1e12"
        )
    ratio = best.value / target.parameters
    told = (
        str(one.proposal["sentence"]),
        f"law {one.law_name}: {_formula(one.law)}",
        f"best spent at N = {target.parameters:,}: D = {best}, {ratio:,.3g} tokens a parameter; a model that is used "
        "much is trained longer (tokens=…)",
    )
    return Value("tokens", best.value, told, tuple(one.proposal["runs"]), _beyond(one.law, target)), []


def _best_tokens(law: FittedLaw, parameters: int) -> Estimate | None:
    """D at which a FLOP is as well spent on tokens as on parameters, with its interval over the bootstrap samples."""
    if law.law not in LOSS_LAWS:
        return None
    unit = 1e9 if law.law == "minicpm" else 1.0

    def solve(p: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            ratio = p["beta"] * p["C_D"] / (p["alpha"] * p["C_N"])
            return unit * (ratio * (parameters / unit) ** p["alpha"]) ** (1 / p["beta"])

    value = float(solve({name: estimate.value for name, estimate in law.parameters.items()}))
    if not (math.isfinite(value) and value > 0):
        return None
    samples = (
        np.asarray(solve({name: np.asarray(own) for name, own in law.samples.items()})) if law.samples else np.array([])
    )
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Estimate(value, value, value)
    tail = (1 - law.level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _as_proposed(one: _Offered, target: Target, largest: int) -> Value:
    """A proposal that has its value."""
    proposal, estimate = one.proposal, one.proposal.get("estimate")
    comment = [str(proposal["sentence"])]
    if estimate:
        comment.append(f"interval: {Estimate(**estimate)}")
    if one.law is not None:
        comment.append(f"law {one.law_name}: {_formula(one.law)}")
    factor = target.parameters / largest if largest else None
    away = _beyond(one.law, target) if one.law is not None and one.law.ranges else None
    away = away or (factor if factor and factor > FAR else None)
    return Value(proposal["key"], proposal["value"], tuple(comment), tuple(proposal["runs"]), away)


def _read_off(key: str, one: _Offered, target: Target, tokens: float, scaling: FittedLaw | None) -> Value | None:
    """A proposal whose law gives the value at the target."""
    from pipelines.laws.fitting import predict

    law, proposal = one.law, one.proposal
    assert law is not None
    comment = [str(proposal["sentence"]), f"law {one.law_name}: {_formula(law)}"]
    if law.law == "power" and key == "schedule.peak_lr":  # over the width
        predicted = predict(law, {"x": float(target.width)})
        comment.append(f"at width {target.width}: {Estimate(predicted.value, predicted.low, predicted.high)}")
        value: Any = float(f"{predicted.value:.2g}")
        warnings = predicted.warnings
    elif law.law == "lr":
        predicted = predict(law, {"width": float(target.width)} if "width" in law.ranges else {})
        comment.append(f"at width {target.width}: {Estimate(predicted.value, predicted.low, predicted.high)}")
        value = float(f"{predicted.value:.2g}")
        warnings = predicted.warnings
    elif law.law == "batch" and scaling is not None:
        loss = predict(scaling, {"params": float(target.parameters), "tokens": tokens}, of_a_run=False)
        middle, most, least = (predict(law, {"loss": at}) for at in (loss.value, loss.low, loss.high))
        ends = (min(middle.low, most.low, least.low), max(middle.high, most.high, least.high))
        comment.append(f"at the foreseen loss {Estimate(loss.value, loss.low, loss.high)} {scaling.unit}")
        comment.append(f"batch in tokens: {Estimate(middle.value, *ends)}")
        value = middle.value
        warnings = (*loss.warnings, *middle.warnings)
    else:
        return None
    comment += [f"widened: {warning}" for warning in warnings]
    beyond = _beyond(law, target) or (_beyond(scaling, target) if law.law == "batch" and scaling else None)
    return Value(key, value, tuple(comment), tuple(proposal["runs"]), beyond)


def _beyond(law: FittedLaw, target: Target) -> float | None:
    """How many times the target is larger than the law's data, where it is more than `FAR`. Width counts squared."""
    for column, size, power in (("params", target.parameters, 1), ("width", target.width, 2)):
        if column in law.ranges:
            times = (size / law.ranges[column][1]) ** power
            return float(times) if times > FAR else None
    return None


def _formula(law: FittedLaw) -> str:
    parameters = ", ".join(f"{name} = {estimate}" for name, estimate in law.parameters.items())
    return f"{law.formula} with {parameters}; {law.points} points of {law.runs} runs, intervals of {law.level:.0%}"


def listed_runs(runs: Sequence[str], most: int = 12) -> str:
    """`pretrain/a, pretrain/b and 30 more`."""
    if not runs:
        return "none named"
    more = f" and {len(runs) - most} more (results.json)" if len(runs) > most else ""
    return ", ".join(runs[:most]) + more
