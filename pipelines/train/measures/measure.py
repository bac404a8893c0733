"""What a measure is: it looks at an engine after some steps of a run and leaves a row of numbers beside the run.

Enters: settings, the run's spec, the store; then the engine, on every rank, whenever a row is due. Leaves: rows in
files of the run's own folder, so that a run is measured once however many studies ask for it.
A measure changes nothing of a run: it draws no random number and leaves weights, gradients and moments alone.
"""

from __future__ import annotations

import math
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

WHEN = ("every_steps", "per_doubling")  # settings that say when a row is made, and nothing of its values


@config_class
class MeasureSettings:
    """What all measures take. Each row's own class extends it."""

    every_steps: Count | None = None  # null, and null below: at the run's end alone
    # rows evenly in the logarithm of the steps, so that runs of any batch size are looked at alike often
    per_doubling: Count | None = None

    def falls_on(self, step: int, steps: int) -> bool:
        """Whether a row is due after a step (from 1) of a run of so many."""
        return (
            step == steps
            or (self.every_steps is not None and step % self.every_steps == 0)
            or (self.per_doubling is not None and _doublings(self.per_doubling, step))
        )


def _doublings(rows: int, step: int) -> bool:
    return step == 1 or math.floor(rows * math.log2(step)) > math.floor(rows * math.log2(step - 1))


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
