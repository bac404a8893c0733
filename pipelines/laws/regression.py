"""One curve through points: Huber loss, many starts, intervals by bootstrap of runs, the profile of a parameter.

Enters: checked points, a `Shape`, settings. Leaves: a `Fit`, the estimates and all that a page shows of them.

Delta, where Huber's loss turns from squares into absolute values, is at least `huber` (1e-3 of the loss as Hoffmann et
al. 2022 have it), and twice the spread of the residuals where that is more: noise of a percent is ordinary in runs of
minutes, and cutting all of it would cost a third of the information in the data. Twice keeps 99 % (Huber 1981), and
with the usual 1.345 intervals held the truth in 91 % of data sets instead of 94 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.laws.bootstrap import draw, enlarged, interval, runs_of, student_ratio
from pipelines.laws.law import Estimate
from pipelines.laws.minimise import Array, minimise
from pipelines.laws.points import Points
from pipelines.laws.shape import Shape

_FIRST_STEPS = 25  # of all starts; the best go on to the end
_BEST = 12
_HUBER_EFFICIENT = 2.0
_MAD = 1.4826  # median of |residuals| to the spread of a normal distribution
_LITTLE = 0.5  # of the variance that a law should explain
_FEWEST_RUNS = 6  # below it, intervals by run are little more than a guess


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Attributes: level, of the intervals; bootstrap, how many samples; seed, of them; huber, least delta; constant,
    whether law `power` has one; window, of law `lr`: points within this factor of the best learning rate are fitted."""

    level: float = 0.95
    bootstrap: int = 400
    seed: int = 0
    huber: float = 1e-3
    constant: bool = True
    window: float = 6.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a fit says, before it is a `FittedLaw`.

    Attributes:
        estimates: parameter -> value and interval. samples: parameter -> (S,).
        points: those that were fitted. fitted: log of the prediction at each. residuals: log of the value less that.
        runs: how many there are. delta: of Huber's loss, as used. shape: the curve, where it is one.
        left_out: why usable points were not fitted -> their runs.
        at: the parameters of the search. parts: group -> its own fit, where each group has one.
        warnings: a sentence each.
    """

    estimates: Mapping[str, Estimate]
    samples: Mapping[str, Array]
    points: Points
    fitted: Array
    residuals: Array
    runs: int
    delta: float
    warnings: tuple[str, ...] = ()
    shape: Shape | None = None
    at: Array = field(default_factory=lambda: np.zeros(0))
    parts: Mapping[str, Fit] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def fit_curve(shape: Shape, points: Points, settings: FitSettings, stream: int = 0, further: int = 0) -> Fit:
    """Fit a curve to checked points.

    Args: stream, another one for each fit whose noise is to be drawn apart; further, degrees of freedom of other fits
        to points of the same noise.
    """
    targets = np.log(points.columns[shape.predicts])
    curve = shape.curve(points.columns)
    count, size = len(points), len(shape.names)
    best = _search(shape, points, targets, settings.huber)
    delta = settings.huber
    for _ in range(3):  # the spread depends on the curve, and the curve a little on delta
        residuals = targets - curve(best[None])[0][0]
        delta = max(settings.huber, _HUBER_EFFICIENT * _spread(residuals, size))
        best = minimise(curve, best[None], targets, delta)[0][0]
    predicted, slopes = (part[0] for part in curve(best[None]))
    residuals = targets - predicted
    runs = runs_of(points.runs)
    warnings = list(_of_few_runs(points, len(runs), size))
    if len(runs) < 3:
        runs = [np.asarray([place]) for place in range(count)]
    weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
    noise = enlarged(residuals, slopes, weights, runs)
    noise = noise * student_ratio(settings.level, min(len(runs) - 1, count - size) + further)
    generator = np.random.default_rng([settings.seed, stream])
    drawn = draw(predicted, noise, runs, settings.bootstrap, generator)
    vectors = minimise(curve, np.repeat(best[None], settings.bootstrap, 0), drawn, delta)[0]
    samples = shape.public(vectors)
    values = {name: float(value[0]) for name, value in shape.public(best[None]).items()}
    estimates = {name: estimate_of(value, samples[name], settings.level) for name, value in values.items()}
    warnings += shape.doubts(estimates, points.columns)
    explained = 1 - float(np.var(residuals)) / max(float(np.var(targets)), 1e-300)
    if explained < _LITTLE:
        warnings.append(
            f"the law explains {max(explained, 0):.0%} of the spread of {shape.predicts}: what is left is noise, or "
            "another law"
        )
    return Fit(
        estimates=estimates, samples=samples, points=points, fitted=predicted, residuals=residuals, runs=len(runs),
        delta=delta, warnings=tuple(warnings), shape=shape, at=best,
    )  # fmt: skip


def estimate_of(value: float, samples: Array, level: float) -> Estimate:
    """A value between the ends of its interval."""
    low, high = interval(samples, level)
    return Estimate(value, min(low, value), max(high, value))


def profile(fit: Fit, name: str, steps: int = 41) -> tuple[Array, Array]:
    """How much Huber's loss rises when a parameter is held at other values and all others are fitted anew.

    Returns: values of the parameter, around its interval; the loss there less the least, in units of the noise: about
        the square of how many standard deviations away it is.
    """
    assert fit.shape is not None
    shape, place = fit.shape, fit.shape.names.index(name)
    estimate, centre = fit.estimates[name], float(fit.at[place])
    ends = shape.searched({other: np.array([estimate.low, estimate.high]) for other in shape.names})[:, place]
    reach = 1.3 * float(max(abs(ends[0] - centre), abs(ends[1] - centre), 1e-9))
    axis = np.linspace(centre - reach, centre + reach, steps)
    curve, targets = shape.curve(fit.points.columns), np.log(fit.points.columns[shape.predicts])
    vectors = np.repeat(fit.at[None], steps, 0)
    vectors[:, place] = axis
    values = shape.public(vectors)[name]
    losses = minimise(curve, vectors, targets, fit.delta, fixed=(place,))[1]
    noise = _spread(fit.residuals, len(shape.names))
    return values, 2 * (losses - losses[steps // 2]) / max(noise, 1e-12) ** 2


def _search(shape: Shape, points: Points, targets: Array, delta: float) -> Array:
    """The best end of many starts."""
    curve = shape.curve(points.columns)
    found, losses = minimise(curve, shape.starts(points.columns), targets, max(delta, 1e-2), steps=_FIRST_STEPS)
    best = np.argsort(losses)[:_BEST]
    found, losses = minimise(curve, found[best], targets, delta)
    return np.asarray(found[int(np.argmin(losses))])


def _spread(residuals: Array, parameters: int) -> float:
    """Standard deviation of the noise, by the median so that single bad runs do not count."""
    count = len(residuals)
    freedom = np.sqrt(count / max(count - parameters, 1))
    return float(_MAD * np.median(np.abs(residuals)) * freedom)


def _of_few_runs(points: Points, runs: int, parameters: int) -> list[str]:
    if not points.runs_named:
        return [
            "no run is named, so each point counts as a run of its own: points of one run make intervals too narrow"
        ]
    if runs < 3:
        return [f"only {runs} run{'s' * (runs > 1)}: the intervals are by point, and too narrow"]
    if runs < _FEWEST_RUNS:
        return [f"only {runs} runs: the intervals rest on little, more seeds or sizes would narrow and firm them"]
    return []
