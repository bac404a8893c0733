"""The mean of a run's last checkpoints, measured beside the run: it is that of `average`, and changes no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.config import parse
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import open_checkpoint
from pipelines.train.checkpoint.weights import weights_of
from pipelines.train.measures.averages import AveragesSettings, open_averages, wanted_steps
from pipelines.train.measures.heldout import HELDOUT, HeldoutSettings
from pipelines.train.network.model import Transformer
from pipelines.train.run.loop import train
from pipelines.train.spec import Adopted, TrainSpec
from pipelines.train.trials.rows import Rows, read_rows
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks
from tests.integration.test_sharing import assert_equal

AVERAGES = AveragesSettings(max_tokens=300, reach=0.5, every_steps=4)


class Model:
    """A model by itself, which is asked as an engine is."""

    def __init__(self, spec: TrainSpec, weights: dict[str, torch.Tensor]):
        self.model_config, self.model = spec.model, Transformer(spec.model)
        self.model.load_state_dict(weights)

    @torch.no_grad()
    def forward(self, function: Any, batch: Any) -> Any:
        return function(self.model, self.model(batch), batch)


def train_measured(plain_spec: dict[str, Any], measured: bool) -> None:
    spec = parse(TrainSpec, plain_spec)
    train(
        spec, lambda line: None, looks=Rows(spec, ArtifactStore(spec.store), {"averages": AVERAGES} if measured else {})
    )


def heldout_of_mean(plain_spec: dict[str, Any], steps: list[int]) -> dict[str, float]:
    """What `heldout` says of the mean of these checkpoints."""
    spec = parse(TrainSpec, plain_spec)
    store = ArtifactStore(spec.store)
    checkpoints = [open_checkpoint(store.storage, spec.run, f"step-{step}") for step in steps]
    model: Any = Model(spec, dict(weights_of(checkpoints, [1 / len(steps)] * len(steps))))
    return dict(HELDOUT.open(HeldoutSettings(max_tokens=300), spec, store)(model, steps[-1]))


def test_which_checkpoints() -> None:
    assert wanted_steps(512, 0.1, 16) == [464, 480, 496]
    assert wanted_steps(12, 0.5, 2) == [8, 10]
    assert wanted_steps(12, 0.1, 2) == []


@pytest.mark.parametrize(("ranks", "stage"), [("one_rank", 0), ("two_ranks", 2)])
def test_it_is_the_mean_of_the_checkpoints_and_changes_no_bit(
    store: Any, request: pytest.FixtureRequest, ranks: str, stage: int
) -> None:
    processes: Ranks = request.getfixturevalue(ranks)
    specs = {}
    for name, measured in (("with", True), ("without", False)):
        config = train_config(name=name, **{"zero.stage": stage, "checkpoint.every_steps": 2})
        specs[name] = claimed_spec("pretrain", config, store, processes.count)
        assert processes.call(train_measured, specs[name], measured).error == ""
    assert_equal(store, "pretrain/with", "pretrain/without")
    rows = {row.step: dict(row.values) for row in read_rows(store.storage, "pretrain/with")}
    assert list(rows) == [4, 8, 12]
    # within the last half of the steps one checkpoint alone is saved before
    assert rows[4] == rows[8] == {}
    expected = processes.call(heldout_of_mean, specs["with"], [8, 10, 12])
    assert expected.error == ""
    assert rows[12] == pytest.approx(expected.result, rel=1e-6)


def test_a_run_that_goes_on_finds_its_checkpoints_where_they_were_made(store: Any, one_rank: Ranks) -> None:
    first = claimed_spec("pretrain", train_config(name="first", **{"checkpoint.every_steps": 2}), store, 1)
    assert one_rank.call(train_measured, first, False).error == ""
    second = claimed_spec("pretrain", train_config(name="second", **{"checkpoint.every_steps": 2}), store, 1)
    second["adopts"] = {"run": "pretrain/first", "step": 8}
    assert parse(TrainSpec, second).adopts == Adopted(run="pretrain/first", step=8)
    assert one_rank.call(train_measured, second, True).error == ""
    rows = {row.step: dict(row.values) for row in read_rows(store.storage, "pretrain/second")}
    expected = one_rank.call(heldout_of_mean, first, [8, 10, 12]).result
    assert rows[12] == pytest.approx(expected, rel=1e-6)


def test_zero3_is_refused(store: Any) -> None:
    spec = parse(TrainSpec, claimed_spec("pretrain", train_config(name="run", **{"zero.stage": 3}), store, 1))
    with pytest.raises(ConfigError, match="choose zero=zero2"):
        open_averages(AVERAGES, spec, store)
