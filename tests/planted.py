"""Trials with a planted answer: results as a sandbox leaves them, whose losses follow a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.trials.result import Measured, StageRun, Status, TrialResult

WINDOW = 128


def model_of(width: int, layers: int = 4) -> ModelConfig:
    """A model of the laptop's wind tunnel."""
    return ModelConfig(
        layers=layers, d_model=width, d_ff=5 * width // 2, heads=width // 16, kv_heads=width // 16, vocabulary=1024,
        max_positions=256, dim_model_base=32,
    )  # fmt: skip


def planted_trial(
    name: str,
    losses: Mapping[int, float],
    *,
    width: int = 32,
    seed: int = 0,
    schedule: Schedule | None = None,
    steps: int = 100,
    batch: int = 16,
    optimizer: Mapping[str, Any] | None = None,
    status: Status = "finished",
    curve: Sequence[Mapping[str, Any]] = (),
    measure: str = "heldout",
    settings: Mapping[str, Any] | None = None,
) -> TrialResult:
    """A trial of one pretrain run. Args: losses, tokens -> bits per byte, ascending; batch, in windows."""
    folder, batch_tokens = f"pretrain/{name.replace(' ', '-')}", batch * WINDOW
    run = StageRun(
        stage="pretrain",
        folder=folder,
        config={
            "batch": {"sequence_length": WINDOW, "global_batch": batch, "micro_batch": 8},
            "optimizer": {"kind": "adamw", "mup_lr": True, **(optimizer or {})},
        },
        model=model_of(width),
        schedule=schedule or Schedule(peak_lr=0.01),
        steps=steps,
        batch_tokens=batch_tokens,
        tokens=steps * batch_tokens,
    )
    rows = [
        Measured(
            measure=measure,
            folder=folder,
            step=tokens // batch_tokens,
            tokens=tokens,
            values={"english": loss, "code": loss},
        )
        for tokens, loss in losses.items()
    ]
    return TrialResult(
        name=name,
        settings=settings or {},
        seed=seed,
        status=status,
        runs=(run,),
        measured=tuple(rows) if status == "finished" else (),
        curve=tuple(curve),
    )
