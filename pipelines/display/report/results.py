"""What the report is made of: a `StageResult` per checkpoint, and the table of stages.

Nothing is known here of the stages and of the evaluation tasks by name: their order, their columns and their figures
are what the results carry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.display import evaluation
from pipelines.display.progress import human

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What one run left."""

    kind: str  # of its stage, or average
    reference: str  # kind/name, or kind/name@step-N where the evaluation is of an earlier checkpoint
    parent: str | None = None  # the reference it began from
    tokens_start: int = 0  # trained on by its ancestors
    tokens_end: int  # ancestors included
    colour: str = ""  # of its curves, e.g. #33658a; "": one that no other stage has
    loss_counts: str = "tokens"  # what its training loss is a mean over: tokens, assistant tokens, pairs
    curve: Sequence[Mapping[str, Any]] = ()  # rows of `train.run.loop.read_metrics`
    asked: Mapping[str, float] = field(default_factory=dict)  # source -> weight in the mixture
    delivered: Mapping[str, int] = field(default_factory=dict)  # source -> samples read
    evaluation: Mapping[str, Any] | None = None  # content of `results.json`
    heldout: str = ""  # the set that it was measured on: only numbers of one are compared
    seconds: float | None = None
    artifact: str | None = None  # where the result lies, when not `reference`

    @property
    def label(self) -> str:
        """`anneal/demo` as `anneal demo`; a checkpoint keeps its step."""
        return self.reference.replace("/", " ")

    @property
    def run_label(self) -> str:
        """The same without the step, for what is of the whole run."""
        return run_of(self.label)

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """What the evaluation's tasks found; empty where there is none."""
        tasks: Mapping[str, Mapping[str, Any]] = (self.evaluation or {}).get("tasks", {})
        return tasks

    def number(self, name: str) -> Mapping[str, Any] | None:
        """A number of the evaluation's summaries with the words that it is read with, or None."""
        return evaluation.numbers(self.evaluation).get(name)

    def value(self, name: str) -> float | None:
        """Its value, or None."""
        number = self.number(name)
        return None if number is None else number["value"]


def tasks_measured(results: Sequence[StageResult]) -> dict[str, Mapping[str, Any]]:
    """Every task that measured one of the checkpoints, as the first of them describes it."""
    tasks: dict[str, Mapping[str, Any]] = {}
    for result in results:
        for name, task in result.tasks.items():
            tasks.setdefault(name, task)
    return tasks


def charted_rows(results: Sequence[StageResult], task: str) -> list[str]:
    """The rows of a task that its chart shows, in the order of their first appearance."""
    names: dict[str, None] = {}
    for result in results:
        measured = result.tasks.get(task)
        if measured is None or measured["chart"] is None:
            continue
        chart = measured["chart"]
        for name, row in measured["rows"].items():
            if row[chart["column"]] is not None and all(row[key] == value for key, value in chart["only"].items()):
                names[name] = None
    return list(names)


def charted_value(result: StageResult, task: str, row: str) -> float | None:
    """What the task's chart shows for a row of this checkpoint, or None."""
    measured = result.tasks.get(task)
    if measured is None or row not in measured["rows"]:
        return None
    value: float | None = measured["rows"][row][measured["chart"]["column"]]
    return value


def stage_table(results: Sequence[StageResult]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: stage, tokens, LR, the columns of the evaluation's tasks, seconds, artifact."""
    columns = _task_columns(results)
    header = ["stage", "tokens", "LR", *(heading for heading, _ in columns), "seconds", "artifact"]
    rows = [
        [
            result.kind,
            human(result.tokens_end),
            _rates(result),
            *(cell(result) for _, cell in columns),
            None if result.seconds is None else round(result.seconds),
            result.artifact or result.reference,
        ]
        for result in results
    ]
    return header, rows


def sets_explained(results: Sequence[StageResult]) -> str:
    """A sentence where the checkpoints were not measured on one held-out set, in one way; "" where they were."""
    sets: dict[str, list[str]] = {}
    for result in results:
        if result.evaluation is not None:
            sets.setdefault(result.heldout, []).append(result.reference)
    if len(sets) < 2:
        return ""
    told = "; ".join(f"{heldout}: {', '.join(references)}" for heldout, references in sets.items())
    return f"Not measured on one held-out set, in one way, so not to be compared across sets: {told}."


def columns_explained(results: Sequence[StageResult]) -> str:
    """A sentence about the columns of the table that are rows of a task: by source, in which unit."""
    sentences = []
    for name, task in tasks_measured(results).items():
        rows = charted_rows(results, name)
        if task["chart"] and task["chart"]["tabled"] and rows:
            columns = f"Columns {rows[0]} to {rows[-1]}" if len(rows) > 1 else f"Column {rows[0]}"
            sentences.append(f"{columns}: {task['chart']['axis']}.")
    return " ".join(sentences)


def _task_columns(results: Sequence[StageResult]) -> list[tuple[str, Callable[[StageResult], Any]]]:
    """Heading and cell of each column that the tasks give to the table of stages."""

    def of_row(task: str, row: str) -> Callable[[StageResult], Any]:
        return lambda result: evaluation.shown(charted_value(result, task, row), share=False, digits=3)

    def of_number(name: str, share: bool) -> Callable[[StageResult], Any]:
        return lambda result: evaluation.shown(result.value(name), share, digits=3)

    columns: list[tuple[str, Callable[[StageResult], Any]]] = []
    for name, task in tasks_measured(results).items():
        if task["chart"] and task["chart"]["tabled"]:
            columns += [(row, of_row(name, row)) for row in charted_rows(results, name)]
        for number, about in task["numbers"].items():
            if about["heading"]:
                columns.append((about["heading"], of_number(number, about["share"])))
    return columns


def given_over_tokens(result: StageResult) -> tuple[Floats, Floats, dict[str, float], Floats] | None:
    """What each source gave against what was asked, at every logged step; None where that was not counted.

    Returns: tokens trained on, ancestors included, the start first [n + 1]; share of the tokens since the step before
        [sources, n + 1], the first point repeating the second; source -> share asked, the largest first; windows ahead
        (or behind) of that share since the stage began [sources, n + 1].
    """
    rows = [row for row in result.curve if "tokens_by_source" in row]
    if not rows or not result.asked or len(result.curve) < 2:
        return None
    asked = dict(sorted(result.asked.items(), key=lambda item: (-item[1], item[0])))
    given = np.array([[0, *(row["tokens_by_source"].get(name, 0) for row in rows)] for name in asked], float)
    total = given.sum(axis=0)
    share = np.diff(given, axis=1) / np.diff(total)
    first, last = result.curve[0], result.curve[-1]
    window = (last["tokens"] - first["tokens"]) / (last["samples"] - first["samples"])
    off = (given - np.array(list(asked.values()))[:, None] * total) / window
    return result.tokens_start + total, np.concatenate([share[:, :1], share], axis=1), asked, off


def runs(results: Sequence[StageResult]) -> list[StageResult]:
    """Each run once, with the curve that goes furthest: a trunk may be evaluated at several checkpoints."""
    furthest: dict[str, StageResult] = {}
    for result in results:
        before = furthest.get(run_of(result.reference))
        if before is None or _reach(result) >= _reach(before):
            furthest[run_of(result.reference)] = result
    return list(furthest.values())


def run_of(reference: str) -> str:
    """The reference or label of a run, without the step."""
    return reference.split("@")[0]


def _reach(result: StageResult) -> int:
    return int(result.curve[-1]["tokens"]) if result.curve else -1


def _rates(result: StageResult) -> str | None:
    """The learning rates at both ends; of a run from nothing, whose warmup begins near 0, the last one."""
    if not result.curve:
        return None
    first, last = result.curve[0]["learning_rate"], result.curve[-1]["learning_rate"]
    return f"{last:.2g}" if math.isclose(first, last) or result.parent is None else f"{first:.2g} → {last:.2g}"
