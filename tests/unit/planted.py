"""Results of trials that were never trained: a loss is planted, so that a study's answer is known beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.trials.result import Measured, StageRun, Status, TrialResult

SEQUENCE = 128
BATCH_TOKENS = 16 * SEQUENCE


def model(d_model: int = 32, layers: int = 4, vocabulary: int = 1024) -> ModelConfig:
    """A small one of head width 16, as the laptop's studies train."""
    return ModelConfig(
        layers=layers, d_model=d_model, d_ff=5 * d_model // 2, heads=d_model // 16, kv_heads=d_model // 16,
        vocabulary=vocabulary, max_positions=SEQUENCE,
    )  # fmt: skip


def stage_run(stage: str, name: str, steps: int, shape: ModelConfig, **keys: Any) -> StageRun:
    """A run of one stage. Args: keys, of its config besides the batch."""
    return StageRun(
        stage=stage, folder=f"{stage}/{name}", config={"batch": {"sequence_length": SEQUENCE}, **keys}, model=shape,
        schedule=Schedule(peak_lr=0.01), steps=steps, batch_tokens=BATCH_TOKENS, tokens=steps * BATCH_TOKENS,
    )  # fmt: skip


def trial(
    name: str, settings: Mapping[str, Any], seed: int, runs: tuple[StageRun, ...],
    losses: Mapping[str, Mapping[str, float]], status: Status = "finished", round: int = 0,
) -> TrialResult:  # fmt: skip
    """A trial that was measured at its end. Args: losses, measure -> held-out set -> loss."""
    tokens = sum(run.tokens for run in runs)
    rows = tuple(
        Measured(measure=measure, folder=runs[-1].folder, step=runs[-1].steps, tokens=tokens, values=dict(values))
        for measure, values in losses.items()
    )
    return TrialResult(
        name=f"{name} seed={seed}", settings=dict(settings), seed=seed, status=status, runs=runs,
        measured=rows if status == "finished" else (), round=round,
        reason="" if status == "finished" else f"planted: {status}",
    )  # fmt: skip


def planned(result: TrialResult) -> TrialResult:
    """The trial before it runs, as `check` gets it."""
    return dataclasses.replace(result, measured=(), status="finished", reason="")
