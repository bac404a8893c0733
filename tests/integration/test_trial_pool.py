"""Trials in long-lived lanes under real Ray: one is nothing to the next, a failure is its own, a killed lane goes
on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.cluster import Cluster
from pipelines.cluster.trial_pool import Ended, TrialPool
from pipelines.config import ClusterConfig
from pipelines.errors import ClusterError, ConfigError, TrainingError
from pipelines.train.checkpoint import committed_steps
from pipelines.train.trials.rows import read_rows
from pipelines.train.trials.worker import ready, work_trial
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.test_torchrun import losses

ONE = ClusterConfig(workers=1, max_failures=1)


def work(values: dict[str, Any], emit: Any) -> None:
    """A trial, or what a test asks for instead."""
    if "raises" in values:
        raise values["raises"]
    if "ends" in values:
        with Path(values["notes"]).open("a") as notes:
            notes.write(f"{values['ends']}\n")
        if values["ends"] == "bad":
            os._exit(1)
        return
    if "pid" in values:
        Path(values["pid"]).write_text(str(os.getpid()))
    work_trial(values, emit)


@pytest.fixture(scope="module")
def pool(cluster: Cluster) -> Iterator[TrialPool]:
    """Two lanes of one rank."""
    cluster.map_shards(len, ["a"], "no group of an earlier test")
    with TrialPool(ONE, None, ready, work) as running:
        assert running.lanes == 2
        yield running


def trial(store: Any, name: str, workers: int = 1, measures: Any = None, **changes: Any) -> dict[str, Any]:
    config = train_config(name=name, **{"zero.stage": 0, **changes})
    spec = claimed_spec("pretrain", config, store, workers)
    return {"spec": spec, "measures": {"heldout": {"max_tokens": 300}} if measures is None else measures, "threads": 1}


def run_all(pool: TrialPool, trials: dict[str, dict[str, Any]]) -> dict[str, Ended]:
    left, ends = dict(trials), {}
    while left or pool.outstanding:
        while left and pool.wanted:
            key = next(iter(left))
            pool.submit(key, left.pop(key))
        if (ended := pool.next(timeout=60)) is not None:
            ends[ended.key] = ended
    return ends


def weights(store: Any, name: str) -> dict[str, bytes]:
    folder = store.storage.root / f"pretrain/{name}/checkpoints/step-000012"
    return {path.name.split("-")[1]: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_trial_is_the_same_first_and_last_in_its_lane(pool: TrialPool, store: Any) -> None:
    trials = {"first": trial(store, "first"), "first-again": trial(store, "first-again")}
    trials |= {f"between-{i}": trial(store, f"between-{i}", seed=i, **{"zero.stage": i % 4}) for i in range(4)}
    trials |= {"last": trial(store, "last"), "last-again": trial(store, "last-again")}
    ends = run_all(pool, trials)
    assert {key: ended.error for key, ended in ends.items()} == dict.fromkeys(trials)
    assert {ended.lane for ended in ends.values()} == {0, 1}
    # weights, moments and random numbers
    assert weights(store, "first") == weights(store, "last") == weights(store, "first-again")
    assert weights(store, "first") != weights(store, "between-0")
    assert losses(store, "pretrain/first") == losses(store, "pretrain/last-again")
    rows = [read_rows(store.storage, f"pretrain/{name}") for name in ("first", "last")]
    assert rows[0][0].values == rows[1][0].values
    assert rows[0][0].values.keys() == {"walks", "jumps"}


def test_what_fails_is_named_and_stops_nobody(pool: TrialPool, store: Any) -> None:
    diverges = trial(store, "diverges", **{"schedule.peak_lr": 1e20, "optimizer.gradient_clip": 0.0})
    ends = run_all(
        pool,
        {
            "diverges": diverges,
            "refused": {"raises": ConfigError("lower it")},
            "broken": {"raises": ValueError("no such thing")},
            "fine": trial(store, "fine"),
            "also-fine": trial(store, "also-fine"),
        },
    )
    assert isinstance(ends["diverges"].error, TrainingError)
    assert isinstance(ends["refused"].error, ConfigError)
    assert isinstance(ends["broken"].error, ValueError)
    assert ends["fine"].error is None
    assert ends["also-fine"].error is None
    assert weights(store, "fine") == weights(store, "also-fine")


def test_a_killed_lane_goes_on_from_the_last_checkpoint(pool: TrialPool, store: Any, tmp_path: Path) -> None:
    straight = trial(store, "straight", steps=400, **{"checkpoint.every_steps": 4})
    killed = trial(store, "killed", steps=400, **{"checkpoint.every_steps": 4})
    killed["pid"] = str(tmp_path / "pid")
    pool.submit("straight", straight)
    pool.submit("killed", killed)
    pool.submit("behind", trial(store, "behind"))
    pool.submit("behind-too", trial(store, "behind-too"))
    deadline, ends = time.monotonic() + 600, {}
    while not committed_steps(store.storage, "pretrain/killed"):
        assert time.monotonic() < deadline
        if (ended := pool.next(timeout=0.05)) is not None:
            ends[ended.key] = ended
    assert "killed" not in ends
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    ends |= run_all(pool, {})
    assert {key: ended.error for key, ended in ends.items()} == dict.fromkeys(
        ["straight", "killed", "behind", "behind-too"]
    )
    assert losses(store, "pretrain/killed") == losses(store, "pretrain/straight")


def test_a_trial_that_kills_its_lane_again_and_again_is_given_up(pool: TrialPool, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    ends = run_all(pool, {name: {"notes": str(notes), "ends": name} for name in ("bad", "good", "better")})
    assert isinstance(ends["bad"].error, ClusterError)
    assert "failed more than 1 times" in str(ends["bad"].error)
    assert ends["good"].error is None
    assert notes.read_text().splitlines().count("bad") == 2
