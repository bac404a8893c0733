"""The pictures of the hyper-parameter search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.train.studies.hparams_reading import Point, flat_range
from pipelines.train.studies.panels import colour, doublings, panels
from pipelines.train.studies.surface import Valley

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4.0  # times the distance of the median from the lowest: beyond, a point stands at the upper edge


def draw_valleys(
    points: Sequence[Point], lost: Sequence[Mapping[str, Any]], floors: Mapping[str, Valley], noise: float,
    published: Mapping[str, float],
) -> Figure:  # fmt: skip
    """Loss over each hyper-parameter."""
    keys = list(points[0].values)
    figure, drawn = panels(keys, "", "held-out loss, bits per byte")
    losses = sorted(point.loss for point in points)
    top = losses[0] + _SHOWN * max(losses[len(losses) // 2] - losses[0], 1e-3)
    best = min(points, key=lambda point: point.loss)
    for axes, key in zip(drawn, keys, strict=True):
        tried = [point.values[key] for point in points]
        alike = flat_range(floors.get(key), noise, (min(tried), max(tried)))
        if alike is not None:
            axes.axvspan(*alike, color="0.9", zorder=0)
        if key in published:
            axes.axvline(published[key], color="0.4", linestyle="--", linewidth=1)
        axes.plot(tried, [min(point.loss, top) for point in points], "o", markersize=4, color=colour(0), alpha=0.7)
        axes.plot(best.values[key], best.loss, "*", markersize=13, color=colour(1))
        if lost:
            axes.plot([point[key] for point in lost], [top] * len(lost), "x", markersize=5, color=colour(2))
        low, high = min(tried), max(tried)
        doublings(axes, [float(f"{value:.2g}") for value in (low, math.sqrt(low * high), high)])
    return figure


def draw_comparison(gain: Sequence[tuple[int, float]], alike: float) -> Figure:
    """The gain of each fresh seed."""
    figure, (axes,) = panels([""], "seed", "loss of the published values minus\nthat of the best point, bits per byte")
    axes.axhspan(-alike, alike, color="0.9", zorder=0)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.plot(range(len(gain)), [value for _, value in gain], "o", color=colour(0))
    axes.set_xticks(range(len(gain)), [str(seed) for seed, _ in gain])
    axes.set_xlim(-0.5, len(gain) - 0.5)
    return figure
