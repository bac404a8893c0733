"""`ray start --head` and `ray job submit`, as the README says, with token authentication on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.train.run.loop import read_metrics
from tests import tiny

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now: fixed ones would collide with a leftover of an earlier run."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


PORT, DASHBOARD, CLIENT, AGENT, SECOND_AGENT = free_ports(5)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head node of its own ports, with tokens; gives the environment of the shell that started it."""
    folder = tmp_path_factory.mktemp("jobs")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables = {
        **inherited,
        "RAY_AUTH_MODE": "token",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "TRUNKLINE_STORE": str(folder / "store"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD}",
    }
    ray = [str(BIN / "ray")]
    subprocess.run([*ray, "get-auth-token", "--generate"], env=variables, capture_output=True, check=True, timeout=60)
    start = [*ray, "start", "--head", f"--port={PORT}", f"--dashboard-port={DASHBOARD}", "--num-cpus=2", f"--temp-dir=/tmp/tl-{os.getpid()}", f"--ray-client-server-port={CLIENT}",  f"--dashboard-agent-listen-port={AGENT}"]  # fmt: skip
    done = subprocess.run(start, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield variables
    finally:
        # `ray stop` would also stop the embedded Ray that the other tests share: end this head's processes only
        subprocess.run(["pkill", "-KILL", "-f", f"/tmp/tl-{os.getpid()}"], timeout=60)


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--working-dir",
        ".",
        "--",
        "python",
        "-m",
        "workflows.pretrain",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


TINY = (
    "+experiment=demo", "name=job", "data=mixture/tiny_stable", "model.layers=2", "model.d_model=32", "model.d_ff=80",
    f"model.vocabulary={tiny.VOCABULARY}", "model.dim_model_base=16", "batch.sequence_length=32", "batch.global_batch=8",
    "batch.micro_batch=2", "steps=8", "checkpoint.every_steps=4", "log_every_steps=4",
)  # fmt: skip


def test_a_pretrain_job_runs_on_the_cluster_and_leaves_its_artifact(environment: dict[str, str]) -> None:
    store = tiny.build(environment["TRUNKLINE_STORE"])
    done = submit(environment, *TINY)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert "succeeded" in output
    assert "committed pretrain/job" in output
    assert store.get("pretrain/job").statistics["steps"] == 8
    assert len(read_metrics(store.storage, "pretrain/job")) == 8


def test_a_job_that_cannot_run_fails_with_the_reason(environment: dict[str, str]) -> None:
    done = submit(environment, *TINY, "data=mixture/none")
    assert done.returncode != 0
    assert "error: mixture/none does not exist" in done.stdout + done.stderr


def test_a_relative_store_inside_a_job_is_refused(environment: dict[str, str]) -> None:
    done = submit(environment, *TINY, "store=store")
    assert done.returncode != 0
    assert "results would vanish with it; pass store=$PWD/store" in done.stdout + done.stderr


def test_without_the_token_the_cluster_says_no(environment: dict[str, str], tmp_path: Path) -> None:
    stranger = {**environment, "RAY_AUTH_TOKEN": "f" * 64}
    done = subprocess.run([str(BIN / "ray"), "job", "list"], env=stranger, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "auth" in (done.stdout + done.stderr).lower()


def test_one_machine_defaults_are_refused_on_two_nodes(environment: dict[str, str]) -> None:
    tiny.build(environment["TRUNKLINE_STORE"])
    join = [
        str(BIN / "ray"),
        "start",
        f"--address=127.0.0.1:{PORT}",
        "--num-cpus=1",
        f"--dashboard-agent-listen-port={SECOND_AGENT}",
    ]
    done = subprocess.run(join, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = submit(environment, *TINY, "name=two")
    assert refused.returncode != 0
    assert "this cluster has 2 nodes, and tracking.uri=None is a SQLite file" in refused.stdout + refused.stderr
    # the folder store is seen from both nodes (they share this machine), so without SQLite the job runs
    accepted = submit(environment, *TINY, "name=two", "tracking.enabled=false")
    assert accepted.returncode == 0, (accepted.stdout + accepted.stderr)[-4000:]
