"""The coordinates of a real run: they are those of its checkpoints, and measuring changes no bit of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.config import parse
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import open_checkpoint
from pipelines.train.measures.coordinates import (
    PARTS,
    CoordinatesSettings,
    check_coordinates,
    open_coordinates,
)
from pipelines.train.network.batch import Batch, ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.run.loop import train
from pipelines.train.spec import TrainSpec
from pipelines.train.update.engine import Engine
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks
from tests.integration.test_sharing import assert_equal, tensors_of


def train_measured(plain_spec: dict[str, Any], measured: bool) -> dict[int, dict[str, float]]:
    """A run on every rank, with its coordinates before each step but the first: step -> values."""
    spec = parse(TrainSpec, plain_spec)
    rows: dict[int, dict[str, float]] = {}
    look = open_coordinates(CoordinatesSettings(windows=3), spec, ArtifactStore(spec.store)) if measured else None

    def observe(step: int, rate: float, engine: Engine, batches: Sequence[Batch]) -> None:
        if look is not None and step > 1:
            rows[step - 1] = dict(look(engine, step - 1))

    train(spec, lambda line: None, observe)
    return rows


@pytest.mark.parametrize(
    ("ranks", "stage", "precision"),
    [("one_rank", 0, "float32"), ("one_rank", 1, "bfloat16"), ("two_ranks", 2, "float32")],
)
def test_measuring_changes_no_bit_of_a_run(
    store: Any, request: pytest.FixtureRequest, ranks: str, stage: int, precision: str
) -> None:
    processes: Ranks = request.getfixturevalue(ranks)
    rows = {}
    for name, measured in (("with", True), ("without", False)):
        config = train_config(name=name, **{"zero.stage": stage, "zero.precision": precision})
        done = processes.call(train_measured, claimed_spec("pretrain", config, store, processes.count), measured)
        assert done.error == ""
        rows[name] = done.result
    assert_equal(store, "pretrain/with", "pretrain/without")
    assert list(rows["with"]) == list(range(1, 12))
    for values in rows["with"].values():
        assert set(PARTS) <= set(values)
        assert all(np.isfinite(value) and value > 0 for part, value in values.items() if part != "target_logit")
    assert rows["with"][11]["weights/matrix"] > rows["with"][1]["weights/matrix"]


def test_coordinates_are_those_of_the_checkpoint(store: Any, one_rank: Ranks) -> None:
    config = train_config(name="run", **{"zero.stage": 1})
    plain_spec = claimed_spec("pretrain", config, store, 1)
    rows = one_rank.call(train_measured, plain_spec, True).result
    spec = parse(TrainSpec, plain_spec)
    tensors = tensors_of(open_checkpoint(store.storage, "pretrain/run", "step-8"))
    before, after = Transformer(spec.model).initialise(spec.seed), Transformer(spec.model)
    for name, parameter in after.named_parameters():
        (saved,) = (tensor for key, tensor in tensors.items() if key.endswith(f" {name}@fp32@0"))
        parameter.data.copy_(saved.view(parameter.shape))
    stream = OBJECTIVES["next_token"].batches(store.get(spec.tokens), spec.segments, spec.seed, 32)
    arrays = stream.read(np.arange(3))
    tokens = torch.from_numpy(np.asarray(arrays["tokens"], np.int64))
    read = ModelInput(inputs=tokens[:, :-1], positions=torch.from_numpy(np.asarray(arrays["positions"], np.int64)))
    with torch.no_grad():
        hidden = [model(read) for model in (before, after)]
        logits = [model.logits(out) for model, out in zip((before, after), hidden, strict=True)]
    change = logits[1] - logits[0]
    assert rows[8]["all_logits"] == pytest.approx(change.square().mean().sqrt().item(), rel=1e-4)
    target = change.gather(2, tokens[:, 1:, None]).mean().item()
    assert rows[8]["target_logit"] == pytest.approx(target, rel=1e-4)
    embedding = after.embed_tokens.weight - before.embed_tokens.weight
    assert rows[8]["weights/embedding"] == pytest.approx(embedding.square().mean().sqrt().item(), rel=1e-4)


def test_weights_that_are_split_or_not_its_own_are_refused(store: Any) -> None:
    for stage in (0, 1, 2):
        check_coordinates(stage, "fresh")
    spec = parse(TrainSpec, claimed_spec("pretrain", train_config(name="split", **{"zero.stage": 3}), store, 1))
    with pytest.raises(ConfigError, match=r"measures.coordinates reads whole weights, and zero.stage=3 splits them"):
        open_coordinates(CoordinatesSettings(), spec, store)
    with pytest.raises(ConfigError, match="this run begins by branch from its parent"):
        check_coordinates(1, "branch")
