"""The pictures of the coordinate check: changes over the size, and their slopes by part and layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.train.measures.coordinates import PARTS
from pipelines.train.studies.bootstrap import Bootstrapped
from pipelines.train.studies.coord_reading import Along, Series, words_of
from pipelines.train.studies.panels import colour, marker, points_with_intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# one colour and marker each; those for the width and for the depth are never in one picture
_ARMS = (("muP", "scale_depth/√L"), ("one LR",), ("off",))


def draw_changes(along: Along, fitted: Sequence[tuple[Series, int, Bootstrapped]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    for axes, part in zip(figure.subplots(2, 4).flat, (*PARTS, "weights/matrix"), strict=True):
        for series, step, _ in fitted:
            changes = series.changes(step)
            dots = [(size, values[part]) for size, some in changes.items() for values in some if values[part] > 0]
            if not dots:
                continue
            means = [math.exp(sum(math.log(v) for s, v in dots if s == size) / max(1, sum(s == size for s, _ in dots)))
                     for size in series.sizes]  # fmt: skip
            axes.plot(series.sizes, means, "-", color=colour(_number(series)), label=series.arm)
            axes.plot(*zip(*dots, strict=True), marker(_number(series)), ms=3, color=colour(_number(series)), alpha=0.6)
        axes.set(xscale="log", yscale="log", title=words_of(part), xlabel=along)
        _ticks(axes, sorted({size for series, _, _ in fitted for size in series.sizes}))
    figure.axes[0].set_ylabel("change since initialisation\n(root mean square)")
    figure.axes[4].set_ylabel("change since initialisation\n(root mean square)")
    figure.axes[0].legend(fontsize=8)
    return figure


def _ticks(axes: Axes, sizes: Sequence[int]) -> None:
    """Sizes along x; at least two decades along y, so that flat looks flat."""
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    middle, reach = math.sqrt(low * high), max(math.sqrt(high / low), 10)
    axes.set_ylim(middle / reach, middle * reach)


def draw_slopes(along: Along, fitted: Sequence[tuple[Series, int, Bootstrapped]], flat: float) -> Figure:
    from matplotlib.figure import Figure

    parts = [*PARTS]
    if along == "width":  # the layers are the same at every width
        layered = {part for _, _, said in fitted for part in said.values if part.startswith("layer_")}
        parts = [*parts, *sorted(layered)]
    figure = Figure(figsize=(max(7, 0.62 * len(parts)), 4), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(-flat, flat, color="0.9", zorder=0)
    axes.axhline(0, color="0.5", lw=0.8)
    for place, (series, _, said) in enumerate(fitted):
        shift = 0.18 * (place - (len(fitted) - 1) / 2)
        drawn = [(number, said.estimates[part]) for number, part in enumerate(parts) if part in said.estimates]
        if drawn:
            x = [number + shift for number, _ in drawn]
            points_with_intervals(axes, x, [slope for _, slope in drawn], _number(series), series.arm)
    axes.set_xticks(range(len(parts)), [words_of(part) for part in parts], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(f"p of change ∝ {along}^p")
    axes.legend(fontsize=8)
    return figure


def _number(series: Series) -> int:
    return next(number for number, arms in enumerate(_ARMS) if series.arm in arms)
