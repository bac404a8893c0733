"""The learning rate of least loss, a parabola in log LR for each group of runs, and how it drifts with the width.

Within a group log L = log L0 + k·(log lr - log optimum)², k above 0, through the points around the best learning rate
(`window`), since further away the loss rises faster than a parabola on the side of too large rates. Over groups of
different width, log2(optimum) = drift·log2(width) + constant: drift is in powers of two per doubling, 0 where the
optimum stays, as muP promises and MiniCPM measured (arXiv 2404.06395, §4.2: 0.01 at 0.04B to 0.5B).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.laws.minimise import Array
from pipelines.laws.points import Points, joined
from pipelines.laws.regression import Fit, FitSettings, estimate_of, fit_curve
from pipelines.laws.shape import Law

FEWEST_RATES = 3
_FURTHEST = 3.0  # an optimum is kept within so many widths of the window from it


@dataclass(frozen=True)
class Parabola:
    """log L = log loss + bend·(log lr - log optimum)²; the search knows all three by their logarithms."""

    predicts: str = "loss"
    low: float = -700.0  # logarithms between which an optimum is believed
    high: float = 700.0
    names: tuple[str, ...] = ("loss", "optimum", "bend")

    def curve(self, columns: Mapping[str, Array]) -> Callable[[Array], tuple[Array, Array]]:
        """The parabola; an optimum far outside of the rates is taken for one at the end of what is believed."""
        rates = np.log(columns["lr"])[None, :]

        def at(parameters: Array) -> tuple[Array, Array]:
            optimum = np.clip(parameters[:, 1, None], self.low, self.high)
            away = rates - optimum
            bend = np.exp(np.clip(parameters[:, 2, None], -60.0, 20.0))
            rise = bend * away**2
            slopes = np.stack([np.ones_like(rise), -2 * bend * away, rise], -1)
            return parameters[:, 0, None] + rise, slopes

        return at

    def starts(self, columns: Mapping[str, Array]) -> Array:
        """Optima over and beside the rates, bends from the rise of the losses."""
        rates, losses = np.log(columns["lr"]), np.log(columns["loss"])
        reach = float(rates.max() - rates.min())
        rise = max(float(losses.max() - losses.min()), 1e-6)
        places = np.linspace(float(rates.min()) - 0.5 * reach, float(rates.max()) + 0.5 * reach, 9)
        bends = [np.log(rise / reach**2 * factor) for factor in (0.1, 1.0, 4.0, 16.0)]
        return np.asarray([[float(losses.min()), place, bend] for place in places for bend in bends])

    def public(self, parameters: Array) -> dict[str, Array]:
        """No logarithms any more."""
        return {
            "loss": np.exp(parameters[:, 0]),
            "optimum": np.exp(np.clip(parameters[:, 1], self.low, self.high)),
            "bend": np.exp(np.clip(parameters[:, 2], -60.0, 20.0)),
        }

    def searched(self, values: Mapping[str, Array]) -> Array:
        """All three as logarithms."""
        return np.stack([np.log(np.atleast_1d(values[name])) for name in self.names], -1)

    def doubts(self, estimates: Mapping[str, Estimate], columns: Mapping[str, Array]) -> tuple[str, ...]:
        """An optimum that is not between the rates tried."""
        rates, best = columns["lr"], estimates["optimum"]
        if float(rates.min()) <= best.low and best.high <= float(rates.max()):
            return ()
        inside = float(rates.min()) < best.value < float(rates.max())
        edge = "may lie" if inside else "lies"
        return (
            f"the best learning rate {edge} outside of those around it that were tried ({rates.min():.3g} to "
            f"{rates.max():.3g}; optimum {best}): add rates on that side, or seeds",
        )


def parabola_for(points: Points) -> Parabola:
    """The parabola whose optimum may lie some widths of the rates outside of them, and no further."""
    rates = np.log(points.columns["lr"])
    low, high = float(rates.min()), float(rates.max())
    return Parabola(low=low - _FURTHEST * (high - low), high=high + _FURTHEST * (high - low))


def _fit(points: Points, settings: FitSettings) -> Fit:
    """One parabola a group; groups without a name are told apart by their width."""
    widths = points.columns.get("width")
    labels = list(points.groups)
    if widths is not None and not any(labels):
        labels = [f"{width:g}" for width in widths]
    usable: dict[str, Points] = {}
    far: list[str] = []
    skipped: list[str] = []
    for label in sorted(set(labels), key=labels.index):
        own = points.within([place for place, other in enumerate(labels) if other == label])
        near = _around_best(own, settings.window)
        if len({*near.columns["lr"]}) < FEWEST_RATES or len(near) <= FEWEST_RATES:
            skipped.append(label or "all")
        else:
            usable[label] = near
            far += _without(own.runs, near.runs)
    if not usable:
        raise ConfigError(
            f"law lr needs at least {FEWEST_RATES} learning rates and {FEWEST_RATES + 1} points in a group; there is "
            f"no such group ({', '.join(skipped)}): add learning rates, or seeds"
        )
    freedom = {label: len(near) - FEWEST_RATES for label, near in usable.items()}
    parts = {
        label: fit_curve(parabola_for(near), near, settings, stream, sum(freedom.values()) - freedom[label])
        for stream, (label, near) in enumerate(usable.items())
    }
    joint = _joined(parts, tuple(skipped), settings)
    reason = f"further than a factor of {settings.window:g} from the best learning rate"
    return dataclasses.replace(joint, left_out={reason: tuple(far)} if far else {})


def _without(runs: Sequence[str], others: Sequence[str]) -> list[str]:
    """The runs less the others, of which each counts once."""
    left = Counter(runs) - Counter(others)
    return list(left.elements())


def _around_best(points: Points, window: float) -> Points:
    """The points within a factor of the learning rate whose mean loss is least, those of at least five rates where
    there are as many."""
    rates, losses = points.columns["lr"], np.log(points.columns["loss"])
    tried = np.unique(rates)
    best = tried[int(np.argmin([losses[rates == rate].mean() for rate in tried]))]
    away = np.abs(np.log(tried / best))
    reach = max(float(np.log(window)), float(np.sort(away)[min(len(away), FEWEST_RATES) - 1])) * (1 + 1e-9)
    return points.within([int(place) for place in np.flatnonzero(np.abs(np.log(rates / best)) <= reach)])


def _joined(parts: Mapping[str, Fit], skipped: tuple[str, ...], settings: FitSettings) -> Fit:
    """The groups as one law: the optimum of all, and its drift where they differ in width."""
    common = set.intersection(*(set(fit.warnings) for fit in parts.values()))
    warnings = [
        f"{label}: {warning}" if label and warning not in common else warning
        for label, fit in parts.items()
        for warning in fit.warnings
    ]
    warnings += [f"group {label} has too few learning rates or points for a parabola: left out" for label in skipped]
    logs = np.stack([np.log(fit.samples["optimum"]) for fit in parts.values()])
    values = np.array([np.log(fit.estimates["optimum"].value) for fit in parts.values()])
    spread = _deviations(parts)
    weights = spread**-2.0 / (spread**-2.0).sum()
    estimates: dict[str, Estimate] = {}
    samples: dict[str, Array] = {}
    widths = _widths(parts)
    if widths is not None:
        middle = float((weights * np.log2(widths)).sum())
        away = np.log2(widths) - middle
        scale = (weights * away**2).sum()
        slope, slopes = (weights * away) @ values / scale, (weights * away) @ logs / scale
        ratio = _scatter(values - weights @ values - slope * away, spread, len(parts) - 2)
        if ratio > 1:
            warnings.append(
                f"the optima scatter {ratio:.1f} times as far around a line as their own intervals say: those of the "
                "line are widened by as much"
            )
        samples["drift"] = (slope + ratio * (slopes - slope)) / np.log(2)
        estimates["drift"] = estimate_of(float(slope / np.log(2)), samples["drift"], settings.level)
        samples["at_width"] = np.full(logs.shape[1], 2.0**middle)
        estimates["at_width"] = Estimate(2.0**middle, 2.0**middle, 2.0**middle)
    samples["optimum"] = np.exp(weights @ logs)
    estimates["optimum"] = estimate_of(float(np.exp(weights @ values)), samples["optimum"], settings.level)
    for label, fit in parts.items():
        for name in ("optimum", "loss", "bend"):
            key = f"{name}[{label}]" if label else name
            estimates.setdefault(key, fit.estimates[name])
            samples.setdefault(key, fit.samples[name])
    return Fit(
        estimates=estimates,
        samples=samples,
        points=joined([fit.points for fit in parts.values()]),
        fitted=np.concatenate([fit.fitted for fit in parts.values()]),
        residuals=np.concatenate([fit.residuals for fit in parts.values()]),
        runs=sum(fit.runs for fit in parts.values()),
        delta=max(fit.delta for fit in parts.values()),
        warnings=tuple(dict.fromkeys(warnings)),
        parts=parts,
    )


def _deviations(parts: Mapping[str, Fit]) -> Array:
    """The standard deviation of each group's log optimum, from the design of its points and the noise of all groups: a
    group of five points does not know its own noise well enough to be weighed by it."""
    freedom = sum(len(fit.residuals) - len(fit.at) for fit in parts.values())
    noise = sum(float((fit.residuals**2).sum()) for fit in parts.values()) / freedom
    deviations = []
    for fit in parts.values():
        slopes = parabola_for(fit.points).curve(fit.points.columns)(fit.at[None])[1][0]
        inverse = np.linalg.pinv(slopes.T @ slopes)
        deviations.append(float(np.sqrt(max(noise, 1e-16) * inverse[1, 1])))
    return np.asarray([max(deviation, 1e-9) for deviation in deviations])


def _widths(parts: Mapping[str, Fit]) -> Array | None:
    """The width of each group; None where there are no two."""
    columns = [fit.points.columns.get("width") for fit in parts.values()]
    widths = [float(np.exp(np.log(column).mean())) for column in columns if column is not None]
    return np.asarray(widths) if len({round(np.log(width), 6) for width in widths}) > 1 else None


def _scatter(residuals: Array, deviations: Array, freedom: int) -> float:
    """How many times further than their deviations say optima lie from the line, where chance would not do so in one
    case of twenty (Birge 1932); else 1."""
    from scipy.special import chdtrc

    if freedom < 1:
        return 1.0
    squares = float(((residuals / deviations) ** 2).sum())
    return float(np.sqrt(squares / freedom)) if chdtrc(freedom, squares) < 0.05 else 1.0


def _predict(parameters: Mapping[str, Array], inputs: Mapping[str, float]) -> Array:
    optimum = np.asarray(parameters["optimum"])
    if "drift" not in parameters or "width" not in inputs:
        return optimum
    return optimum * (inputs["width"] / np.asarray(parameters["at_width"])) ** np.asarray(parameters["drift"])


LAW = Law(
    title="the learning rate of least loss",
    formula="log L = log L0 + k·(log lr − log optimum)²; optimum ∝ width^drift",
    source="MiniCPM, arXiv 2404.06395 §4.2",
    columns={"lr": "peak learning rate", "loss": "loss at the end"},
    optional={"width": "width of the model, d_model"},
    predicts="lr",
    fewest_points=FEWEST_RATES + 1,
    fewest_values={"lr": FEWEST_RATES},
    fit=_fit,
    predict=_predict,
    inputs=(),
)
