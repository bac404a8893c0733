"""The pictures of study `wsd`: losses at every horizon, arms compared, lengths of decays, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.train.studies.bootstrap import Bootstrapped
from pipelines.train.studies.panels import colour, doublings, marker, panels, points_with_intervals
from pipelines.train.studies.wsd_reading import Arm, Cells, arm_of, arms_of
from pipelines.train.trials.result import TrialResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_horizons(cells: Cells, said: Bootstrapped, base: Arm) -> Figure:
    """Loss over tokens, a line for each kind of schedule with one decay."""
    figure, (axes,) = panels([""], "tokens until the end", "bits per byte, held out")
    shown = [arm for arm in arms_of(cells) if arm.stretch == 1 and (arm.kind != "wsd" or arm == base)]
    for number, arm in enumerate(shown):
        points = [(horizon, f"loss {arm} @{horizon}") for horizon in cells]
        points = [(horizon, name) for horizon, name in points if name in said.values]
        axes.plot(
            [horizon for horizon, _ in points], [said.values[name] for _, name in points], color=colour(number),
            marker=marker(number), linestyle="-" if arm == base else ":", label=str(arm),
        )  # fmt: skip
    doublings(axes, list(cells))
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    return figure


def draw_arms(cells: Cells, said: Bootstrapped, base: Arm, equal_percent: float) -> Figure:
    """Percent above the base over all horizons, a row for each arm."""
    figure, (axes,) = panels([""], f"percent of loss above {base}", "")
    shown = [arm for arm in arms_of(cells) if str(arm) in said.values][::-1]
    axes.axvspan(-equal_percent, equal_percent, color="#eeeeee", zorder=0)
    axes.axvline(0, color="#444444", linewidth=1)
    for place, arm in enumerate(shown):
        value, estimate = said.values[str(arm)], said.estimates.get(str(arm))
        bars = [[value - estimate.low], [estimate.high - value]] if estimate is not None else None
        axes.errorbar([value], [place], xerr=bars, color=colour(0), marker="o", capsize=3, linestyle="none")
    axes.set_yticks(range(len(shown)), [str(arm) for arm in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    figure.set_figheight(max(figure.get_figheight(), 0.32 * len(shown) + 1.2))
    return figure


def draw_shares(cells: Cells, said: Bootstrapped, base: Arm) -> Figure:
    """Percent above the base over the part of the steps that decays, a line for each horizon."""
    from pipelines.display.progress import human

    figure, (axes,) = panels([""], "decay, percent of the steps", f"percent of loss above {100 * base.share:g} %")
    arms = sorted(
        (arm for arm in arms_of(cells) if arm.kind == "wsd" and arm.shape == base.shape and arm != base),
        key=lambda arm: arm.share,
    )
    for number, horizon in enumerate(cells):
        known = [arm for arm in arms if f"{arm} @{horizon}" in said.estimates]
        # a little apart, so that no bar hides another
        apart = 1.03 ** (number - (len(cells) - 1) / 2)
        estimates = [said.estimates[f"{arm} @{horizon}"] for arm in known]
        if known:
            points_with_intervals(
                axes, [100 * arm.share * apart for arm in known], estimates, number, f"{human(horizon)} tokens"
            )
        line = sorted(
            [(100 * base.share, 0.0), *((100 * arm.share, said.values[f"{arm} @{horizon}"]) for arm in known)]
        )
        axes.plot([x * apart for x, _ in line], [y for _, y in line], color=colour(number), linewidth=1.2)
    axes.axhline(0, color="#444444", linewidth=1)
    doublings(axes, [100 * arm.share for arm in (*arms, base)])
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    return figure


def draw_training(trials: Sequence[TrialResult], base: Arm) -> Figure:
    """Training loss over tokens of the trunk, the decays of the base and the cosines, of the first seed."""
    from pipelines.display.report.drawing import IN_TOKENS, smooth

    figure, (axes,) = panels([""], "tokens trained on", "training loss, nats per token")
    first = min(trial.seed for trial in trials if trial.curve)
    kinds = {"constant": "trunk, no decay", "cosine": "cosine, T = S", "wsd": str(base)}
    told = set()
    shown = [trial for trial in trials if trial.seed == first and trial.curve]
    for trial in sorted(shown, key=lambda trial: -trial.tokens):
        arm = arm_of(trial)
        if (
            arm.kind not in kinds
            or (arm.kind == "wsd" and arm != base)
            or (arm.kind == "constant" and arm.kind in told)
        ):
            continue
        rows = [row for row in trial.curve if "loss" in row]
        loss = smooth([row["loss"] for row in rows], max(2, len(rows) // 60))
        number = list(kinds).index(arm.kind)
        # of a decay: from where it leaves the trunk
        start = int(len(rows) * (1 - arm.share)) if arm.kind == "wsd" else 0
        axes.plot(
            [row["tokens"] for row in rows][start:], loss[start:], color=colour(number), linewidth=1.5,
            label=None if arm.kind in told else kinds[arm.kind],
        )  # fmt: skip
        axes.plot([rows[-1]["tokens"]], [loss[-1]], color=colour(number), marker=marker(number))
        told.add(arm.kind)
    ends = [row["loss"] for trial in shown for row in list(trial.curve)[len(trial.curve) // 4 :] if "loss" in row]
    if ends:
        axes.set_ylim(min(ends) * 0.98, sorted(ends)[int(0.98 * (len(ends) - 1))] * 1.02)
    axes.xaxis.set_major_formatter(IN_TOKENS)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    return figure
