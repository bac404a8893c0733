"""What study `scaling` says of its laws: findings beside the published numbers, tables, a proposal.

Published, MiniCPM (arXiv 2404.06395 §4.5): L = 0.0715·N^-0.29 + 0.300·D^-0.23 + 0.31, N and D in billions, the mean of
five held-out sets; N/D = K²·(C/6)^η with K² = 0.01, η = -0.10; D/N = 192 at 1e21 FLOPs and at that compute alone. Its
five sets give 834, 195, 166, 96 and 113 there, and the rounded constants 83 at 1e18: so 192 is weak evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.config import Amount, Positive, config_class
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.laws.minicpm import BILLION, PUBLISHED
from pipelines.laws.optimum import ratio_exponent, tokens_per_parameter
from pipelines.train.studies.contract import StudySettings
from pipelines.train.studies.evidence import folders_of, seeds_of
from pipelines.train.studies.outcome import Finding, Proposal, verdict_of
from pipelines.train.trials.result import TrialResult

LAW = "minicpm"  # of LAWS: N and D in billions, so that constants lie beside the published ones
MEAN = "scaling"  # the law of the mean over all held-out sets
PUBLISHED_FLOPS = 1e21
PUBLISHED_RATIO = 191.87  # tokens a parameter there; and of each of the five sets:
PUBLISHED_RATIOS = (834.0, 195.0, 166.0, 113.0, 96.0)
CHINCHILLA_RATIO = 20.0  # Hoffmann et al. 2022, arXiv 2203.15556
_NOTHING = 1e-9  # of a constant: 1e-9 bits per byte
_SOURCE = "arXiv 2404.06395 §4.5"
_NO_LEAST = "α or β may be 0, so that the loss may be least with all compute in size, or all in tokens"


@config_class
class ScalingSettings(StudySettings):
    """How far the law is trusted."""

    kind: Literal["scaling"] = "scaling"
    measure: str = "heldout"
    reach: Positive = 100.0  # times the largest compute of the trials: beyond it nothing is claimed
    narrow: Amount = 0.05  # of the loss: a prediction with a wider interval proves nothing by being right


@dataclass(frozen=True)
class Miss:
    """What the law of the smaller sizes says of the largest, at one length."""

    params: float
    tokens: float
    measured: float  # mean over seeds
    predicted: Estimate

    @property
    def relative(self) -> Estimate:
        """How far the prediction lies above what was measured, as a part of it."""
        low, value, high = (
            bound / self.measured - 1 for bound in (self.predicted.low, self.predicted.value, self.predicted.high)
        )
        return Estimate(value, low, high)


@dataclass(frozen=True)
class Reading:
    """What there is to say something about. Attributes: flops, 6·N·D of each trial; laws, by held-out set and MEAN."""

    trials: Sequence[TrialResult]
    flops: Sequence[float]
    laws: Mapping[str, FittedLaw]
    misses: Sequence[Miss]
    settings: ScalingSettings

    @property
    def mean(self) -> FittedLaw:
        return self.laws[MEAN]

    @property
    def most_flops(self) -> float:
        return max(self.flops)

    def finding(
        self, claim: str, published: str, quantity: str, estimate: Estimate | None, agrees: bool | None, reason: str
    ) -> Finding:
        """A finding of all trials. Args: agrees, as of `verdict_of`."""
        seeds = seeds_of(self.trials)
        return Finding(
            claim=claim, published=published, quantity=quantity, estimate=estimate,
            verdict=verdict_of(agrees, seeds), reason=reason, seeds=seeds, runs=folders_of(self.trials),
        )  # fmt: skip


def findings(reading: Reading) -> tuple[Finding, ...]:
    """Exponents, the best split here, at the published compute and how it moves, and the largest size predicted."""
    return (
        _exponent(reading, "alpha", "parameters, α"),
        _exponent(reading, "beta", "tokens, β"),
        _split_here(reading),
        _split_as_published(reading),
        _split_moves(reading),
        *([_largest(reading, reading.misses[-1])] if reading.misses else []),
    )


def _exponent(reading: Reading, name: str, words: str) -> Finding:
    estimate, published = reading.mean.parameters[name], PUBLISHED[name]
    inside = estimate.low <= published <= estimate.high
    vague = inside and estimate.width > published
    return reading.finding(
        claim=f"The loss falls with the power {published} of the {words.split(',')[0]}",
        published=f"{published} ({_SOURCE}; mean of five sets, loss per byte)",
        quantity=f"exponent of the {words}, of the mean over {len(reading.laws) - 1} held-out sets",
        estimate=estimate,
        agrees=None if vague else inside,
        reason=f"the interval {'holds' if inside else 'excludes'} {published}"
        + (", and is wider than that number" if vague else ""),
    )


def _split_here(reading: Reading) -> Finding:
    """Beside what the published law says at this compute; its five sets spread by as much as at 1e21."""
    flops = reading.most_flops
    ratio, published = tokens_per_parameter(reading.mean, flops), published_ratio(flops)
    low, high = (published * bound / PUBLISHED_RATIO for bound in (min(PUBLISHED_RATIOS), max(PUBLISHED_RATIOS)))
    by_set = [tokens_per_parameter(law, flops) for name, law in reading.laws.items() if name != MEAN]
    values = [of_set.value for of_set in by_set if of_set is not None]
    across = f"; here by held-out set {min(values):.3g} to {max(values):.3g}" if values else ""
    agrees: bool | None = None
    reason = _NO_LEAST
    if ratio is not None:
        agrees = True if low <= ratio.low and ratio.high <= high else None if _overlap(ratio, low, high) else False
        where = {True: "lies inside", None: "is partly outside", False: "lies outside"}[agrees]
        reason = f"the interval {where} {low:.0f} to {high:.0f}, the published spread over sets, moved to this compute"
    return reading.finding(
        claim="The best tokens a parameter are those of the published law at this compute",
        published=f"{published:.0f} at {flops:.1e} FLOPs by its rounded constants; 192 at 1e21, by set {_spread()} "
        f"({_SOURCE}). Chinchilla: 20",
        quantity=f"compute-optimal tokens a parameter at {flops:.1e} FLOPs, the most of these trials",
        estimate=ratio,
        agrees=agrees,
        reason=reason + across,
    )


def _split_as_published(reading: Reading) -> Finding:
    ratio, times = tokens_per_parameter(reading.mean, PUBLISHED_FLOPS), PUBLISHED_FLOPS / reading.most_flops
    within_reach = times <= reading.settings.reach
    inside = ratio is not None and ratio.low <= PUBLISHED_RATIO <= ratio.high
    vague = ratio is not None and ratio.low * 10 < ratio.high
    reason = f"the interval {'holds' if inside else 'excludes'} 192"
    if not within_reach:
        reason = f"1e21 FLOPs are {times:.0e} times the most of these trials; beyond {reading.settings.reach:g} times "
        reason += "nothing is claimed"
    elif ratio is None or (inside and vague):
        reason = _NO_LEAST if ratio is None else "the interval spans more than a factor of ten"
    return reading.finding(
        claim="At 1e21 FLOPs about 192 tokens a parameter are best",
        published=f"192; by set {_spread()}, so weak evidence ({_SOURCE})",
        quantity="compute-optimal tokens a parameter at 1e21 FLOPs, extrapolated",
        estimate=ratio,
        agrees=inside if within_reach and ratio is not None and not (inside and vague) else None,
        reason=reason,
    )


def _split_moves(reading: Reading) -> Finding:
    exponent = ratio_exponent(reading.mean)
    rounded = (PUBLISHED["alpha"] - PUBLISHED["beta"]) / (PUBLISHED["alpha"] + PUBLISHED["beta"])
    return reading.finding(
        claim="The more compute, the more tokens a parameter",
        published=f"D/N ∝ C^0.10 (η = -0.10; {rounded:.2f} from the rounded exponents) ({_SOURCE})",
        quantity="power of the compute with which compute-optimal tokens a parameter move",
        estimate=exponent,
        agrees=_above(exponent, 0.0),
        reason=_where(exponent, 0.0),
    )


def _largest(reading: Reading, miss: Miss) -> Finding:
    inside = miss.predicted.low <= miss.measured <= miss.predicted.high
    vague = miss.predicted.width > reading.settings.narrow * miss.measured
    return reading.finding(
        claim="A law of the smaller sizes predicts the loss of the largest",
        published="a ladder to 1.2B predicted a C4 loss of 2.45 at 7B, 2.40 at 9B; MiniCPM ended at 2.41 (Notion)",
        quantity=f"prediction for {miss.params:,.0f} parameters and {miss.tokens:,.0f} tokens, above what was "
        "measured, as a part of it",
        estimate=miss.relative,
        agrees=None if inside and vague else inside,
        reason=f"measured {miss.measured:.4f} bits per byte, predicted {_precise(miss.predicted)}: "
        f"{'inside' if inside else 'outside'} the interval"
        + (f", which is wider than {reading.settings.narrow:.0%} of the loss" if inside and vague else ""),
    )


def proposal(reading: Reading) -> Proposal:
    """The law, from which a plan takes the tokens of its own size."""
    ratio, law = tokens_per_parameter(reading.mean, reading.most_flops), reading.mean
    best = f"compute-optimal at {reading.most_flops:.1e} FLOPs: {ratio} tokens a parameter" if ratio else _NO_LEAST
    return Proposal(
        key="tokens",
        value=None,
        estimate=None,
        law=MEAN,
        sentence=f"law of {law.points} decays off {law.runs} trunks; {best}. What is used much is trained longer",
        runs=folders_of(reading.trials),
    )


def tables(reading: Reading) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The laws by held-out set, the best split by compute, the largest size predicted."""
    names = ("C_N", "alpha", "C_D", "beta", "L0")
    laws = (
        (
            "mean" if name == MEAN else name,
            *(_rounded(law.parameters[parameter]) for parameter in names),
            str(tokens_per_parameter(law, reading.most_flops) or "none"),
        )
        for name, law in reading.laws.items()
    )
    least, most = min(reading.flops), reading.most_flops
    budgets = (least, math.sqrt(least * most), most, 1e18, PUBLISHED_FLOPS)
    splits = (
        (f"{flops:.1e}", str(tokens_per_parameter(reading.mean, flops) or "none"), f"{published_ratio(flops):.0f}")
        for flops in budgets
    )
    misses = (
        (f"{miss.tokens:,.0f}", f"{miss.measured:.4f}", _precise(miss.predicted), f"{miss.relative.value:+.2%}")
        for miss in reading.misses
    )
    return {
        f"Laws in bits per byte (N, D in billions), tokens a parameter at {most:.1e} FLOPs": (
            ("held-out set", "C_N", "α", "C_D", "β", "L0", "tokens a parameter"),
            *laws,
            ("published mean", *(f"{PUBLISHED[parameter]:g}" for parameter in names), f"{published_ratio(most):.0f}"),
        ),
        "Compute-optimal tokens a parameter": (("FLOPs", "here", "published law"), *splits),
        **(
            {
                f"The largest size ({reading.misses[0].params:,.0f} parameters), predicted from the smaller ones": (
                    ("tokens", "measured", "predicted", "miss"),
                    *misses,
                )
            }
            if reading.misses
            else {}
        ),
    }


def published_ratio(flops: float) -> float:
    """Tokens a parameter by the published law's constants, as they are rounded: 184 at 1e21, 83 at 1e18."""
    alpha, beta = PUBLISHED["alpha"], PUBLISHED["beta"]
    split = (alpha * PUBLISHED["C_N"] / (beta * PUBLISHED["C_D"])) ** (2 / (alpha + beta))
    return float((flops / 6 / BILLION**2) ** ((alpha - beta) / (alpha + beta)) / split)


def _above(estimate: Estimate | None, bound: float) -> bool | None:
    if estimate is None or estimate.low <= bound <= estimate.high:
        return None
    return estimate.low > bound


def _where(estimate: Estimate | None, bound: float) -> str:
    side = _above(estimate, bound)
    if estimate is None:
        return _NO_LEAST
    return f"the interval holds {bound:g}" if side is None else f"it lies {'above' if side else 'below'} {bound:g}"


def _overlap(estimate: Estimate, low: float, high: float) -> bool:
    return estimate.low <= high and low <= estimate.high


def _rounded(estimate: Estimate) -> str:
    """A constant that the search drives to nothing is 0."""
    return str(
        Estimate(*(0.0 if abs(end) < _NOTHING else end for end in (estimate.value, estimate.low, estimate.high)))
    )


def _precise(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _spread() -> str:
    return ", ".join(f"{ratio:.0f}" for ratio in PUBLISHED_RATIOS)
