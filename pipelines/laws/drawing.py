"""Pictures of a fit: the curve through its points, the residuals, the profile of each parameter, the best size.

Enters: a `FittedLaw` and its `Fit`. Leaves: matplotlib figures with the sentence that says what to see. Sizes and
groups are told apart by colour and by marker, on a scale that colour-blind people can read (viridis).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.display.progress import human
from pipelines.laws.axes import (
    axis_name,
    colours,
    few_ticks,
    log_axes,
    log_x,
    markers,
    new_axes,
    new_panels,
    plain_ticks,
)
from pipelines.laws.fitting import predict, row_of
from pipelines.laws.law import FittedLaw
from pipelines.laws.lr import parabola_for
from pipelines.laws.optimum import UNITS, compute_optimal
from pipelines.laws.regression import Fit, profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CURVES = 10
_STEPS = 32  # of a drawn curve
_BAND = 0.18  # opacity
_SYMBOLS = {"alpha": "α", "beta": "β", "eta": "η", "K2": "K²"}


@dataclass(frozen=True)
class Picture:
    """Attributes: name, of its file; sentence, what to see in it."""

    name: str
    title: str
    sentence: str
    draw: Callable[[], Figure]


def pictures(fitted: FittedLaw, fit: Fit) -> list[Picture]:
    """All that there is to see of a fit."""
    sums = fitted.law in UNITS
    shown = [Picture("curve", "The law and its points", _curve_sentence(fitted), lambda: curve(fitted, fit))]
    if fitted.law == "lr" and "drift" in fitted.parameters:
        shown.append(
            Picture(
                "drift",
                "The optimum against the width",
                f"A level line would be an optimum that every width shares. It moves by 2^{fitted.parameters['drift']} "
                f"each time the width doubles; the band is the {fitted.level:.0%} interval of the line, wider on "
                "purpose outside of the widths that were run.",
                lambda: drift(fitted, fit),
            )
        )
    if sums and _has_optimum(fitted):
        shown.append(
            Picture(
                "optimal",
                "Tokens a parameter that are best for a compute",
                "Where the line slopes, no single ratio of tokens to parameters is right: it belongs to a compute. "
                "Outside of the shaded range no run was seen, and the band is widened.",
                lambda: optimal(fitted),
            )
        )
    shown.append(
        Picture(
            "residuals",
            "What the law misses",
            "Measured less predicted. Points should scatter about 0 without a pattern: a bend means that the formula "
            f"is wrong there. The band is twice their spread ({fitted.residual_spread:.2%}).",
            lambda: residuals(fitted, fit),
        )
    )
    shown.append(
        Picture(
            "profiles",
            "How well each parameter is known",
            "How much worse the fit gets when one parameter is held at another value and the others are fitted anew. A "
            "narrow valley is a parameter that the data decides; a flat floor is one that others can stand in for. "
            f"Shaded: the {fitted.level:.0%} interval by runs. Dashed: where points that all had luck of their own "
            "would put its ends.",
            lambda: profiles(fitted, fit),
        )
    )
    return shown


def curve(fitted: FittedLaw, fit: Fit) -> Figure:
    """The points and the law through them."""
    if fitted.law == "lr":
        return _parabolas(fit)
    if fitted.law in UNITS:
        return _families(fitted, fit)
    row = row_of(fitted.law)
    (name,) = row.inputs
    figure, axes = new_axes(f"{fitted.law}: {fitted.formula}", axis_name(name), axis_name(row.predicts, fitted.unit))
    x, y = fit.points.columns[name], fit.points.columns[row.predicts]
    across = np.geomspace(x.min() / 1.15, x.max() * 1.15, _STEPS)
    ends = [predict(fitted, {name: float(value)}, of_a_run=False) for value in across]
    axes.fill_between(
        across, [end.low for end in ends], [end.high for end in ends], alpha=_BAND, color="#33658a",
        label=f"{fitted.level:.0%} interval",
    )  # fmt: skip
    axes.plot(across, [end.value for end in ends], color="#33658a", label="law")
    axes.plot(x, y, "o", color="#c9621a", label="points", zorder=3)
    log_axes(axes, x, y)
    axes.legend()
    return figure


def _families(fitted: FittedLaw, fit: Fit) -> Figure:
    """Loss against tokens, a curve for each size."""
    columns = fit.points.columns
    sizes = np.unique(columns["params"])
    shown = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), _MOST_CURVES)).round().astype(int))]
    figure, axes = new_axes(f"{fitted.law}: {fitted.formula}", axis_name("tokens"), axis_name("loss", fitted.unit))
    for size, colour, marker in zip(shown, colours(len(shown)), markers(len(shown)), strict=True):
        own = columns["params"] == size
        tokens = columns["tokens"][own]
        across = np.geomspace(tokens.min() / 1.1, tokens.max() * 1.1, _STEPS)
        ends = [predict(fitted, {"params": size, "tokens": float(value)}, of_a_run=False) for value in across]
        axes.fill_between(across, [end.low for end in ends], [end.high for end in ends], alpha=_BAND, color=colour)
        axes.plot(across, [end.value for end in ends], color=colour)
        axes.plot(tokens, columns["loss"][own], marker, color=colour, label=f"N = {human(float(size))}", ms=5)
    floor = fitted.parameters["L0"]
    if floor.value > 0.75 * columns["loss"].min():
        axes.axhline(floor.value, color="#666666", lw=1, ls=":", label=f"L0 = {floor.value:.3g}")
    log_axes(axes, columns["tokens"], columns["loss"])
    axes.legend(ncols=2, fontsize=9)
    return figure


def _parabolas(fit: Fit) -> Figure:
    """Loss against learning rate, a parabola for each group, its optimum with its interval below."""
    figure, axes = new_axes("loss against the learning rate", "peak learning rate", "loss")
    lowest = min(float(part.points.columns["loss"].min()) for part in fit.parts.values())
    highest = max(float(part.points.columns["loss"].max()) for part in fit.parts.values())
    count = len(fit.parts)
    below = 0.05 * max(highest - lowest, 1e-6)
    everything = np.concatenate([part.points.columns["lr"] for part in fit.parts.values()])
    for place, ((label, part), colour, marker) in enumerate(
        zip(fit.parts.items(), colours(count), markers(count), strict=True)
    ):
        rates, losses = part.points.columns["lr"], part.points.columns["loss"]
        across = np.geomspace(rates.min() / 1.1, rates.max() * 1.1, _STEPS)
        predicted = np.exp(parabola_for(part.points).curve({"lr": across})(part.at[None])[0][0])
        axes.plot(across, predicted, color=colour)
        axes.plot(rates, losses, marker, color=colour, ms=5, label=label or "points")
        best, height = part.estimates["optimum"], lowest - below * (place + 1)
        low, high = max(best.low, everything.min() / 2), min(best.high, everything.max() * 2)
        axes.plot([low, high], [height, height], color=colour, lw=2, solid_capstyle="butt")
        axes.plot([best.value], [height], marker, color=colour, ms=6)
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    foot = "below: optima with their intervals"
    axes.legend(title=foot, fontsize=9, title_fontsize=9, ncols=min(count, 4), loc="upper center")
    return figure


def drift(fitted: FittedLaw, fit: Fit) -> Figure:
    """The optimum of each width and the line through them."""
    figure, axes = new_axes("the best learning rate against the width", "width d_model", "best learning rate")
    widths = [float(np.exp(np.log(part.points.columns["width"]).mean())) for part in fit.parts.values()]
    best = [part.estimates["optimum"] for part in fit.parts.values()]
    across = np.geomspace(min(widths) / 1.5, max(widths) * 2, _STEPS)
    ends = [predict(fitted, {"width": float(value)}) for value in across]
    axes.fill_between(across, [end.low for end in ends], [end.high for end in ends], alpha=_BAND, color="#33658a")
    axes.plot(across, [end.value for end in ends], color="#33658a")
    for one, colour, marker, width in zip(best, colours(len(best)), markers(len(best)), widths, strict=True):
        axes.errorbar(
            [width], [one.value], [[one.value - one.low], [one.high - one.value]], fmt=marker, color=colour, capsize=4
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.minorticks_off()
    rates = [value for one in best for value in (one.low, one.high)]
    axes.set_ylim(min(*rates, min(end.low for end in ends)) / 1.2, max(*rates, max(end.high for end in ends)) * 1.2)
    plain_ticks(axes.yaxis, max(rates) / min(rates) < 4)
    return figure


def optimal(fitted: FittedLaw) -> Figure:
    """Tokens a parameter of least loss against the compute."""
    figure, axes = new_axes("best tokens a parameter, by C = 6·N·D", "compute C (FLOPs)", "tokens a parameter")
    least, most = (6 * fitted.ranges["params"][end] * fitted.ranges["tokens"][end] for end in (0, 1))
    across = np.geomspace(least / 10, most * 100, _STEPS)
    best = [compute_optimal(fitted, float(flops)).ratio for flops in across]
    axes.axvspan(least, most, color="#33658a", alpha=0.07, label="compute of the points")
    axes.fill_between(across, [one.low for one in best], [one.high for one in best], alpha=_BAND, color="#33658a")
    axes.plot(across, [one.value for one in best], color="#33658a", label=f"law, {fitted.level:.0%} interval")
    axes.axhline(20, color="#c9621a", lw=1.2, ls="--", label="20, as Chinchilla is quoted")
    axes.set_xscale("log")
    axes.set_yscale("log")
    middle = [one.value for one in best]
    inside = [one for one, flops in zip(best, across, strict=True) if least <= flops <= most]
    axes.set_ylim(
        min(*middle, 20, *(max(one.low, one.value / 30) for one in inside)) / 2,
        max(*middle, 20, *(min(one.high, one.value * 30) for one in inside)) * 2,
    )
    plain_ticks(axes.yaxis)
    axes.legend(fontsize=9)
    return figure


def residuals(fitted: FittedLaw, fit: Fit) -> Figure:
    """What is measured less what is predicted, against each column that the law reads."""
    row = row_of(fitted.law)
    names = [name for name in ("params", "tokens", "loss", "x", "lr", "width") if name in fit.points.columns]
    names = [name for name in names if name in row.inputs or (fitted.law == "lr" and name in ("lr", "width"))]
    figure, panels = new_panels(len(names), 1, (6.4 if len(names) == 1 else 4.4 * len(names), 3.8))
    for axes, name in zip(panels, names, strict=True):
        axes.axhspan(-2 * fitted.residual_spread * 100, 2 * fitted.residual_spread * 100, color="#33658a", alpha=0.08)
        axes.axhline(0, color="#666666", lw=1)
        colour_by = fit.points.columns.get("params", fit.points.columns.get("width"))
        groups = np.unique(colour_by) if colour_by is not None else np.zeros(1)
        for value, colour, marker in zip(groups, colours(len(groups)), markers(len(groups)), strict=True):
            own = colour_by == value if colour_by is not None else np.ones(len(fit.residuals), bool)
            axes.plot(fit.points.columns[name][own], fit.residuals[own] * 100, marker, color=colour, ms=5)
        log_x(axes, fit.points.columns[name])
        axes.set_xlabel(axis_name(name))
    panels[0].set_ylabel(f"{'loss' if 'loss' in row.columns and fitted.law != 'batch' else row.predicts}: miss (%)")
    return figure


def profiles(fitted: FittedLaw, fit: Fit) -> Figure:
    """The loss of the fit against each parameter, all others fitted anew."""
    from scipy.special import ndtri

    shown: list[tuple[str, str, Fit]] = []
    if fit.shape is not None:
        shown = [(name, name, fit) for name in fit.shape.names]
    else:
        shown = [(f"optimum {label}".strip(), "optimum", part) for label, part in fit.parts.items()]
    shown = shown[:9]
    across = min(3, len(shown))
    figure, panels = new_panels(across, -(-len(shown) // across), (3.0 * across + 0.4, 2.6 * -(-len(shown) // across)))
    cut = float(ndtri(0.5 + fitted.level / 2)) ** 2
    for axes, (title, name, own) in zip(panels, shown, strict=False):
        values, rises = profile(own, name)
        estimate = own.estimates[name]
        axes.axvspan(estimate.low, estimate.high, color="#33658a", alpha=0.13)
        axes.axhline(cut, color="#c9621a", lw=1.2, ls="--")
        axes.axvline(estimate.value, color="#666666", lw=1)
        axes.plot(values, rises, color="#33658a")
        axes.set_ylim(0, 3 * cut)
        if estimate.low > 0 and estimate.high / estimate.low > 8:
            axes.set_xscale("log")
        few_ticks(axes)
        axes.set_title(_SYMBOLS.get(title, title), fontsize=11)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("rise of the loss\n(noise squared)")
    return figure


def _has_optimum(fitted: FittedLaw) -> bool:
    return fitted.parameters["alpha"].value > 0 and fitted.parameters["beta"].value > 0


def _curve_sentence(fitted: FittedLaw) -> str:
    if fitted.law == "lr":
        return (
            "Dots are runs, curves the parabolas in the logarithm of the learning rate. At the foot stands each "
            f"optimum with its {fitted.level:.0%} interval: groups whose bars share a rate may share an optimum."
        )
    if fitted.law in UNITS:
        return (
            "Dots are measured, curves are the law, one for each size. More tokens help less and less, and a larger "
            f"model falls further. The bands are the {fitted.level:.0%} interval of the law."
        )
    return f"Dots are measured, the line is the law, the band its {fitted.level:.0%} interval."
