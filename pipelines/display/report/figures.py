"""The report's figures, drawn without a display and without pyplot's global state.

Sized so that their text stays readable at the width of a phone. Labels are ASCII: matplotlib's own font has no Chinese.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipelines.display.progress import human
from pipelines.display.report.results import StageResult, bits, given_over_tokens, last, run_of, runs, sources

COLOURS = {"pretrain": "#33658a", "anneal": "#e07a2f", "sft": "#3a9a5b", "dpo": "#8e4fa8"}
_SOURCE_COLOURS = (
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
_STYLE: Any = {
    "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": "#e6e6e6", "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#888", "legend.frameon": False, "legend.fontsize": 9.5,
    "figure.constrained_layout.use": True, "svg.hashsalt": "trunkline",
}  # fmt: skip
_SIZE = (6.4, 4.0)


def figures(results: Sequence[StageResult]) -> dict[str, Figure]:
    """Every figure that the results have numbers for, by name."""
    drawn = {
        "loss": _draw_loss,
        "learning_rate": _draw_rates,
        "preference_training": _draw_preference_training,
        "bits_per_byte": _draw_bits,
        "preference_accuracy": _draw_accuracy,
        "mixture": _draw_mixture,
        "mixture_over_tokens": _draw_mixture_over_tokens,
    }
    with matplotlib.rc_context(_STYLE):
        found = {name: draw(results) for name, draw in drawn.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def smooth(values: Sequence[float], reach: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean over `reach` values on either side: fewer, but as many on both sides, near the start, where curves fall
    steeply; near the end those before alone stay, so that the last point is no single noisy value."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, float))])
    at = np.arange(len(values))
    before = np.minimum(reach, at)
    after = np.minimum(before, len(values) - 1 - at)
    mean: np.ndarray[Any, np.dtype[np.float64]] = (total[at + after + 1] - total[at - before]) / (before + after + 1)
    return mean


def _draw_loss(results: Sequence[StageResult]) -> Figure | None:
    drawn = [result for result in runs(results) if result.kind != "dpo" and result.curve]
    if not drawn:
        return None
    figure, axes = _axes("Training loss: branches off the trunk", "tokens trained on", "nats per token")
    bold: dict[str, tuple[Any, Any]] = {}
    ends = []
    for result in drawn:
        colour = COLOURS.get(result.kind, "#666")
        tokens = np.array([row["tokens"] for row in result.curve], float)
        loss = [row["loss"] for row in result.curve]
        mean = smooth(loss, max(2, len(loss) // 25))
        axes.plot(tokens, loss, color=colour, alpha=0.22, linewidth=0.8)
        label = f"{result.run_label} (assistant tokens only)" if result.kind == "sft" else result.run_label
        axes.plot(tokens, mean, color=colour, linewidth=2.2, label=label)
        bold[run_of(result.reference)] = (tokens, mean)
        ends.append((tokens[-1], mean[-1]))
        if result.parent and (above := bold.get(run_of(result.parent))) is not None:
            level = float(np.interp(result.tokens_start, *above))
            axes.plot([result.tokens_start, tokens[0]], [level, mean[0]], color=colour, linewidth=1.2, linestyle=":")
            axes.plot(result.tokens_start, level, "o", color=colour, markersize=6, markeredgecolor="white", zorder=5)
    # the first steps fall from ln(vocabulary) and would flatten all the rest
    lows = [value for result in drawn for value in (row["loss"] for row in result.curve)]
    top = float(np.percentile(lows, 97))
    axes.set_ylim(max(0.0, min(lows) - 0.05 * (top - min(lows))), top + 0.12 * (top - min(lows)))
    axes.legend(loc="upper right")
    return figure


def _draw_rates(results: Sequence[StageResult]) -> Figure | None:
    drawn = [result for result in runs(results) if result.curve]
    if not drawn:
        return None
    figure, axes = _axes("Learning rate", "tokens trained on", "learning rate (log scale)")
    for result in drawn:
        points = [(row["tokens"], row["learning_rate"]) for row in result.curve if row["learning_rate"] > 0]
        axes.plot(
            *zip(*points, strict=True), color=COLOURS.get(result.kind, "#666"), linewidth=2.2, label=result.run_label
        )
    axes.set_yscale("log")
    low = min(row["learning_rate"] for result in drawn for row in result.curve if row["learning_rate"] > 0)
    high = max(row["learning_rate"] for result in drawn for row in result.curve)
    axes.set_ylim(max(low, high * 1e-5) / 2, high * 2)  # a cosine's last steps are almost nothing
    axes.legend(loc="lower left")
    return figure


def _draw_preference_training(results: Sequence[StageResult]) -> Figure | None:
    dpo = last([result for result in results if result.curve], "dpo")
    if dpo is None or "accuracy" not in dpo.curve[0]:
        return None
    figure, axes = _axes("DPO: loss and accuracy on the training pairs", "optimizer steps", "")
    steps = [row["step"] for row in dpo.curve]
    for name, colour in (("loss", COLOURS["dpo"]), ("accuracy", COLOURS["sft"])):
        values = [row[name] for row in dpo.curve]
        axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(steps, smooth(values, max(2, len(values) // 20)), color=colour, linewidth=2.2, label=name)
    axes.axhline(math.log(2), color="#999", linewidth=1, linestyle=":", label="ln 2: no preference yet")
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _legend_above(axes, 3)
    return figure


def _draw_bits(results: Sequence[StageResult]) -> Figure | None:
    drawn = [result for result in results if result.evaluation and sources([result])]
    if not drawn:
        return None
    figure, axes = _axes("Held-out bits per byte by source", "", "bits per byte (lower is better)")
    names = sources(drawn)
    width = 0.82 / len(drawn)
    for i, result in enumerate(drawn):
        values = [bits(result, name) or 0.0 for name in names]
        places = np.arange(len(names)) - 0.41 + width * (i + 0.5)
        axes.bar(places, values, width * 0.94, color=_shade(drawn, i), label=_with_tokens(result))
    axes.set_xticks(
        range(len(names)),
        [_ascii(name) for name in names],
        rotation=30 if len(names) > 5 else 0,
        ha="right" if len(names) > 5 else "center",
    )
    axes.margins(y=0.04)
    _legend_above(axes, len(drawn))
    return figure


def _draw_accuracy(results: Sequence[StageResult]) -> Figure | None:
    drawn = [result for result in results if (result.evaluation or {}).get("preferences")]
    if not drawn:
        return None
    figure, axes = _axes("Held-out preference accuracy", "", "chosen preferred, share of pairs")
    places = list(range(len(drawn)))
    names = sorted({name for result in drawn for name in (result.evaluation or {})["preferences"]})
    for colour, name in zip(_SOURCE_COLOURS[4:] * 4, names, strict=False):
        points = [((result.evaluation or {})["preferences"].get(name) or {}).get("accuracy") for result in drawn]
        axes.plot(
            places,
            [np.nan if point is None else point for point in points],
            "o-",
            color=colour,
            alpha=0.75,
            linewidth=1.3,
            markersize=4,
            label=_ascii(name),
        )
    whole = [result.overall("preference_accuracy") for result in drawn]
    axes.plot(
        places,
        [np.nan if value is None else value for value in whole],
        "o-",
        color="#222",
        linewidth=2.6,
        label="all pairs",
        zorder=5,
    )
    for place, value in zip(places, whole, strict=True):
        if value is not None:
            axes.annotate(
                f"{value:.0%}",
                (place, value),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )
    axes.axhline(0.5, color="#999", linewidth=1, linestyle=":")
    axes.annotate(
        "chance",
        (places[-1] + 0.3, 0.5),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="#777",
    )
    axes.set_xticks(places, [_with_tokens(result).replace(" (", "\n(") for result in drawn])
    axes.set_xlim(-0.4, len(drawn) - 0.6)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.legend(loc="lower left", ncols=2)
    return figure


def _draw_mixture(results: Sequence[StageResult]) -> Figure | None:
    drawn = [result for result in runs(results) if result.asked and sum(result.delivered.values())]
    if not drawn:
        return None
    names = list(
        dict.fromkeys(name for result in drawn for name in sorted(result.asked, key=lambda n: -result.asked[n]))
    )
    figure = Figure(figsize=(_SIZE[0], 0.9 + sum(0.6 + 0.34 * len(result.asked) for result in drawn)))
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
        axes.barh(places - 0.2, given, 0.38, color=COLOURS.get(result.kind, "#666"), label="delivered")
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
        axes.set_yticks(places, [_ascii(name) for name in own])
        axes.set_title(f"Mixture of {result.run_label}, {total:,} samples")
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    panels[0].legend(loc="lower right")
    panels[-1].set_xlabel("share of samples")
    return figure


def _draw_mixture_over_tokens(results: Sequence[StageResult]) -> Figure | None:
    drawn = [(result, found) for result in runs(results) if (found := given_over_tokens(result)) is not None]
    if not drawn:
        return None
    names = list(dict.fromkeys(name for _, (_, _, asked, _) in drawn for name in asked))  # a source keeps its colour
    figure = Figure(figsize=(_SIZE[0], 4.1 * len(drawn)))
    panels = figure.subplots(2 * len(drawn), 1, squeeze=False, height_ratios=[2.2, 1] * len(drawn))[:, 0]
    for (result, (tokens, given, asked, off)), shares, errors in zip(drawn, panels[::2], panels[1::2], strict=True):
        colours = [_SOURCE_COLOURS[names.index(name) % len(_SOURCE_COLOURS)] for name in asked]
        labels = [f"{_ascii(name)} {share:.1%}" for name, share in asked.items()]
        shares.stackplot(tokens, given, labels=labels, colors=colours, step="pre", alpha=0.85)
        for edge in np.cumsum(list(asked.values()))[:-1]:
            shares.axhline(edge, color="#222", linewidth=1, linestyle="--")
        shares.set(xlim=(tokens[0], tokens[-1]), ylim=(0, 1), title=f"{result.run_label}: delivered, dashed: asked")
        shares.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        shares.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, reverse=True)
        for row, colour in zip(off, colours, strict=True):
            errors.plot(tokens, row, color=colour, linewidth=1.3)
        reach = max(1.0, float(np.abs(off).max()))
        errors.axhspan(-1, 1, color="#eef1f3", zorder=0)
        errors.set(xlim=(tokens[0], tokens[-1]), ylim=(-1.15 * reach, 1.15 * reach), ylabel="windows off")
        errors.set_xlabel("tokens trained on")
        for axes in (shares, errors):
            axes.xaxis.set_major_formatter(FuncFormatter(_tokens))
    return figure


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if x.startswith("tokens"):
        axes.xaxis.set_major_formatter(FuncFormatter(_tokens))
    return figure, axes


def _legend_above(axes: Axes, entries: int) -> None:
    axes.set_title(axes.get_title(loc="left"), pad=12 + 16 * math.ceil(entries / 3))
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, columnspacing=1.2, handlelength=1.2, borderaxespad=0.2
    )


def _shade(drawn: Sequence[StageResult], index: int) -> Any:
    """A stage's colour; several checkpoints of one kind get lighter the earlier they are."""
    alike = [i for i, result in enumerate(drawn) if result.kind == drawn[index].kind]
    lighter = 0.45 * (len(alike) - 1 - alike.index(index)) / max(1, len(alike) - 1)
    colour = np.array(matplotlib.colors.to_rgb(COLOURS.get(drawn[index].kind, "#666")))
    return tuple(colour + (1 - colour) * lighter)


def _with_tokens(result: StageResult) -> str:
    return f"{result.kind} ({human(result.tokens_end)})"


def _ascii(name: str) -> str:
    """A label that the plot's font can draw; matplotlib's own has no Chinese."""
    return name if name.isascii() else name.encode("ascii", "backslashreplace").decode()


def _tokens(value: float, _: object = None) -> str:
    return human(float(value)) if value else "0"
