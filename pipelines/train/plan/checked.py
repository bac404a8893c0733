"""The first half of planning: look up what a stage's run is made of, and refuse what cannot work.

Enters: a stage's name, a `TrainConfig`, the store and the number of workers. Leaves: a `CheckedRun`, with nothing left
open: the parent's checkpoint, the architecture, the objective and its batches, the number of steps, the learning rate,
    and where
weights and stream begin. Nothing is written and no worker is started. Every refusal says what came, what is accepted
and what to change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import plain
from pipelines.data.stream.mixture import MixturePlan
from pipelines.data.stream.source_stream import Carried
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.batches import Batches
from pipelines.train.checkpoint.lineage import Run, tokenizer_of
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.objectives import OBJECTIVES, Objective, objective_of
from pipelines.train.plan import devices, reading, sizing
from pipelines.train.plan.inheritance import (
    branching_stages,
    open_parent,
    planned_architecture,
    planned_beginning,
    planned_rates,
)
from pipelines.train.plan.memory import DeviceKind, Setup
from pipelines.train.plan.sizing import Sized
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.spec import BatchConfig, Start, TrainConfig
from pipelines.train.stages import Stage, stage_named
from pipelines.train.update import zero

# times as many embeddings as ids: beyond that it is another tokenizer's model, not padding
_MOST_PADDING = 2


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """A stage's run of which everything is known, and which nothing speaks against.

    Attributes:
        name: the stage's. stage: its row.
        parent: the run and checkpoint that it begins from; None for a fresh run.
        data: the artifact that `data=` names; tokens, the one that holds the shards: the same where no mixture lies
            between.
        config: without nulls that the data decides. sized: how they were decided.
        epoch_samples: samples in one epoch, where the run counts epochs.
        carried: where each source goes on, where a branch has windows of another length than its parent.
    """

    name: str
    stage: Stage
    config: TrainConfig
    workers: int
    parent: Run | None
    architecture: ModelConfig
    objective: Objective
    data: Artifact
    tokens: Artifact
    batches: Batches
    steps: int
    epoch_samples: int | None
    rates: Schedule
    start: Start
    segments: tuple[dict[str, Any], ...]
    carried: Sequence[Carried]
    sized: Sized


def check_run(name: str, config: TrainConfig, store: ArtifactStore, parent: str | None, workers: int) -> CheckedRun:
    """Look everything up, the cheap refusals first.

    Args: name, of the stage; parent, the resolved reference.
    Raises: ConfigError, ArtifactError, CheckpointError or DataError, each saying what to change.
    """
    stage = stage_named(name)
    objective = chosen_objective(name, config)
    _check_fields(name, stage, config, parent)
    ancestor = open_parent(name, stage, store, parent) if parent else None
    if not _sized_by_data(stage, config):
        planned_architecture(name, stage, config, ancestor)  # refuses before any data is looked at
    data, tokens = _open_data(config, store)
    reading.check_kinds(name, stage, objective, tokens, config)
    sized = sizing.close(name, stage, config, store, data, tokens, ancestor, workers)
    config = sized.config
    batch = config.batch
    architecture = planned_architecture(name, stage, config, ancestor)
    _check_tokenizer(architecture, tokens, ancestor)
    batches = objective.batches.of_data(data, tokens, config.seed, batch.sequence_length, config.epochs or 1.0)
    steps, epoch_samples = _steps(config, batches.epoch_samples)
    rates = planned_rates(name, stage, config, ancestor, steps)
    _check_batch(config, architecture, workers, ancestor)
    zero.check(config.zero)
    devices.check(config.compute, config.zero, device_of(config))
    if config.zero.precision == "fp8":
        from pipelines.train.network import float8

        rows = batch.micro_batch * batches.rows_per_unit
        float8.check(architecture, rows * batch.sequence_length, batches.alike)
        if devices.known(config.cluster, "cuda"):
            devices.check_capability(config.zero)
    start, segments, carried = planned_beginning(stage, config, ancestor, batches)
    reading.check_epochs(config, data, batches, steps)
    return CheckedRun(
        name=name,
        stage=stage,
        config=config,
        workers=workers,
        parent=ancestor,
        architecture=architecture,
        objective=objective,
        data=data,
        tokens=tokens,
        batches=batches,
        steps=steps,
        epoch_samples=epoch_samples,
        rates=rates,
        start=start,
        segments=segments,
        carried=carried,
        sized=sized,
    )


def _sized_by_data(stage: Stage, config: TrainConfig) -> bool:
    """Whether the model, or the window that a branch may stretch it to, is not known from the config alone."""
    return config.batch.sequence_length is None or (stage.starts == "fresh" and config.hours is not None)


def device_of(config: TrainConfig) -> DeviceKind:
    """What the workers will train on."""
    return "cuda" if config.cluster.gpus_per_worker else "cpu"


def setup_of_config(name: str, config: TrainConfig, model: ModelConfig) -> Setup:
    """What decides a worker's memory, from a config alone. Args: name, of the stage; model, its own or inherited."""
    batch, workers = config.batch, config.cluster.workers
    return Setup(
        model=model,
        rows=batch.micro_batch * chosen_objective(name, config).batches.rows_per_unit,
        sequence_length=batch.sequence_length,
        accumulates=batch.global_batch > batch.micro_batch * workers,
        zero=config.zero,
        compute=config.compute,
        workers=workers,
        device=device_of(config),
        optimizer=config.optimizer,
        trains=stage_named(name).trains,
    )


def _check_fields(name: str, stage: Stage, config: TrainConfig, parent: str | None) -> None:
    """Refuse what the config alone tells."""
    if not stage.parents and parent:
        branching = " or ".join(f"workflows.{other}" for other in branching_stages())
        raise ConfigError(
            f"{name} starts fresh, but parent={parent} was given: use {branching} to branch, or remove parent"
        )
    kind = Reference.parse(config.data).kind
    if kind not in stage.data:
        raise ConfigError(
            f"data={config.data} is of kind {kind}; {name} reads {' or '.join(stage.data)}: "
            f"set data={stage.data[0]}/<name>"
        )
    if config.steps is not None and config.epochs is not None:
        raise ConfigError(f"got steps={config.steps} and epochs={config.epochs}; expected one of them: set one to null")
    if config.steps is None and config.epochs is None and kind != "mixture":
        raise ConfigError(
            f"got neither steps nor epochs; {config.data} is read for so many of them: set epochs=1, or steps=…"
        )
    if config.checkpoint.resume != "latest" and config.on_change == "rebuild":
        raise ConfigError(
            f"checkpoint.resume={config.checkpoint.resume} goes on from a checkpoint that on_change=rebuild deletes: "
            "leave one of them out"
        )
    first, last = config.profile_steps
    if first > last:
        raise ConfigError(
            f"profile_steps is [{first}, {last}]; expected the first and the last step to trace, e.g. [10, 13]"
        )


def chosen_objective(name: str, config: TrainConfig) -> Objective:
    """The objective of a stage's run: the stage's own where the config chooses none.

    Raises: ConfigError for one that reads what the stage does not.
    """
    own = OBJECTIVES[stage_named(name).objective]
    if config.objective is None:
        return own()
    reads = OBJECTIVES[config.objective.name].batches
    if reads is not own.batches:
        fitting = [row for row, objective in OBJECTIVES.items() if objective.batches is own.batches]
        raise ConfigError(
            f"objective={config.objective.name} learns from {reads.unit}, and {name} reads {own.batches.unit}: "
            f"set objective={' or '.join(fitting)}"
        )
    return objective_of(config.objective)


def _open_data(config: TrainConfig, store: ArtifactStore) -> tuple[Artifact, Artifact]:
    """What `config.data` names, and the tokens that hold its shards."""
    data = store.get(config.data)
    if data.folder.startswith("tokens/"):
        return data, data
    mixture = MixturePlan.from_json(data.json("mixture.json"))
    tokens = store.get(mixture.tokens)
    if tokens.fingerprint != mixture.tokens_fingerprint:
        raise ArtifactError(
            f"{config.data} was planned over another version of {mixture.tokens} ({mixture.tokens_fingerprint}, now "
            f"{tokens.fingerprint}): plan it again with `python -m workflows.mixture` and on_change=rebuild"
        )
    return data, tokens


def _check_tokenizer(architecture: ModelConfig, tokens: Artifact, parent: Run | None) -> None:
    """Refuse ids that mean something else to the model."""
    if parent is not None and parent.state.get("tokenizer") != tokenizer_of(tokens):
        raise ConfigError(
            f"{tokens.folder} was encoded with another tokenizer than {parent} was trained on: encode it with "
            "`python -m workflows.tokenize tokenizer.reuse=tokens/<the parent's>`"
        )
    size = tokens.statistics["vocabulary_size"]
    received = f"model.vocabulary is {architecture.vocabulary}, but the tokenizer of {tokens.folder} has {size} ids"
    sized = "" if parent else "; or have the model sized by the data: +experiment=own hours=0.5, without model="
    if architecture.vocabulary < size:
        raise ConfigError(f"{received}: set model.vocabulary={size} or more{sized}")
    if architecture.vocabulary > _MOST_PADDING * size:
        raise ConfigError(
            f"{received}: most of the embedding would never be trained: set model.vocabulary={size} "
            f"(or up to {int(_MOST_PADDING * size)}), or encode with a larger tokenizer{sized}"
        )


def _steps(config: TrainConfig, epoch_samples: int) -> tuple[int, int | None]:
    """Optimizer steps; and samples in one epoch, where the run counts epochs."""
    if config.data.startswith("mixture/"):
        assert config.steps is not None
        return config.steps, None
    if config.steps is not None:
        return config.steps, epoch_samples
    assert config.epochs is not None
    return max(1, math.ceil(config.epochs * epoch_samples / config.batch.global_batch)), epoch_samples


def check_division(batch: BatchConfig, workers: int) -> None:
    """Refuse a batch that does not divide over its workers. Raises: ConfigError with the micro-batches that would."""
    if min(batch.global_batch, batch.micro_batch, batch.sequence_length, workers) <= 0:
        raise ConfigError(f"batch {plain(batch)} with {workers} workers; expected positive whole numbers")
    if batch.global_batch % (batch.micro_batch * workers) == 0:
        return
    fitting = [
        size for size in range(1, batch.global_batch // workers + 1) if batch.global_batch % (size * workers) == 0
    ]
    advice = (
        f"set batch.micro_batch to one of {', '.join(map(str, fitting))}"
        if fitting
        else f"set batch.global_batch to a multiple of {workers}"
    )
    raise ConfigError(
        f"batch.global_batch {batch.global_batch} does not divide into micro-batches of {batch.micro_batch} on "
        f"{workers} workers: {advice}"
    )


def _check_batch(config: TrainConfig, architecture: ModelConfig, workers: int, parent: Run | None) -> None:
    check_division(config.batch, workers)
    length = config.batch.sequence_length
    if length > architecture.max_positions:
        raised = (
            "raise max_positions"
            if parent is None
            else f"take a parent that a branch extended (workflows.{branching_stages()[0]} "
            f"batch.sequence_length={length})"
        )
        raise ConfigError(
            f"batch.sequence_length {length} exceeds model.max_positions {architecture.max_positions}: lower it, or "
            f"{raised}"
        )
