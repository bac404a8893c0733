"""The best size for a compute: parameters and tokens of least loss under C = 6·N·D, with intervals.

Enters: a law in params and tokens (`chinchilla`, `minicpm`), FLOPs. Leaves: N, D, D/N and the loss there. The balance
moves with the compute: N/D = K²·(C/6)^η (`chinchilla.balance`), so that a ratio such as MiniCPM's 192 tokens a
parameter holds at one compute alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.bootstrap import interval
from pipelines.laws.chinchilla import balance
from pipelines.laws.fitting import distance_beyond, predict
from pipelines.laws.law import FittedLaw, Prediction
from pipelines.laws.minicpm import BILLION
from pipelines.laws.minimise import Array

UNITS = {"chinchilla": 1.0, "minicpm": BILLION}  # of N and D in the law's own form


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
    samples = {name: np.asarray(values, np.float64) for name, values in fitted.samples.items()}
    own = {name: np.array([one.value]) for name, one in fitted.parameters.items()}
    unit = UNITS[fitted.law]
    product = flops / 6 / unit**2
    at, drawn = balance(own), balance(samples)
    if np.isnan(at["eta"][0]):
        raise ConfigError(
            f"law {fitted.law} has alpha {fitted.parameters['alpha']} and beta {fitted.parameters['beta']}; "
            "expected both above 0: without, the larger or the longer run is always better. Add sizes and lengths"
        )

    def ratio_of(parameters: dict[str, Array]) -> Array:
        return 1 / (parameters["K2"] * product ** parameters["eta"])

    middle = float(ratio_of(at)[0])
    low, high = (float(np.log(end)) for end in interval(ratio_of(drawn), fitted.level))
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
