"""A sweep whose runs share steps: what it would train, how its runs are called, what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from tests.commands import run_here
from tests.integration.conftest import train_config
from workflows.composing import Job
from workflows.sweep import chains_of


def job(called: str = "run", **overrides: str) -> Job:
    command = " ".join(["python -m workflows.pretrain", *(f"{key}={value}" for key, value in overrides.items())])
    return Job(train_config(name=called), command, overrides)


def names(*jobs: Job) -> list[str]:
    return [chain.name for chain in chains_of("pretrain", jobs)]


def test_runs_are_called_after_what_varies() -> None:
    both: list[dict[str, Any]] = [{"schedule.peak_lr": "0.01", "seed": "1"}, {"schedule.peak_lr": "0.02", "seed": "1"}]
    assert names(*(job(**overrides) for overrides in both)) == ["run-peak_lr-0.01", "run-peak_lr-0.02"]
    assert names(job(data="mixture/a"), job(data="mixture/b")) == ["run-data-mixture-a", "run-data-mixture-b"]
    # two keys that end alike are told whole
    steps = [{"steps": "8", "checkpoint.steps": "1"}, {"steps": "9", "checkpoint.steps": "2"}]
    assert names(*(job(**overrides) for overrides in steps))[0] == "run-steps-8-checkpoint.steps-1"
    # who names them is followed
    assert names(job("a", name="a", seed="1"), job("b", name="b", seed="2")) == ["a", "b"]
    (chain, _) = chains_of("pretrain", [job(seed="1"), job(seed="2")])
    assert chain.stages[0].command == "python -m workflows.pretrain seed=1 name=run-seed-1"
    assert chain.stages[0].config.name == "run-seed-1"


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two turns of this sweep would make pretrain/a"):
        names(job("a", name="a", seed="1"), job("a", name="a", seed="2"), job("b", name="b", seed="2"))


def test_a_plan_needs_no_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ended = run_here(
        "pretrain", "-m", "+experiment=wind_tunnel", f"store={store}", "share=true", "dry_run=true",
        "schedule.decay=linear", "schedule.decay_steps=10", "steps=100,200", "schedule.peak_lr=0.01,0.02",
    )  # fmt: skip
    assert ended.code == 0, ended.output
    assert "pretrain: 4 runs" in ended.out
    assert "860k to train; 1.23M if each run were trained by itself (30% saved)" in ended.out
    assert re.search(r"memory +0\.\d+ GiB in each process of a lane", ended.out)
    assert re.search(r"hours +[\d.]+s of one cpu, \$0\.00", ended.out)
    assert "pretrain/wind_tunnel-steps-200-peak_lr-0.02@step-90" in ended.out
    assert "dry run: nothing was started" in ended.out
    assert not store.exists()


def test_a_turn_that_cannot_be_stops_the_sweep_before_it_begins(tmp_path: Path) -> None:
    ended = run_here(
        "pretrain", "-m", "+experiment=wind_tunnel", f"store={tmp_path}", "share=true", "steps=100,-1",
    )  # fmt: skip
    assert ended.code == 2
    assert "steps is -1" in ended.err
    assert list(tmp_path.iterdir()) == []
    ended = run_here(
        "pretrain", "-m", "+experiment=wind_tunnel", f"store={tmp_path}", "share=true", "schedule.decay=linear",
        "schedule.decay_steps=50", "steps=10,100",
    )  # fmt: skip
    assert ended.code == 2
    assert "pretrain/wind_tunnel-steps-10: schedule.warmup_steps 16 + schedule.decay_steps 50 exceed steps 10" in (
        ended.err
    )
