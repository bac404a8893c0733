"""The best size for a compute: parameters and tokens of least loss under C = 6·N·D, with intervals.

Enters: a law in params and tokens (`chinchilla`, `minicpm`), FLOPs. Leaves: N, D, D/N and the loss there, and how D/N
moves with the compute. It does move, so that a ratio such as MiniCPM's 192 tokens a parameter holds at one compute
alone:

    N/D = K²·(C/6)^η    K² = (α·C_N / (β·C_D))^(2/(α+β)),  η = (β-α)/(α+β)         MiniCPM, arXiv 2404.06395 §4.5
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.bootstrap import interval
from pipelines.laws.chinchilla import balance
from pipelines.laws.fitting import distance_beyond, predict
from pipelines.laws.law import Estimate, FittedLaw, Prediction
from pipelines.laws.minicpm import BILLION
from pipelines.laws.minimise import Array

UNITS = {"chinchilla": 1.0, "minicpm": BILLION}  # of N and D in the law's own form
_MOST_MISSING = 0.1  # of the samples, in which α or β is not above 0, so that nothing lies between the ends


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Of one compute. Attributes: ratio, tokens a parameter; sure, share of the bootstrap samples that have an optimum:
    a law whose loss may not depend on one of the two has it at an end."""

    flops: float
    params: Prediction
    tokens: Prediction
    ratio: Prediction
    loss: Prediction
    sure: float


def compute_optimal(fitted: FittedLaw, flops: float) -> Optimum:
    """The optimum of a compute. Args: flops, of the training, 6·N·D.

    Raises: ConfigError for a law without parameters and tokens, or whose loss falls with one of the two alone.
    """
    if fitted.law not in UNITS:
        raise ConfigError(f"law {fitted.law} has no compute-optimal size; expected one of {', '.join(UNITS)}")
    at, drawn = balance(_values(fitted)), balance(_samples(fitted))
    unit = UNITS[fitted.law]
    product = flops / 6 / unit**2
    if np.isnan(at["eta"][0]):
        raise ConfigError(
            f"law {fitted.law} has alpha {fitted.parameters['alpha']} and beta {fitted.parameters['beta']}; "
            "expected both above 0: without, the larger or the longer run is always better. Add sizes and lengths"
        )

    middle = float(_ratio(at, product)[0])
    low, high = (float(np.log(end)) for end in interval(_ratio(drawn, product), fitted.level))
    values = {"params": float(np.sqrt(product / middle)) * unit, "tokens": float(np.sqrt(product * middle)) * unit}
    beyond = {name: away for name, value in values.items() if (away := distance_beyond(fitted, name, value)) > 0}
    loss = predict(fitted, values)
    wider, centre = 1 + sum(beyond.values()), float(np.log(middle))
    below, above = wider * max(centre - low, 0.0), wider * max(high - centre, 0.0)

    def around(value: float, down: float, up: float) -> Prediction:
        return Prediction(value, value * float(np.exp(-down)), value * float(np.exp(up)), beyond, loss.warnings)

    return Optimum(
        flops=flops,
        params=around(values["params"], above / 2, below / 2),
        tokens=around(values["tokens"], below / 2, above / 2),
        ratio=around(middle, below, above),
        loss=loss,
        sure=float(np.mean(~np.isnan(drawn["eta"]))),
    )


def tokens_per_parameter(law: FittedLaw, flops: float) -> Estimate | None:
    """The best D/N, with the interval of the law's samples, not widened beyond the data; None where α or β may be 0."""
    product = flops / 6 / UNITS[law.law] ** 2
    return _estimate(law, _ratio(balance(_values(law)), product)[0], _ratio(balance(_samples(law)), product))


def ratio_exponent(law: FittedLaw) -> Estimate | None:
    """The e of D/N ∝ C^e, which is -η; None as above."""
    return _estimate(law, -balance(_values(law))["eta"][0], -balance(_samples(law))["eta"])


def _ratio(split: dict[str, Array], product: float) -> Array:
    """D/N. Args: split, as of `balance`; product, N·D in the law's own unit."""
    of_each: Array = np.exp(-np.log(split["K2"]) - split["eta"] * np.log(product))
    return of_each


def _values(law: FittedLaw) -> dict[str, Array]:
    return {name: np.array([estimate.value]) for name, estimate in law.parameters.items()}


def _samples(law: FittedLaw) -> dict[str, Array]:
    return {name: np.asarray(values, np.float64) for name, values in law.samples.items()}


def _estimate(law: FittedLaw, value: float, samples: Array) -> Estimate | None:
    there = samples[np.isfinite(samples)]
    if not np.isfinite(value) or not len(there) or len(there) < (1 - _MOST_MISSING) * len(samples):
        return None
    low, high = np.quantile(there, [(1 - law.level) / 2, (1 + law.level) / 2])
    return Estimate(float(value), min(float(value), float(low)), max(float(value), float(high)))
