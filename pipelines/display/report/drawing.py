"""What the figures share: colours, axes, labels.

Sized so that their text stays readable at the width of a phone. Labels are ASCII: matplotlib's own font has no Chinese.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipelines.display.progress import human
from pipelines.display.report.results import StageResult

PALETTE = (
    "#33658a",
    "#e07a2f",
    "#3a9a5b",
    "#8e4fa8",
    "#c8b02d",
    "#c2485b",
    "#4fa3a5",
    "#7a6a58",
    "#9bb1c9",
    "#d9a7c7",
)
GREY = "#666666"
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "trunkline",
}
WIDTH, HEIGHT = 6.4, 4.0  # of a figure, in inches
IN_PERCENT = FuncFormatter(lambda value, _: f"{value:.0%}")
IN_TOKENS = FuncFormatter(lambda value, _: human(float(value)) if value else "0")


def stage_colours(results: Sequence[StageResult]) -> dict[str, str]:
    """Kind of stage -> its own colour, or the next that is free; grey for what was not trained (an average)."""
    own = {result.kind: result.colour for result in results if result.colour}
    free = itertools.cycle([colour for colour in PALETTE if colour not in own.values()] or PALETTE)
    colours = {}
    for result in results:
        if result.kind not in colours:
            trained = any(other.curve for other in results if other.kind == result.kind)
            colours[result.kind] = own.get(result.kind) or (next(free) if trained else GREY)
    return colours


def new_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure of one panel. Args: x, y, what the axes are named."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if x.startswith("tokens"):
        axes.xaxis.set_major_formatter(IN_TOKENS)
    return figure, axes


def legend_above(axes: Axes, entries: int) -> None:
    """A legend of three columns between the title and the drawing."""
    axes.set_title(axes.get_title(loc="left"), pad=12 + 16 * math.ceil(entries / 3))
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, columnspacing=1.2, handlelength=1.2, borderaxespad=0.2
    )


def smooth(values: Sequence[float], reach: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean over `reach` values on either side: fewer, but as many on both sides, near the start, where curves fall
    steeply; near the end those before alone stay, so that the last point is no single noisy value."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, float))])
    at = np.arange(len(values))
    before = np.minimum(reach, at)
    after = np.minimum(before, len(values) - 1 - at)
    mean: np.ndarray[Any, np.dtype[np.float64]] = (total[at + after + 1] - total[at - before]) / (before + after + 1)
    return mean


def lightened(colour: str, share: float) -> tuple[float, ...]:
    """A colour on its way to white. Args: share, of the way."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return tuple(rgb + (1 - rgb) * share)


def as_ascii(name: str) -> str:
    """A label that the plot's font can draw; matplotlib's own has no Chinese."""
    return name if name.isascii() else name.encode("ascii", "backslashreplace").decode()
