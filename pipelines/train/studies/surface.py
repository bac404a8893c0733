"""A valley in several hyper-parameters: where its floor is, and how far one may stray from it.

    loss ≈ least + Σ bend_i · (log2(x_i / at_i))²            bend_i above 0

Enters: points that a search has tried, with their losses. Leaves: the floor for each parameter and its bend. No product
of two parameters is fitted: some ten are left over for each number only in searches of hundreds of trials, and the
valley of MiniCPM's four is asked about one at a time.

A loss is no parabola far from its floor, so the fit takes the better half of the points, and more where these are too
few. Huber's weights (as in the laws) keep single bad points from bending it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BETTER = 0.5  # of the points
_PER_NUMBER = 1.5  # points for each fitted number, at least
_HUBER = 1.345  # spreads of the residuals
_ROUNDS = 10


@dataclass(frozen=True)
class Valley:
    """One parameter's: `at`, the floor, where there is one; `bend`, in units of loss for each squared doubling."""

    at: float | None
    bend: float


def fewest_points(keys: int) -> int:
    """How many points it takes."""
    return int(np.ceil(_PER_NUMBER * (2 * keys + 1)))


def valleys(points: Sequence[Mapping[str, float]], losses: Sequence[float]) -> dict[str, Valley]:
    """The valley of each parameter; none for fewer points than `fewest_points`.

    Args: points, parameter -> value above 0, alike for all.
    """
    keys = list(points[0]) if points else []
    if len(points) < fewest_points(len(keys)) or not keys:
        return {}
    order = np.argsort(losses, kind="stable")[: max(fewest_points(len(keys)), round(_BETTER * len(points)))]
    logs = np.log2([[points[i][key] for key in keys] for i in order])
    middle = logs.mean(axis=0)
    away = logs - middle
    design = np.concatenate([np.ones((len(order), 1)), away, away**2], axis=1)
    coefficients = _robust(design, np.array([losses[i] for i in order]))
    every = np.log2([[point[key] for key in keys] for point in points])
    made: dict[str, Valley] = {}
    for number, key in enumerate(keys):
        slope, bend = float(coefficients[1 + number]), float(coefficients[1 + len(keys) + number])
        floor = float(middle[number]) - slope / (2 * bend) if bend > 0 else np.inf
        inside = every[:, number].min() <= floor <= every[:, number].max()
        made[key] = Valley(float(2.0**floor) if inside else None, bend)
    return made


def _robust(design: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with Huber's weights."""
    weights: NDArray[np.float64] = np.ones(len(losses))
    coefficients: NDArray[np.float64] = np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        coefficients = np.asarray(np.linalg.lstsq(design * root[:, None], losses * root, rcond=None)[0], np.float64)
        residuals = np.abs(losses - design @ coefficients)
        spread = max(1.4826 * float(np.median(residuals)), 1e-12)
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(residuals, 1e-12))
    return coefficients
