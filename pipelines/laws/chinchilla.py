"""Loss against parameters and tokens: L = C_N·N^-α + C_D·D^-β + L0, with N and D as counted.

Source: Hoffmann et al. 2022 (arXiv 2203.15556), equation 2 and appendix D.3. `minicpm.py` is the same law with N and D
in billions, and its published reading.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.laws.minimise import Array
from pipelines.laws.points import Points, check_apart
from pipelines.laws.regression import Fit, FitSettings, fit_curve
from pipelines.laws.shape import Law, PowerSum, Term

SHAPE = PowerSum((Term("params", "C_N", "alpha", -1.0), Term("tokens", "C_D", "beta", -1.0)), "loss", "L0")
COLUMNS = {
    "params": "parameters of the model, N, without embeddings as MiniCPM counts them",
    "tokens": "tokens trained on, D",
    "loss": "loss at the end, in nats or in bits per byte",
}
FEWEST_POINTS, FEWEST_VALUES = 7, {"params": 3, "tokens": 3}


def balance(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """Of C = 6·N·D, where the loss is least: N/D = K2·(C/6)^eta, as MiniCPM writes it (arXiv 2404.06395, §4.5).

    From αC_N·N^-α = βC_D·D^-β follow K2 = (αC_N/βC_D)^(2/(α+β)) and eta = (β-α)/(α+β). No number where α or β is not
    above 0: then the loss is least at an end.
    """
    alpha, beta = parameters["alpha"], parameters["beta"]
    usable = (alpha > 0) & (beta > 0)
    alpha, beta = np.where(usable, alpha, np.nan), np.where(usable, beta, np.nan)
    ratio = alpha * parameters["C_N"] / (beta * parameters["C_D"])
    return {"K2": ratio ** (2 / (alpha + beta)), "eta": (beta - alpha) / (alpha + beta)}


def loss_of(shape: PowerSum, parameters: Mapping[str, Array], inputs: Mapping[str, float]) -> Array:
    """The prediction of a sum of powers for each of S parameter vectors, (S,)."""
    columns = {term.column: np.array([inputs[term.column]]) for term in shape.terms}
    return np.exp(shape.curve(columns)(shape.searched(parameters))[0][:, 0])


def _fit(points: Points, settings: FitSettings) -> Fit:
    check_apart("chinchilla", points, "params", "tokens")
    return fit_curve(SHAPE, points, settings)


LAW = Law(
    title="loss against parameters and tokens",
    formula="L = C_N·N^-α + C_D·D^-β + L0",
    source="Hoffmann et al. 2022, arXiv 2203.15556",
    columns=COLUMNS,
    predicts="loss",
    fewest_points=FEWEST_POINTS,
    fewest_values=FEWEST_VALUES,
    fit=_fit,
    predict=lambda parameters, inputs: loss_of(SHAPE, parameters, inputs),
    inputs=("params", "tokens"),
    shape=SHAPE,
)
