"""Another optimizer is a file, a YAML and a row; a stage that freezes the embedding is a row: both train and resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import Checkpoint, open_checkpoint, set_aside_after
from pipelines.train.checkpoint.weights import read_weights
from tests import tiny
from tests.additions import Tree
from tests.integration.test_frozen import EMBEDDING, keys_of, stored

pytestmark = pytest.mark.slow

OPTIMIZERS = "pipelines/train/optimizers/__init__.py"
TINY = (
    "model=demo", "model.layers=2", "model.d_model=32", "model.d_ff=80", "model.heads=4", "model.kv_heads=2",
    f"model.vocabulary={tiny.VOCABULARY}", "model.max_positions=64", "model.dim_model_base=16",
    "data=mixture/tiny_stable", "schedule.warmup_steps=1", "steps=4",
)  # fmt: skip
SMALL = (
    "batch.sequence_length=32", "batch.global_batch=8", "batch.micro_batch=4", "zero=zero1", "zero.precision=float32",
    "checkpoint.every_steps=2", "cluster.workers=1", "tracking.enabled=false", "monitor_every_steps=2",
)  # fmt: skip


def train(tree: Tree, workflow: str, name: str, store: ArtifactStore, *overrides: str) -> Checkpoint:
    """Plan in the tree, and train with the spec in one process there, without Ray."""
    spec = tree.folder / f"{name}.json"
    planned = tree.run(
        f"workflows.{workflow}", f"name={name}", f"store={store.uri}", f"write_spec={spec}", *SMALL, *overrides
    )
    assert planned.returncode == 0, planned.stdout + planned.stderr
    return work(tree, f"{workflow}/{name}", store)


def work(tree: Tree, run: str, store: ArtifactStore) -> Checkpoint:
    done = tree.run("pipelines.train.worker", str(tree.folder / f"{run.split('/')[1]}.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    return open_checkpoint(store.storage, run)


def resumes_to_the_same_bits(tree: Tree, last: Checkpoint, store: ArtifactStore) -> bool:
    kept = stored(last)
    assert set_aside_after(store.storage, last.run, 2) == [4]
    again = stored(work(tree, last.run, store))
    return kept.keys() == again.keys() and all(torch.equal(value, kept[key]) for key, value in again.items())


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return tiny.build(str(tmp_path / "store"))


def test_lion_is_one_file_a_yaml_and_a_row(tmp_path: Path, store: Any) -> None:
    tree = Tree(tmp_path)
    tree.add("pipelines/train/optimizers/lion.py", "optimizer/lion.py")
    tree.add("conf/optimizer/lion.yaml", "optimizer/lion.yaml")
    tree.row(OPTIMIZERS, after="import adamw, muon", line="from pipelines.train.optimizers import lion")
    tree.row(OPTIMIZERS, after='"muon": muon', line='    "lion": lion.LionRow(),')
    last = train(tree, "pretrain", "lion", store, *TINY, "optimizer=lion")
    assert last.state["optimizer"] == "lion"
    assert last.state["updates"] == 4
    assert {key for _, key in keys_of(last)} == {"fp32", "exp_avg"}
    assert resumes_to_the_same_bits(tree, last, store)
    # a third of the weights' bytes less than AdamW plans with
    state = {}
    for kind in ("lion", "adamw"):
        shown = tree.run(
            "workflows.pretrain",
            "name=x",
            f"store={store.uri}",
            "dry_run=true",
            *SMALL,
            *TINY,
            f"optimizer={kind}",
            "model.d_ff=900000",
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        state[kind] = float(re.findall(r"state ([\d.]+),", shown.stdout)[0])
    assert state["lion"] == pytest.approx(state["adamw"] * 12 / 16, rel=0.1)
    refused = tree.run("workflows.pretrain", "name=x", f"store={store.uri}", *SMALL, *TINY, "optimizer.kind=sgd")
    assert refused.returncode == 2
    assert "optimizer.kind is 'sgd'; expected one of adamw, lion, muon" in refused.stderr + refused.stdout
    assert tree.opened() == []


def test_a_stage_that_freezes_the_embedding_is_a_row_a_workflow_and_a_yaml(tmp_path: Path, store: Any) -> None:
    tree = Tree(tmp_path)
    tree.add("workflows/tune.py", "frozen/tune.py")
    tree.add("conf/tune.yaml", "frozen/tune.yaml")
    row = (
        '    "tune": Stage(starts="initialise", parents=("pretrain",), data=("mixture",), reads="any mixture", '
        'objective="next_token", trains=("matrix", "norm"), learning_rate="parent", endless=False, averaged=True, '
        "followed_by=None, "
        'ranked_by="bits_per_byte", colour="#444444"),'
    )
    tree.row("pipelines/train/stages.py", after="STAGES: dict[str, Stage] = {", line=row)
    parent = train(tree, "pretrain", "trunk", store, *TINY)
    tune = ("parent=pretrain/trunk", "data=mixture/tiny_decay")
    shown = tree.run("workflows.tune", "name=tuned", f"store={store.uri}", "dry_run=true", *SMALL, *tune)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "matrix, norm: 21,664 of" in shown.stdout
    last = train(tree, "tune", "tuned", store, *tune)
    assert last.state["frozen"] == {EMBEDDING: parent.token}
    assert EMBEDDING not in {name for name, _ in keys_of(last)}
    assert torch.equal(read_weights(last)[EMBEDDING], read_weights(parent)[EMBEDDING])
    assert resumes_to_the_same_bits(tree, last, store)
    # the parent's checkpoint stays, whatever the rule
    listed = tree.run("workflows.checkpoints", "list", "run=pretrain/trunk", f"store={store.uri}")
    assert "named by tune/tuned" in listed.stdout, listed.stdout + listed.stderr
    assert tree.opened() == []
