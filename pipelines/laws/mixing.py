"""The mixing law: the loss of a held-out set as a function of the weights of a mixture.

    L(w) = c + exp(Σ_j b_j·w_j)          w_j, the share of source j; one law for each held-out set

Enters: the weights and losses of trials that differ in their mixture alone. Leaves: a `FittedLaw` with the parameters
`c` and `b <source>`, its predictions, and the weights at which a weighted mean of several laws is least.

Source: Ye et al., "Data Mixing Laws" (arXiv 2403.16952), equation 6, L = c + k·exp(Σ_j t_j·w_j). As weights sum to 1,
k and the t_j are known only up to a common shift; here k = 1, so b_j = t_j + ln k.

For a given c the law is linear in the logarithm of L - c, so c is searched on a grid and the rest is solved exactly;
Huber weights keep one odd trial from deciding. Bootstrap: trials are drawn with replacement, and what is missing from
a fit's residuals for its own number of parameters is added to the spread of a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw

Floats = NDArray[np.float64]

FORMULA = "L = c + exp(Σ_j b_j·w_j)"
_FLOORS = 16  # values of c, from none of the smallest loss to nearly all of it
_HIGHEST_FLOOR = 0.98  # of the smallest loss; above it the exponential would have to explain everything
_HUBER = 1.345  # spreads of the residuals beyond which a trial counts less (95 % as efficient where all are normal)
_PASSES = 4  # of reweighting
_RIDGE = 1e-9  # of the largest curvature: a draw may hold too few different mixtures


@dataclass(frozen=True)
class _Fit:
    """c, b [J], and the residuals of the loss [P]."""

    floor: float
    slopes: Floats
    residuals: Floats


def fit_mixing(
    weights: Sequence[Mapping[str, float]], losses: Sequence[float], runs: Sequence[str] | None = None, *,
    level: float = 0.95, bootstrap: int = 400, seed: int = 0, unit: str = "bits per byte",
) -> FittedLaw:  # fmt: skip
    """Fit the law to one held-out set.

    Args:
        weights: of each trial, source -> share; a source that a trial leaves out has none of it.
        losses: of each trial, positive.
        runs: what each trial belongs to and is drawn with; None: each is its own.

    Raises: ConfigError for fewer mixtures than the law has parameters and one more, losses that are none, or weights
        that do not sum to 1.
    """
    sources = sorted({name for row in weights for name, share in row.items() if share > 0})
    shares = _shares(weights, sources)
    values = np.asarray(losses, float)
    _check(shares, values, sources)
    groups = list(range(len(values))) if runs is None else [list(dict.fromkeys(runs)).index(run) for run in runs]
    fitted = _solve(shares, values)
    random = np.random.default_rng(seed)
    drawn = [fit for fit in (_drawn(shares, values, groups, random) for _ in range(bootstrap)) if fit is not None]
    names = ["c", *(f"b {source}" for source in sources)]
    samples = {name: [float(row[place]) for row in drawn] for place, name in enumerate(names)}
    # unbiased: a fit of p parameters to n points leaves √((n-p)/n) of the noise in its residuals
    left = max(1, len(values) - len(names))
    return FittedLaw(
        law="mixing", formula=FORMULA, level=level, unit=unit,
        parameters={
            name: _estimate(value, samples[name], level)
            for name, value in zip(names, [fitted.floor, *fitted.slopes], strict=True)
        },
        ranges={
            source: (float(shares[:, place].min()), float(shares[:, place].max()))
            for place, source in enumerate(sources)
        },
        points=len(values), runs=len(set(groups)), samples=samples,
        residual_spread=math.sqrt(float(np.sum(np.square(fitted.residuals / values))) / left),
        warnings=_warnings(shares, fitted, values, left),
    )  # fmt: skip


@dataclass(frozen=True)
class Losses:
    """The law's loss of a mixture, and the loss in each bootstrap sample [S]."""

    value: float
    samples: Floats


def losses_of(law: FittedLaw, weights: Mapping[str, float]) -> Losses:
    """What the law says of a mixture, without the noise of a trial.

    Raises: ConfigError for a source that the law does not know.
    """
    sources = sources_of(law)
    _known(law, sources, weights)
    row = np.array([weights.get(source, 0.0) for source in sources])
    value = float(_loss(law.parameters["c"].value, _central(law, sources), row))
    return Losses(value, np.array(law.samples["c"]) + np.exp(np.clip(_slopes(law, sources) @ row, -50, 50)))


def predict_mixing(law: FittedLaw, weights: Mapping[str, float]) -> Estimate:
    """The loss of a mixture, with the interval of a trial's own loss (noise of one trial included).

    Raises: ConfigError for a source that the law does not know.
    """
    losses = losses_of(law, weights)
    noise = np.random.default_rng(0).normal(0.0, law.residual_spread * losses.value, len(losses.samples))
    low, high = np.quantile(losses.samples + noise, [(1 - law.level) / 2, (1 + law.level) / 2])
    return Estimate(losses.value, min(losses.value, float(low)), max(losses.value, float(high)))


def outside(law: FittedLaw, weights: Mapping[str, float]) -> list[str]:
    """Sources whose weight lies outside of what the law was fitted to."""
    return [s for s, (low, high) in law.ranges.items() if not low - 1e-9 <= weights.get(s, 0.0) <= high + 1e-9]


def sources_of(law: FittedLaw) -> list[str]:
    """The sources whose weights a mixing law is a function of."""
    return [name.removeprefix("b ") for name in law.parameters if name.startswith("b ")]


def best_weights(
    laws: Mapping[str, FittedLaw], importance: Mapping[str, float], bounds: Mapping[str, tuple[float, float]],
    start: Mapping[str, float], sample: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """The weights at which the mean of the laws is least, within bounds.

    Args:
        laws: held-out set -> its law, over the same sources.
        importance: held-out set -> its part in the mean.
        bounds: source -> least and largest weight that is tried; within them lie weights that sum to 1.
        start: where the search begins.
        sample: number of the bootstrap sample that is taken instead of the fit itself.

    The sum of exponentials is convex in the weights, so there is one least mean.
    """
    from scipy import optimize

    sources = sources_of(next(iter(laws.values())))
    parts = np.array([importance[name] for name in laws])
    slopes = np.array(
        [_central(law, sources) if sample is None else _slopes(law, sources)[sample] for law in laws.values()]
    )

    def mean(row: Floats) -> tuple[float, Floats]:
        terms = parts * np.exp(slopes @ row)
        return float(terms.sum()), terms @ slopes

    begin = np.array([start.get(source, 0.0) for source in sources])
    found: Any = optimize.minimize(
        mean, begin, jac=True, method="SLSQP", bounds=[bounds[source] for source in sources],
        constraints=[{"type": "eq", "fun": lambda row: row.sum() - 1, "jac": lambda row: np.ones_like(row)}],
    )  # fmt: skip
    row = np.clip(found.x, 0, 1)
    return {source: float(share) for source, share in zip(sources, row / row.sum(), strict=True)}


def _shares(weights: Sequence[Mapping[str, float]], sources: Sequence[str]) -> Floats:
    return np.array([[row.get(source, 0.0) for source in sources] for row in weights], float).reshape(len(weights), -1)


def _check(shares: Floats, values: Floats, sources: Sequence[str]) -> None:
    if len(values) != len(shares):
        raise ConfigError(f"{len(shares)} mixtures and {len(values)} losses; expected a loss for each mixture")
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ConfigError("a loss of the mixing law is no positive number: leave diverged trials out")
    if len(shares) and np.max(np.abs(shares.sum(axis=1) - 1)) > 1e-3:
        raise ConfigError("the weights of a mixture do not sum to 1: give the share of every source")
    different = len(np.unique(np.round(shares, 6), axis=0)) if len(shares) else 0
    fewest = len(sources) + 2
    if different < fewest:
        raise ConfigError(
            f"a mixing law of {len(sources)} sources has {len(sources) + 1} parameters and needs at least {fewest} "
            f"different mixtures; there are {different}: sample more"
        )


def _solve(shares: Floats, values: Floats) -> _Fit:
    """The best c of a grid, and the slopes that go with it.

    F floors at once: least squares of ln(L - c), weighted so that it is the loss whose squares are least.
    """
    floors = np.linspace(0, _HIGHEST_FLOOR, _FLOORS) * values.min()
    above = values - floors[:, None]  # [F, P]
    trust = np.ones_like(above)
    for _ in range(_PASSES):
        scaled = shares * (above * np.sqrt(trust))[..., None]  # [F, P, J]
        curvature = scaled.transpose(0, 2, 1) @ scaled
        ridge = _RIDGE * np.trace(curvature, axis1=1, axis2=2)[:, None, None] * np.eye(shares.shape[1])
        goal = scaled.transpose(0, 2, 1) @ (np.log(above) * above * np.sqrt(trust))[..., None]
        slopes = np.linalg.solve(curvature + ridge, goal)[..., 0]  # [F, J]
        residuals = values - floors[:, None] - np.exp(np.clip(slopes @ shares.T, -50, 50))
        trust = np.minimum(1.0, _HUBER * _spread(residuals)[:, None] / np.maximum(np.abs(residuals), 1e-12))
    best = int(np.argmin(_cost(residuals)))
    return _Fit(float(floors[best]), slopes[best], residuals[best])


def _loss(floor: float, slopes: Floats, rows: Floats) -> Floats:
    result: Floats = floor + np.exp(np.clip(rows @ slopes, -50, 50))
    return result


def _spread(residuals: Floats) -> Floats:
    """A standard deviation of the last axis that a few odd values do not move."""
    spread: Floats = np.maximum(1.4826 * np.median(np.abs(residuals), axis=-1), 1e-12)
    return spread


def _cost(residuals: Floats) -> Floats:
    """The sum of squares of the last axis, with what is far off counted linearly."""
    width = _HUBER * _spread(residuals)[..., None]
    size = np.abs(residuals)
    cost: Floats = np.sum(np.where(size < width, size**2, width * (2 * size - width)), axis=-1)
    return cost


def _drawn(shares: Floats, values: Floats, groups: Sequence[int], random: np.random.Generator) -> Floats | None:
    """c and b of one bootstrap sample [1 + J]; None where it holds too few different mixtures."""
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    chosen = [place for group in random.integers(len(members), size=len(members)) for place in members[int(group)]]
    if len(np.unique(shares[chosen], axis=0)) < shares.shape[1] + 1:
        return None
    fitted = _solve(shares[chosen], values[chosen])
    return np.array([fitted.floor, *fitted.slopes])


def _estimate(value: float, samples: Sequence[float], level: float) -> Estimate:
    if not samples:
        return Estimate(value, -math.inf, math.inf)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), min(float(value), float(low)), max(float(value), float(high)))


def _warnings(shares: Floats, fitted: _Fit, values: Floats, left: int) -> tuple[str, ...]:
    said = []
    if left < shares.shape[1]:
        said.append(f"{len(values)} trials for {shares.shape[1] + 1} parameters: few are left to see the noise by")
    explained = 1 - float(np.var(fitted.residuals)) / max(float(np.var(values)), 1e-30)
    if explained < 0.5:
        said.append(f"the weights explain {max(0.0, explained):.0%} of the differences between the trials")
    return tuple(said)


def _central(law: FittedLaw, sources: Sequence[str]) -> Floats:
    return np.array([law.parameters[f"b {source}"].value for source in sources])


def _slopes(law: FittedLaw, sources: Sequence[str]) -> Floats:
    """b of every bootstrap sample [S, J]."""
    return np.array([law.samples[f"b {source}"] for source in sources]).T


def _known(law: FittedLaw, sources: Sequence[str], weights: Mapping[str, float]) -> None:
    if unknown := [name for name, share in weights.items() if share > 0 and name not in sources]:
        raise ConfigError(
            f"the mixing law does not know {', '.join(unknown)}; it was fitted to {', '.join(sources)}: "
            "fit it to trials that hold them"
        )
