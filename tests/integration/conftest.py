"""One S3 server and one group of training processes of each size for a session, one Ray for a file: a start costs
seconds, so tests share them.

`tests/lanes.py` keeps the files that use one in one lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.cluster import Cluster
from pipelines.config import ClusterConfig, parse, plain
from pipelines.train.plan.planning import plan_stage
from pipelines.train.spec import TrainConfig
from pipelines.train.worker import ready, work
from tests import tiny
from tests.integration.ranks import Ranks
from tests.integration.ray_cluster import RayCluster, ray_cluster
from tests.integration.s3_server import S3Server, s3_server

SECRET = "hf_never_to_be_seen_4711"
TINY_MODEL = {
    "layers": 2, "d_model": 32, "d_ff": 80, "heads": 4, "kv_heads": 2, "vocabulary": tiny.VOCABULARY,
    "max_positions": 64, "dim_model_base": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """An embedded Ray for a file. Not for the session: this process is its client, and a file whose command starts a
    Ray of its own may follow in the same lane.
    """
    with Cluster(ClusterConfig(workers=2)) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for the whole session, with one bucket: each test writes below a prefix of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A Ray head of two CPUs as `ray start` makes it, with a store, for tests that send it jobs; nodes they add, they
    take away.
    """
    folder = tmp_path_factory.mktemp("head")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "HF_TOKEN").write_text(SECRET + "\n")
    variables = {
        "TRUNKLINE_STORE": str(folder / "store"), "TRUNKLINE_SECRETS_DIR": str(folder / "secrets"),
        # a node that does not answer, as on a machine with much to do, is none that died: that refuses connections
        "RAY_health_check_timeout_ms": "60000",
    }  # fmt: skip
    with ray_cluster(folder, **variables) as running:
        yield running


def _ranks(count: int, factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(count, factory.mktemp(f"ranks-{count}"))
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """A training process for the whole session."""
    yield from _ranks(1, tmp_path_factory)


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two training processes in one group for the whole session."""
    yield from _ranks(2, tmp_path_factory)


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


def claimed_spec(stage: str, config: TrainConfig, store: Any, workers: int = 2) -> dict[str, Any]:
    """The plain spec of a stage, claimed in the store: what the workflows hand to workers."""
    import dataclasses

    planned = plan_stage(stage, config, store, config.parent, workers)
    draft = store.begin(stage, config.name, planned.identity, planned.inputs)
    spec: dict[str, Any] = plain(dataclasses.replace(planned.spec, claim=draft.claim))
    return spec


def run_stage(cluster: Cluster, stage: str, config: TrainConfig, store: Any) -> None:
    """Train a stage through Ray Train."""
    cluster.train(work, claimed_spec(stage, config, store), ready)
