"""What a recipe hands on to its stages: where they run and where they are tracked, all of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import WorkflowConfig
from pipelines.errors import ConfigError
from pipelines.train.plan.planning import plan_stage
from pipelines.train.spec import TrainConfig
from tests import tiny
from tests.integration.conftest import TINY_MODEL
from workflows.command_line.composing import compose_config
from workflows.recipe import SHARED, RecipeConfig, RecipeStage, compose_stage

GIVEN = [
    "cluster=gpu",
    "cluster.workers=4",
    "cluster.accelerator=H100",
    "cluster.max_failures=1",
    "cluster.price_per_core_hour=0.5",
    "tracking.uri=http://mlflow:5000",
    "tracking.experiment='it\\'s = a, b: (c)\\\\'",
    "store='/tmp/s p=1, [x]'",
    "on_change=keep",
]


def recipe(*overrides: str, experiment: str = "smoke") -> RecipeConfig:
    return compose_config("recipe", RecipeConfig, [f"+experiment={experiment}", *overrides])


@pytest.mark.parametrize("experiment", ["smoke", "demo"])
def test_every_stage_gets_the_recipes_cluster_tracking_and_store(experiment: str) -> None:
    config = recipe(*GIVEN, experiment=experiment)
    assert config.tracking.experiment == "it's = a, b: (c)\\"
    for stage in config.stages:
        composed, _ = compose_stage(stage, config)
        for field in dataclasses.fields(WorkflowConfig):
            if field.name not in ("name", "dry_run"):
                assert getattr(composed, field.name) == getattr(config, field.name), (stage.workflow, field.name)


def test_what_stages_share_follows_the_config_class() -> None:
    """A field that is added to what every workflow takes is in it by itself."""
    assert {*SHARED, "name", "dry_run", "on_change"} == {field.name for field in dataclasses.fields(WorkflowConfig)}
    assert {"cluster", "tracking", "store"} <= set(SHARED)


def test_a_stage_may_have_its_own_answer_to_a_change() -> None:
    stage = RecipeStage(workflow="mixture", name="smoke_stable", overrides=["on_change=rebuild"])
    assert compose_stage(stage, recipe("on_change=keep"))[0].on_change == "rebuild"


def test_training_stages_are_planned_for_gpus(tmp_path: Path) -> None:
    """Their plan counts a GPU's memory for GPUs, though this machine may have none."""
    store = tiny.build(str(tmp_path / "store"))
    config = recipe("cluster=gpu", "cluster.workers=2", f"store={tmp_path}/store")
    composed = [compose_stage(stage, config)[0] for stage in config.stages]
    training = [each for each in composed if isinstance(each, TrainConfig)]
    assert len(training) >= 4
    assert {each.cluster.gpus_per_worker for each in training} == {1.0}
    model: Any = {**TINY_MODEL, "max_positions": 512}
    pretrain = dataclasses.replace(
        training[0],
        data="mixture/tiny_stable",
        dry_run=True,
        steps=12,
        model=type(training[0].model)(**model),  # type: ignore[misc]
    )
    facts = plan_stage("pretrain", pretrain, store, None, 2).announcement
    assert "asks for 2 GPUs" in facts["note"]


def test_a_stage_with_a_cluster_of_its_own_is_refused() -> None:
    config = recipe()
    for override in ("cluster.workers=1", "cluster=gpu", "++tracking.experiment=other", "store=elsewhere"):
        stage = RecipeStage(workflow="pretrain", name="x", overrides=[override])
        with pytest.raises(
            ConfigError,
            match=f"stage pretrain x has the override {re.escape(override)}, but all stages of a recipe share",
        ):
            compose_stage(stage, config)
