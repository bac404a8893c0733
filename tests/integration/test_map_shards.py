"""Shards over real Ray tasks: order, a bounded number at once, lost workers, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import cluster as module
from pipelines.cluster.cluster import Cluster
from pipelines.errors import ClusterError, DataError
from tests.processes import below


@dataclass(frozen=True)
class Shard:
    number: int
    folder: str
    memory_bytes: int | None = None


def double(shard: int) -> dict[str, int]:
    return {"doubled": 2 * shard}


def die_once(shard: Shard) -> int:
    """Every third shard kills its own worker the first time."""
    met = Path(shard.folder) / str(shard.number)
    if shard.number % 3 == 0 and not met.exists():
        met.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.number


def die(shard: Shard) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Files:
    names: tuple[str, ...]

    @property
    def in_words(self) -> str:
        return f"the files {', '.join(self.names)}"

    @property
    def parts(self) -> tuple[Files, ...]:
        return tuple(Files((name,)) for name in self.names)


def read(shard: Files) -> int:
    """A library ends the process at some file; another part raises."""
    if "damaged" in shard.names:
        os.abort()
    if shard.names == ("refused",):
        raise DataError("refused")
    return len(shard.names)


def refuse(shard: int) -> int:
    if shard == 20:
        raise DataError(f"shard {shard} is bad")
    return shard


def refuse_or_sleep(shard: int) -> None:
    refuse(shard)
    time.sleep(600)


class Counted(Sequence[int]):
    """Numbers that remember how many of them were taken."""

    def __init__(self, length: int):
        self.length, self.taken = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("shards are taken one after the other")

    def __iter__(self) -> Iterator[int]:
        for number in range(self.length):
            self.taken += 1
            yield number


def test_a_private_ray_starts_neither_a_dashboard_nor_agents(cluster: Cluster) -> None:
    cluster.map_shards(double, range(2), "doubling")
    assert len(below(word="/raylet ", deep=False)) == 1
    assert not below(word="dashboard")
    assert not below(word="Agent")


def test_another_version_of_ray_starts_with_what_it_has() -> None:
    code = """
from pipelines.cluster import private_ray
from pipelines.cluster.cluster import Cluster
from pipelines.config import ClusterConfig
from tests.processes import below
private_ray._KNOWN = "0."
with Cluster(ClusterConfig()) as cluster:
    print(cluster.map_shards(abs, [-2, -3], "abs"))
    print(len(below(word="agent")) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-2:] == ["[2, 3]", "True"], done.stderr


def test_results_keep_the_order_and_few_shards_are_under_way(cluster: Cluster) -> None:
    shards, done, ahead = Counted(600), 0, [0]

    def describe(result: dict[str, int]) -> dict[str, Any]:
        nonlocal done
        done += 1
        ahead.append(shards.taken - done)
        return {}

    results = cluster.map_shards(double, shards, "double", describe)
    assert results == [{"doubled": 2 * number} for number in range(600)]
    assert max(ahead) <= 4 * max(2, os.cpu_count() or 1)


def test_a_killed_worker_costs_its_shard_alone(cluster: Cluster, tmp_path: Path) -> None:
    shards = [Shard(number, str(tmp_path)) for number in range(9)]
    assert cluster.map_shards(die_once, shards, "dies") == list(range(9))
    with pytest.raises(
        ClusterError, match=r"lost 4 times .*shard 1 of 1, Shard number=7, folder=/.*damaged.*finished shards are kept"
    ):
        cluster.map_shards(die, shards[7:8], "dies")


def test_the_file_that_ends_processes_is_named(cluster: Cluster) -> None:
    shards = [Files(("a", "b")), Files(("c", "refused", "damaged", "e"))]
    with pytest.raises(ClusterError, match="shard 2 of 2, the files damaged: its process .*leave out a file"):
        cluster.map_shards(read, shards, "read")


def test_a_shard_that_wants_more_memory_than_there_is_still_runs(cluster: Cluster, tmp_path: Path) -> None:
    shards = [Shard(1, str(tmp_path), memory_bytes=1 << 50), Shard(2, str(tmp_path), memory_bytes=1 << 20)]
    assert cluster.map_shards(die_once, shards, "memory") == [1, 2]


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tasks that were cancelled so far."""
    import ray

    cancel, tasks = ray.cancel, list[Any]()
    monkeypatch.setattr(ray, "cancel", lambda task, **options: (tasks.append(task), cancel(task, **options)))
    return tasks


def test_the_first_refusal_ends_the_pass(
    cluster: Cluster, cancelled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHORT_SECONDS", 60.0)  # whatever else the machine does
    shards = Counted(100_000)
    with pytest.raises(DataError, match="shard 20 is bad"):
        cluster.map_shards(refuse, shards, "refuse")
    assert shards.taken < 10_000  # on a busy machine the other worker may do many while one has the shard that is bad
    assert cluster.map_shards(double, [1, 2], "next") == [{"doubled": 2}, {"doubled": 4}]
    assert not cancelled, "Ray may abort the driver when it cancels a task that is just ending"


def test_a_refusal_waits_for_no_shard_that_takes_long(cluster: Cluster, cancelled: list[Any]) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match="shard 20 is bad"):
        cluster.map_shards(refuse_or_sleep, [20, 1, 2, 3], "refuse")
    assert 1 <= len(cancelled) <= 3
    assert time.monotonic() - began < 300
    assert cluster.map_shards(double, [1, 2], "next") == [{"doubled": 2}, {"doubled": 4}]
