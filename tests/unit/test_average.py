"""Averages of checkpoints against NumPy's, what may be averaged, and what reads an average."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.config import TrackingConfig
from pipelines.errors import CheckpointError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import open_checkpoint, read_weights, write_weights
from pipelines.train.checkpoint.average import AverageConfig, chosen_steps, means
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.results.evaluate import EvaluateConfig
from pipelines.train.tasks import TASKS
from tests.untrained import commit_run, commit_tokens
from workflows import average as workflow
from workflows import evaluate as evaluation
from workflows.running.session import Session

MODEL = ModelConfig(
    layers=1, d_model=16, d_ff=32, heads=2, kv_heads=1, vocabulary=320, max_positions=32, dim_model_base=16
)
STEPS = (10, 20, 30, 40, 50, 60)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the trunk `pretrain/t`: six checkpoints of random weights."""
    path = tmp_path_factory.mktemp("average")
    made = ArtifactStore(str(path))
    tokens = commit_tokens(
        made,
        {"prose": ["one two three four five six seven eight nine ten"] * 4},
        [("1 + 1?", "2")],
        [("2 + 2?", "4", "5")],
    )
    commit_run(made, "pretrain/t", MODEL, tokens, steps=STEPS)
    for step in STEPS:
        held = open_checkpoint(made.storage, "pretrain/t", f"step-{step}")
        generator = torch.Generator().manual_seed(step)
        weights = {name: torch.randn(shape, generator=generator) for name, shape in held.state["shapes"].items()}
        made.storage.delete(held.folder)
        write_weights(made.storage, "pretrain/t", step, held.state, held.state["shapes"], weights.items())
    return path


@pytest.fixture
def store(trunk: Path, tmp_path: Path) -> ArtifactStore:
    """A copy of that store, to write into."""
    return ArtifactStore(str(shutil.copytree(trunk, tmp_path / "store")))


def run(store: ArtifactStore, **changes: Any) -> Artifact:
    config = AverageConfig(
        **{
            "name": "a",
            "parent": "pretrain/t",
            "store": store.uri,
            "tracking": TrackingConfig(enabled=False),
            **changes,
        }
    )
    with Session(config) as session:
        return workflow.run(config, session)


def weights_at(store: ArtifactStore, step: int) -> dict[str, np.ndarray]:
    found = read_weights(open_checkpoint(store.storage, "pretrain/t", f"step-{step}"))
    return {name: value.numpy().astype(np.float64) for name, value in found.items()}


def test_a_uniform_average_is_numpys_mean(store: ArtifactStore) -> None:
    made = run(store)
    checkpoint = open_checkpoint(store.storage, "average/a")
    trunk = [weights_at(store, step) for step in STEPS[-5:]]
    for name, value in read_weights(checkpoint).items():
        expected = np.mean([weights[name] for weights in trunk], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=2**-23, atol=1e-30)
    assert (checkpoint.step, checkpoint.state["tokens"]) == (60, 60_000)
    assert checkpoint.state["averaged"] == {f"pretrain/t@step-{step}": pytest.approx(0.2) for step in STEPS[-5:]}
    assert made.statistics["averaged"] == checkpoint.state["averaged"]
    assert made.manifest["identity"]["inputs"] == {"pretrain/t": store.get("pretrain/t").fingerprint}
    flat = [np.concatenate([weights[name].ravel() for name in weights]) for weights in trunk]
    expected = np.linalg.norm(np.mean(flat, axis=0) - flat[-1]) / np.linalg.norm(flat[-1])
    assert made.statistics["distance_from_last"] == pytest.approx(expected, rel=1e-6)


def test_an_exponential_average_is_the_recursion_corrected_for_its_beginning(store: ArtifactStore) -> None:
    run(store, kind="ema", decay=0.7, steps=(20, 40, 50))
    moving: dict[str, Any] = dict.fromkeys(weights_at(store, 20), 0.0)
    for step in (20, 40, 50):
        moving = {name: 0.7 * moving[name] + 0.3 * value for name, value in weights_at(store, step).items()}
    for name, value in read_weights(open_checkpoint(store.storage, "average/a")).items():
        np.testing.assert_allclose(value.numpy(), moving[name] / (1 - 0.7**3), rtol=2e-7, atol=1e-30)
    assert means(AverageConfig(name="a", parent="pretrain/t", kind="ema", decay=0.5), 3) == pytest.approx(
        (1 / 7, 2 / 7, 4 / 7)
    )


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, (20, 30, 40, 50, 60)),
        ({"last": 2}, (50, 60)),
        ({"from_step": 25, "to_step": 50}, (30, 40, 50)),
        ({"every_steps": 20}, (20, 40, 60)),
        ({"every_steps": 20, "last": 2}, (40, 60)),
        ({"steps": (60, 10)}, (10, 60)),
    ],
)
def test_checkpoints_are_chosen_by_step(changes: dict[str, Any], chosen: tuple[int, ...]) -> None:
    assert chosen_steps(AverageConfig(name="a", parent="pretrain/t", **changes), STEPS) == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"last": 1},
            r"1 checkpoint chosen \(60\); an average takes at least two; committed steps of pretrain/t: 10, "
            r"20,",
        ),
        ({"from_step": 70}, r"0 checkpoints chosen \(none\)"),
        ({"steps": (10, 15)}, "steps 15 are not there; committed steps of pretrain/t: 10, 20, 30, 40, 50, 60"),
        ({"steps": (10, 20), "last": 2}, r"steps=\[10, 20\] and last=2 are both set"),
        ({"parent": "pretrain/t@step-20"}, "names one checkpoint; name the run, parent=pretrain/t"),
        ({"parent": "dpo/t"}, "is of kind dpo; averaged are runs of pretrain, anneal, sft"),
        ({"decay": 1.0}, "decay is 1.0; expected a number above 0 and below 1"),
        ({"decay": 0.0}, "decay is 0.0; expected"),
        ({"every_steps": 0}, "every_steps is 0; expected a positive"),
    ],
)
def test_what_cannot_be_averaged_is_refused(store: ArtifactStore, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(store, **changes)
    assert not store.storage.exists("average/a/claim.json")


def test_checkpoints_of_another_architecture_are_refused(store: ArtifactStore) -> None:
    held = open_checkpoint(store.storage, "pretrain/t", "step-60")
    weights = {**read_weights(held), "norm.weight": torch.ones(17)}
    write_weights(
        store.storage, "pretrain/t", 70, held.state, {**held.state["shapes"], "norm.weight": [17]}, weights.items()
    )
    with pytest.raises(
        CheckpointError, match=r"step-70 is of another architecture than pretrain/t@step-30: norm.weight is \[17\]"
    ):
        run(store)


def test_a_damaged_checkpoint_is_found_before_anything_is_written(store: ArtifactStore, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(store.storage, "pretrain/t", "step-40")
    path = tmp_path / "store" / checkpoint.folder / next(iter(checkpoint.files))
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="pretrain/t@step-40"):
        run(store)
    assert not store.storage.exists("average/a/checkpoints")


def test_the_same_command_finds_the_average_finished_though_its_trunk_has_gone_on(store: ArtifactStore) -> None:
    first = run(store)
    held = open_checkpoint(store.storage, "pretrain/t", "step-60")
    write_weights(store.storage, "pretrain/t", 70, held.state, held.state["shapes"], read_weights(held).items())
    assert run(store).manifest == first.manifest
    assert open_checkpoint(store.storage, "average/a").step == 60
    assert run(store, on_change="rebuild").statistics["steps"] == 70


def test_an_average_is_evaluated_like_a_run_with_its_weights(store: ArtifactStore) -> None:
    run(store, last=2)
    averaged = open_checkpoint(store.storage, "average/a")
    trained = store.get("tokens/t")
    commit_run(store, "anneal/same", MODEL, trained, weights=read_weights(averaged), steps=(1,))
    found = {}
    for parent in ("average/a", "anneal/same"):
        config = EvaluateConfig(
            name=parent.split("/")[0],
            parent=parent,
            store=store.uri,
            tasks={"text": TASKS["text"].Settings(max_tokens=50), "preferences": TASKS["preferences"].Settings()},
            tracking=TrackingConfig(enabled=False),
        )
        with Session(config) as session:
            found[parent] = evaluation.run(config, session)
    assert found["average/a"].statistics["parent"] == "average/a@step-60"
    assert found["average/a"].statistics["bits_per_byte"] == found["anneal/same"].statistics["bits_per_byte"] > 0
