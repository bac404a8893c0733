"""One Ray and one tiny store per session: starting Ray costs seconds, so the tests share it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import Cluster
from pipelines.config import ClusterConfig, parse, plain
from pipelines.train.plan.planning import plan
from pipelines.train.stages import StageName, TrainConfig
from pipelines.train.worker import ready, work
from tests import tiny

TINY_MODEL = {
    "layers": 2, "d_model": 32, "d_ff": 80, "heads": 4, "kv_heads": 2, "vocabulary": tiny.VOCABULARY,
    "max_positions": 64, "dim_model_base": 16,
}  # fmt: skip


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """An embedded Ray for the whole session."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    with Cluster(ClusterConfig(workers=2)) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A fresh store with the tiny tokens and mixtures."""
    return tiny.build(str(tmp_path / "store"))


def train_config(**changes: Any) -> TrainConfig:
    """A pretrain config over the tiny store; nested keys by dots (`batch.micro_batch`)."""
    values: dict[str, Any] = {
        "name": "run", "data": "mixture/tiny_stable", "model": dict(TINY_MODEL), "steps": 12, "seed": 1,
        "schedule": {"peak_lr": 0.01, "warmup_steps": 2}, "zero": {"stage": 2, "precision": "float32"},
        "batch": {"sequence_length": 32, "global_batch": 8, "micro_batch": 2},
        "checkpoint": {"every_steps": 4}, "tracking": {"enabled": False},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        scope = values
        for parent in parents:
            scope = scope.setdefault(parent, {})
        scope[leaf] = value
    return parse(TrainConfig, values)


def claimed_spec(stage: StageName, config: TrainConfig, store: Any, workers: int = 2) -> dict[str, Any]:
    """The plain spec of a stage, claimed in the store: what the workflows hand to workers."""
    import dataclasses

    planned = plan(stage, config, store, config.parent, workers)
    draft = store.begin(stage, config.name, planned.identity, planned.inputs)
    spec: dict[str, Any] = plain(dataclasses.replace(planned.spec, claim=draft.claim))
    return spec


def run_stage(cluster: Cluster, stage: StageName, config: TrainConfig, store: Any) -> None:
    """Train a stage through Ray Train."""
    cluster.train(work, claimed_spec(stage, config, store), ready)
