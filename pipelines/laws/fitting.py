"""Fit a law of `LAWS` to points of runs, and predict with it: what studies, `workflows.fit` and the plan call.

    law = fit("chinchilla", {"params": n, "tokens": d, "loss": l}, runs)      runs: the name of the run of each point
    predict(law, {"params": 2.4e9, "tokens": 1.1e12})                         a value, its interval, its warnings

Enters: columns of numbers by name. Leaves: `FittedLaw`, plain data. Intervals come from a bootstrap by run
(`bootstrap.py`); `tests/unit/test_laws_coverage.py` measures how often they hold the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws import LAWS
from pipelines.laws.bootstrap import interval
from pipelines.laws.law import FittedLaw, Prediction
from pipelines.laws.points import check_columns, check_enough, read_points
from pipelines.laws.regression import Fit, FitSettings, estimate_of
from pipelines.laws.shape import Law


def fit(
    law: str,
    columns: Mapping[str, Sequence[Any]],
    runs: Sequence[str] | None = None,
    *,
    unit: str = "",
    **settings: Any,
) -> FittedLaw:
    """Fit a law.

    Args:
        law: its name in `LAWS`.
        columns: column of the law -> a value for each point. `group`, of law `lr`, holds labels.
        runs: the run of each point: points of one run share its noise. None: every point is a run.
        unit: of what is predicted.
        settings: of `FitSettings`: level, bootstrap, seed, huber, constant, window.

    Raises: ConfigError for an unknown law, wrong columns, or points that the law cannot be fitted to.
    """
    return fit_fully(law, columns, runs, unit=unit, **settings)[0]


def fit_fully(
    law: str,
    columns: Mapping[str, Sequence[Any]],
    runs: Sequence[str] | None = None,
    *,
    unit: str = "",
    **settings: Any,
) -> tuple[FittedLaw, Fit]:
    """As `fit`; with the residuals and the curve, for pictures."""
    row = row_of(law)
    numbers = {name: values for name, values in columns.items() if name != "group"}
    grouped = columns.get("group")
    optional = {**row.optional, **({"group": "a label: points that are fitted together"} if law == "lr" else {})}
    check_columns(law, row.columns, optional, list(columns))
    points = read_points(law, numbers, runs, grouped, "loss" if "loss" in row.columns else row.predicts)
    check_enough(law, points, row.fewest_points, row.fewest_values)
    chosen = FitSettings(**settings)
    made = row.fit(points, chosen)
    derived_samples = row.derived(made.samples)
    at_value = row.derived({name: np.array([one.value]) for name, one in made.estimates.items()})
    derived = {
        name: estimate_of(float(at_value[name][0]), samples, chosen.level)
        for name, samples in derived_samples.items()
        if np.isfinite(at_value[name][0])
    }
    fitted = FittedLaw(
        law=law,
        formula=row.formula,
        parameters=made.estimates,
        level=chosen.level,
        ranges={name: (float(values.min()), float(values.max())) for name, values in made.points.columns.items()},
        points=len(made.points),
        runs=made.runs,
        samples={name: [float(value) for value in values] for name, values in made.samples.items()},
        residual_spread=float(np.sqrt((made.residuals**2).sum() / max(len(made.points) - len(made.estimates), 1))),
        warnings=(*points.warnings, *made.warnings),
        unit=unit,
        derived=derived,
        left_out={**points.left_out, **made.left_out},
    )
    return fitted, made


def row_of(law: str) -> Law:
    """The law of that name. Raises: ConfigError when there is none."""
    if law not in LAWS:
        told = "; ".join(f"{name} ({row.title}: {row.formula})" for name, row in LAWS.items())
        raise ConfigError(f"there is no law {law}; expected one of {told}")
    return LAWS[law]


def predict(
    fitted: FittedLaw, inputs: Mapping[str, float] | None = None, *, of_a_run: bool = True, level: float | None = None
) -> Prediction:
    """The value at a place. Args: inputs, column -> value; of_a_run, whether the interval is to hold what a further run
    shows, its own noise included, or the law's mean alone; level, of the interval, the fit's own where None.

    Outside of the data the interval widens, by as many times as the place lies away from it in widths of the data, on
    top of what the samples say: these take the formula for true, and nobody has looked there.

    Raises: ConfigError for inputs that the law does not have, lacks, or that are not above 0.
    """
    row, given = row_of(fitted.law), dict(inputs or {})
    accepted = [*row.inputs, *(name for name in row.optional if name in fitted.ranges)]
    if missing := [name for name in row.inputs if name not in given]:
        raise ConfigError(
            f"law {fitted.law} predicts {row.predicts} from {', '.join(accepted)}; {missing[0]} is missing"
        )
    if unknown := [name for name in given if name not in accepted]:
        raise ConfigError(
            f"law {fitted.law} predicts {row.predicts} from {', '.join(accepted) or 'nothing'}; it has no {unknown[0]}"
        )
    for name, value in given.items():
        if not (value > 0 and np.isfinite(value)):
            raise ConfigError(f"law {fitted.law} cannot predict at {name}={value}; expected a number above 0")
    values = {name: np.array([one.value]) for name, one in fitted.parameters.items()}
    samples = {name: np.asarray(own, np.float64) for name, own in fitted.samples.items()}
    middle = float(np.log(row.predict(values, given)[0]))
    low, high = interval(np.log(row.predict(samples, given)), level or fitted.level)
    low, high = min(low, middle), max(high, middle)
    if of_a_run and row.shape is not None:
        low, high = _with_noise(fitted, middle, low, high, level or fitted.level)
    beyond = {name: away for name in given if (away := distance_beyond(fitted, name, given[name])) > 0}
    wider = 1 + sum(beyond.values())
    low, high = middle - wider * (middle - low), middle + wider * (high - middle)
    return Prediction(
        float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)), beyond,
        tuple(_told(fitted, name, given[name], away) for name, away in beyond.items()),
    )  # fmt: skip


def _with_noise(fitted: FittedLaw, middle: float, low: float, high: float, level: float) -> tuple[float, float]:
    from scipy.special import ndtri

    noise = float(ndtri(0.5 + level / 2)) * fitted.residual_spread
    return middle - float(np.hypot(middle - low, noise)), middle + float(np.hypot(high - middle, noise))


def distance_beyond(fitted: FittedLaw, name: str, value: float) -> float:
    """How many widths of the fitted range, in logarithms, a value of a column lies outside of it; 0 within."""
    low, high = (float(np.log(end)) for end in fitted.ranges[name])
    away = max(low - float(np.log(value)), float(np.log(value)) - high, 0.0)
    return away / max(high - low, np.log(2)) if away > 1e-9 else 0.0


def _told(fitted: FittedLaw, name: str, value: float, away: float) -> str:
    low, high = fitted.ranges[name]
    side = f"{value / high:.3g} times the largest" if value > high else f"{low / value:.3g} times below the smallest"
    return (
        f"{name} = {value:.4g} is beyond the points that were fitted ({low:.4g} to {high:.4g}), {side}: the law was "
        f"never looked at there, and the interval is widened for {away:.2g} widths of the data"
    )
