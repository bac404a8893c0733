"""Data sets that could have been: the noise of whole runs, drawn anew around the fitted curve.

Enters: residuals and derivatives of a fit, the run of each point. Leaves: targets for as many data sets as wanted.

The points of one run share its luck (its seed, the trunk that its decays branch off), so they count as one: all
residuals of a run keep their values beside each other and are multiplied by one random number, Webb's six points (Webb
2014, Queen's working paper 1315), mean 0 and variance 1. This is the wild cluster bootstrap (Cameron, Gelbach and
Miller 2008). It keeps every size in every data set: drawing runs with replacement would often lose a size, and the
law could not be fitted. A curve bends towards its points, so that residuals are smaller than the noise. They are
enlarged by what leaving the run out would do to them (CR3: MacKinnon, Nielsen and Webb 2023, J. Econometrics 232), and
by the ratio of Student's quantile to the normal one, since few runs tell little about the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.laws.minimise import Array

_WEBB = np.sqrt(np.array([1.5, 1.0, 0.5]))
# least eigenvalue of I - H of a run: one that alone decides a parameter would have an endless residual without
_LEAST = 0.1


def runs_of(names: Sequence[str]) -> list[Array]:
    """The places of each run's points."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return [np.asarray(own, int) for own in places.values()]


def enlarged(residuals: Array, slopes: Array, weights: Array, runs: Sequence[Array]) -> Array:
    """Residuals (n,) as they would be to a curve fitted without their own run. Args: slopes (n, p), weights (n,)."""
    scaled = slopes * np.sqrt(weights)[:, None]
    size = np.sqrt((scaled**2).sum(0))
    size[size == 0] = 1.0
    scaled = scaled / size
    inverse = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12)
    larger = np.zeros_like(residuals)
    for places in runs:
        own, root = scaled[places], np.sqrt(weights[places])
        values, vectors = np.linalg.eigh(np.eye(len(places)) - own @ inverse @ own.T)
        larger[places] = vectors @ ((vectors.T @ (residuals[places] * root)) / np.maximum(values, _LEAST)) / root
    return larger * float(np.sqrt((len(runs) - 1) / len(runs)))


def student_ratio(level: float, freedom: int) -> float:
    """Student's quantile by the normal one: how much wider an interval is whose noise had to be estimated."""
    from scipy.special import ndtri, stdtrit

    tail = 0.5 + level / 2
    return float(stdtrit(max(freedom, 1), tail) / ndtri(tail))


def draw(fitted: Array, residuals: Array, runs: Sequence[Array], count: int, generator: np.random.Generator) -> Array:
    """Targets (count, n): the curve and, for each run, its residuals times one random number."""
    factors = generator.choice(_WEBB, (count, len(runs))) * generator.choice([-1.0, 1.0], (count, len(runs)))
    targets = np.broadcast_to(fitted, (count, len(fitted))).copy()
    for run, places in enumerate(runs):
        targets[:, places] += factors[:, run, None] * residuals[places]
    return targets


def interval(samples: Array, level: float) -> tuple[float, float]:
    """The two ends between which `level` of the samples lie; those that are no number are left out."""
    there = samples[~np.isnan(samples)]
    if not len(there):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    # Weibull's places: of 200 samples numpy's own would hold 94.1 % instead of 95 %
    low, high = np.quantile(there, [tail, 1 - tail], method="weibull")
    return float(low), float(high)
