"""From runs in the store to the results that studies analyse, and to receipts that outlive the command.

Enters: a trial, its runs, what the executor said of it. Leaves: a `TrialResult`, with the rows that measures left
beside the runs; a receipt, from which the next command has the same result without reading the runs again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from pipelines.config import plain
from pipelines.errors import TrunklineError
from pipelines.store.storage import Storage
from pipelines.train.run.loop import read_metrics
from pipelines.train.sandbox.expand import Trial
from pipelines.train.sandbox.planned import planned_result
from pipelines.train.trials.result import Measured, StageRun, Status, TrialResult
from pipelines.train.trials.rows import read_rows


class Curve(Sequence[Mapping[str, Any]]):
    """The training curve of a chain, read when somebody looks at it: a thousand trials have a million rows."""

    def __init__(self, storage: Storage, runs: Sequence[StageRun]):
        self._storage, self._runs = storage, runs
        self._rows: list[dict[str, Any]] | None = None

    def _read(self) -> list[dict[str, Any]]:
        if self._rows is None:
            rows = []
            for run in self._runs:
                try:
                    rows += [row for row in read_metrics(self._storage, run.folder) if row["step"] <= run.steps]
                except TrunklineError:  # a run that was deleted since, or ended before its first checkpoint
                    continue
            self._rows = rows
        return self._rows

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        return self._read()[place]


def measured_rows(storage: Storage, runs: Sequence[StageRun]) -> tuple[Measured, ...]:
    """What measures left beside the runs of a chain, in order of tokens. Raises: CheckpointError for a damaged row."""
    rows = [row for run in runs for row in read_rows(storage, run.folder) if row.step <= run.steps]
    return tuple(sorted(rows, key=lambda row: (row.tokens, row.measure)))


def result_of(
    trial: Trial, runs: tuple[StageRun, ...], storage: Storage, status: Status, reason: str = ""
) -> TrialResult:
    """The result of a trial that has ended."""
    return dataclasses.replace(
        planned_result(trial, runs, status, reason), measured=measured_rows(storage, runs), curve=Curve(storage, runs)
    )


def receipt_of(result: TrialResult) -> dict[str, Any]:
    """What a receipt keeps: everything that is not decided by the trial's configs."""
    return {
        "name": result.name,
        "settings": plain(result.settings),
        "seed": result.seed,
        "round": result.round,
        "status": result.status,
        "reason": result.reason,
        "runs": [run.folder for run in result.runs],
        "steps": [run.steps for run in result.runs],
        "measured": [dataclasses.asdict(row) for row in result.measured],
    }


def result_from(trial: Trial, runs: tuple[StageRun, ...], storage: Storage, receipt: Mapping[str, Any]) -> TrialResult:
    """The result that a receipt was written of."""
    kept = tuple(dataclasses.replace(run, folder=folder) for run, folder in zip(runs, receipt["runs"], strict=True))
    return dataclasses.replace(
        planned_result(trial, kept, receipt["status"], receipt["reason"]),
        measured=tuple(Measured(**row) for row in receipt["measured"]),
        curve=Curve(storage, kept),
    )


def plain_result(study: str, result: TrialResult) -> dict[str, Any]:
    """A trial in results.json."""
    return {
        "study": study,
        **receipt_of(result),
        "parameters": result.parameters,
        "tokens": result.tokens,
        "batch_tokens": result.batch_tokens,
        "peak_lr": result.peak_lr,
        "flops": result.flops,
        "loss": result.loss(),
    }


def to_json(value: Any) -> str:
    """JSON as people read it; numbers that are none become null."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, default=_plain_number)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _plain_number(value: Any) -> Any:
    """Numbers of numpy."""
    return _finite(value.item())
