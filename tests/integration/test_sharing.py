"""Runs that adopt the common steps of another: every bit of them is that of the same config run alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.config import plain
from pipelines.errors import CheckpointError
from pipelines.train.checkpoint import Checkpoint, committed_steps, open_checkpoint
from pipelines.train.run.loop import read_metrics
from pipelines.train.spec import Adopted
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks, train

MEASURED = ("step_duration_s", "data_wait_s")
DECAY = {"peak_lr": 0.01, "warmup_steps": 2, "decay": "linear", "decay_steps": 4}


def tensors_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint holds, of all ranks: weights, moments, random states."""
    tensors = {}
    for name in checkpoint.files:
        rank = name.split("-")[1]
        path = checkpoint.storage.fetch(f"{checkpoint.folder}/{name}")
        tensors.update({f"{rank} {key}": tensor for key, tensor in load_file(path).items()})
    return tensors


def curve(store: Any, run: str) -> list[dict[str, Any]]:
    """The rows of a run, without what a clock said."""
    return [
        {name: value for name, value in row.items() if name not in MEASURED} for row in read_metrics(store.storage, run)
    ]


def assert_equal(store: Any, run: str, alone: str) -> None:
    """Two runs ended bit by bit alike: weights, moments, random states, rows, and what the last checkpoint says."""
    ours, theirs = (open_checkpoint(store.storage, folder) for folder in (run, alone))
    assert ours.step == theirs.step
    own, other = tensors_of(ours), tensors_of(theirs)
    assert own.keys() == other.keys()
    assert any("exp_avg" in key for key in own)
    assert [key for key in own if not torch.equal(own[key], other[key])] == []
    assert curve(store, run) == curve(store, alone)
    own_state, other_state = (
        {key: value for key, value in checkpoint.state.items() if key not in ("name", "attempt")}
        for checkpoint in (ours, theirs)
    )
    assert own_state == other_state
    skipped = ("train_seconds", "checkpoint_stall_s")
    own_facts, other_facts = (
        {key: value for key, value in store.get(folder).statistics.items() if key not in skipped}
        for folder in (run, alone)
    )
    assert own_facts == other_facts


@pytest.mark.parametrize(("ranks", "stage"), [("one_rank", 1), ("two_ranks", 2), ("two_ranks", 3)])
def test_a_leaf_that_adopts_is_bit_equal_to_its_config_run_alone(
    store: Any, request: pytest.FixtureRequest, ranks: str, stage: int
) -> None:
    processes: Ranks = request.getfixturevalue(ranks)
    common = {"zero.stage": stage, "log_every_steps": 5, "monitor_every_steps": 3}

    def edge(stage: str, config: Any, until: int | None = None, adopts: Adopted | None = None) -> None:
        spec = claimed_spec(stage, config, store, processes.count)
        done = processes.call(train, {**spec, "until": until, "adopts": plain(adopts)})
        assert done.error == ""

    trunk = train_config(name="trunk", steps=16, **common)
    # 7 is no step of the grid of checkpoints, nor of the lines of the log
    edge("pretrain", trunk, until=7)
    assert committed_steps(store.storage, "pretrain/trunk") == [4, 7]
    assert store.find("pretrain/trunk") is None
    leaf = train_config(name="leaf", steps=11, schedule=DECAY, **common)
    edge("pretrain", leaf, adopts=Adopted(run="pretrain/trunk", step=7))
    edge("pretrain", trunk, until=13)
    # a run that is only the beginning of another has nothing to train
    point = train_config(name="point", steps=13, **common)
    edge("pretrain", point, adopts=Adopted(run="pretrain/trunk", step=13))
    edge("pretrain", trunk)
    # adopted from one that ended there, and cut itself
    longer = train_config(name="longer", steps=15, **common)
    edge("pretrain", longer, adopts=Adopted(run="pretrain/point", step=13), until=14)
    edge("pretrain", longer)
    for config in (trunk, leaf, point, longer):
        alone = dataclasses.replace(config, name=f"{config.name}-alone")
        edge("pretrain", alone)
        assert_equal(store, f"pretrain/{config.name}", f"pretrain/{alone.name}")
        claims = [store.claim(f"pretrain/{name}") for name in (config.name, alone.name)]
        assert claims[0]["fingerprint"] == claims[1]["fingerprint"]
    assert committed_steps(store.storage, "pretrain/leaf") == [8, 11]


def test_a_branch_adopts_within_its_own_stage(store: Any, one_rank: Ranks) -> None:
    def edge(stage: str, config: Any, **more: Any) -> None:
        done = one_rank.call(train, {**claimed_spec(stage, config, store, 1), **more})
        assert done.error == ""

    edge("pretrain", train_config(name="t", steps=8))
    branch = {"parent": "pretrain/t@step-8", "data": "mixture/tiny_decay", "model": None}
    long = train_config(name="long", steps=10, schedule={"decay": "linear", "decay_steps": 4}, **branch)
    short = train_config(name="short", steps=8, schedule={"decay": "1-sqrt", "decay_steps": 3}, **branch)
    edge("anneal", long, until=5)
    edge("anneal", short, adopts=plain(Adopted(run="anneal/long", step=5)))
    edge("anneal", dataclasses.replace(short, name="alone"))
    assert_equal(store, "anneal/short", "anneal/alone")


def test_rows_that_are_gone_are_no_beginning(store: Any, one_rank: Ranks) -> None:
    spec = claimed_spec("pretrain", train_config(name="trunk", steps=8), store, 1)
    assert one_rank.call(train, spec).error == ""
    store.storage.delete("pretrain/trunk/checkpoints/step-000004")
    spec = claimed_spec("pretrain", train_config(name="leaf", steps=9), store, 1)
    error = one_rank.call(train, {**spec, "adopts": {"run": "pretrain/trunk", "step": 8}}).error
    assert CheckpointError.__name__ in error
