"""Bits per byte of held-out text, by the mean of a run's last checkpoints and the weights as they are.

Enters: a run that saves checkpoints every few steps. Leaves: the rows of `heldout` for the uniform mean of the weights
over the last part of the steps (`reach`), what a decay over as many steps is compared with: the mean costs no step.
Sources as in `checkpoint/average.py`, which makes a model of such a mean.

The checkpoints are those at multiples of `checkpoint.every_steps`, of this run or of the one whose first steps are also
its own, so that a mean does not depend on where a run was cut in edges. Where they are not there (a run that saves too
rarely, or kept too few) the row has no values, and a study says so.

The engine's weights are put aside while the mean is looked at, and put back bit by bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
import torch.distributed as dist

from pipelines.config import Range, config_class
from pipelines.errors import ConfigError
from pipelines.store.storage import Storage
from pipelines.train.checkpoint import Checkpoint, committed_steps, open_checkpoint
from pipelines.train.checkpoint.weights import weighted_mean
from pipelines.train.measures.heldout import HELDOUT, HeldoutSettings
from pipelines.train.measures.measure import Look, Measure

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine

_FEWEST = 2  # checkpoints, besides the weights as they are
_WAIT_SECONDS = 30.0  # for a checkpoint that is being written


@config_class
class AveragesSettings(HeldoutSettings):
    """Of which text, and over which part of the steps."""

    reach: Annotated[float, Range(above=0, high=1)] = 0.1  # the last part of the steps so far


def open_averages(settings: AveragesSettings, spec: TrainSpec, store: ArtifactStore) -> Look:
    """Raises: ConfigError for a run at ZeRO-3, whose ranks hold no whole weights, and what `heldout` raises."""
    if spec.zero.stage == 3:
        raise ConfigError(
            "measures.averages puts a mean in place of whole weights, and zero.stage=3 keeps none: choose zero=zero2"
        )
    look = HELDOUT.open(settings, spec, store)
    begun_with = _latest(store.storage, spec)

    def look_at_mean(engine: Engine, step: int) -> Mapping[str, float]:
        checkpoints = _checkpoints(store.storage, spec, step, settings.reach, begun_with)
        if len(checkpoints) < _FEWEST:
            return {}
        with _averaged(engine, checkpoints):
            return look(engine, step)

    return look_at_mean


def wanted_steps(step: int, reach: float, every_steps: int) -> list[int]:
    """Multiples of `every_steps` within the last part of the steps, `step` itself left out."""
    first = int((1 - reach) * step) + 1
    return [wanted for wanted in range(every_steps, step, every_steps) if wanted >= first]


def _checkpoints(storage: Storage, spec: TrainSpec, step: int, reach: float, begun_with: int) -> list[Checkpoint]:
    """Those of the wanted steps; none of them where one is missing. As rank zero finds them."""
    wanted = wanted_steps(step, reach, spec.checkpoint.every_steps)
    placed: list[dict[int, str] | None] = [None]
    if dist.get_rank() == 0:
        placed[0] = _places(storage, spec, wanted, begun_with)
    dist.broadcast_object_list(placed, src=0)
    places = placed[0] or {}
    if len(places) < len(wanted):
        return []
    return [open_checkpoint(storage, places[wanted_step], f"step-{wanted_step}") for wanted_step in wanted]


def _places(storage: Storage, spec: TrainSpec, wanted: Sequence[int], begun_with: int) -> dict[int, str]:
    """Step -> the run that has its checkpoint; what this start has trained is waited for while it is written."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        places = dict.fromkeys(committed_steps(storage, spec.run), spec.run)
        if spec.adopts is not None:
            donated = committed_steps(storage, spec.adopts.run)
            places |= {step: spec.adopts.run for step in donated if step <= spec.adopts.step and step not in places}
        written = all(step in places for step in wanted if step > begun_with)
        if written or time.monotonic() > until:
            return {step: run for step, run in places.items() if step in wanted}
        time.sleep(0.005)


def _latest(storage: Storage, spec: TrainSpec) -> int:
    """The step that this start goes on from."""
    committed = committed_steps(storage, spec.run)
    return committed[-1] if committed else spec.adopts.step if spec.adopts is not None else 0


@contextlib.contextmanager
def _averaged(engine: Engine, checkpoints: Sequence[Checkpoint]) -> Iterator[None]:
    """The mean of the checkpoints and the weights as they are in the weights' place."""
    weights = dict(engine.deepspeed.module.model.named_parameters())
    aside = {name: weight.detach().clone() for name, weight in weights.items()}
    share = 1 / (len(checkpoints) + 1)
    with torch.no_grad():
        for name, mean, _ in weighted_mean(checkpoints, [share] * len(checkpoints)):
            weight = weights[name]
            weight.copy_((mean.to(weight.device) + share * weight.double()).to(weight.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(aside[name])


AVERAGES = Measure(Settings=AveragesSettings, open=open_averages, unit="bits per byte")
