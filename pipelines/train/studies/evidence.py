"""Which trials a study can use, and a sentence about each kind that it cannot.

Enters: the results of a study, also of one that is half done. Leaves: those that ended and were measured, their
losses, and notes about the rest: a trial that diverged is evidence, one that failed is run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.laws.law import FittedLaw
from pipelines.train.trials.result import Status, TrialResult

_NAMED = 3  # trials that a note names
_WORDS: dict[Status, str] = {
    "diverged": "diverged, and count as evidence without a loss",
    "pruned": "were ended by the search",
    "failed": "failed, and are run again by the next call",
}


def measured_trials(results: Sequence[TrialResult], measures: Sequence[str] = ("heldout",)) -> list[TrialResult]:
    """Those that finished and have a row of one of the measures at their end."""
    return [result for result in results if result.status == "finished" and end_losses(result, measures)]


def end_losses(result: TrialResult, measures: Sequence[str] = ("heldout",)) -> dict[str, float]:
    """Held-out set -> bits per byte after the last step of the chain, of all measures together.

    Rows of an earlier stage do not count: they were measured on other weights.
    """
    last_step = result.runs[-1].steps
    losses: dict[str, float] = {}
    for row in result.measured:
        if row.measure in measures and row.folder == result.folder and row.step == last_step:
            losses.update(row.values)
    return losses


def common_sets(results: Sequence[TrialResult], measures: Sequence[str] = ("heldout",)) -> list[str]:
    """Held-out sets that every one of these trials has, in the order of the first."""
    losses = [end_losses(result, measures) for result in results]
    return [name for name in losses[0] if all(name in row for row in losses)] if losses else []


def seeds_of(results: Sequence[TrialResult]) -> int:
    """How many different seeds are behind them."""
    return len({result.seed for result in results})


def folders_of(results: Sequence[TrialResult]) -> tuple[str, ...]:
    """Of their last runs, each once."""
    return tuple(dict.fromkeys(result.folder for result in results))


def notes_about(results: Sequence[TrialResult], measures: Sequence[str] = ("heldout",)) -> tuple[str, ...]:
    """A sentence for each kind of trial that gives no loss, with names."""
    notes = []
    for status, words in _WORDS.items():
        if named := [result.name for result in results if result.status == status]:
            notes.append(f"{_count(len(named))} {words}: {_names(named)}.")
    usable = {result.name for result in measured_trials(results, measures)}
    unmeasured = [result.name for result in results if result.status == "finished" and result.name not in usable]
    if unmeasured:
        words = f"no row of {' or '.join(measures)} at the end, so they say nothing here"
        notes.append(f"{_count(len(unmeasured))} finished with {words}: {_names(unmeasured)}.")
    return tuple(notes)


def notes_of_laws(laws: Mapping[str, FittedLaw]) -> tuple[str, ...]:
    """A sentence for each warning, with all the laws that it is about."""
    about: dict[str, list[str]] = {}
    for name, law in laws.items():
        for warning in law.warnings:
            about.setdefault(warning, []).append(name)
    return tuple(f"{', '.join(names)}: {warning}." for warning, names in about.items())


def _count(number: int) -> str:
    return f"{number} trial{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
