"""The mixtures of the runs: what was asked for, and what was delivered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipelines.display.report.drawing import IN_PERCENT, IN_TOKENS, PALETTE, WIDTH, as_ascii, stage_colours
from pipelines.display.report.results import StageResult, given_over_tokens, runs


def draw_mixture(results: Sequence[StageResult]) -> Figure | None:
    """Shares of samples by source, a panel for each run."""
    drawn = [result for result in runs(results) if result.asked and sum(result.delivered.values())]
    if not drawn:
        return None
    names = list(
        dict.fromkeys(name for result in drawn for name in sorted(result.asked, key=lambda n: -result.asked[n]))
    )
    figure = Figure(figsize=(WIDTH, 0.9 + sum(0.6 + 0.34 * len(result.asked) for result in drawn)))
    colours = stage_colours(results)
    panels = figure.subplots(
        len(drawn), 1, squeeze=False, sharex=True, height_ratios=[0.6 + 0.34 * len(r.asked) for r in drawn]
    )[:, 0]
    for axes, result in zip(panels, drawn, strict=True):
        total = sum(result.delivered.values())
        own = [name for name in names if name in result.asked][::-1]
        places = np.arange(len(own))
        asked = [result.asked[name] for name in own]
        given = [result.delivered.get(name, 0) / total for name in own]
        axes.barh(places + 0.2, asked, 0.38, color="#c9ced3", label="asked")
        axes.barh(places - 0.2, given, 0.38, color=colours[result.kind], label="delivered")
        for place, value in zip(places, given, strict=True):
            axes.annotate(
                f"{value:.1%}",
                (value, place - 0.2),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color="#555",
            )
        axes.set_yticks(places, [as_ascii(name) for name in own])
        axes.set_title(f"Mixture of {result.run_label}, {total:,} samples")
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(IN_PERCENT)
    panels[0].legend(loc="lower right")
    panels[-1].set_xlabel("share of samples")
    return figure


def draw_mixture_over_tokens(results: Sequence[StageResult]) -> Figure | None:
    """Each source's share of the tokens over a run, and how far it was ahead or behind; two panels for each run."""
    drawn = [(result, shares) for result in runs(results) if (shares := given_over_tokens(result)) is not None]
    if not drawn:
        return None
    # a source keeps its colour
    names = list(dict.fromkeys(name for _, (_, _, asked, _) in drawn for name in asked))
    figure = Figure(figsize=(WIDTH, 4.1 * len(drawn)))
    panels = figure.subplots(2 * len(drawn), 1, squeeze=False, height_ratios=[2.2, 1] * len(drawn))[:, 0]
    for (result, (tokens, given, asked, off)), shares, errors in zip(drawn, panels[::2], panels[1::2], strict=True):
        colours = [PALETTE[names.index(name) % len(PALETTE)] for name in asked]
        labels = [f"{as_ascii(name)} {share:.1%}" for name, share in asked.items()]
        shares.stackplot(tokens, given, labels=labels, colors=colours, step="pre", alpha=0.85)
        for edge in np.cumsum(list(asked.values()))[:-1]:
            shares.axhline(edge, color="#222", linewidth=1, linestyle="--")
        shares.set(xlim=(tokens[0], tokens[-1]), ylim=(0, 1), title=f"{result.run_label}: delivered, dashed: asked")
        shares.yaxis.set_major_formatter(IN_PERCENT)
        shares.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, reverse=True)
        for row, colour in zip(off, colours, strict=True):
            errors.plot(tokens, row, color=colour, linewidth=1.3)
        reach = max(1.0, float(np.abs(off).max()))
        errors.axhspan(-1, 1, color="#eef1f3", zorder=0)
        errors.set(xlim=(tokens[0], tokens[-1]), ylim=(-1.15 * reach, 1.15 * reach), ylabel="windows off")
        errors.set_xlabel("tokens trained on")
        for axes in (shares, errors):
            axes.xaxis.set_major_formatter(IN_TOKENS)
    return figure
