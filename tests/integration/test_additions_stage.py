"""A new training stage is one row, one thin workflow and one YAML: it trains, is evaluated, and is a parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import committed_steps
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.run.loop import read_metrics
from tests.additions import Tree
from tests.untrained import commit_run, commit_tokens

TABLE = "pipelines/train/stages.py"
# initialises from a trunk or from itself, with the objective of dpo
ROW = (
    '    "rank": Stage(starts="initialise", parents=("pretrain", "rank"), data=("tokens",), reads="pairs", '
    'objective="dpo", trains=None, learning_rate="own", endless=False, averaged=True, followed_by=None, '
    'ranked_by="preference_accuracy", colour="#808080"),'
)
MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=80, heads=4, kv_heads=2, vocabulary=320, max_positions=64, dim_model_base=16
)
WORDS = ("red", "blue", "green", "small", "large", "round", "old", "new")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.row(TABLE, after="STAGES: dict[", line=ROW)
    tree.add("workflows/rank.py", "stage/rank.py")
    tree.add("conf/rank.yaml", "stage/rank.yaml")
    return tree


@pytest.mark.slow
def test_a_stage_is_one_row_one_workflow_and_one_yaml(tree: Tree, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    pairs = [(f"Which of {a} and {b}?", f"It is {a}.", f"It is {b}.") for a in WORDS for b in WORDS if a != b]
    texts = {"web": [f"The {a} {b} thing is not {b} but {a}, they say." for a in WORDS for b in WORDS]}
    tokens = commit_tokens(store, texts, [("Which?", "This one.")] * 40, pairs)
    commit_run(store, "pretrain/trunk", MODEL, tokens, sequence_length=32)

    def command(module: str, *arguments: str) -> str:
        done = tree.run(module, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(name: str, parent: str, *more: str) -> str:
        spec, here = str(tmp_path / f"{name}.json"), f"store={store.uri}"
        plain = ("tracking.enabled=false", "cluster.workers=1", "zero.precision=float32")
        said = command("workflows.rank", here, *plain, f"name={name}", f"parent={parent}", f"write_spec={spec}", *more)
        launched = ("--standalone", "--nproc_per_node=1", "-m", "pipelines.train.worker", spec)
        return said + command("torch.distributed.run", *launched)

    said = train("first", "pretrain/trunk@step-1", "checkpoint.every_steps=2")
    assert "weights          parent: pretrain/trunk@step-1" in said
    assert committed_steps(store.storage, "rank/first") == [2, 3]
    curve = read_metrics(store.storage, "rank/first")
    assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # as yet the policy is its reference
    # it is a parent, of a run of its own kind
    train("second", "rank/first")
    assert committed_steps(store.storage, "rank/second") == [3]
    # what it names stays, and it is seen as a run
    assert "named by rank/second" in command("workflows.checkpoints", "list", f"store={store.uri}", "run=rank/first")
    command("workflows.average", f"store={store.uri}", "parent=rank/first", "every_steps=1", "dry_run=true")
    command(
        "workflows.evaluate", f"store={store.uri}", "tracking.enabled=false", "parent=rank/second", "tasks.text=null",
        "tasks.completions=null",
    )  # fmt: skip
    assert store.get("evaluate/rank-second").json("results.json")["tasks"]["preferences"]
    assert tree.opened() == []


def test_a_row_that_misses_an_entry_ends_every_command_with_its_name(tree: Tree) -> None:
    tree.row(TABLE, after="STAGES: dict[", line=ROW.replace('"rank"', '"half"').replace('reads="pairs", ', ""))
    done = tree.run("workflows.rank", "dry_run=true")
    assert done.returncode == 1
    assert "missing 1 required keyword-only argument: 'reads'" in done.stderr
