"""What a stage's run takes from its parent: weights, architecture, learning rate, optimizer state, place in the data.

Enters: a stage's row, its config and the parent's checkpoint. Leaves: the values that the run begins with. A stage that
branches goes on in its parent's line, so what would break that line is refused: another architecture but for positions,
another learning rate, another optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipelines.config import plain
from pipelines.data.stream.source_stream import Carried
from pipelines.errors import ConfigError
from pipelines.identity import difference
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.batches import Batches
from pipelines.train.checkpoint.committed import check_optimizer
from pipelines.train.checkpoint.lineage import Run, open_run
from pipelines.train.network.architecture import ModelConfig, check_shapes
from pipelines.train.plan import context
from pipelines.train.schedules import schedule
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.spec import Start, TrainConfig
from pipelines.train.stages import AVERAGE, STAGES, Stage


def branching_stages() -> list[str]:
    """The stages that go on in their parent's line."""
    return [name for name, stage in STAGES.items() if stage.branches]


def open_parent(name: str, stage: Stage, store: ArtifactStore, reference: str) -> Run:
    """The parent's checkpoint. Raises: ConfigError for a kind that the stage does not begin from."""
    kind = Reference.parse(reference).kind
    if kind == AVERAGE and stage.branches:
        onward = " or ".join(other for other, row in STAGES.items() if AVERAGE in row.parents)
        raise ConfigError(
            f"parent={reference} holds weights alone, and {name} goes on with its parent's optimizer state and LR: "
            f"branch from one of the checkpoints that were averaged ({stage.parents[0]}/<name>@step-N), or go on to "
            f"{onward}"
        )
    if kind not in stage.parents:
        raise ConfigError(f"parent={reference} is of kind {kind}; {name} takes {' or '.join(stage.parents)}")
    return open_run(store, reference)


def planned_architecture(name: str, stage: Stage, config: TrainConfig, parent: Run | None) -> ModelConfig:
    """The model's: the config's own for a fresh run, else the parent's, whose positions a branch may stretch."""
    if parent is None:
        if config.model is None:
            raise ConfigError(
                "model is null; a fresh run needs one: choose model=<name in conf/model>, or hours=0.5: the largest "
                "model that so much time and the data allow"
            )
        check_shapes(config.model)
        if config.rope_base != "keep":
            raise ConfigError(f"rope_base={config.rope_base}; a fresh run's is model.rope_base: leave rope_base=keep")
        return config.model
    inherited = ModelConfig(**parent.state["model"])
    trained, length = parent.state["sequence_length"], config.batch.sequence_length
    if not stage.branches and config.rope_base != "keep":
        raise ConfigError(
            f"rope_base={config.rope_base}; only {' or '.join(branching_stages())} changes it: {name} takes its "
            "parent's"
        )
    stretches = stage.branches and (length != trained or config.rope_base != "keep")
    planned = context.extend(inherited, trained, length, config.rope_base) if stretches else inherited
    if config.model is not None and config.model not in (inherited, planned):
        differences = "; ".join(difference(plain(inherited), plain(config.model)))
        raise ConfigError(
            f"parent {parent} is of another architecture ({differences}): leave model null to take the parent's"
            + (", and change its positions with rope_base" if stage.branches else "")
        )
    return planned


def planned_rates(name: str, stage: Stage, config: TrainConfig, parent: Run | None, steps: int) -> Schedule:
    """The learning rate of every step; one that goes on at the trunk's is compared with what the parent reached."""
    inherited = parent.state["learning_rate"] if parent is not None and stage.learning_rate != "own" else None
    rates = schedule.resolve(config.schedule, steps, inherited)
    if stage.learning_rate != "trunk":
        return rates
    assert parent is not None
    stable, reached = parent.state["schedule"]["peak_lr"], parent.state["learning_rate"]
    if STAGES[parent.kind].endless and not math.isclose(stable, reached, rel_tol=1e-9):
        raise ConfigError(
            f"{parent} was saved at LR {reached:g}, outside its stable phase ({stable:g}): branch from a stable "
            "checkpoint"
        )
    if not math.isclose(rates.peak_lr, reached, rel_tol=1e-9):
        raise ConfigError(
            f"schedule.peak_lr is {rates.peak_lr:g}, but {parent} stands at {reached:g}: {name} goes on where the "
            "trunk is: set schedule.peak_lr=null"
        )
    if rates.warmup_steps:
        raise ConfigError(
            f"schedule.warmup_steps is {rates.warmup_steps}; {name} goes on at the trunk's LR: set it to 0"
        )
    return rates


def planned_beginning(
    stage: Stage, config: TrainConfig, parent: Run | None, batches: Batches
) -> tuple[Start, tuple[dict[str, Any], ...], Sequence[Carried]]:
    """Where weights come from, the segments of the stream, and where sources go on in windows of another length."""
    if parent is None:
        return Start(mode="fresh"), batches.segments, ()
    inherited = {"run": parent.artifact.folder, "step": parent.checkpoint.step, "tokens": parent.state["tokens"]}
    if not stage.branches:
        return Start(mode="initialise", **inherited), batches.segments, ()
    check_optimizer(parent.checkpoint, config.optimizer.kind, stage.trains)
    further = batches.go_on(parent.state, config.seed)
    return Start(mode="branch", samples=further.first_sample, **inherited), further.segments, further.carried
