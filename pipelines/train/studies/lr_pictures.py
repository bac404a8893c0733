"""The pictures of study `lr`: loss over the learning rate by width, and the best learning rate over the width."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pipelines.train.studies.bootstrap import Bootstrapped, transformed
from pipelines.train.studies.lr_reading import Cells, arms_of, mean_losses
from pipelines.train.studies.panels import colour, doublings, marker, panels, points_with_intervals
from pipelines.train.studies.parabola import parabola

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss(cells: Cells, reach: float) -> Figure:
    arms = arms_of(cells)
    figure, drawn = panels(arms, "peak learning rate", "bits per byte, held out")
    widths = sorted({width for _, width in cells})
    lowest = min((loss for seeds in cells.values() for loss in mean_losses(seeds).values()), default=1.0)
    for (arm, width), seeds in cells.items():
        axes, number, means = drawn[arms.index(arm)], widths.index(width), mean_losses(seeds)
        axes.plot(
            list(means), list(means.values()), color=colour(number), marker=marker(number), linestyle="none",
            label=f"width {width}",
        )  # fmt: skip
        if (curve := parabola(means, reach)) is not None:
            around = [curve.at * 2.0**octaves for octaves in np.linspace(-reach, reach, 41).tolist()]
            around = [rate for rate in around if min(means) <= rate <= max(means)]
            axes.plot(around, [curve.value(rate) for rate in around], color=colour(number), linewidth=1.4)
            axes.plot([curve.at], [curve.least], color=colour(number), marker="x", markersize=9, markeredgewidth=2.5)
    rates = [rate for seeds in cells.values() for losses in seeds for rate in losses]
    for axes in drawn:
        doublings(axes, rates)
        axes.tick_params(axis="x", labelrotation=45)
        axes.legend()
    drawn[0].set_ylim(lowest * 0.99, min(lowest * 1.25, drawn[0].get_ylim()[1]))
    return figure


def draw_optimum(cells: Cells, said: Bootstrapped) -> Figure:
    figure, (axes,) = panels([""], "width, d_model", "best peak learning rate")
    widths = sorted({width for _, width in cells})
    for number, arm in enumerate(arms_of(cells)):
        own = [width for width in widths if f"optimum {arm} {width}" in said.estimates]
        estimates = [transformed(said.estimates[f"optimum {arm} {width}"], lambda value: 2.0**value) for width in own]
        if own:
            points_with_intervals(axes, own, estimates, number, arm)
        if f"drift {arm}" in said.values:
            ends = np.array([widths[0], widths[-1]], float)
            line = 2.0 ** (said.values[f"level {arm}"] + said.values[f"drift {arm}"] * np.log2(ends))
            axes.plot(ends, line, color=colour(number), linewidth=1.4)
    axes.set_yscale("log", base=2)
    axes.axhline(0.01, color="#666666", linestyle=":", linewidth=1.2, label="published: 0.01")
    doublings(axes, widths)
    low, high = axes.get_ylim()
    octaves = range(math.floor(math.log2(low / 0.01)), math.ceil(math.log2(high / 0.01)) + 1)
    ticks = [0.01 * 2.0**octave for octave in octaves]
    doublings(axes, ticks, axis="y")
    axes.set_ylim(low, high)
    axes.legend()
    return figure
