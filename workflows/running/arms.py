"""The arms of a sweep as tables: before it starts what differs, at its end what came of it.

Enters: turns, and of each what it left. Leaves: rows, the best first by the measure of their stage where all arms were
evaluated on one held-out set: bits per byte, assistant loss, preference accuracy. Else by the training loss, where
those may be compared: it is a mean over what a run reads, so arms that read other data, windows or ids, or minimise
something else (DPO with another beta), are listed, not ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.display.progress import table
from pipelines.errors import ArtifactError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking.ablation import Measure
from pipelines.train.results.heldout import heldout_of, measure_of, mixed_sets
from workflows.command_line.turns import Turn, short, shown

SHOWN = 30  # rows of a table
_CUT = 60  # characters of an error, which is told whole elsewhere
_LOOKED_AT = 200  # evaluations; of a store with more, those that are called after an arm
_NUMBERS = 3  # columns of an artifact that no stage made


@dataclass(frozen=True)
class Outcome:
    """What came of an arm.

    Attributes:
        turn: of the sweep.
        artifact: None where there is none.
        error: why not, in a line.
        measured_on: what its loss is a mean over; arms that have the same can be compared.
    """

    turn: Turn
    artifact: Artifact | None
    error: str = ""
    measured_on: str = ""


@dataclass(frozen=True)
class Ranking:
    """What the arms have come to.

    Attributes: columns, their headings. cells, of each turn by its number. order, by number, less is better; None where
        arms cannot be compared. why, what is said of that. evaluated, all of them were, on one held-out set.
    """

    columns: Sequence[str]
    cells: Mapping[int, Sequence[Any]]
    order: Mapping[int, float] | None
    why: str
    evaluated: bool = False


def planned_table(turns: Sequence[Turn], header: Sequence[str], rows: Sequence[Sequence[Any]], artifacts: str) -> str:
    """What a sweep will make: the name of each arm, what differs, and further columns. Args: artifacts, their kind."""
    keys = list(turns[0].varied)
    cells = [
        [f"{artifacts}/{turn.config.name}", *(shown(turn.varied[key]) for key in keys), *row]
        for turn, row in zip(turns, rows, strict=True)
    ]
    return _table(["arm", *(short(key, keys) for key in keys), *header], cells)


def outcome_table(
    outcomes: Sequence[Outcome], store: ArtifactStore, trained: bool
) -> tuple[str, list[Outcome], Ranking]:
    """Args: trained, whether the arms are runs of a training stage.

    Returns: the table; the arms that there are, the best first where they can be compared; how they were.
    """
    keys = list(outcomes[0].turn.varied)
    ranking = (_of_runs if trained else _of_others)(outcomes, store)
    done = [outcome for outcome in outcomes if outcome.artifact is not None]
    if (order := ranking.order) is not None:
        done.sort(key=lambda outcome: order[outcome.turn.number])
    rows = []
    for outcome in [*done, *(outcome for outcome in outcomes if outcome.artifact is None)]:
        differs = [shown(outcome.turn.varied[key]) for key in keys]
        named = shown(outcome.error, _CUT) if outcome.artifact is None else outcome.artifact.folder
        rows.append([*differs, *ranking.cells[outcome.turn.number], named])
    return _table([*(short(key, keys) for key in keys), *ranking.columns, "artifact"], rows), done, ranking


def _of_runs(outcomes: Sequence[Outcome], store: ArtifactStore) -> Ranking:
    """Columns, cells and order of training runs, and what is said of the order."""
    done = {outcome.turn.number: outcome.artifact for outcome in outcomes if outcome.artifact is not None}
    losses = {number: run.statistics["loss"]["last"] for number, run in done.items()}
    measure = measure_of(run.folder.split("/")[0] for run in done.values())
    measured = _evaluated(list(done.values()), store, measure)
    cells: dict[int, list[Any]] = {}
    for outcome in outcomes:
        run = done.get(outcome.turn.number)
        if run is None:
            cells[outcome.turn.number] = [None, None, None]
            continue
        value = measured[run.folder][0] if run.folder in measured else None
        loss, seconds = round(losses[outcome.turn.number], 4), round(run.statistics["train_seconds"], 1)
        cells[outcome.turn.number] = [loss, None if value is None else round(value, 4), seconds]
    columns = ["loss", _heading(measure), "seconds"]
    if not measured:
        columns, cells = ["loss", "seconds"], {number: [row[0], row[2]] for number, row in cells.items()}
    same_text = {heldout for _, heldout in measured.values()}
    if len(done) > 1 and len(measured) == len(done) and len(same_text) == 1:
        values = {number: measured[run.folder][0] for number, run in done.items()}
        return Ranking(columns, cells, *_ranked(measure, values), evaluated=True)
    different = {outcome.measured_on for outcome in outcomes if outcome.artifact is not None}
    if len(different) > 1:
        said = (
            "not ranked: these losses are means over different text or of different objectives; evaluate the arms on "
            "one held-out set, and run this again"
        )
        return Ranking(columns, cells, None, said)
    if len(done) < 2:
        return Ranking(columns, cells, dict.fromkeys(done, 0.0), "", evaluated=bool(measured))
    by_loss = "the best first, by the training loss (mean of the last 20 steps at most)"
    return Ranking(columns, cells, losses, by_loss)


def _of_others(outcomes: Sequence[Outcome], store: ArtifactStore) -> Ranking:
    """The same of other artifacts: the first numbers of their statistics that differ."""
    done = {outcome.turn.number: outcome.artifact for outcome in outcomes if outcome.artifact is not None}
    told = {number: artifact.statistics for number, artifact in done.items()}
    names = dict.fromkeys(name for own in told.values() for name, value in own.items() if isinstance(value, float))
    varied = [name for name in names if len({own.get(name) for own in told.values()}) > 1 or len(told) == 1]
    # of evaluations first the number that ranks what they are of, also where it is the same of all
    evaluations = [artifact for artifact in done.values() if artifact.folder.startswith("evaluate/")]
    measure = measure_of(artifact.statistics["parent"].partition("/")[0] for artifact in evaluations)
    first = [measure.metric] if measure.metric in (names if evaluations else varied) else []
    columns = list(dict.fromkeys([*first, *varied]))[:_NUMBERS]
    cells = {
        outcome.turn.number: [told.get(outcome.turn.number, {}).get(name) for name in columns] for outcome in outcomes
    }
    if measure.metric not in columns or len(done) < 2:
        return Ranking(columns, cells, None, "")
    if mixed := mixed_sets({artifact.folder: heldout_of(artifact) for artifact in done.values()}):
        return Ranking(columns, cells, None, mixed)
    if any(own.get(measure.metric) is None for own in told.values()):
        return Ranking(columns, cells, None, f"not ranked: not all were measured by {measure.words}")
    values = {number: own[measure.metric] for number, own in told.items()}
    return Ranking(columns, cells, *_ranked(measure, values), evaluated=True)


def _ranked(measure: Measure, values: Mapping[int, float]) -> tuple[dict[int, float], str]:
    """The order of arms by what they measured, and what is said of it. Args: values, by number of the turn."""
    order = {number: value if measure.ascending else -value for number, value in values.items()}
    alike = len(set(values.values())) == 1
    return order, f"{'all alike' if alike else 'the best first'}, by {measure.words} of the same held-out text"


def _heading(measure: Measure) -> str:
    return measure.words.replace("bits per byte", "bits/byte")


def _evaluated(runs: Sequence[Artifact], store: ArtifactStore, measure: Measure) -> dict[str, tuple[float, str]]:
    """The measure of the last checkpoint of those runs that were evaluated, and on which set: by the run's folder.

    Of a run that was evaluated on several sets the one that most runs were measured on is taken.
    """
    lasts = {f"{run.folder}@step-{run.statistics['steps']}": run for run in runs}
    names = store.storage.folders("evaluate") if runs else []
    if len(names) > _LOOKED_AT:
        called = [run.folder.replace("/", "-") for run in runs]
        names = [name for name in names if any(name.startswith(prefix) for prefix in called)][:_LOOKED_AT]
    sets: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            evaluation = store.find(f"evaluate/{name}")
        except ArtifactError:  # damaged: whoever asks for it is told
            continue
        if evaluation is None or (value := evaluation.statistics.get(measure.metric)) is None:
            continue
        run = lasts.get(evaluation.statistics.get("parent", ""))
        # a run that was made anew since was not measured
        if run is not None and evaluation.manifest["identity"]["inputs"].get(run.folder) == run.fingerprint:
            sets.setdefault(heldout_of(evaluation), {})[run.folder] = value
    fewest_first = sorted(sets.items(), key=lambda item: len(item[1]))
    return {folder: (value, heldout) for heldout, values in fewest_first for folder, value in values.items()}


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of at most `SHOWN` rows, and how many more there are."""
    text = table(header, rows[:SHOWN])
    return text + (f"\n   … and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
