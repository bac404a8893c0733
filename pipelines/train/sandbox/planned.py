"""What a trial will be, from its configs alone: its runs, and a refusal of what cannot work.

Enters: a `Trial`. Leaves: the `StageRun`s of its chain with model, schedule, steps and tokens, and the memory of one
lane. Only a chain that begins from a run of the store needs the store.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pipelines.config import plain
from pipelines.errors import ConfigError, TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.network.architecture import ModelConfig, check_shapes
from pipelines.train.plan import devices, memory
from pipelines.train.plan.checked import check_division, chosen_objective, device_of, setup_of_config
from pipelines.train.plan.inheritance import open_parent
from pipelines.train.plan.planning import plan_stage
from pipelines.train.sandbox.config import MIXTURE, SandboxConfig
from pipelines.train.sandbox.expand import Trial, TrialStage
from pipelines.train.schedules.schedule import learning_rate, resolve
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import stage_named
from pipelines.train.trials.result import StageRun, Status, TrialResult


def planned_runs(trial: Trial, store: ArtifactStore | None) -> tuple[StageRun, ...]:
    """The chain's runs. Args: store, where a parent outside the chain is looked up. Raises: ConfigError and others."""
    runs: list[StageRun] = []
    try:
        for stage in trial.trained:
            runs.append(_run(stage, *_inherited(stage, runs, store)))
    except TrunklineError as error:
        raise type(error)(f"study {trial.study}, trial {trial.name}: {error}") from error
    return tuple(runs)


def _inherited(
    stage: TrialStage, runs: Sequence[StageRun], store: ArtifactStore | None
) -> tuple[ModelConfig, float | None]:
    """A stage's model, and the learning rate that its parent ends with."""
    config, row = stage.config, stage_named(stage.workflow)
    if not row.parents:
        if runs:
            raise ConfigError(f"{stage.workflow} starts fresh and stands behind {runs[-1].stage}: put it first")
        if config.model is None:
            raise ConfigError("model is null; a fresh run needs one: choose model=<name in conf/model>")
        return config.model, None
    if runs:
        if runs[-1].stage not in row.parents:
            raise ConfigError(f"{stage.workflow} stands behind {runs[-1].stage}; it takes {' or '.join(row.parents)}")
        before = runs[-1]
        rate = learning_rate(before.schedule, before.steps - 1, before.steps)
        return before.model, None if row.learning_rate == "own" else rate
    if not config.parent or store is None:
        raise ConfigError(f"{stage.workflow} needs a parent: set parent=<{'|'.join(row.parents)}>/<name>[@step-N]")
    parent = open_parent(stage.workflow, row, store, config.parent)
    reached = None if row.learning_rate == "own" else float(parent.state["learning_rate"])
    return ModelConfig(**parent.state["model"]), reached


def _run(stage: TrialStage, model: ModelConfig, rate: float | None) -> StageRun:
    config: TrainConfig = stage.config
    if config.steps is None:
        raise ConfigError(
            f"{stage.workflow} counts epochs; trials are compared by steps: set steps, tokens or tokens_per_parameter, "
            "and epochs=null"
        )
    check_shapes(model)
    check_division(config.batch, config.cluster.workers)
    if config.batch.sequence_length > model.max_positions:
        raise ConfigError(
            f"batch.sequence_length {config.batch.sequence_length} exceeds model.max_positions {model.max_positions}: "
            "lower it, or raise max_positions"
        )
    rows = chosen_objective(stage.workflow, config).batches.rows_per_unit
    tokens = config.batch.global_batch * config.batch.sequence_length * rows
    return StageRun(
        stage=stage.workflow,
        folder=f"{stage.workflow}/{config.name}",
        config=plain(config),
        model=model,
        schedule=resolve(config.schedule, config.steps, rate),
        steps=config.steps,
        batch_tokens=tokens,
        tokens=tokens * config.steps,
    )


def planned_result(
    trial: Trial, runs: tuple[StageRun, ...], status: Status = "finished", reason: str = ""
) -> TrialResult:
    """A result without a measurement: what a study's `check` gets, and of a trial that did not come far."""
    return TrialResult(
        name=trial.name, settings=trial.settings, seed=trial.seed, status=status, runs=runs, reason=reason,
        round=trial.round,
    )  # fmt: skip


def lane_memory(trial: Trial, runs: Sequence[StageRun], lanes: int) -> memory.Memory:
    """The most that a process of a lane needs for a trial. Raises: ConfigError where it does not fit."""
    predictions = []
    for stage, run in zip(trial.trained, runs, strict=True):
        config: TrainConfig = stage.config
        device, workers = device_of(config), config.cluster.workers
        rows = chosen_objective(stage.workflow, config).batches.rows_per_unit
        setup = setup_of_config(stage.workflow, config, run.model)
        try:
            elsewhere = device == "cuda" and not devices.known(config.cluster, device)
            if elsewhere and config.compute.memory_gib is None:
                predictions.append(memory.predict(setup, memory.plan_keep(setup, float("inf"))))
            else:
                limit, whose = devices.budget(config.compute, device, workers * lanes if device == "cpu" else workers)
                of_worker = config.batch.global_batch // workers
                predictions.append(memory.check(setup, limit, whose, rows, of_worker))
        except ConfigError as error:
            fewer = f", or fewer lanes than {lanes} (lanes=1)" if lanes > 1 else ""
            raise ConfigError(f"study {trial.study}, trial {trial.name}: {error}{fewer}") from error
    return max(predictions, key=lambda predicted: predicted.total)


def check_in_store(trials: Sequence[Trial], store: ArtifactStore) -> None:
    """Plan a run of each kind as its own command would: data, parent and tokenizer are there and fit.

    The first stage of the longest trial of each model, batch and data stands for the others, which need less.
    Raises: as `plan_stage`, naming the trial.
    """
    longest: dict[Any, Trial] = {}
    for trial in trials:
        if trial.stages[0].workflow == MIXTURE:
            continue  # its data is made first
        config: TrainConfig = trial.trained[0].config
        kind = (trial.trained[0].workflow, config.data, config.parent, config.model, config.batch)
        if kind not in longest or (longest[kind].trained[0].config.steps or 0) < (config.steps or 0):
            longest[kind] = trial
    for trial in longest.values():
        stage = trial.trained[0]
        try:
            plan_stage(stage.workflow, stage.config, store, stage.config.parent, stage.config.cluster.workers)
        except TrunklineError as error:
            raise type(error)(f"study {trial.study}, trial {trial.name}: {error}") from error


def lanes_foreseen(config: SandboxConfig) -> int:
    """How many lanes there will be, as far as this machine tells: its CPUs; a cluster's are known when it is joined."""
    if config.lanes is not None:
        return config.lanes
    each = max(config.cluster.cpus_per_worker * config.cluster.workers, 1.0)
    return max(1, int((os.cpu_count() or 1) // each))
