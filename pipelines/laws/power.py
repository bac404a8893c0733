"""One quantity against another: y = a·x^b + c, b of either sign, c at least 0; `constant=false`: y = a·x^b."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.laws.chinchilla import loss_of
from pipelines.laws.minimise import Array
from pipelines.laws.points import Points
from pipelines.laws.regression import Fit, FitSettings, fit_curve
from pipelines.laws.shape import Law, PowerSum, Term

TERM = Term("x", "a", "b", 1.0)
SHAPE = PowerSum((TERM,), "y", "c")


def _fit(points: Points, settings: FitSettings) -> Fit:
    return fit_curve(SHAPE if settings.constant else PowerSum((TERM,), "y"), points, settings)


def _predict(parameters: Mapping[str, Array], inputs: Mapping[str, float]) -> Array:
    return loss_of(SHAPE, {"c": np.zeros_like(parameters["a"]), **parameters}, inputs)


LAW = Law(
    title="one quantity against another",
    formula="y = a·x^b + c",
    source="a power law, as most scaling laws are",
    columns={"x": "what is varied, above 0", "y": "what is measured, above 0"},
    predicts="y",
    fewest_points=5,
    fewest_values={"x": 3},
    fit=_fit,
    predict=_predict,
    inputs=("x",),
    shape=SHAPE,
)
