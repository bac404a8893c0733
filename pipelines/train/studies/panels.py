"""What the pictures of studies share: one panel in the report's style, points with intervals, lines of one colour each.

Colours are the report's, told apart by people who see no red and green with the help of a marker of its own for each.
matplotlib is imported by the functions, as a picture is drawn late.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipelines.laws.law import Estimate

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


def styled(draw: Callable[..., Figure], *arguments: Any) -> Callable[[], Figure]:
    """A `Plot.draw` that draws in the report's style, with these arguments."""

    @functools.wraps(draw)
    def in_style() -> Figure:
        import matplotlib

        from pipelines.display.report.drawing import STYLE

        with matplotlib.rc_context(STYLE):
            return draw(*arguments)

    return in_style


def panels(titles: Sequence[str], x: str, y: str) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title, side by side, with one y axis."""
    from matplotlib.figure import Figure

    from pipelines.display.report.drawing import HEIGHT, WIDTH

    figure = Figure(figsize=(WIDTH * (1 if len(titles) == 1 else 0.72 * len(titles)), HEIGHT))
    drawn = list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
    for axes, title in zip(drawn, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel(x)
    drawn[0].set_ylabel(y)
    return figure, drawn


def colour(number: int) -> str:
    """Of the series with this number, as of the report."""
    from pipelines.display.report.drawing import PALETTE

    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    """Of the series with this number."""
    return MARKERS[number % len(MARKERS)]


def points_with_intervals(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], number: int, label: str, hollow: bool = False
) -> None:
    """Points with their intervals as bars. Args: number, of the series, which has its colour and marker from it."""
    values = [estimate.value for estimate in estimates]
    below = [estimate.value - estimate.low for estimate in estimates]
    above = [estimate.high - estimate.value for estimate in estimates]
    axes.errorbar(
        x, values, yerr=[below, above], color=colour(number), marker=marker(number), linestyle="none", capsize=3,
        markersize=6, linewidth=1.4, label=label, markerfacecolor="none" if hollow else colour(number),
    )  # fmt: skip


def doublings(axes: Axes, values: Sequence[float], axis: str = "x") -> None:
    """A logarithmic axis with a tick at each of the values, as they are."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    from pipelines.display.progress import human

    getattr(axes, f"set_{axis}scale")("log")
    own = getattr(axes, f"{axis}axis")
    own.set_major_locator(FixedLocator(sorted(set(values))))
    own.set_major_formatter(FuncFormatter(lambda value, _: human(float(value)) if value >= 1000 else f"{value:.3g}"))
    own.set_minor_locator(NullLocator())
    own.set_minor_formatter(NullFormatter())
