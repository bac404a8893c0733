"""The group of training processes under real Ray: kept between stages, restarted when lost, not restarted for what
would repeat itself.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.cluster import Cluster
from pipelines.errors import ClusterError, ConfigError, DataError, StorageError
from pipelines.store.lease import _started as started
from pipelines.train.worker import ready
from tests.integration.conftest import run_stage, train_config
from tests.waits import wait_until

Emit = Callable[[str], None]


def note(spec: dict[str, Any], what: object) -> None:
    """One more line of what happened, whichever process it happened in."""
    with Path(spec["notes"]).open("a") as notes:
        notes.write(f"{what}\n")


def notes(spec: dict[str, Any]) -> list[str]:
    return Path(spec["notes"]).read_text().splitlines()


def tell_pid(spec: dict[str, Any], emit: Emit) -> None:
    note(spec, os.getpid())
    emit(f"   rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")


def fail(spec: dict[str, Any], emit: Emit) -> None:
    """Rank one raises what the spec says, while rank zero waits for it in a collective."""
    import torch.distributed as dist

    if dist.get_rank() == 1:
        note(spec, "tried")
        raise spec["error"]
    dist.barrier()


def refuse_beside(spec: dict[str, Any], emit: Emit) -> None:
    """Rank one refuses its data while rank zero is at work."""
    if os.environ["RANK"] == "1":
        wait_until(lambda: Path(spec["notes"]).exists(), "rank zero to work")
        raise DataError("nothing is left")
    note(spec, os.getpid())
    time.sleep(600)


def end_at_first(spec: dict[str, Any], emit: Emit) -> None:
    """Rank one's process ends without a word, as often as the spec says."""
    import torch.distributed as dist

    if dist.get_rank() == 1:
        note(spec, "tried")
        if len(notes(spec)) <= spec["ends"]:
            os._exit(1)
    dist.barrier()


def square(number: int) -> int:
    return number * number


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    return {"notes": str(tmp_path / "notes")}


def test_processes_stay_for_the_next_stage_and_make_way_for_shards(
    cluster: Cluster, spec: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.map_shards(square, [1], "square")  # no group of an earlier test
    cluster.train(tell_pid, spec)
    cluster.train(tell_pid, spec)
    first, second = notes(spec)[:2], notes(spec)[2:]
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 2
    said = capfd.readouterr().out
    assert said.count("rank 1 of 2") == 2
    assert said.count("the 2 processes of the stage before") == 1
    assert cluster.map_shards(square, [1, 2, 3], "square") == [1, 4, 9]  # the two CPUs are free again
    cluster.train(tell_pid, spec)
    assert not set(notes(spec)[4:]) & set(first)


def test_a_process_lost_between_stages_is_no_failure_of_the_next(
    cluster: Cluster, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "config", dataclasses.replace(cluster.config, max_failures=0))
    cluster.train(tell_pid, spec)
    lost = int(notes(spec)[-1])
    os.kill(lost, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{lost}").exists(), "the process to end")
    cluster.train(tell_pid, spec)
    assert str(lost) not in notes(spec)[-2:]


def test_a_stage_is_the_same_first_and_last_in_its_processes(cluster: Cluster, store: Any) -> None:
    run_stage(cluster, "pretrain", train_config(name="first"), store)
    run_stage(
        cluster, "pretrain", train_config(name="between", **{"seed": 7, "zero.stage": 3, "batch.micro_batch": 1}), store
    )
    run_stage(cluster, "pretrain", train_config(name="last"), store)
    first, last = ({
        path.name.split("-")[1]: path.read_bytes()
        for path in (store.storage.root / f"pretrain/{name}/checkpoints/step-000012").glob("*.safetensors")
    } for name in ("first", "last"))  # fmt: skip
    assert first == last  # weights, moments and random numbers, of each rank
    assert len(first) == 2


class TwoPartError(Exception):
    """Cannot be unpickled: its arguments are not those of its making."""

    def __init__(self, what: str, why: str):
        super().__init__(f"{what}: {why}")


def fail_in_two_parts(spec: dict[str, Any], emit: Emit) -> None:
    for number in range(500):
        emit(f"   line {number} of {os.environ['RANK']}")
    note(spec, "tried")
    raise TwoPartError("index", "out of range")


def test_an_error_that_cannot_be_pickled_is_raised_once_after_all_lines(
    cluster: Cluster, spec: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception, match="index: out of range") as raised:
        cluster.train(fail_in_two_parts, spec)
    assert not isinstance(raised.value, ClusterError)
    assert "line 499 of " in capfd.readouterr().out


@pytest.mark.parametrize(
    "error", [ConfigError("lower it"), OverflowError("int too large"), ValueError("no such thing")]
)
def test_what_would_repeat_itself_is_raised_once(cluster: Cluster, spec: dict[str, Any], error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        cluster.train(fail, {**spec, "error": error})
    assert notes(spec) == ["tried"]


def test_no_rank_works_on_once_one_has_refused(cluster: Cluster, spec: dict[str, Any]) -> None:
    """What a refused rebuild had set aside comes back, and a checkpoint that is committed then would be mixed with
    it.
    """
    with pytest.raises(DataError, match="nothing is left"):
        cluster.train(refuse_beside, spec)
    assert started(int(notes(spec)[0])) == 0


def test_what_may_pass_is_tried_again(
    cluster: Cluster, spec: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.train(end_at_first, {**spec, "ends": 1})
    assert len(notes(spec)) == 2
    assert "a worker was lost: the group restarts from the last checkpoint (restart 1)" in capfd.readouterr().out
    Path(spec["notes"]).unlink()
    with pytest.raises(
        StorageError, match=r"failed more than 3 times.*run the same command to go on\. Cause: no answer"
    ):
        cluster.train(fail, {**spec, "error": StorageError("no answer")})
    assert len(notes(spec)) == 4
    assert "a worker could not reach its storage (no answer)" in capfd.readouterr().out


def test_a_group_ended_while_it_forms_leaves_nothing(cluster: Cluster, spec: dict[str, Any]) -> None:
    cluster.prepare(ready)
    assert cluster.map_shards(square, [4], "square") == [16]
    import ray

    wait_until(
        lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"],
        "all CPUs to be free again",
        lambda: f"of {ray.cluster_resources()} only {ray.available_resources()}",
    )


def vanish() -> None:
    os._exit(1)


def test_a_group_that_cannot_form_is_told_before_anything_is_touched(cluster: Cluster, spec: dict[str, Any]) -> None:
    cluster.map_shards(square, [1], "square")  # no group of an earlier test
    with pytest.raises(ClusterError, match="could not be started, and nothing was touched"):
        cluster.prepare(vanish, wait=True)
    begun: list[int] = []
    cluster.train(tell_pid, spec, begin=lambda: begun.append(1))
    assert begun == [1]
    assert len(notes(spec)) == 2
