"""The best learning rate against the width, with muP's scalings and without.

Enters: trials over widths, peak learning rates, both settings of muP and seeds. Leaves: the optimum of each width, a
parabola in the logarithm of the rate; its drift per doubling of the width; what the rate of the smallest width costs at
the largest; a proposal for the big run. Seeds of a width are drawn together, so a learning rate is compared with
another on equal weights and data.

Published: the optimum stays at 0.01 from 0.04B to 0.5B (arXiv 2404.06395 §3.3, Fig. 3). Without the scalings Adam's
best rate falls like 1/width (Yang et al., arXiv 2203.03466).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.config import Positive, config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.train.studies.bootstrap import WHERE, Bootstrapped, bootstrap, transformed, within
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.evidence import folders_of, measured_trials, notes_about
from pipelines.train.studies.lr_pictures import draw_loss, draw_optimum
from pipelines.train.studies.lr_reading import (
    OFF,
    ON,
    Cell,
    Cells,
    arms_of,
    arms_of_trial,
    cells_of,
    common_base,
    mean_losses,
    numbers,
)
from pipelines.train.studies.outcome import Finding, Outcome, Plot, Proposal, verdict_of
from pipelines.train.studies.panels import styled
from pipelines.train.studies.parabola import parabola
from pipelines.train.trials.result import TrialResult

PUBLISHED_LR = 0.01
FEWEST_RATES = 4


@config_class
class LrSettings(StudySettings):
    """How the optimum is read, and how much of a drift counts as none."""

    kind: Literal["lr"] = "lr"
    reach_octaves: Positive = 2.0  # points so far from the lowest take part in the parabola
    steady_octaves: Positive = 0.5  # per doubling of the width: a drift within ± this is none


def check(settings: LrSettings, trials: Sequence[TrialResult]) -> None:
    """Raises: ConfigError where no optimum, or no drift, could be told."""
    rates: dict[Cell, set[float]] = {}
    for trial in trials:
        for arm in arms_of_trial(trial, common_base(trials)):
            rates.setdefault((arm, trial.model.d_model), set()).add(trial.peak_lr)
    few = {cell: len(own) for cell, own in rates.items() if len(own) < FEWEST_RATES}
    if few:
        (arm, width), count = next(iter(few.items()))
        raise ConfigError(
            f"it has {count} learning rates at width {width} ({arm}); a parabola with its minimum inside takes "
            f"{FEWEST_RATES}: give schedule.peak_lr more points"
        )
    widths = {width for _, width in rates}
    if len(widths) < 2:
        raise ConfigError(
            f"it has the width {', '.join(map(str, sorted(widths))) or 'of no trial'} alone; a drift takes two: "
            "vary model.d_model (with model.heads, model.kv_heads, model.d_ff)"
        )


def analyse(settings: LrSettings, results: Sequence[TrialResult]) -> Outcome:
    """The optimum of each width and its drift; see the module."""
    trials = measured_trials(results)
    cells = cells_of(trials)
    said = bootstrap(
        lambda sample: numbers(sample, settings.reach_octaves),
        cells,
        level=settings.level,
        samples=settings.bootstrap,
        behind=lambda name: _behind(name, cells),
    )
    notes = [*notes_about(results), *_notes(cells, said, settings)]
    laws = {f"lr, {arm}": law for arm in arms_of(cells) if (law := _law(arm, cells, said, settings)) is not None}
    return Outcome(
        laws=laws,
        findings=_findings(settings, trials, cells, said),
        plots=_plots(settings, cells, said) if cells else (),
        proposals=_proposals(settings, trials, cells, said),
        tables={"The best learning rate of each width": _table(cells, said)} if cells else {},
        notes=tuple(notes),
    )


def _behind(name: str, cells: Cells) -> list[Cell]:
    own = [cell for cell in cells if name == f"optimum {cell[0]} {cell[1]}"]
    return own or [cell for cell in cells if name.endswith(f" {cell[0]}")]


def _seeds(cells: Cells, arm: str) -> int:
    """The fewest that a width has."""
    return min((len(seeds) for (own, _), seeds in cells.items() if own == arm), default=0)


def _runs(trials: Sequence[TrialResult], arm: str) -> tuple[str, ...]:
    base = common_base(trials)
    return folders_of([trial for trial in trials if arm in arms_of_trial(trial, base)])


def _notes(cells: Cells, said: Bootstrapped, settings: LrSettings) -> list[str]:
    notes = []
    for (arm, width), seeds in cells.items():
        means = mean_losses(seeds)
        if f"optimum {arm} {width}" not in said.values and means:
            best = min(means, key=lambda rate: means[rate])
            where = "at the end of" if best in (min(means), max(means)) else "within"
            notes.append(
                f"{arm}, width {width}: the lowest loss is at {best:.3g}, {where} the learning rates that every seed "
                f"ended at ({min(means):.3g} to {max(means):.3g}), and no parabola has its minimum among them: no "
                "optimum is told."
            )
    for arm in (ON, OFF):
        if f"drift {arm}" not in said.values:
            notes.append(f"{arm}: fewer than two widths have an optimum so far, so no drift is told.")
    return notes


def _law(arm: str, cells: Cells, said: Bootstrapped, settings: LrSettings) -> FittedLaw | None:
    """log2(optimum) over log2(width) as a power law of the width."""
    drift, level = f"drift {arm}", f"level {arm}"
    if drift not in said.estimates or level not in said.estimates:
        return None
    widths = [width for (own, width) in cells if own == arm and f"optimum {arm} {width}" in said.values]
    residuals = [
        said.values[f"optimum {arm} {width}"] - said.values[level] - said.values[drift] * math.log2(width)
        for width in widths
    ]
    warnings = ("two widths: the line goes through both, and how straight it is cannot be told",)
    return FittedLaw(
        law="power",
        formula="peak_lr = a·width^b",
        parameters={
            "a": transformed(said.estimates[level], lambda value: 2.0**value),
            "b": said.estimates[drift],
        },
        level=settings.level,
        ranges={"x": (float(min(widths)), float(max(widths)))},
        points=len(widths),
        runs=sum(len(seeds) for (own, _), seeds in cells.items() if own == arm),
        samples={"a": [2.0**value for value in said.samples[level]], "b": list(said.samples[drift])},
        residual_spread=float(np.std(residuals)) * math.log(2),
        warnings=warnings if len(widths) == 2 else (),
        unit="peak learning rate",
    )


def _findings(
    settings: LrSettings, trials: Sequence[TrialResult], cells: Cells, said: Bootstrapped
) -> tuple[Finding, ...]:
    findings = []
    steady = settings.steady_octaves
    quantity = "drift of the best learning rate per doubling of the width, in powers of two"
    if (on := said.estimates.get(f"drift {ON}")) is not None:
        agrees = within(on, -steady, steady)
        findings.append(
            Finding(
                claim="with muP the best learning rate does not move with the width",
                published="0.01 at 0.04B, 0.1B, 0.3B and 0.5B (arXiv 2404.06395 §3.3, Fig. 3)",
                quantity=f"{quantity}, muP on",
                estimate=on,
                verdict=verdict_of(agrees, _seeds(cells, ON)),
                reason=f"the interval {WHERE[agrees]} ±{steady:g}, which counts as no drift",
                seeds=_seeds(cells, ON),
                runs=_runs(trials, ON),
            )
        )
    if (off := said.estimates.get(f"drift {OFF}")) is not None:
        falls = True if off.high < 0 else False if off.low > -steady else None
        said_of_it = {True: "lies below 0", False: f"lies above -{steady:g}", None: "does not tell a fall from none"}
        findings.append(
            Finding(
                claim="without muP the best learning rate falls as the width grows",
                published="Adam's falls like 1/width: -1 per doubling (Yang et al., arXiv 2203.03466)",
                quantity=f"{quantity}, muP off",
                estimate=off,
                verdict=verdict_of(falls, _seeds(cells, OFF)),
                reason=f"the interval {said_of_it[falls]}",
                seeds=_seeds(cells, OFF),
                runs=_runs(trials, OFF),
            )
        )
    if (best := _best(cells, settings)) is not None:
        agrees = within(best, PUBLISHED_LR / 2, PUBLISHED_LR * 2)
        findings.append(
            Finding(
                claim="the best peak learning rate is 0.01",
                published="0.01 (arXiv 2404.06395 §3.3, Fig. 3)",
                quantity="the best peak learning rate with muP, geometric mean over the widths",
                estimate=best,
                verdict=verdict_of(agrees, _seeds(cells, ON)),
                reason=f"the interval {WHERE[agrees]} a factor of two around 0.01; the published runs are longer, and "
                "their batches larger",
                seeds=_seeds(cells, ON),
                runs=_runs(trials, ON),
            )
        )
    return tuple(findings)


def _best(cells: Cells, settings: LrSettings) -> Estimate | None:
    """The optimum with muP over all widths that have one."""
    own = {
        cell: seeds
        for cell, seeds in cells.items()
        if cell[0] == ON and parabola(mean_losses(seeds), settings.reach_octaves) is not None
    }
    if not own:
        return None

    def mean_optimum(sample: Cells) -> dict[str, float]:
        curves = [parabola(mean_losses(seeds), settings.reach_octaves) for seeds in sample.values()]
        rates = [math.log2(curve.at) for curve in curves if curve is not None]
        return {"best": float(np.mean(rates))} if len(rates) == len(curves) else {}

    best = bootstrap(mean_optimum, own, level=settings.level, samples=settings.bootstrap).estimates.get("best")
    return None if best is None else transformed(best, lambda value: 2.0**value)


def _proposals(
    settings: LrSettings, trials: Sequence[TrialResult], cells: Cells, said: Bootstrapped
) -> tuple[Proposal, ...]:
    best, drift = _best(cells, settings), said.estimates.get(f"drift {ON}")
    if best is None:
        return ()
    moved = drift is not None and (drift.low > settings.steady_octaves or drift.high < -settings.steady_octaves)
    about = f"drift per doubling of the width {drift} powers of two" if drift is not None else "drift not told"
    return (
        Proposal(
            key="schedule.peak_lr",
            value=None if moved else float(f"{best.value:.2g}"),
            estimate=best,
            law=f"lr, {ON}" if f"level {ON}" in said.estimates else "",
            sentence=f"least loss with muP at {best}; {about}",
            runs=_runs(trials, ON),
        ),
    )


def _table(cells: Cells, said: Bootstrapped) -> tuple[tuple[str, ...], ...]:
    rows = [("", "width", "seeds", "best learning rate", "lowest mean loss, bits per byte")]
    for (arm, width), seeds in cells.items():
        estimate, means = said.estimates.get(f"optimum {arm} {width}"), mean_losses(seeds)
        optimum = "cannot be told" if estimate is None else str(transformed(estimate, lambda value: 2.0**value))
        lowest = f"{min(means.values()):.4f}" if means else ""
        rows.append((arm, str(width), str(len(seeds)), optimum, lowest))
    for arm in arms_of(cells):
        for name, unit in ((f"drift {arm}", "powers of two per doubling of the width"), (f"price {arm}", "% of loss")):
            if name in said.estimates:
                words = "drift" if name.startswith("drift") else "price of the smallest width's rate at the largest"
                rows.append((arm, words, "", f"{said.estimates[name]} {unit}", ""))
    return tuple(rows)


def _plots(settings: LrSettings, cells: Cells, said: Bootstrapped) -> tuple[Plot, ...]:
    drifts = "; ".join(
        f"{arm}: {said.estimates[f'drift {arm}']}" for arm in arms_of(cells) if f"drift {arm}" in said.estimates
    )
    loss = Plot(
        name="lr-loss",
        title="Loss over the peak learning rate",
        sentence="Each curve is a width, mean of its seeds; with muP the minima (crosses) should lie above each other, "
        "without it they should move to the left as the width grows.",
        draw=styled(draw_loss, cells, settings.reach_octaves),
    )
    optimum = Plot(
        name="lr-optimum",
        title="The best learning rate over the width",
        sentence="A flat line means that the rate found at a small width is right for a large one"
        + (f"; drift in powers of two per doubling, {drifts}." if drifts else "; no drift is told yet."),
        draw=styled(draw_optimum, cells, said),
    )
    return (loss, optimum)


LR = Study(
    Settings=LrSettings,
    title="The best learning rate against the width",
    question="Does the learning rate that is best for a small model stay best for a wider one, with muP and without?",
    source="arXiv 2404.06395 §3.3",
    check=check,
    analyse=analyse,
)
