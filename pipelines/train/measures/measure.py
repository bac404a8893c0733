"""What a measure is: it looks at an engine after some steps of a run and leaves a row of numbers beside the run.

Enters: settings, the run's spec, the store; then the engine, on every rank, whenever a row is due. Leaves: rows in
files of the run's own folder, so that a run is measured once however many studies ask for it.
A measure changes nothing of a run: it draws no random number and leaves weights, gradients and moments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.config import Count, config_class

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine

# called on every rank after a step with its number; rank zero's answer is the row, the others' is not looked at
Look = Callable[["Engine", int], Mapping[str, float]]


@config_class
class MeasureSettings:
    """What all measures take. Each row's own class extends it."""

    every_steps: Count | None = None  # null: at the run's end alone


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A row of `MEASURES`.

    Attributes:
        Settings: its config class.
        open: made once for a run, on every rank, before its first step of this start; what it opens it keeps.
        unit: of its values.
    """

    Settings: type[MeasureSettings]
    open: Callable[[Any, TrainSpec, ArtifactStore], Look]  # settings of its own class
    unit: str
