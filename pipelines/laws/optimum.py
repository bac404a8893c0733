"""How a compute budget is best split between parameters and tokens, by a law of the loss in both.

Enters: a fitted law `chinchilla` or `minicpm`. Leaves: tokens a parameter, D/N, at which C = 6·N·D FLOPs give the least
loss, and the power of C with which they move, each with the interval of the law's samples.

    N/D = K²·(C/6)^η    K² = (α·C_N / (β·C_D))^(2/(α+β)),  η = (β-α)/(α+β)         MiniCPM, arXiv 2404.06395 §4.5
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.laws.chinchilla import balance
from pipelines.laws.fitting import row_of
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.laws.minimise import Array
from pipelines.laws.shape import PowerSum

_MOST_MISSING = 0.1  # of the samples, in which α or β is not above 0, so that nothing lies between the ends


def tokens_per_parameter(law: FittedLaw, flops: float) -> Estimate | None:
    """The best D/N for 6·N·D FLOPs; None where α or β may be 0, so that the loss may be least at an end."""
    shape = row_of(law.law).shape
    assert isinstance(shape, PowerSum)
    # N·D as the law counts them: `minicpm` in billions each
    product = flops / 6 / float(np.prod([term.scale for term in shape.terms]))

    def ratio(parameters: Mapping[str, Array]) -> Array:
        split = balance(parameters)
        of_each: Array = np.exp(-np.log(split["K2"]) - split["eta"] * np.log(product))
        return of_each

    return _estimate(law, ratio(_values(law))[0], ratio(_samples(law)))


def ratio_exponent(law: FittedLaw) -> Estimate | None:
    """The e of D/N ∝ C^e, which is -η; None as above."""
    return _estimate(law, -balance(_values(law))["eta"][0], -balance(_samples(law))["eta"])


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
