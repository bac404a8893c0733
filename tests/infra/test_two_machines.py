"""Training over two machines, for real: Ray on both, `ray job submit`, the store on S3, tracking on an MLflow server.

The machines are network namespaces (`namespaces.py`). The worker machine restarts Ray whenever it ends, as its boot
unit does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import committed_steps, open_checkpoint, read_weights
from pipelines.train.run.loop import read_metrics
from tests import tiny
from tests.infra.mlflow_server import MlflowServer, mlflow_server
from tests.infra.namespaces import Host, network
from tests.infra.postgres import postgres
from tests.infra.tools import PROJECT
from tests.integration.s3_server import S3Server, s3_server
from tests.waits import PATIENCE_SECONDS

STEPS, EVERY = 80, 20
LACKS = "waiting for machines: the workers need 2 CPU, of which there are 1"
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
    f"steps={STEPS}",
    f"checkpoint.every_steps={EVERY}",
    "log_every_steps=1",
    "monitor_every_steps=0",
)
# a machine that does not answer is given up after some 10 seconds; Ray's own default is 65
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "2",
}


@dataclass
class Job:
    """`ray job submit`, which follows its job to the end."""

    process: subprocess.Popen[str]
    output: Path

    def said(self) -> str:
        return self.output.read_text()

    def finish(self) -> str:
        """Wait for its good end. Returns: all it said."""
        code = self.process.wait(timeout=PATIENCE_SECONDS)
        assert code == 0, self.said()[-4000:]
        return self.said()


@dataclass
class Machines:
    """A head and a worker with one CPU each, and what they share."""

    head: Host
    worker: Host
    store: ArtifactStore
    mlflow: MlflowServer

    def begin(self) -> None:
        """Start Ray on the head, again where it gave up on its own raylet after 30 seconds, as on a machine with much
        else to do.
        """
        options = (f"--node-ip-address={self.head.address}", "--num-cpus=1", "--object-store-memory=100000000")
        for attempts_left in (2, 1, 0):
            started = self.head.run("ray", "start", "--head", *options, check=attempts_left == 0)
            if started.returncode == 0:
                return
            self.head.kill()  # what a start that gave up leaves running

    def join(self) -> None:
        """Have the worker run Ray, and run it again whenever it ends."""
        ray = (
            f"ray start --block --address={self.head.address}:6379 --node-ip-address={self.worker.address} "
            "--num-cpus=1 --object-store-memory=100000000"
        )
        log = self.worker.folder / "ray.log"
        log.unlink(missing_ok=True)
        self.worker.start("sh", "-c", f"while true; do {ray}; sleep 1; done > /tmp/ray.log 2>&1")
        self.until("the worker's Ray", lambda: log.exists() and "Ray runtime started" in log.read_text())

    def submit(self, name: str) -> Job:
        """Begin a training run, one process on each machine."""
        command = (
            "ray",
            "job",
            "submit",
            "--working-dir",
            ".",
            "--",
            "python",
            "-m",
            "workflows.pretrain",
            *TINY,
            f"name={name}",
        )
        output = self.head.folder / f"{name}.txt"
        with output.open("w") as sink:
            return Job(self.head.start(*command, cwd=PROJECT, stdout=sink, stderr=sink), output)

    def until(self, what: str, happens: Callable[[], object], job: Job | None = None) -> None:
        """Wait for something. Raises: AssertionError when it has not come in time, or when the job ended before."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not happens():
            over = time.monotonic() > end or (job is not None and job.process.poll() is not None)
            assert not over, f"{what} did not come; the job said: {job and job.said()[-4000:]}"
            time.sleep(0.1)

    def steps(self, name: str) -> list[int]:
        return committed_steps(self.store.storage, f"pretrain/{name}")

    def losses(self, name: str) -> list[float]:
        return [row["loss"] for row in read_metrics(self.store.storage, f"pretrain/{name}")]


@contextlib.contextmanager
def two_machines(folder: Path, variables: Mapping[str, str]) -> Iterator[Machines]:
    """A running cluster. Args: variables, more of the environment that Ray is started in."""
    with (
        network(folder) as lan,
        postgres() as database,
        s3_server(folder / "s3", address=lan.address) as storage,
        mlflow_server(folder, lan.address, database, storage) as mlflow,
        storage.environment(TRUNKLINE_CACHE=str(folder / "cache")),
    ):
        store = tiny.build(f"s3://{storage.bucket}/store")
        common = {
            **_reach(storage),
            **variables,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TRUNKLINE_CACHE": "/tmp/cache",
            "PYTHONUNBUFFERED": "1",
            "TRUNKLINE_STORE": store.uri,
            "MLFLOW_TRACKING_URI": mlflow.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        head = lan.host("head", common)
        head.environment.update(RAY_ADDRESS=f"{head.address}:6379", RAY_API_SERVER_ADDRESS="http://127.0.0.1:8265")
        found = Machines(head, lan.host("worker", common), store, mlflow)
        found.begin()
        found.join()
        yield found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with two_machines(tmp_path_factory.mktemp("machines"), IMPATIENT) as running:
        yield running


def _reach(storage: S3Server) -> dict[str, str]:
    with storage.environment():
        return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


@pytest.fixture(scope="module")
def undisturbed(machines: Machines) -> str:
    """The output of a run that nothing happened to."""
    return machines.submit("straight").finish()


def test_one_process_on_each_machine(machines: Machines, undisturbed: str) -> None:
    assert "committed pretrain/straight" in undisturbed
    assert "a worker was lost" not in undisturbed
    assert list((machines.worker.folder / "cache" / "objects").rglob("*.bin")), "the worker machine read no tokens"
    assert len(machines.losses("straight")) == STEPS
    assert_whole(machines, "straight")


def test_a_machine_that_dies_and_returns_costs_nothing_but_time(machines: Machines, undisturbed: str) -> None:
    job = machines.submit("killed")
    machines.until("the first checkpoint", lambda: machines.steps("killed"), job)
    machines.worker.kill()
    machines.until(
        "word of the missing machine", lambda: "the workers need 2 CPU, of which there are 1" in job.said(), job
    )
    machines.join()
    output = job.finish()
    assert "a worker was lost: the group restarts from the last checkpoint (restart 1)" in output
    assert "resumed from pretrain/killed@step-" in output
    assert_same(machines, "killed")


def test_a_cut_link_ends_in_the_same_run(machines: Machines, undisturbed: str) -> None:
    job = machines.submit("cut")
    machines.until("the first checkpoint", lambda: machines.steps("cut"), job)
    machines.worker.cut()
    try:
        machines.until("Ray's giving up of the worker", lambda: LACKS in job.said(), job)
    finally:
        machines.worker.mend()
    output = job.finish()
    assert "resumed from pretrain/cut@step-" in output
    assert_same(machines, "cut")


def assert_same(machines: Machines, name: str) -> None:
    """The run is bit by bit the one that nothing happened to."""
    assert machines.losses(name) == machines.losses("straight")
    ours, theirs = (
        read_weights(open_checkpoint(machines.store.storage, f"pretrain/{run}")) for run in (name, "straight")
    )
    assert all(ours[part].equal(theirs[part]) for part in theirs)
    assert_whole(machines, name)


def assert_whole(machines: Machines, name: str) -> None:
    """Nothing is half-written: every checkpoint is as its manifest says and nothing lies beside it; MLflow has every
    step.
    """
    storage, run = machines.store.storage, f"pretrain/{name}"
    assert machines.steps(name) == list(range(EVERY, STEPS + 1, EVERY))
    for step in machines.steps(name):
        checkpoint = open_checkpoint(storage, run, f"step-{step}")
        checkpoint.verify()
        tensors = {key.rsplit("/", 1)[1] for key in storage.keys(checkpoint.folder) if key.endswith(".safetensors")}
        assert tensors == set(checkpoint.files)  # a receipt may have outlived whoever was to sweep it
    assert machines.store.get(run).statistics["steps"] == STEPS
    tracked = tracked_run(machines, name)
    assert tracked.info.status == "FINISHED"
    from mlflow import MlflowClient

    points = MlflowClient(machines.mlflow.uri).get_metric_history(tracked.info.run_id, "loss")
    assert {point.step: point.value for point in points} == {
        row["step"]: row["loss"] for row in read_metrics(storage, run)
    }


def tracked_run(machines: Machines, name: str) -> Any:
    import json

    from mlflow import MlflowClient

    held = json.loads(machines.store.storage.read(f"pretrain/{name}/mlflow.json"))
    return MlflowClient(machines.mlflow.uri).get_run(held["run_id"])
