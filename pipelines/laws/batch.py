"""The batch that reaches a loss with the fewest tokens: batch = a/L^b.

Points are optima: at a loss, the batch (in tokens) at which a parabola through equal-loss points is least. Published:
batch = 1.21e9/L^6.24, with L the loss on C4 (arXiv 2404.06395, §4.1 and appendix A.2). Residuals are logarithms of the
batch, since that is what was measured with error.
"""

from __future__ import annotations

from pipelines.laws.chinchilla import loss_of
from pipelines.laws.points import Points
from pipelines.laws.regression import Fit, FitSettings, fit_curve
from pipelines.laws.shape import Law, PowerSum, Term

SHAPE = PowerSum((Term("loss", "a", "b", -1.0),), "batch")
PUBLISHED = {"a": 1.21e9, "b": 6.24}


def _fit(points: Points, settings: FitSettings) -> Fit:
    return fit_curve(SHAPE, points, settings)


LAW = Law(
    title="the batch that reaches a loss with the fewest tokens",
    formula="batch = a/L^b",
    source="MiniCPM, arXiv 2404.06395 §4.1",
    columns={"loss": "a loss", "batch": "tokens of a step with which the fewest tokens reach that loss"},
    predicts="batch",
    fewest_points=3,
    fewest_values={"loss": 3},
    fit=_fit,
    predict=lambda parameters, inputs: loss_of(SHAPE, parameters, inputs),
    inputs=("loss",),
    shape=SHAPE,
)
