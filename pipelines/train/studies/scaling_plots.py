"""Pictures of study `scaling`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.laws.fitting import predict
from pipelines.laws.minicpm import PUBLISHED
from pipelines.laws.optimum import tokens_per_parameter
from pipelines.train.studies.panels import colour, doublings, marker, panels
from pipelines.train.studies.scaling_findings import (
    CHINCHILLA_RATIO,
    PUBLISHED_FLOPS,
    PUBLISHED_RATIO,
    PUBLISHED_RATIOS,
    published_ratio,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipelines.laws.law import FittedLaw

_GREY = "#666666"
_HIGHEST, _LOWEST = 3e4, 1e-2  # tokens a parameter that are drawn


def draw_losses(
    params: Sequence[float], tokens: Sequence[float], losses: Sequence[float], law: FittedLaw, without: FittedLaw | None
) -> Figure:
    """Loss against tokens, a colour for each size."""
    from pipelines.display.progress import human

    figure, (axes,) = panels([""], "tokens", "bits per byte, mean of held-out sets")
    doublings(axes, tokens)
    sizes = sorted(set(params))
    lengths = np.geomspace(min(tokens), max(tokens), 60)
    for number, size in enumerate(sizes):
        by_length: dict[float, list[float]] = {}
        for n, d, loss in zip(params, tokens, losses, strict=True):
            if n == size:
                by_length.setdefault(d, []).append(loss)
        at = sorted(by_length)
        means = [float(np.mean(by_length[d])) for d in at]
        reach = [
            [mean - min(by_length[d]) for d, mean in zip(at, means, strict=True)],
            [max(by_length[d]) - mean for d, mean in zip(at, means, strict=True)],
        ]
        axes.errorbar(
            at, means, yerr=reach, color=colour(number), marker=marker(number), linestyle="none", capsize=3,
            label=f"N = {human(size)}",
        )  # fmt: skip
        curve = [predict(law, {"params": size, "tokens": float(d)}).value for d in lengths]
        axes.plot(lengths, curve, color=colour(number), linewidth=1.4)
    if without is not None:
        curve = [predict(without, {"params": sizes[-1], "tokens": float(d)}).value for d in lengths]
        label = f"N = {human(sizes[-1])}, from smaller"
        axes.plot(lengths, curve, color=colour(len(sizes) - 1), linestyle="--", linewidth=2, label=label)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))
    axes.legend(loc="upper right", ncols=2)
    return figure


def draw_optimum(law: FittedLaw, tried: tuple[float, float]) -> Figure:
    """Compute-optimal tokens a parameter against compute, up to the published one."""
    figure, (axes,) = panels([""], "compute, 6·N·D in FLOPs", "best tokens a parameter, D/N")
    budgets = np.geomspace(tried[0] / 3, PUBLISHED_FLOPS * 10, 120)
    read = [(float(flops), tokens_per_parameter(law, float(flops))) for flops in budgets]
    drawn = [(flops, ratio) for flops, ratio in read if ratio is not None]
    if drawn:
        at = [flops for flops, _ in drawn]
        axes.fill_between(
            at, [ratio.low for _, ratio in drawn], [ratio.high for _, ratio in drawn],
            color=colour(0), alpha=0.2, linewidth=0,
        )  # fmt: skip
        axes.plot(at, [ratio.value for _, ratio in drawn], color=colour(0), linewidth=2, label="here")
    axes.axvspan(*tried, color=_GREY, alpha=0.15, linewidth=0)
    axes.plot(
        budgets, [published_ratio(float(flops)) for flops in budgets], color=colour(1), linestyle="--", linewidth=1.4,
        label="published law",
    )  # fmt: skip
    axes.errorbar(
        [PUBLISHED_FLOPS], [PUBLISHED_RATIO],
        yerr=[[PUBLISHED_RATIO - min(PUBLISHED_RATIOS)], [max(PUBLISHED_RATIOS) - PUBLISHED_RATIO]],
        color=colour(1), marker=marker(1), capsize=3, label="published: 192",
    )  # fmt: skip
    axes.axhline(CHINCHILLA_RATIO, color=_GREY, linestyle=":", linewidth=1.2, label="Chinchilla: 20")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(max(_LOWEST, min([1.0, *(ratio.value / 3 for _, ratio in drawn)])), _HIGHEST)
    axes.set_xlim(float(budgets[0]), float(budgets[-1]))
    axes.legend(loc="upper left", ncols=2)
    return figure


def draw_exponents(laws: Mapping[str, FittedLaw], mean: str) -> Figure:
    """α and β of each held-out set, with intervals, beside the published ones."""
    from pipelines.display.report.drawing import as_ascii

    figure, drawn = panels(["α, of parameters", "β, of tokens"], "exponent", "")
    names = [name for name in reversed(list(laws)) if name != mean] + ([mean] if mean in laws else [])
    for axes, parameter in zip(drawn, ("alpha", "beta"), strict=True):
        for place, name in enumerate(names):
            estimate, number = laws[name].parameters[parameter], 1 if name == mean else 0
            axes.errorbar(
                [estimate.value], [place], xerr=[[estimate.value - estimate.low], [estimate.high - estimate.value]],
                color=colour(number), marker=marker(number), capsize=3, linewidth=1.6,
            )  # fmt: skip
        axes.axvline(PUBLISHED[parameter], color=_GREY, linestyle=":", linewidth=1.4)
        axes.text(PUBLISHED[parameter] + 0.03, len(names) - 0.5, f"published {PUBLISHED[parameter]}", color=_GREY)
        axes.set_ylim(-0.6, len(names) - 0.05)
        values = [laws[name].parameters[parameter].value for name in names]
        axes.set_xlim(-0.1, max(0.7, 1.6 * max(values)))
        axes.grid(axis="x", color="#e6e6e6")
    drawn[0].set_yticks(range(len(names)), ["mean" if name == mean else as_ascii(name) for name in names])
    return figure
