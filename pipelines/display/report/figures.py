"""The report's figures, drawn without a display and without pyplot's global state.

Enters: results. Leaves: every figure that they have numbers for, by name: the curves of training, one figure for each
evaluation task that has one, the mixtures.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from pipelines.display.report.curves import draw_loss, draw_preference_training, draw_rates
from pipelines.display.report.drawing import STYLE
from pipelines.display.report.mixtures import draw_mixture, draw_mixture_over_tokens
from pipelines.display.report.results import StageResult, tasks_measured
from pipelines.display.report.scores import draw_scores

_CAPTIONS = {
    "loss": "Faint: each step. Bold: smoothed. A dot marks where a branch leaves its parent; the trunk goes on at its "
    "stable rate. Losses of different mixtures are not comparable: held-out bits per byte are.",
    "learning_rate": "Warmup, stable, then each branch from the rate it inherits. The schedule is a pure function of "
    "the step.",
    "mixture": "What the plan asked for and what the loader counted as delivered.",
    "mixture_over_tokens": "Above: each source's share of the tokens between two logged steps, against the share "
    "asked. Below: how many windows each source is ahead or behind since the stage began; the grey band is one window.",
}


def figures(results: Sequence[StageResult]) -> dict[str, Figure]:
    """Every figure that the results have numbers for, by name."""
    with matplotlib.rc_context(STYLE):
        charts = {name: task["chart"] for name, task in tasks_measured(results).items() if task["chart"]}
        drawn = {
            "loss": draw_loss(results),
            "learning_rate": draw_rates(results),
            "preference_training": draw_preference_training(results),
            **{chart["name"]: draw_scores(results, task, chart) for task, chart in charts.items()},
            "mixture": draw_mixture(results),
            "mixture_over_tokens": draw_mixture_over_tokens(results),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def captions(results: Sequence[StageResult]) -> dict[str, str]:
    """What stands below each figure, by its name."""
    charts = [task["chart"] for task in tasks_measured(results).values() if task["chart"]]
    return _CAPTIONS | {chart["name"]: chart["caption"] for chart in charts}
