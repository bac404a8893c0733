"""What a config leaves open is worked out from the data, and stays as it was once the run has begun."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import parse
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Making
from pipelines.train.network.architecture import check_shapes, parameter_counts
from pipelines.train.plan import sizing
from pipelines.train.plan.planning import plan_stage
from pipelines.train.plan.sizing import LADDER, TOKENS_PER_PARAMETER, shape
from pipelines.train.spec import TrainConfig
from tests import tiny
from tests.commands import run_here

OPEN: dict[str, Any] = {
    "name": "mine",
    "data": "mixture/tiny_stable",
    "hours": 0.1,
    "flops_per_second": 4e10,
    "schedule": {"peak_lr": 0.01, "warmup_steps": None},
    "batch": {"sequence_length": None, "global_batch": None, "micro_batch": None},
    "checkpoint": {"every_steps": None},
}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return tiny.build(str(tmp_path / "store"))


def plan(store: ArtifactStore, workers: int = 2, **changes: Any) -> Any:
    return plan_stage("pretrain", parse(TrainConfig, {**OPEN, **changes}), store, None, workers)


def test_shapes_of_the_ladder_divide_grow_and_take_four_bits() -> None:
    shapes = [shape(*of, vocabulary=512, window=128) for of in LADDER]
    for one in shapes:
        check_shapes(one)
        assert one.d_model % 32 == one.d_ff % 32 == 0
        assert one.dim_model_base == shapes[0].dim_model_base
    sizes = [parameter_counts(one)["total"] for one in shapes]
    assert sizes == sorted(sizes)


def test_everything_open_is_closed_and_the_run_reads_the_budget_of_its_mixture(store: ArtifactStore) -> None:
    planned = plan(store)
    config = planned.config
    batch = config.batch
    tokens = config.steps * batch.global_batch * batch.sequence_length
    assert 0.9 * 20_000 <= tokens <= 20_000
    assert planned.spec.model.vocabulary == tiny.VOCABULARY
    assert batch.global_batch % (batch.micro_batch * 2) == 0
    assert planned.spec.schedule.warmup_steps > 0
    assert config.checkpoint.every_steps > 0
    assert "too small" in planned.announcement  # 20,000 tokens
    assert "more hours" not in planned.announcement["too small"]


def test_more_text_and_more_hours_give_a_larger_model_and_never_one_that_the_tokens_cannot_feed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for asked in (10**6, 10**7, 10**8):
        monkeypatch.setattr(sizing, "_tokens_asked", lambda *_, asked=asked: asked)
        of_hours = [plan(store, hours=hours, steps=10) for hours in (0.02, 0.2, 2, 20)]
        models = [parameter_counts(each.spec.model)["total"] for each in of_hours]
        assert models == sorted(models)
        fed = [each.identity["sized_tokens"] / size for each, size in zip(of_hours, models, strict=True)]
        assert all(ratio >= TOKENS_PER_PARAMETER for ratio in fed)
        sizes.append(models[-1])
    assert sizes == sorted(set(sizes))


def test_the_same_command_finds_its_run_whatever_the_machine_is_now(store: ArtifactStore) -> None:
    first = plan(store)
    making = Making(first.identity, first.inputs, ("pipelines.train.stages",), None, first.config)
    store.prepare("pretrain", "mine", making, "refuse").start()
    again = plan(store, workers=1, flops_per_second=1e6)
    assert again.identity == first.identity
    assert "as it was when the run began" in again.announcement["sized"]
    other = plan(store, hours=5)
    assert other.identity["hours"] == 5
    assert "as it was" not in other.announcement["sized"]


def test_epochs_of_a_mixture_are_steps(store: ArtifactStore) -> None:
    sources = store.get("mixture/tiny_stable").json("mixture.json")["sources"]
    config = plan(store, epochs=0.1).config
    tokens = config.steps * config.batch.global_batch * config.batch.sequence_length
    assert tokens == pytest.approx(0.1 * sum(one["available_tokens"] for one in sources), rel=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flops_per_second": None}, "how fast a worker is here is not known: set flops_per_second="),
        ({"hours": None}, r"model is null; a fresh run needs one: choose model=.*, or hours=0.5"),
        ({"hours": -1}, "hours is -1; expected a number above 0"),
        (
            {"batch": {**OPEN["batch"], "global_batch": 0}},
            "batch.global_batch is 0; expected a whole number .* or null",
        ),
    ],
)
def test_what_cannot_be_sized_is_refused(store: ArtifactStore, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(store, **changes)


def test_hours_of_a_child_are_refused(store: ArtifactStore) -> None:
    config = dataclasses.replace(parse(TrainConfig, {**OPEN, "data": "mixture/tiny_decay"}), parent=None)
    with pytest.raises(ConfigError, match="anneal needs a parent"):
        plan_stage("anneal", config, store, None, 2)


def test_a_dry_run_shows_the_plan_for_gpus_that_are_not_here_and_ends_as_its_run_would(store: ArtifactStore) -> None:
    words = (
        "+experiment=own", f"store={store.uri}", "data=mixture/tiny_stable", "hours=0.01", "flops_per_second=1e9",
        "cluster.workers=4096", "cluster.gpus_per_worker=1", "batch.global_batch=4096", "batch.micro_batch=1",
        "steps=1", "tracking.enabled=false",
    )  # fmt: skip
    planned, meant = run_here("pretrain", *words, "dry_run=true"), run_here("pretrain", *words)
    assert (planned.code, planned.err) == (meant.code, meant.err)
    assert planned.code == 2
    assert "asks for 4096 GPUs; this machine has" in planned.err
    assert "Shapes for mixture/tiny_stable" in planned.out
