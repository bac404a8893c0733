"""Study `scaling`: how the loss falls with parameters and tokens, and how a compute budget is best split.

Enters: trials of several sizes and lengths, each decayed at its end (one trunk a size, a decay off it at each length).
Leaves: for every held-out set and for their mean the law L(N,D) = C_N·N^-α + C_D·D^-β + L0 in bits per byte; tokens a
parameter at which a compute of C = 6·N·D gives the least loss, and how that moves with C; and a test of the law: it is
fitted without the largest size and predicts it. What is said of them is in `scaling_findings.py`.

Source: MiniCPM, arXiv 2404.06395 §4.5: six sizes, decays at 10N to 60N tokens, five held-out sets, loss per byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.fitting import fit, predict
from pipelines.laws.law import FittedLaw
from pipelines.train.studies import scaling_plots
from pipelines.train.studies.contract import Study
from pipelines.train.studies.evidence import common_sets, end_losses, measured_trials, notes_about, notes_of_laws
from pipelines.train.studies.outcome import Outcome, Plot
from pipelines.train.studies.panels import styled
from pipelines.train.studies.scaling_findings import (
    LAW,
    MEAN,
    Miss,
    Reading,
    ScalingSettings,
    findings,
    proposal,
    tables,
)
from pipelines.train.trials.result import TrialResult

_FEWEST_SIZES, _FEWEST_LENGTHS = 3, 3


@dataclass(frozen=True)
class _Points:
    """Columns of the law, and of each point the run whose luck it shares."""

    params: Sequence[float]
    tokens: Sequence[float]
    losses: Mapping[str, Sequence[float]]  # held-out set, or MEAN -> of each trial
    trunks: Sequence[str]

    def fitted(self, name: str, settings: ScalingSettings, below: float = np.inf) -> FittedLaw:
        """The law of a held-out set. Args: below, of which parameters. Raises: ConfigError where none can be fitted."""
        places = [place for place, n in enumerate(self.params) if n < below]
        columns = {"params": self.params, "tokens": self.tokens, "loss": self.losses[name]}
        return fit(
            LAW, {column: [values[place] for place in places] for column, values in columns.items()},
            [self.trunks[place] for place in places],
            unit="bits per byte", level=settings.level, bootstrap=settings.bootstrap,
        )  # fmt: skip


def check(settings: ScalingSettings, results: Sequence[TrialResult]) -> None:
    """Refuse sizes and lengths that no law goes through. Raises: ConfigError."""
    sizes = sorted({result.parameters for result in results})
    lengths = {size: {result.tokens for result in results if result.parameters == size} for size in sizes}
    if len(sizes) < _FEWEST_SIZES:
        raise ConfigError(
            f"a scaling study has models of {' and '.join(f'{size:,}' for size in sizes) or 'no'} parameters; its law "
            f"needs {_FEWEST_SIZES} sizes, and one more to leave the largest out: vary model.d_model and model.layers"
        )
    if short := [size for size in sizes if len(lengths[size]) < _FEWEST_LENGTHS]:
        raise ConfigError(
            f"the model of {short[0]:,} parameters is trained for {len(lengths[short[0]])} different length(s); the "
            f"law needs {_FEWEST_LENGTHS} of each size: vary tokens or tokens_per_parameter"
        )
    if flat := [result.name for result in results if _undecayed(result)]:
        raise ConfigError(
            f"{flat[0]} ends at its stable learning rate, where the loss is not what a decay reaches: set "
            "schedule.decay and schedule.decay_fraction in every trial of a scaling study"
        )


def analyse(settings: ScalingSettings, results: Sequence[TrialResult]) -> Outcome:
    """Laws, compute-optimal splits, and the largest size predicted."""
    measures = (settings.measure,)
    trials = measured_trials(results, measures)
    notes = list(notes_about(results, measures))
    sets = common_sets(trials, measures)
    if not sets:
        return Outcome(notes=(*notes, "No trial has been measured yet."))
    points = _points(trials, sets, measures)
    laws: dict[str, FittedLaw] = {}
    for name in (MEAN, *sets):
        try:
            laws[name] = points.fitted(name, settings)
        except ConfigError as error:
            notes.append(f"No law of {'the mean' if name == MEAN else name} yet: {error}.")
    if MEAN not in laws:
        return Outcome(notes=tuple(notes))
    notes += notes_of_laws({"The mean" if name == MEAN else name: law for name, law in laws.items()})
    misses, without = _largest_predicted(points, settings, notes)
    flops = [6 * n * d for n, d in zip(points.params, points.tokens, strict=True)]
    reading = Reading(trials=trials, flops=flops, laws=laws, misses=misses, settings=settings)
    return Outcome(
        laws={MEAN: laws[MEAN], **{f"{MEAN} {name}": law for name, law in laws.items() if name != MEAN}},
        findings=findings(reading),
        plots=_plots(points, flops, laws, without, settings.level),
        proposals=(proposal(reading),),
        tables=tables(reading),
        notes=tuple(notes),
    )


def _points(trials: Sequence[TrialResult], sets: Sequence[str], measures: tuple[str, ...]) -> _Points:
    rows = [end_losses(trial, measures) for trial in trials]
    losses = {name: [row[name] for row in rows] for name in sets}
    losses[MEAN] = [sum(row[name] for name in sets) / len(sets) for row in rows]
    return _Points(
        params=[float(trial.parameters) for trial in trials],
        tokens=[float(trial.tokens) for trial in trials],
        losses=losses,
        # the decays off one trunk share its luck
        trunks=[f"{trial.parameters} parameters, seed {trial.seed}" for trial in trials],
    )


def _undecayed(result: TrialResult) -> bool:
    schedule = result.runs[-1].schedule
    return schedule.kind == "constant" or (schedule.kind == "wsd" and schedule.decay == "none")


def _largest_predicted(
    points: _Points, settings: ScalingSettings, notes: list[str]
) -> tuple[tuple[Miss, ...], FittedLaw | None]:
    """The largest size at each of its lengths; none, and a note, where the rest is too little for a law."""
    largest = max(points.params)
    try:
        law = points.fitted(MEAN, settings, below=largest)
    except ConfigError as error:
        notes.append(f"The largest size cannot be predicted from the others: {error}.")
        return (), None
    measured: dict[float, list[float]] = {}
    for n, d, loss in zip(points.params, points.tokens, points.losses[MEAN], strict=True):
        if n == largest:
            measured.setdefault(d, []).append(loss)
    misses = (
        Miss(largest, tokens, sum(losses) / len(losses), predict(law, {"params": largest, "tokens": tokens}))
        for tokens, losses in sorted(measured.items())
    )
    return tuple(misses), law


def _plots(
    points: _Points, flops: Sequence[float], laws: Mapping[str, FittedLaw], without: FittedLaw | None, level: float
) -> tuple[Plot, ...]:  # fmt: skip
    return (
        Plot(
            name="scaling_loss",
            title="Loss by size and tokens, and the law through it",
            sentence="A dot is a decayed model (mean over seeds; the bar reaches from the least to the most). Lines "
            "are the law of all sizes; the dashed line is the law of the smaller sizes, which never saw the largest.",
            draw=styled(
                scaling_plots.draw_losses, points.params, points.tokens, points.losses[MEAN], laws[MEAN], without
            ),
        ),
        Plot(
            name="scaling_optimum",
            title="Tokens a parameter that are best for a compute budget",
            sentence="The line and its band are the law's reading; compute was tried in the grey stripe alone. Far "
            "from it the band opens, so the published point (its bar: five held-out sets) is neither met nor missed.",
            draw=styled(scaling_plots.draw_optimum, laws[MEAN], (min(flops), max(flops))),
        ),
        Plot(
            name="scaling_exponents",
            title="How fast the loss falls, by held-out set",
            sentence="Right of the dotted line, the loss falls faster with parameters (α) or tokens (β) than "
            f"published. Bars are {level:.0%} intervals.",
            draw=styled(scaling_plots.draw_exponents, laws, MEAN),
        ),
    )


SCALING = Study(
    Settings=ScalingSettings,
    title="Scaling: loss by size and tokens",
    question="How does the loss fall with parameters and tokens, and how is a compute budget best split between them?",
    source="arXiv 2404.06395 §4.5",
    check=check,
    analyse=analyse,
)
