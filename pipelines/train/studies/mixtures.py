"""Study `mixtures`: which weights of the sources give the least held-out loss.

Enters: trials that differ in the weights of their mixture alone (a proxy: a small model, or the decay of one trunk).
Leaves: a mixing law for every held-out set (`pipelines/laws/mixing.py`), the weights at which the mean of the laws is
least within what was sampled, and, in a second round of trials, those weights against the starting ones at several
seeds. What is said of them is in `mixtures_findings.py`.

Source: Ye et al., "Data Mixing Laws" (arXiv 2403.16952): weights by laws of small runs, for a 1B model on 100B tokens,
were as good as the default weights with 48 % more steps. How MiniCPM weighed its sources is not said: arXiv 2404.06395
§5 prints the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.law import FittedLaw
from pipelines.laws.mixing import best_weights, fit_mixing
from pipelines.train.studies.contract import FurtherTrial, Study
from pipelines.train.studies.evidence import common_sets, end_losses, measured_trials, notes_about, notes_of_laws
from pipelines.train.studies.mixtures_findings import (
    MEAN,
    MixturesSettings,
    Proposed,
    Reading,
    findings,
    plots,
    proposals,
    tables,
)
from pipelines.train.studies.mixtures_points import (
    Weights,
    in_thousandths,
    per_mixture,
    same_weights,
    weights_key,
    weights_of,
)
from pipelines.train.studies.outcome import Outcome
from pipelines.train.trials.result import TrialResult

_MOST_DRAWS = 200  # bootstrap samples in which the best weights are worked out


def check(settings: MixturesSettings, results: Sequence[TrialResult]) -> None:
    """Refuse weights that no law could be fitted to. Raises: ConfigError."""
    mixtures = {tuple(sorted(weights.items())) for result in results if (weights := weights_of(result)) is not None}
    if not mixtures:
        raise ConfigError(
            "a study of mixtures varies no weights: under vary, give mixture.weights "
            "{sample: {around: {source: weight}, concentration: 24, count: 32, seed: 0}}, and the chain a mixture "
            "before the stage that reads it"
        )
    sources = {source for weights in mixtures for source, share in weights if share > 0}
    if unknown := sorted(set(settings.start) - sources):
        raise ConfigError(
            f"study.start has {', '.join(unknown)}, which no sampled mixture has: sample around study.start"
        )
    if abs(sum(settings.start.values()) - 1) > 1e-3:
        raise ConfigError(f"study.start sums to {sum(settings.start.values()):.4g}; expected weights that sum to 1")
    if len(mixtures) < len(sources) + 2:
        raise ConfigError(
            f"{len(mixtures)} different mixtures of {len(sources)} sources are sampled; a mixing law has "
            f"{len(sources) + 1} parameters and needs at least {len(sources) + 2}: raise count, or vary fewer sources"
        )


def further(settings: MixturesSettings, results: Sequence[TrialResult]) -> Sequence[FurtherTrial]:
    """The proposed mixture and the starting one, each at `settings.seeds` seeds; none where no law can be fitted."""
    first = [result for result in results if result.round == 0]
    key = next((name for result in first if (name := weights_key(result)) is not None), None)
    fitted = _fit(settings, first, [])
    if key is None or fitted is None:
        return ()
    laws, sets = fitted
    others = {name: value for name, value in first[0].settings.items() if name != key}
    proposed = _proposed(settings, laws, sets).weights
    there = {(tuple(sorted(weights.items())), result.seed) for result in first if (weights := weights_of(result))}
    return [
        FurtherTrial(settings={**others, key: weights}, seed=seed)
        for weights in (proposed, dict(settings.start))
        for seed in range(settings.seeds)
        if (tuple(sorted(weights.items())), seed) not in there
    ]


def analyse(settings: MixturesSettings, results: Sequence[TrialResult]) -> Outcome:
    """Laws, proposed weights, and how they did."""
    notes = list(notes_about(results, settings.measures))
    first = [result for result in results if result.round == 0]
    fitted = _fit(settings, first, notes)
    if fitted is None:
        return Outcome(notes=tuple(notes))
    laws, sets = fitted
    proposed = _proposed(settings, laws, sets)
    reading = Reading(
        settings=settings,
        laws=laws,
        importance=_importance(settings, sets),
        proposed=proposed,
        first=measured_trials(first, settings.measures),
        compared=_compared(settings, results, proposed.weights),
    )
    notes += notes_of_laws({name.removeprefix(MEAN).strip() or "The mean": law for name, law in laws.items()})
    if not any(result.round for result in results):
        notes.append("The proposed mixture has not been trained yet.")
    return Outcome(
        laws=laws,
        findings=findings(reading),
        plots=plots(reading),
        proposals=proposals(reading),
        tables=tables(reading),
        notes=tuple(notes),
    )


def _importance(settings: MixturesSettings, sets: Sequence[str]) -> dict[str, float]:
    """The part of each held-out set in the mean that is made least."""
    parts = {name: settings.importance.get(name, 1.0 if not settings.importance else 0.0) for name in sets}
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items() if part > 0}


def _fit(
    settings: MixturesSettings, first: Sequence[TrialResult], notes: list[str]
) -> tuple[dict[str, FittedLaw], list[str]] | None:
    """MEAN and `MEAN <set>` -> law, and the sets; None, with a note, where there is none yet."""
    trials = [trial for trial in measured_trials(first, settings.measures) if weights_of(trial) is not None]
    sets = common_sets(trials, settings.measures)
    if settings.importance and (absent := sorted(set(settings.importance) - set(sets))) and sets:
        notes.append(
            f"study.importance names {', '.join(absent)}, which was not measured; there are {', '.join(sets)}."
        )
    if not sets or not _importance(settings, sets):
        notes.append("No trial has been measured yet.")
        return None
    importance = _importance(settings, sets)
    rows = [end_losses(trial, settings.measures) for trial in trials]
    columns = {name: [row[name] for row in rows] for name in importance}
    columns[""] = [sum(part * row[name] for name, part in importance.items()) for row in rows]
    laws = {}
    try:
        for name in ("", *importance):
            mixtures, losses = per_mixture(trials, columns[name])
            laws[f"{MEAN} {name}".strip()] = fit_mixing(
                mixtures, losses, level=settings.level, bootstrap=settings.bootstrap
            )
    except ConfigError as error:
        notes.append(f"No mixing law yet: {error}.")
        return None
    return laws, list(importance)


def _proposed(settings: MixturesSettings, laws: Mapping[str, FittedLaw], sets: Sequence[str]) -> Proposed:
    """The best weights within what was sampled, and where they lie in the bootstrap samples."""
    of_sets = {name: laws[f"{MEAN} {name}"] for name in sets}
    bounds = laws[MEAN].ranges
    importance = _importance(settings, sets)
    best = best_weights(of_sets, importance, bounds, settings.start)
    # every law was drawn from the same mixtures, so that sample n of one goes with sample n of another
    count = min(_MOST_DRAWS, *(len(law.samples["c"]) for law in of_sets.values()))
    drawn = [best_weights(of_sets, importance, bounds, settings.start, sample) for sample in range(count)]
    tails = [(1 - settings.level) / 2, (1 + settings.level) / 2]
    spread = {
        source: (float(low), float(high))
        for source in best
        for low, high in [np.quantile([row[source] for row in drawn], tails) if drawn else bounds[source]]
    }
    return Proposed(weights=in_thousandths(best), spread=spread)


def _compared(
    settings: MixturesSettings, results: Sequence[TrialResult], proposed: Weights
) -> dict[str, dict[int, TrialResult]]:
    """`start` and `proposed` -> seed -> trial; of the first round as well, where it has the very weights."""
    sides = {"start": dict(settings.start), "proposed": proposed}
    compared: dict[str, dict[int, TrialResult]] = {side: {} for side in sides}
    for result in measured_trials(results, settings.measures):
        weights = weights_of(result)
        for side, wanted in sides.items():
            if weights is not None and same_weights(weights, wanted):
                compared[side][result.seed] = result
    return compared


MIXTURES = Study(
    Settings=MixturesSettings,
    title="Mixtures: weights of the sources",
    question="Which weights of the sources give the least held-out loss, and do they when they are trained?",
    source="arXiv 2403.16952; arXiv 2404.06395 §5",
    check=check,
    analyse=analyse,
    further=further,
)
