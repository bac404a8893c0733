"""Curves of training: loss with the branches off the trunk, learning rate, how pairs are learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipelines.display.report.drawing import PALETTE, legend_above, new_axes, smooth, stage_colours
from pipelines.display.report.results import StageResult, run_of, runs


def draw_loss(results: Sequence[StageResult]) -> Figure | None:
    """Loss over tokens; runs whose loss is no mean over tokens are left out."""
    drawn = [result for result in runs(results) if result.loss_counts != "pairs" and result.curve]
    if not drawn:
        return None
    figure, axes = new_axes("Training loss: branches off the trunk", "tokens trained on", "nats per token")
    colours = stage_colours(results)
    bold: dict[str, tuple[Any, Any]] = {}
    ends = []
    for result in drawn:
        colour = colours[result.kind]
        tokens = np.array([row["tokens"] for row in result.curve], float)
        loss = [row["loss"] for row in result.curve]
        mean = smooth(loss, max(2, len(loss) // 25))
        axes.plot(tokens, loss, color=colour, alpha=0.22, linewidth=0.8)
        label = (
            result.run_label if result.loss_counts == "tokens" else f"{result.run_label} ({result.loss_counts} only)"
        )
        axes.plot(tokens, mean, color=colour, linewidth=2.2, label=label)
        bold[run_of(result.reference)] = (tokens, mean)
        ends.append((tokens[-1], mean[-1]))
        if result.parent and (above := bold.get(run_of(result.parent))) is not None:
            level = float(np.interp(result.tokens_start, *above))
            axes.plot([result.tokens_start, tokens[0]], [level, mean[0]], color=colour, linewidth=1.2, linestyle=":")
            axes.plot(result.tokens_start, level, "o", color=colour, markersize=6, markeredgecolor="white", zorder=5)
    # the first steps fall from ln(vocabulary) and would flatten all the rest
    losses = [row["loss"] for result in drawn for row in result.curve]
    low, top = min(losses), float(np.percentile(losses, 97))
    axes.set_ylim(max(0.0, low - 0.05 * (top - low)), top + 0.12 * (top - low))
    axes.legend(loc="upper right")
    return figure


def draw_rates(results: Sequence[StageResult]) -> Figure | None:
    """Learning rate over tokens, of every run."""
    drawn = [result for result in runs(results) if result.curve]
    if not drawn:
        return None
    figure, axes = new_axes("Learning rate", "tokens trained on", "learning rate (log scale)")
    colours = stage_colours(results)
    for result in drawn:
        points = [(row["tokens"], row["learning_rate"]) for row in result.curve if row["learning_rate"] > 0]
        axes.plot(*zip(*points, strict=True), color=colours[result.kind], linewidth=2.2, label=result.run_label)
    axes.set_yscale("log")
    low = min(row["learning_rate"] for result in drawn for row in result.curve if row["learning_rate"] > 0)
    high = max(row["learning_rate"] for result in drawn for row in result.curve)
    axes.set_ylim(max(low, high * 1e-5) / 2, high * 2)  # a cosine's last steps are almost nothing
    axes.legend(loc="lower left")
    return figure


def draw_preference_training(results: Sequence[StageResult]) -> Figure | None:
    """Loss and accuracy over the steps, of the last run that learns from pairs."""
    drawn = [result for result in results if result.loss_counts == "pairs" and result.curve]
    if not drawn or "accuracy" not in drawn[-1].curve[0]:
        return None
    run, colour = drawn[-1], stage_colours(results)[drawn[-1].kind]
    figure, axes = new_axes(f"{run.kind.upper()}: loss and accuracy on the training pairs", "optimizer steps", "")
    steps = [row["step"] for row in run.curve]
    for name, line_colour in (("loss", colour), ("accuracy", PALETTE[2])):
        values = [row[name] for row in run.curve]
        axes.plot(steps, values, color=line_colour, alpha=0.22, linewidth=0.8)
        axes.plot(steps, smooth(values, max(2, len(values) // 20)), color=line_colour, linewidth=2.2, label=name)
    losses = [row["loss"] for row in run.curve]
    if math.isclose(losses[0], math.log(2), rel_tol=0.02):  # an objective that begins there, as DPO's does
        axes.axhline(math.log(2), color="#999", linewidth=1, linestyle=":", label="ln 2: no preference yet")
    axes.set_ylim(0, max(1.05, 1.05 * float(np.percentile(losses, 97))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    legend_above(axes, 3)
    return figure
