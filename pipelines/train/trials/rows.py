"""The measured rows of a run: written while it trains, read by studies.

    <run>/measured/<measure>/step-000200.json     the step, the tokens, the values, and the settings they were made with

Enters: what is to be measured, from a trial's settings. Leaves: a file for each measure and step, sealed. A row that is
there is not made again, so a run that goes on, or that two studies ask for, is measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from pipelines.config import parse, plain
from pipelines.errors import CheckpointError, ConfigError
from pipelines.store.sealed import sealed, unsealed
from pipelines.store.storage import Storage
from pipelines.train.measures import MEASURES
from pipelines.train.measures.measure import WHEN, Look, MeasureSettings
from pipelines.train.trials.result import Measured

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine


def parse_measures(values: Mapping[str, Mapping[str, Any]], where: str = "measures") -> dict[str, MeasureSettings]:
    """The settings of each measure. Raises: ConfigError for an unknown measure or setting."""
    if unknown := [name for name in values if name not in MEASURES]:
        raise ConfigError(f"{where} has {', '.join(unknown)}; expected some of {', '.join(sorted(MEASURES))}")
    return {name: parse(MEASURES[name].Settings, each or {}, f"{where}.{name}") for name, each in values.items()}


def row_key(run: str, measure: str, step: int) -> str:
    """Where a row is kept. Args: run, `kind/name`."""
    return f"{run}/measured/{measure}/step-{step:06d}.json"


def read_rows(storage: Storage, run: str) -> list[Measured]:
    """All rows of a run, in order of steps. Raises: CheckpointError for one that is damaged."""
    keys = [key for key in storage.keys(f"{run}/measured") if key.endswith(".json")]
    rows = []
    for key, text in zip(keys, storage.read_all(keys), strict=True):
        row = _opened(storage, key, text)
        rows.append(Measured(measure=key.split("/")[-2], folder=run, step=row["step"], tokens=row["tokens"],
                             values=row["values"]))  # fmt: skip
    return sorted(rows, key=lambda row: (row.step, row.measure))


def missing_rows(
    storage: Storage, run: str, measures: Mapping[str, MeasureSettings], steps: int
) -> dict[str, list[int]]:
    """Which rows of a run of `steps` steps are not there with these settings: measure -> steps; without those that
    have all.
    """
    there = _steps_there(storage, run, measures)
    wanted = {
        name: {step for step in range(1, steps + 1) if settings.falls_on(step, steps)} - there[name]
        for name, settings in measures.items()
    }
    return {name: sorted(missing) for name, missing in wanted.items() if missing}


@dataclass(frozen=True)
class _Open:
    """One measure of one run."""

    settings: MeasureSettings
    look: Look
    there: set[int]  # steps whose rows are there


class Rows:
    """The `Looks` of a run (`run/loop.py`): measures when a row is due and not there yet, and writes it."""

    def __init__(self, spec: TrainSpec, store: ArtifactStore, measures: Mapping[str, MeasureSettings]):
        """All ranks make it together. Raises: what the measures raise, as they are opened."""
        self.spec, self.storage = spec, store.storage
        # as rank zero finds it: a shared file system may show one machine what it hides from another
        there: list[Any] = [_taken_over(store.storage, spec, measures) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(there, src=0)
        self._open = {
            name: _Open(settings, MEASURES[name].open(settings, spec, store), there[0][name])
            for name, settings in measures.items()
        }

    def due(self, step: int) -> bool:
        return bool(self._due(step))

    def look(self, engine: Engine, step: int, tokens: int) -> None:
        for name in self._due(step):
            values = self._open[name].look(engine, step)
            self._open[name].there.add(step)
            if dist.get_rank() == 0:
                row = {"step": step, "tokens": tokens, "values": dict(values)}
                row["settings"] = _decides(self._open[name].settings)
                self.storage.write(row_key(self.spec.run, name, step), sealed(row))

    def _due(self, step: int) -> list[str]:
        return [
            name
            for name, measure in self._open.items()
            if step and step not in measure.there and measure.settings.falls_on(step, self.spec.steps)
        ]


def _decides(settings: MeasureSettings) -> dict[str, Any]:
    """What of the settings decides the values of a row."""
    values: dict[str, Any] = plain(settings)
    return {name: value for name, value in values.items() if name not in WHEN}


def _taken_over(storage: Storage, spec: TrainSpec, measures: Mapping[str, MeasureSettings]) -> dict[str, set[int]]:
    """`_steps_there` of the run, once it has the rows of the steps that it shares with the run that trained them."""
    there = _steps_there(storage, spec.run, measures)
    if spec.adopts is not None:
        for name, shared in _steps_there(storage, spec.adopts.run, measures).items():
            for step in sorted(shared - there[name]):
                if step <= spec.adopts.step and measures[name].falls_on(step, spec.steps):
                    storage.write(row_key(spec.run, name, step), storage.read(row_key(spec.adopts.run, name, step)))
                    there[name].add(step)
    return there


def _steps_there(storage: Storage, run: str, measures: Mapping[str, MeasureSettings]) -> dict[str, set[int]]:
    """Of each measure the steps whose rows were made with the same settings."""
    there: dict[str, set[int]] = {}
    for name, settings in measures.items():
        keys = storage.keys(f"{run}/measured/{name}")
        rows = [_opened(storage, key, text) for key, text in zip(keys, storage.read_all(keys), strict=True)]
        there[name] = {int(row["step"]) for row in rows if row["settings"] == _decides(settings)}
    return there


def _opened(storage: Storage, key: str, text: bytes) -> dict[str, Any]:
    try:
        return unsealed(text, ())
    except ValueError as error:
        raise CheckpointError(
            f"{storage.uri}/{key} {error}: the measured row was changed or damaged after it was written: delete the "
            "file, and the same command measures it anew"
        ) from error
