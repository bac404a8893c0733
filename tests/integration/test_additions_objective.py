"""An objective added as one file, one row and one YAML: trained on two ranks, its loss compared with the formula.

IPO is another loss over what DPO prepares; ORPO prepares nothing, and has figures of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.batches.pairs import Pairs
from pipelines.train.checkpoint import open_checkpoint, read_weights
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.run.loop import read_metrics
from tests import tiny
from tests.additions import Tree
from tests.integration.conftest import TINY_MODEL
from tests.untrained import commit_run

TABLE = "pipelines/train/objectives/__init__.py"
BETA, LENGTH, PAIRS, SEED = 0.4, 32, 8, 3
TRAINING = [
    "name=i", "parent=sft/s", "data=tokens/tiny", "steps=4", "epochs=null", f"seed={SEED}", "schedule.peak_lr=0.01",
    f"batch.sequence_length={LENGTH}", f"batch.global_batch={PAIRS}", "batch.micro_batch=2", "checkpoint.every_steps=3",
    "zero.precision=float32", "tracking.enabled=false", "cluster.workers=2", "log_every_steps=1",
]  # fmt: skip


def numpy_logps(store: ArtifactStore, run: str, numbers: np.ndarray) -> np.ndarray:
    """Log-probabilities of the answers of pairs under a checkpoint's weights: float64 [pairs, 2]."""
    model = Transformer(ModelConfig(**TINY_MODEL))
    model.load_state_dict(read_weights(open_checkpoint(store.storage, run.split("@")[0], run.split("@")[1])))
    rows = Pairs(store.get("tokens/tiny"), (), SEED, LENGTH).stored(numbers)
    ids, positions = (torch.from_numpy(rows[name]).long() for name in ("tokens", "positions"))
    with torch.no_grad():
        logits = model.logits(model(ModelInput(inputs=ids[:, :-1], positions=positions))).double().numpy()
    logits -= logits.max(-1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.take_along_axis(logps, ids[:, 1:, None].numpy(), -1)[..., 0]
    return (targets * rows["loss_mask"]).sum(1).reshape(-1, 2)


@pytest.mark.slow
def test_ipo_is_one_file_one_row_and_one_yaml(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    commit_run(store, "sft/s", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"), sequence_length=LENGTH)

    tree = Tree(tmp_path)
    tree.add("pipelines/train/objectives/ipo.py", "objective/ipo.py")
    tree.add("conf/objective/ipo.yaml", "objective/ipo.yaml")
    tree.row(TABLE, after="import Dpo", line="from pipelines.train.objectives.ipo import Ipo")
    tree.row(TABLE, after='"dpo": Dpo', line='    "ipo": Ipo,')
    chosen = ["objective=ipo", f"objective.beta={BETA}", f"store={store.uri}"]
    spec = tree.run("workflows.dpo", *TRAINING, *chosen, f"write_spec={tmp_path / 'spec.json'}")
    assert spec.returncode == 0, spec.stderr
    assert f"ipo (beta={BETA}), a mean over pairs" in spec.stdout
    ranks = ["--nproc_per_node=2", "--standalone", "-m", "pipelines.train.worker", str(tmp_path / "spec.json")]
    trained = tree.run("torch.distributed.run", *ranks)
    assert trained.returncode == 0, trained.stderr[-3000:]

    rows = read_metrics(store.storage, "dpo/i")
    assert rows[0]["loss"] == pytest.approx((1 / (2 * BETA)) ** 2)  # the policy is its reference yet
    numbers = Pairs(store.get("tokens/tiny"), (), SEED, LENGTH).preferences.pairs(np.arange(3 * PAIRS, 4 * PAIRS))
    policy, reference = (numpy_logps(store, run, numbers) for run in ("dpo/i@step-3", "sft/s@step-1"))
    differences = (policy[:, 0] - policy[:, 1]) - (reference[:, 0] - reference[:, 1])
    assert rows[3]["loss"] == pytest.approx(((differences - 1 / (2 * BETA)) ** 2).mean(), rel=1e-4)
    assert rows[3]["margin"] == pytest.approx(BETA * differences.mean(), rel=1e-3)
    assert rows[3]["loss"] < rows[0]["loss"]

    mistaken = tree.run("workflows.dpo", *TRAINING, f"store={store.uri}", "objective.name=kto", "dry_run=true")
    assert "objective.name is 'kto'; expected one of dpo, ipo, next_token" in mistaken.stderr
    other_kind = tree.run(
        "workflows.sft", *TRAINING, "parent=sft/s", f"store={store.uri}", "objective=ipo", "dry_run=true"
    )
    assert "objective=ipo learns from pairs, and sft reads windows: set objective=next_token" in other_kind.stderr
    assert tree.opened() == []


@pytest.mark.slow
def test_orpo_needs_no_reference_and_is_one_file_one_row_and_one_yaml(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    commit_run(store, "sft/s", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"), sequence_length=LENGTH)
    tree, spec = Tree(tmp_path), tmp_path / "spec.json"
    tree.add("pipelines/train/objectives/orpo.py", "objective/orpo.py")
    tree.add("conf/objective/orpo.yaml", "objective/orpo.yaml")
    tree.row(TABLE, after="import NextToken", line="from pipelines.train.objectives.orpo import Orpo")
    tree.row(TABLE, after='"dpo": Dpo', line='    "orpo": Orpo,')
    chosen = ["cluster.workers=1", "objective=orpo", "objective.weight=0.25", f"store={store.uri}"]
    planned = tree.run("workflows.dpo", *TRAINING, *chosen, f"write_spec={spec}")
    assert planned.returncode == 0, planned.stderr
    trained = tree.run("pipelines.train.worker", str(spec))
    assert trained.returncode == 0, trained.stderr[-3000:]

    first = read_metrics(store.storage, "dpo/i")[0]
    pairs = Pairs(store.get("tokens/tiny"), (), SEED, LENGTH)
    numbers = pairs.preferences.pairs(np.arange(PAIRS))
    counted = pairs.stored(numbers)["loss_mask"].sum(1).reshape(-1, 2)
    means = numpy_logps(store, "sft/s@step-1", numbers) / counted
    log_odds = means - np.log1p(-np.exp(means))
    ratios = log_odds[:, 0] - log_odds[:, 1]
    assert first["loss"] == pytest.approx((-means[:, 0] + 0.25 * np.log1p(np.exp(-ratios))).mean(), rel=1e-5)
    assert first["chosen_nll"] == pytest.approx(-means[:, 0].mean(), rel=1e-5)
    assert first["log_odds_ratio"] == pytest.approx(ratios.mean(), rel=1e-3)
    assert not (store.storage.root / "dpo/i/reference").exists()
    assert tree.opened() == []
