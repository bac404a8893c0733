"""A training run logs to a real MLflow server that is killed midway, whose database is restarted, or that is never
there.

The server has a PostgreSQL behind it and passes artifacts on to S3 (`mlflow_server.py`). Whatever happens, each point
of the curve arrives once, and so do the files and the run's end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.run.loop import read_metrics
from tests import tiny
from tests.infra.mlflow_server import MlflowServer, mlflow_server
from tests.infra.postgres import postgres
from tests.infra.tools import PROJECT
from tests.integration.s3_server import S3Server, s3_server
from tests.processes import below, send
from tests.waits import wait_until

TINY = (
    "+experiment=demo",
    "data=mixture/tiny_stable",
    "model.layers=2",
    "model.d_model=32",
    "model.d_ff=80",
    f"model.vocabulary={tiny.VOCABULARY}",
    "model.dim_model_base=16",
    "batch.sequence_length=32",
    "batch.global_batch=8",
    "batch.micro_batch=2",
    "cluster.workers=1",
    "checkpoint.every_steps=20",
    "log_every_steps=1",
    "monitor_every_steps=0",
)


@dataclass
class Run:
    """A training run under way."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    store: ArtifactStore

    def reaches(self, step: int) -> None:
        """Wait for a checkpoint."""
        manifest = f"pretrain/{self.name}/checkpoints/step-{step:06d}/manifest.json"
        self._until(lambda: self.store.storage.exists(manifest), f"step {step} of {self.name}")

    def says(self, words: str) -> None:
        """Wait until it has said so; it may have ended by then."""
        self._until(lambda: words in self.output.read_text(), f"{self.name} to say {words!r}")

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        wait_until(lambda: self.process.poll() is not None or ready(), what, self.tail)
        assert ready(), f"{self.name} has ended without {what}: {self.tail()}"

    def tail(self) -> str:
        """The end of what it said."""
        return self.output.read_text()[-4000:]

    def kill(self) -> None:
        """End it, with the Ray that it started, whatever state it is in."""
        started = below(self.process.pid) if self.process.poll() is None else []
        self.process.kill()
        send(started, signal.SIGKILL)
        self.process.wait()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Training stands still for the length of the block, so that it does not end before what is done there."""
        held = below(self.process.pid, "TrainWorker")
        send(held, signal.SIGSTOP)
        try:
            yield
        finally:
            send(held, signal.SIGCONT)

    def finish(self) -> str:
        """Wait for its good end. Returns: what it said."""
        wait_until(lambda: self.process.poll() is not None, f"the end of {self.name}", self.tail)
        assert self.process.returncode == 0, self.tail()
        return self.output.read_text()


@dataclass
class Desk:
    """Where a user works: a store, a cache, a server to track at."""

    folder: Path

    server: MlflowServer
    storage: S3Server
    store: ArtifactStore
    environment: dict[str, str]
    runs: list[Run] = field(default_factory=list)

    def begin(self, name: str, *overrides: str) -> Run:
        """Start a training run."""
        command = [sys.executable, "-m", "workflows.pretrain", *TINY, f"name={name}", *overrides]
        output = self.folder / f"{name}.txt"
        with output.open("w") as sink:
            process = subprocess.Popen(command, cwd=PROJECT, env=self.environment, stdout=sink, stderr=sink)
        self.runs.append(Run(name, process, output, self.store))
        return self.runs[-1]

    def points(self, name: str) -> dict[int, float]:
        """The curve on the server: that nothing is there twice is part of what this looks at."""
        history = self.client.get_metric_history(self.run(name).info.run_id, "loss")
        assert len(history) == len({point.step for point in history})
        return {point.step: point.value for point in history}

    def curve(self, name: str) -> dict[int, float]:
        """The curve in the store."""
        return {row["step"]: row["loss"] for row in read_metrics(self.store.storage, f"pretrain/{name}")}

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.server.uri)

    def run(self, name: str) -> Any:
        """The server's only run of that name."""
        experiment = self.client.get_experiment_by_name("trunkline")
        assert experiment is not None
        (found,) = self.client.search_runs([experiment.experiment_id], f"tags.`trunkline.name` = '{name}'")
        return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("mlflow")
    with (
        postgres() as database,
        s3_server(folder / "s3") as storage,
        mlflow_server(folder, "127.0.0.1", database, storage) as server,
    ):
        store = tiny.build(str(folder / "store"))
        environment = {
            **os.environ,
            "TRUNKLINE_STORE": store.uri,
            "TRUNKLINE_CACHE": str(folder / "cache"),
            "RAY_AUTH_MODE": "token",
            "MLFLOW_TRACKING_URI": server.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        desk = Desk(folder, server, storage, store, environment)
        try:
            yield desk
        finally:
            for run in desk.runs:  # where a test has failed
                run.kill()


def through_an_outage(desk: Desk, name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """A run, an outage in it, and the run's end.

    A delivery falls into the outage however fast or slow the machine is: the outage lasts until the run says that one
    failed. At the latest that is its last one; where the run is over before the server is back, the next command has to
    send what is left.
    """
    run = desk.begin(name, "steps=200")
    run.reaches(40)
    begin()
    run.says("does not answer")
    with run.held():
        end()
    run.finish()
    if len(desk.points(name)) < len(desk.curve(name)):
        assert f"of pretrain/{name} have not reached MLflow" in run.tail()
        desk.begin(name, "steps=200").finish()
    assert_all_there(desk, name, 200)


def test_a_server_killed_midway_misses_nothing(desk: Desk) -> None:
    through_an_outage(desk, "killed", desk.server.kill, desk.server.start)


def test_a_restarted_database_misses_nothing(desk: Desk) -> None:
    through_an_outage(desk, "database", desk.server.database.stop, desk.server.database.start)


def test_a_server_that_was_never_there_gets_all_from_the_next_command(desk: Desk) -> None:
    desk.server.kill()
    output = desk.begin("alone", "steps=40").finish()
    assert "points are kept and sent when it answers, to this command or a later one" in output
    assert not desk.store.storage.exists("pretrain/alone/mlflow.json")
    desk.server.start()
    again = desk.begin("alone", "steps=40").finish()
    assert "finished already" in again
    assert "has got what earlier commands could not send" in again
    assert_all_there(desk, "alone", 40)
    assert not list(Path(desk.environment["TRUNKLINE_CACHE"]).glob("spool/*"))
    assert desk.store.storage.keys(".spool") == []


def assert_all_there(desk: Desk, name: str, steps: int) -> None:
    """The server has every point, the files (in S3, not on this machine), the settings and the end of a run."""
    assert len(desk.curve(name)) == steps
    assert desk.points(name) == desk.curve(name)
    run = desk.run(name)
    assert run.info.status == "FINISHED"
    assert run.data.params["steps"] == str(steps)
    held = json.loads(desk.store.storage.read(f"pretrain/{name}/mlflow.json"))
    assert held == {"uri": desk.server.uri, "run_id": run.info.run_id}
    assert [file.path for file in desk.client.list_artifacts(run.info.run_id)] == ["config.json"]
    listed = desk.storage.client().list_objects_v2(Bucket=desk.storage.bucket, Prefix="mlflow/")
    assert any(f"{run.info.run_id}/artifacts/config.json" in item["Key"] for item in listed["Contents"])
