"""The pictures of study `batch`: tokens until a loss over the batch, and the best batch over the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pipelines.train.studies.batch_reading import Cells, Levels, least_tokens, mean_tokens
from pipelines.train.studies.bootstrap import Bootstrapped, transformed
from pipelines.train.studies.panels import colour, doublings, marker, panels, points_with_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_tokens(cells: Cells, levels: Levels, reach: float) -> Figure:
    """A panel for each model size, a curve for each loss."""
    from pipelines.display.progress import human
    from pipelines.display.report.drawing import lightened

    sizes = list(levels)
    figure, drawn = panels(
        [f"{human(size)} parameters" for size in sizes], "tokens of a batch", "tokens until the loss"
    )
    batches = sorted({batch for seeds in cells.values() for seed in seeds for batch in seed.losses})
    heights = []
    for axes, size in zip(drawn, sizes, strict=True):
        for number, loss in enumerate(levels[size]):
            means = mean_tokens(cells[size], loss)
            shade = lightened(colour(0), 0.75 * (1 - (number + 1) / len(levels[size])))
            heights += [2.0**tokens for tokens in means.values()]
            axes.plot(
                list(means), [2.0**tokens for tokens in means.values()], color=shade, marker=marker(number),
                linestyle="none", label=f"loss {loss:.3g}",
            )  # fmt: skip
            if (curve := least_tokens(cells[size], loss, reach)) is not None:
                around = [curve.at * 2.0**octaves for octaves in np.linspace(-reach, reach, 61).tolist()]
                around = [batch for batch in around if min(means) <= batch <= max(means)]
                axes.plot(around, [2.0 ** curve.value(batch) for batch in around], color=shade, linewidth=1.4)
                axes.plot(
                    [curve.at], [2.0**curve.least], color=colour(1), marker="x", markersize=9, markeredgewidth=2.5
                )
        axes.set_xlabel("tokens of a batch")
        doublings(axes, batches)
        axes.tick_params(axis="x", labelrotation=45)
        axes.legend(title="bits per byte", loc="upper center", ncols=2, columnspacing=1.0, handletextpad=0.2)
    if heights:
        low, high = min(heights), max(heights)
        octaves = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
        doublings(drawn[0], [2.0**octave for octave in octaves], axis="y")
        drawn[0].set_ylim(low / 1.3, high * 2.0 * (high / low) ** 0.35)
    return figure


def draw_law(cells: Cells, levels: Levels, said: Bootstrapped) -> Figure:
    """The best batch and the noise scale over the loss, and the law."""
    from pipelines.display.progress import human

    figure, (axes,) = panels([""], "loss, bits per byte (falls to the right)", "tokens of a batch")
    known = []
    for series, (size, losses) in enumerate(levels.items()):
        for kind, words in (("batch", "best batch"), ("noise", "noise scale")):
            own = [(loss, f"{kind} {size} {number}") for number, loss in enumerate(losses)]
            own = [(loss, name) for loss, name in own if name in said.estimates]
            if not own:
                continue
            estimates = [transformed(said.estimates[name], lambda value: 2.0**value) for _, name in own]
            known += [estimate.value for estimate in estimates]
            points_with_intervals(
                axes, [loss for loss, _ in own], estimates, series, f"{words}, {human(size)}", hollow=kind == "noise"
            )
    every = [loss for losses in levels.values() for loss in losses]
    if "exponent" in said.values:
        line = np.linspace(min(every), max(every), 41)
        known += [float(value) for value in np.exp(said.values["factor"] - said.values["exponent"] * np.log(line))]
        axes.plot(line, np.exp(said.values["factor"] - said.values["exponent"] * np.log(line)), color="#444444",
                  linewidth=1.6, label="batch = a / L^b")  # fmt: skip
    doublings(axes, [float(f"{loss:.3g}") for loss in np.geomspace(min(every), max(every), 5).tolist()])
    if known:
        low, high = min(known), max(known)
        octaves = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 2)
        doublings(axes, [2.0**octave for octave in octaves], axis="y")
        axes.set_ylim(low / 3, high * 3)
    axes.set_xlim(max(every) * 1.03, min(every) / 1.03)
    axes.legend()
    return figure
