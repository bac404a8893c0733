"""WSD against a cosine of every horizon; how long and in which shape to decay; and what else could follow the trunk.

Enters: trials over schedules, horizons and seeds, of one model. Leaves: the loss of each schedule beside that of WSD
with the published decay (10 % of the steps), in percent. Each seed is compared with itself, as seeds differ more than
schedules do. What the arms are is in `wsd_reading.py`, what is said to each claim in `wsd_findings.py`.

Published: MiniCPM (arXiv 2404.06395 §4.1 to §4.3): WSD matches or beats Cosine(T = S), which is the best cosine; 10 %
of decay suffices, 2.5 % does not. Beyond it: 1-sqrt (Hägele et al., arXiv 2405.18392), WSD-S (Wen et al., arXiv
2410.05192), averages of the trunk instead of a decay (WSM, arXiv 2507.17634).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pipelines.config import Positive, Range, config_class
from pipelines.errors import ConfigError
from pipelines.train.studies.bootstrap import Bootstrapped, bootstrap
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.evidence import folders_of, measured_trials, notes_about
from pipelines.train.studies.outcome import Outcome, Plot, Proposal
from pipelines.train.studies.panels import styled
from pipelines.train.studies.wsd_findings import findings_of
from pipelines.train.studies.wsd_pictures import draw_arms, draw_horizons, draw_shares, draw_training
from pipelines.train.studies.wsd_reading import (
    Arm,
    Cells,
    arm_of,
    arms_of,
    cells_of,
    numbers,
    one_size,
    seeds_of,
)
from pipelines.train.trials.result import TrialResult


@config_class
class WsdSettings(StudySettings):
    """What WSD is compared as, and which differences count as none."""

    kind: Literal["wsd"] = "wsd"
    shape: str = "linear"  # of the decay that all others are compared with
    share: Annotated[float, Range(above=0, below=1)] = 0.1  # of the steps
    equal_percent: Positive = 0.2  # of the loss: arms within ± this are as good as each other

    @property
    def base(self) -> Arm:
        """What the other arms are compared with."""
        return Arm("wsd", self.shape, self.share)


def check(settings: WsdSettings, trials: Sequence[TrialResult]) -> None:
    """Raises: ConfigError where WSD could be compared with no other schedule at any horizon."""
    arms: dict[int, set[Arm]] = {}
    for trial in trials:
        arms.setdefault(trial.tokens, set()).add(arm_of(trial))
    if not any(settings.base in own and len(own) > 1 for own in arms.values()):
        there = sorted({str(arm) for own in arms.values() for arm in own})
        raise ConfigError(
            f"it compares all schedules with {settings.base} at equal tokens, and no horizon has it beside "
            f"another; there are {', '.join(there) or 'no trials'}: add schedule.decay={settings.shape} with "
            f"schedule.decay_fraction={settings.share:g}, or set study.shape and study.share to a decay that is there"
        )
    sizes = {trial.parameters for trial in trials}
    if len(sizes) > 1:
        raise ConfigError(
            f"it has models of {', '.join(f'{size:,}' for size in sorted(sizes))} parameters; schedules are "
            "compared on one: vary no key of model"
        )


def analyse(settings: WsdSettings, results: Sequence[TrialResult]) -> Outcome:
    """Every arm beside the base, at each horizon and over all; see the module."""
    trials = one_size(measured_trials(results))
    seeds = seeds_of(trials)
    cells = cells_of(seeds)
    said = bootstrap(
        lambda sample: numbers(cells_of(sample.get("seeds", ())), settings.base),
        {"seeds": seeds},
        level=settings.level,
        samples=settings.bootstrap,
    )
    tables = {}
    if cells:
        tables["Bits per byte at each horizon"] = _losses_table(cells, said)
        tables[f"Percent above {settings.base}"] = _differences_table(settings, cells, said)
    return Outcome(
        findings=findings_of(settings.base, settings.equal_percent, trials, cells, said),
        plots=_plots(settings, trials, cells, said) if cells else (),
        proposals=_proposals(settings, trials, cells, said),
        tables=tables,
        notes=(*notes_about(results), *_notes(settings, cells, said)),
    )


def _notes(settings: WsdSettings, cells: Cells, said: Bootstrapped) -> list[str]:
    arms = arms_of(cells)
    notes = []
    if settings.base not in arms:
        notes.append(f"No trial of {settings.base} has ended, so nothing can be compared yet.")
    alone = [str(arm) for arm in arms if str(arm) in said.values and str(arm) not in said.estimates]
    if alone:
        notes.append(f"One seed alone, so without an interval: {', '.join(alone)}.")
    absent = [words for kind, words in _ARMS.items() if not any(arm.kind == kind for arm in arms)]
    if absent:
        notes.append(f"Not among the trials: {', '.join(absent)}.")
    return notes


_ARMS = {
    "cosine": "a cosine",
    "constant": "the trunk without a decay",
    "wsd_s": "WSD-S (schedule.earlier_decays)",
    "average": "averages of the trunk (measure averages)",
}


def _proposals(
    settings: WsdSettings, trials: Sequence[TrialResult], cells: Cells, said: Bootstrapped
) -> tuple[Proposal, ...]:
    base = settings.base
    decays = [arm for arm in arms_of(cells) if arm.kind == "wsd" and (arm == base or str(arm) in said.estimates)]
    if base not in decays or len(decays) < 2:
        return ()
    above = {arm: 0.0 if arm == base else said.values[str(arm)] for arm in decays}
    proposals = []
    shares = sorted((arm for arm in decays if arm.shape == settings.shape), key=lambda arm: arm.share)
    if len(shares) > 1:
        least = min(above[arm] for arm in shares)
        chosen = next(arm for arm in shares if above[arm] <= least + settings.equal_percent)
        beside = "; ".join(f"{arm.share:.3g}: {above[arm]:+.2f} %" for arm in shares)
        proposals.append(
            Proposal(
                key="decay_fraction",
                value=chosen.share,
                estimate=said.estimates.get(str(chosen)),
                law="",
                sentence=f"the shortest decay within {settings.equal_percent:g} % of the best loss ({beside})",
                runs=_runs(trials, shares),
            )
        )
    shapes = [arm for arm in decays if arm.share == settings.share]
    if len(shapes) > 1:
        clear = [arm for arm in shapes if arm != base and said.estimates[str(arm)].high < 0]
        chosen = min(clear, key=lambda arm: above[arm]) if clear else base
        beside = "; ".join(f"{arm.shape}: {above[arm]:+.2f} %" for arm in shapes)
        proposals.append(
            Proposal(
                key="schedule.decay",
                value=chosen.shape,
                estimate=said.estimates.get(str(chosen)),
                law="",
                sentence=f"{'the best shape' if clear else f'no shape is clearly better than {base.shape}'} ({beside})",
                runs=_runs(trials, shapes),
            )
        )
    return tuple(proposals)


def _runs(trials: Sequence[TrialResult], arms: Sequence[Arm]) -> tuple[str, ...]:
    return folders_of([trial for trial in trials if arm_of(trial) in arms])


def _losses_table(cells: Cells, said: Bootstrapped) -> tuple[tuple[str, ...], ...]:
    rows: list[tuple[str, ...]] = [("schedule", *(f"{horizon:,} tokens" for horizon in cells))]
    for arm in arms_of(cells):
        names = [f"loss {arm} @{horizon}" for horizon in cells]
        rows.append((str(arm), *(f"{said.values[name]:.4f}" if name in said.values else "" for name in names)))
    return tuple(rows)


def _differences_table(settings: WsdSettings, cells: Cells, said: Bootstrapped) -> tuple[tuple[str, ...], ...]:
    rows: list[tuple[str, ...]] = [("schedule", *(f"{horizon:,} tokens" for horizon in cells), "all")]
    for arm in arms_of(cells):
        names = [*(f"{arm} @{horizon}" for horizon in cells), str(arm)]
        if arm != settings.base:
            rows.append((str(arm), *(str(said.estimates[name]) if name in said.estimates else "" for name in names)))
    return tuple(rows)


def _plots(settings: WsdSettings, trials: Sequence[TrialResult], cells: Cells, said: Bootstrapped) -> tuple[Plot, ...]:
    plots = [
        Plot(
            name="wsd-horizons",
            title="Loss at every horizon",
            sentence="Each point is a finished schedule, mean of its seeds: the decays off one trunk (WSD) should "
            "lie on or below the cosines, each of which is a run of its own.",
            draw=styled(draw_horizons, cells, said, settings.base),
        ),
        Plot(
            name="wsd-arms",
            title="Schedules compared",
            sentence=f"To the left of 0 is better than {settings.base}; bars are intervals over seeds, each seed "
            f"compared with itself; within the grey band ({settings.equal_percent:g} %) schedules count as equal.",
            draw=styled(draw_arms, cells, said, settings.base, settings.equal_percent),
        ),
    ]
    if len({arm.share for arm in arms_of(cells) if arm.kind == "wsd" and arm.shape == settings.shape}) > 1:
        plots.append(
            Plot(
                name="wsd-shares",
                title="How long to decay",
                sentence="Each line is a horizon: where it is flat, a longer decay brings no more.",
                draw=styled(draw_shares, cells, said, settings.base),
            )
        )
    if any(trial.curve for trial in trials):
        plots.append(
            Plot(
                name="wsd-training",
                title="Training loss of one seed",
                sentence="The trunk stays high at its constant learning rate; each decay off it falls steeply to the "
                "cosine that was made for that horizon.",
                draw=styled(draw_training, trials, settings.base),
            )
        )
    return tuple(plots)


WSD = Study(
    Settings=WsdSettings,
    title="Warmup, stable, decay against a cosine of every horizon",
    question="Does a decay off one trunk match a cosine of every horizon, and how long and in which shape must it be?",
    source="arXiv 2404.06395 §4",
    check=check,
    analyse=analyse,
)
