"""The arms of a sweep as tables: before it starts what differs, at its end what came of it.

Enters: turns, and of each what it left. Leaves: rows, the best first where losses may be compared. A loss is a mean
over what a run reads: arms that read other data, windows or ids, or minimise something else, are listed, not ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.display.progress import table
from pipelines.errors import ArtifactError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.results.heldout import heldout_of, mixed_sets
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


def planned_table(turns: Sequence[Turn], header: Sequence[str], rows: Sequence[Sequence[Any]], artifacts: str) -> str:
    """What a sweep will make: the name of each arm, what differs, and further columns. Args: artifacts, their kind."""
    keys = list(turns[0].varied)
    cells = [
        [f"{artifacts}/{turn.config.name}", *(shown(turn.varied[key]) for key in keys), *row]
        for turn, row in zip(turns, rows, strict=True)
    ]
    return _table(["arm", *(short(key, keys) for key in keys), *header], cells)


def outcome_table(outcomes: Sequence[Outcome], store: ArtifactStore, trained: bool) -> tuple[str, list[Outcome], str]:
    """Args: trained, whether the arms are runs of a training stage.

    Returns: the table; the arms that there are, the best first where they can be compared; a line that says so.
    """
    keys = list(outcomes[0].turn.varied)
    columns, numbers, order, why = (_of_runs if trained else _of_others)(outcomes, store)
    done = [outcome for outcome in outcomes if outcome.artifact is not None]
    if order is not None:
        done.sort(key=lambda outcome: order[outcome.turn.number])
    rows = []
    for outcome in [*done, *(outcome for outcome in outcomes if outcome.artifact is None)]:
        differs = [shown(outcome.turn.varied[key]) for key in keys]
        named = shown(outcome.error, _CUT) if outcome.artifact is None else outcome.artifact.folder
        rows.append([*differs, *numbers[outcome.turn.number], named])
    return _table([*(short(key, keys) for key in keys), *columns, "artifact"], rows), done, why


def _of_runs(
    outcomes: Sequence[Outcome], store: ArtifactStore
) -> tuple[list[str], dict[int, list[Any]], dict[int, float] | None, str]:
    """Columns, cells and order of training runs, and what is said of the order."""
    done = {outcome.turn.number: outcome.artifact for outcome in outcomes if outcome.artifact is not None}
    losses = {number: run.statistics["loss"]["last"] for number, run in done.items()}
    bits = _bits_per_byte(list(done.values()), store)
    cells: dict[int, list[Any]] = {}
    for outcome in outcomes:
        run = done.get(outcome.turn.number)
        if run is None:
            cells[outcome.turn.number] = [None, None, None]
            continue
        loss, measured = losses[outcome.turn.number], bits.get(run.folder)
        seconds = round(run.statistics["train_seconds"], 1)
        cells[outcome.turn.number] = [round(loss, 4), measured and round(measured[0], 4), seconds]
    columns = ["loss", "bits/byte", "seconds"]
    if not bits:
        columns, cells = ["loss", "seconds"], {number: [row[0], row[2]] for number, row in cells.items()}
    same_text = {measured[1] for measured in bits.values()}
    if len(done) > 1 and len(bits) == len(done) and len(same_text) == 1:
        order = {number: bits[run.folder][0] for number, run in done.items()}
        return columns, cells, order, "the best first, by bits per byte of the same held-out text"
    different = {outcome.measured_on for outcome in outcomes if outcome.artifact is not None}
    if len(different) > 1:
        said = (
            "not ranked: these losses are means over different text or of different objectives; evaluate the arms on "
            "one held-out set, and run this again"
        )
        return columns, cells, None, said
    if len(done) < 2:
        return columns, cells, None, ""
    return columns, cells, losses, "the best first, by the training loss (mean of the last 20 steps at most)"


def _of_others(
    outcomes: Sequence[Outcome], store: ArtifactStore
) -> tuple[list[str], dict[int, list[Any]], dict[int, float] | None, str]:
    """The same of other artifacts: the first numbers of their statistics that differ."""
    done = {outcome.turn.number: outcome.artifact for outcome in outcomes if outcome.artifact is not None}
    told = {number: artifact.statistics for number, artifact in done.items()}
    names = dict.fromkeys(name for own in told.values() for name, value in own.items() if isinstance(value, float))
    varied = [name for name in names if len({own.get(name) for own in told.values()}) > 1 or len(told) == 1]
    columns = varied[:_NUMBERS]
    cells = {
        outcome.turn.number: [told.get(outcome.turn.number, {}).get(name) for name in columns] for outcome in outcomes
    }
    if "bits_per_byte" not in columns or len(done) < 2:
        return columns, cells, None, ""
    if mixed := mixed_sets({artifact.folder: heldout_of(artifact) for artifact in done.values()}):
        return columns, cells, None, mixed
    if any(own.get("bits_per_byte") is None for own in told.values()):
        return columns, cells, None, "not ranked: some were not measured in bits per byte"
    order = {number: own["bits_per_byte"] for number, own in told.items()}
    return columns, cells, order, "the best first, by bits per byte of the same held-out text"


def _bits_per_byte(runs: Sequence[Artifact], store: ArtifactStore) -> dict[str, tuple[float, str]]:
    """Bits per byte of the last checkpoint of those runs that were evaluated, and of what: by the run's folder."""
    lasts = {f"{run.folder}@step-{run.statistics['steps']}": run.folder for run in runs}
    names = store.storage.folders("evaluate") if runs else []
    if len(names) > _LOOKED_AT:
        called = [run.folder.replace("/", "-") for run in runs]
        names = [name for name in names if any(name.startswith(prefix) for prefix in called)][:_LOOKED_AT]
    bits: dict[str, tuple[float, str]] = {}
    for name in names:
        try:
            evaluation = store.find(f"evaluate/{name}")
        except ArtifactError:  # damaged: whoever asks for it is told
            continue
        if evaluation is None or (value := evaluation.statistics.get("bits_per_byte")) is None:
            continue
        if (folder := lasts.get(evaluation.statistics.get("parent", ""))) is not None:
            bits[folder] = (value, heldout_of(evaluation))
    return bits


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of at most `SHOWN` rows, and how many more there are."""
    text = table(header, rows[:SHOWN])
    return text + (f"\n   … and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
