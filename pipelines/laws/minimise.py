"""Least Huber loss from many starts and for many data sets at once.

Enters: a curve (prediction and its derivatives for a batch of parameter vectors), targets in logarithms, starts.
Leaves: the parameters that each start ends at, and their loss.

S starts or data sets, n points, p parameters. All S go through the same steps of Levenberg and Marquardt with Huber's
weights, as arrays, so that 400 bootstrap samples cost about as much as a few fits by `scipy.optimize` one after
another. Huber's loss of a residual r is r²/2 up to delta and delta·(|r| − delta/2) beyond it, so that one bad run bends
nothing. On logarithms of the loss as in Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
# parameters (S, p) -> prediction in logarithms (S, n), its derivatives (S, n, p)
Curve = Callable[[Array], tuple[Array, Array]]

_STEPS = 300
_TOLERANCE = 1e-12  # of the loss, relative: what a step must gain
_STILL = 4  # steps in a row that gain less end the search
_MOST_DAMPING = 1e12


def huber(residuals: Array, delta: float) -> Array:
    """Huber's loss, summed over the last axis."""
    size = np.abs(residuals)
    total: Array = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(-1)
    return total


def minimise(
    curve: Curve,
    starts: Array,
    targets: Array,
    delta: float,
    fixed: tuple[int, ...] = (),
    steps: int = _STEPS,
) -> tuple[Array, Array]:
    """Search from each start. Args: starts (S, p); targets (n,) or (S, n); fixed, parameters that stay as they are.

    Returns: parameters (S, p) and their loss (S,).
    """
    found = starts.astype(np.float64).copy()
    wanted = np.broadcast_to(targets, (len(found), targets.shape[-1]))
    free = [place for place in range(found.shape[1]) if place not in fixed]
    losses = np.full(len(found), np.inf)
    damping = np.full(len(found), 1e-3)
    still = np.zeros(len(found), int)
    active = np.arange(len(found))
    predicted, slopes = curve(found)
    residuals = predicted - wanted
    losses = np.nan_to_num(huber(residuals, delta), nan=np.inf)
    for _ in range(steps):
        if not len(active):
            break
        moved = found[active].copy()
        moved[:, free] -= _step(residuals[active], slopes[active][:, :, free], delta, damping[active])
        new_predicted, new_slopes = curve(moved)
        new_residuals = new_predicted - wanted[active]
        new_losses = np.nan_to_num(huber(new_residuals, delta), nan=np.inf)
        better = new_losses < losses[active]
        gained = losses[active] - new_losses > _TOLERANCE * (losses[active] + 1e-300)
        taken = active[better]
        found[taken], losses[taken] = moved[better], new_losses[better]
        residuals[taken], slopes[taken] = new_residuals[better], new_slopes[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 4)
        still[active] = np.where(better & gained, 0, still[active] + better)
        active = active[(still[active] < _STILL) & (damping[active] < _MOST_DAMPING) & np.isfinite(losses[active])]
    return found, losses


def _step(residuals: Array, slopes: Array, delta: float, damping: Array) -> Array:
    """The damped step of Gauss and Newton with Huber's weights, for each of S; damping scales with the diagonal."""
    weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
    weighted = slopes * weights[:, :, None]
    gradient = np.einsum("snp,sn->sp", weighted, residuals)
    curvature = np.matmul(weighted.transpose(0, 2, 1), slopes)
    diagonal = np.einsum("spp->sp", curvature)
    floor = 1e-14 * diagonal.max(-1, keepdims=True, initial=0.0) + 1e-200
    curvature = curvature + np.einsum("sp,pq->spq", damping[:, None] * diagonal + floor, np.eye(slopes.shape[2]))
    usable = np.isfinite(curvature).all((1, 2)) & np.isfinite(gradient).all(1)
    steps: Array = np.zeros_like(gradient)
    try:
        steps[usable] = np.linalg.solve(curvature[usable], gradient[usable][:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:  # of one of them: it has no answer, the others have the same
        steps[usable] = (np.linalg.pinv(curvature[usable]) @ gradient[usable][:, :, None])[:, :, 0]
    return steps
