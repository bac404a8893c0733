"""What decides each step of a run, from its config alone: two runs that agree up to a step have equal bits there.

Enters: a stage's name, its config, and the trajectory of the run that it begins from. Leaves: a digest of everything
that decides every step alike, and the learning rate of each step, the only thing that a step has of its own.

Why the whole config, and not its identity: a runtime field as `batch.micro_batch` or `zero.stage` changes the result by
rounding, and equal means equal to the bit. Only fields that are known to change nothing are left out, so a new field
counts until somebody says otherwise.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.config import plain
from pipelines.errors import ConfigError
from pipelines.identity import fingerprint
from pipelines.train.objectives.objective import Objective
from pipelines.train.plan.checked import chosen_objective
from pipelines.train.schedules.schedule import Schedule, learning_rate, resolve
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import stage_named

# names, places, what is saved and said: no bit of a step; the schedule is in the rates, a parent in its trajectory
_DECIDES_NOTHING = (
    "name",
    "store",
    "on_change",
    "dry_run",
    "share",
    "tracking",
    "checkpoint",
    "profile",
    "profile_steps",
    "write_spec",
    "schedule",
    "steps",
    "parent",
    "cluster",
)
_OF_CLUSTER = ("workers", "gpus_per_worker", "accelerator")
# of a parent that is known by its name alone: runs with the same parent inherit the same LR, whatever it is
_UNKNOWN_RATE = 1.0


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What decides the steps of one run.

    Attributes:
        decides: digest of what decides all of them.
        rates: (steps,) float64, the LR of each; None where only the data say how many there are.
        step_tokens: tokens of a step; of pairs, at most.
    """

    decides: str
    rates: NDArray[np.float64] | None
    step_tokens: int

    @property
    def steps(self) -> int | None:
        return None if self.rates is None else len(self.rates)

    def common(self, other: Trajectory) -> int:
        """How many first steps are the same bit by bit in both runs."""
        if self.decides != other.decides or self.rates is None or other.rates is None:
            return 0
        steps = min(len(self.rates), len(other.rates))
        if self.rates is other.rates:
            return steps
        differs = self.rates[:steps] != other.rates[:steps]
        return int(differs.argmax()) if differs.any() else steps

    def end(self) -> list[str]:
        """What a run that begins from the last step of this one inherits of it, as digests."""
        assert self.rates is not None
        return [self.decides, hashlib.sha256(self.rates.tobytes()).hexdigest()[:16]]


def trajectory_of(name: str, config: TrainConfig, parent: Trajectory | None = None) -> Trajectory:
    """The trajectory of a stage's run.

    Args: name, of the stage; parent, that of the run before it in its chain; None: it begins fresh, or from
        `config.parent`, a run of the store.
    Raises: ConfigError for a schedule that contradicts itself, naming the run.
    """
    folder, stage, objective = f"{name}/{config.name}", stage_named(name), chosen_objective(name, config)
    values = plain(config)
    decides = {key: value for key, value in values.items() if key not in _DECIDES_NOTHING}
    decides["stage"] = name
    decides["cluster"] = [values["cluster"][key] for key in _OF_CLUSTER]
    decides["objective"] = plain(objective.settings)
    # its steps are no one else's: how many there are is not known, or it prepares something before the first of them
    if config.steps is None or type(objective).prepare is not Objective.prepare:
        decides["run"] = folder
    if parent is not None and parent.rates is not None:
        decides["parent"] = parent.end()
    else:
        decides["parent"] = config.parent
    if stage.trains is not None:  # the frozen parameters lie in the parent's checkpoint, which has a name
        decides["frozen in"] = config.parent
    if config.sized_by_data:
        raise ConfigError(
            f"{folder}: its batch or windows are null, to be worked out from the data; runs that are compared with "
            "others before there is any state batch.sequence_length, batch.global_batch and batch.micro_batch"
        )
    rows = objective.batches.rows_per_unit
    step_tokens = config.batch.global_batch * config.batch.sequence_length * rows
    if config.steps is None:
        return Trajectory(fingerprint(decides), None, step_tokens)
    inherited = None
    if stage.parents and stage.learning_rate != "own":
        inherited = _UNKNOWN_RATE if parent is None or parent.rates is None else float(parent.rates[-1])
    try:
        schedule = resolve(config.schedule, config.steps, inherited)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    return Trajectory(fingerprint(decides), _rates(schedule, config.steps), step_tokens)


@functools.lru_cache(8192)
def _rates(schedule: Schedule, steps: int) -> NDArray[np.float64]:
    """The LR of each step; one array for all runs of the same schedule."""
    rates = np.array([learning_rate(schedule, step, steps) for step in range(steps)], dtype=np.float64)
    rates.flags.writeable = False
    return rates
