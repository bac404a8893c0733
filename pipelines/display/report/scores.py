"""The figures of evaluation tasks, as their charts say (`Chart` in `pipelines/train/tasks/task.py`).

Enters: results, and a chart: which value of a row, bars or lines, the words. Leaves: a figure. No task is known here
by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.display.progress import human
from pipelines.display.report.drawing import (
    IN_PERCENT,
    PALETTE,
    as_ascii,
    legend_above,
    lightened,
    new_axes,
    stage_colours,
)
from pipelines.display.report.results import StageResult, charted_rows, charted_value


def draw_scores(results: Sequence[StageResult], task: str, chart: Mapping[str, Any]) -> Figure | None:
    """The figure of one task, over the checkpoints that it has rows of; None where it has none."""
    drawn = [result for result in results if charted_rows([result], task)]
    if not drawn:
        return None
    figure, axes = new_axes(chart["title"], "", chart["axis"])
    share = drawn[0].tasks[task]["columns"][chart["column"]]["share"]
    if chart["kind"] == "bars":
        _bars(axes, drawn, task, stage_colours(results))
    else:
        _lines(axes, drawn, task, chart)
        if share:
            axes.set_ylim(0, 1.08)
    if share:
        axes.yaxis.set_major_formatter(IN_PERCENT)
    return figure


def _bars(axes: Axes, drawn: Sequence[StageResult], task: str, colours: Mapping[str, str]) -> None:
    """For each row of the task, the checkpoints side by side."""
    names = charted_rows(drawn, task)
    width = 0.82 / len(drawn)
    for place, result in enumerate(drawn):
        values = [charted_value(result, task, name) or 0.0 for name in names]
        places = np.arange(len(names)) - 0.41 + width * (place + 0.5)
        colour = lightened(colours[result.kind], 0.45 * _earliness(drawn, place))
        axes.bar(places, values, width * 0.94, color=colour, label=_with_tokens(result))
    axes.set_xticks(
        range(len(names)),
        [as_ascii(name) for name in names],
        rotation=30 if len(names) > 5 else 0,
        ha="right" if len(names) > 5 else "center",
    )
    axes.margins(y=0.04)
    legend_above(axes, len(drawn))


def _lines(axes: Axes, drawn: Sequence[StageResult], task: str, chart: Mapping[str, Any]) -> None:
    """For each row of the task a line over the checkpoints; over them, bold, the number that sums them up."""
    places = list(range(len(drawn)))
    for colour, name in zip(PALETTE[4:] * 4, sorted(charted_rows(drawn, task)), strict=False):
        values = [charted_value(result, task, name) for result in drawn]
        axes.plot(
            places, _drawable(values), "o-", color=colour, alpha=0.75, linewidth=1.3, markersize=4, label=as_ascii(name)
        )
    total = next((number for result in drawn if (number := result.number(chart["total"])) is not None), None)
    if total is not None:
        values = [result.value(chart["total"]) for result in drawn]
        _total(axes, values, total["label"], total["share"])
    if chart["chance"] is not None:
        axes.axhline(chart["chance"], color="#999", linewidth=1, linestyle=":")
        axes.annotate(
            "chance",
            (places[-1] + 0.3, chart["chance"]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color="#777",
        )
    axes.set_xticks(places, [_with_tokens(result).replace(" (", "\n(") for result in drawn])
    axes.set_xlim(-0.4, len(drawn) - 0.6)
    axes.legend(loc="lower left", ncols=2)


def _total(axes: Axes, values: Sequence[float | None], label: str, share: bool) -> None:
    """The number over all rows, with its value at each checkpoint."""
    axes.plot(range(len(values)), _drawable(values), "o-", color="#222", linewidth=2.6, label=label, zorder=5)
    for place, value in enumerate(values):
        if value is not None:
            axes.annotate(
                f"{value:.0%}" if share else f"{value:.3g}",
                (place, value),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )


def _drawable(values: Sequence[float | None]) -> list[float]:
    """A gap where there is no value."""
    return [np.nan if value is None else value for value in values]


def _earliness(drawn: Sequence[StageResult], place: int) -> float:
    """0 for the last checkpoint of its kind, 1 for the first of several: earlier ones are drawn lighter."""
    alike = [other for other, result in enumerate(drawn) if result.kind == drawn[place].kind]
    return (len(alike) - 1 - alike.index(place)) / max(1, len(alike) - 1)


def _with_tokens(result: StageResult) -> str:
    return f"{result.kind} ({human(result.tokens_end)})"
