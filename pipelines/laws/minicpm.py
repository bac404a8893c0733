"""MiniCPM's law: L = C_N·N^-α + C_D·D^-β + L0 with N and D in billions, and its reading N/D = K²·(C/6)^η.

Published, the mean over five held-out sets: L = 0.0715·N^-0.29 + 0.300·D^-0.23 + 0.31, K² = 0.01, η = -0.10, and from
them 192 tokens a parameter at 1e21 FLOPs, at that compute alone (arXiv 2404.06395, §4.5). C is in units of 1e18 there:
6·N·D with N and D in billions.
"""

from __future__ import annotations

from pipelines.laws.chinchilla import COLUMNS, FEWEST_POINTS, FEWEST_VALUES, balance, loss_of
from pipelines.laws.points import Points, check_apart
from pipelines.laws.regression import Fit, FitSettings, fit_curve
from pipelines.laws.shape import Law, PowerSum, Term

BILLION = 1e9
SHAPE = PowerSum(
    (Term("params", "C_N", "alpha", -1.0, BILLION), Term("tokens", "C_D", "beta", -1.0, BILLION)), "loss", "L0"
)
PUBLISHED = {"C_N": 0.0715, "alpha": 0.29, "C_D": 0.300, "beta": 0.23, "L0": 0.31, "K2": 0.01, "eta": -0.10}


def _fit(points: Points, settings: FitSettings) -> Fit:
    check_apart("minicpm", points, "params", "tokens")
    return fit_curve(SHAPE, points, settings)


LAW = Law(
    title="loss against parameters and tokens, in billions",
    formula="L = C_N·(N/1e9)^-α + C_D·(D/1e9)^-β + L0",
    source="MiniCPM, arXiv 2404.06395 §4.5",
    columns=COLUMNS,
    predicts="loss",
    fewest_points=FEWEST_POINTS,
    fewest_values=FEWEST_VALUES,
    fit=_fit,
    predict=lambda parameters, inputs: loss_of(SHAPE, parameters, inputs),
    inputs=("params", "tokens"),
    derived=balance,
    shape=SHAPE,
)
