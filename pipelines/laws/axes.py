"""Axes of the pictures of a fit: their names, their ticks, colours and markers of sizes and groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.display.progress import human
from pipelines.laws.minimise import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>"


def new_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure, (axes,) = new_panels(1, 1, (6.4, 4.2))
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def new_panels(across: int, down: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from pipelines.display.report.drawing import STYLE

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        return figure, list(np.ravel(figure.subplots(down, across, squeeze=False)))


def colours(count: int) -> list[Any]:
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](place) for place in np.linspace(0.0, 0.85, count)]


def markers(count: int) -> list[str]:
    return [MARKERS[place % len(MARKERS)] for place in range(count)]


def axis_name(name: str, unit: str = "") -> str:
    units = {
        "params": "parameters N",
        "tokens": "tokens D",
        "batch": "batch (tokens)",
        "lr": "peak learning rate",
        "width": "width d_model",
    }
    return units.get(name, name) + (f" ({unit})" if unit else "")


def log_axes(axes: Axes, x: Array, y: Array) -> None:
    log_x(axes, x)
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, float(y.max() / y.min()) < 8)


def log_x(axes: Axes, x: Array) -> None:
    axes.set_xscale("log")
    if x.max() / x.min() < 300:
        plain_ticks(axes.xaxis, float(x.max() / x.min()) < 8)


def plain_ticks(axis: Any, few: bool = False) -> None:
    """Numbers as people write them on a logarithmic axis. Args: few, where it spans less than a decade or so."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}" if value < 1e4 else human(float(value))))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
    if few:
        axis.set_major_locator(MaxNLocator(5))
        axis.set_minor_locator(NullLocator())


def few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
