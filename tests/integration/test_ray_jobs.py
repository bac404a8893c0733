"""`ray start --head` and `ray job submit`, as the README says, with token authentication on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.train.run.loop import read_metrics
from tests import tiny
from tests.integration.ray_cluster import RayCluster
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SUBMIT = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", "python", "-m", "workflows.pretrain"]


@pytest.fixture
def environment(head: RayCluster) -> dict[str, str]:
    """Of a shell that may talk to the head; its store is the head's."""
    return head.environment


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SUBMIT, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


TINY = (
    "+experiment=demo",
    "name=job",
    "data=mixture/tiny_stable",
    "model.layers=2",
    "model.d_model=32",
    "model.d_ff=80",
    f"model.vocabulary={tiny.VOCABULARY}",
    "model.dim_model_base=16",
    "batch.sequence_length=32",
    "batch.global_batch=8",
    "batch.micro_batch=2",
    "steps=8",
    "checkpoint.every_steps=4",
    "log_every_steps=4",
)


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


def test_without_the_token_the_cluster_says_no(environment: dict[str, str], tmp_path: Path) -> None:
    stranger = {**environment, "RAY_AUTH_TOKEN": "f" * 64}
    done = subprocess.run(
        [str(BIN / "ray"), "job", "list"], env=stranger, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode != 0
    assert "auth" in (done.stdout + done.stderr).lower()


def test_one_machine_defaults_are_refused_on_two_nodes(head: RayCluster, environment: dict[str, str]) -> None:
    tiny.build(environment["TRUNKLINE_STORE"])
    node = head.add_node(cpus=1, apart=True)
    try:
        refused = submit(environment, *TINY, "name=two")
        # the folder store is seen from both nodes (they share this machine), so without SQLite the job runs
        accepted = submit(environment, *TINY, "name=two", "tracking.enabled=false")
    finally:
        node.kill()
    assert refused.returncode != 0
    assert "this cluster has 2 nodes, and tracking.uri=None is a SQLite file" in refused.stdout + refused.stderr
    assert accepted.returncode == 0, (accepted.stdout + accepted.stderr)[-4000:]


def test_a_node_that_has_just_died_stops_no_job(head: RayCluster, environment: dict[str, str], tmp_path: Path) -> None:
    """Ray lists a node for some ten seconds after its death, and for minutes while it only does not answer, as this one
    does first.
    """
    tiny.build(environment["TRUNKLINE_STORE"])
    node, said = head.add_node(cpus=1, apart=True), tmp_path / "said"
    try:
        node.stop()
        with said.open("w") as output:
            job = subprocess.Popen(
                [*SUBMIT, *TINY, "name=after", "tracking.enabled=false"],
                cwd=ROOT, env=environment, stdout=output, stderr=output,
            )  # fmt: skip
        waits = "to say whether it sees the store"
        wait_until(lambda: waits in said.read_text() or job.poll() is not None, "the job to ask it", said.read_text)
    finally:
        node.kill()
    wait_until(lambda: job.poll() is not None, "the job's end", said.read_text)
    assert job.returncode == 0, said.read_text()[-4000:]
    # a busy machine is slow to submit: Ray may know of the death before the job asks
    assert ("was lost: the work goes on without it" in said.read_text()) == (waits in said.read_text())
