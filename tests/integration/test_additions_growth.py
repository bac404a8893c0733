"""What is added changes no fingerprint of what was there: a field, an objective, an optimizer, the shape of a decay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.additions import Tree

OBJECTIVES = "pipelines/train/objectives/__init__.py"
OPTIMIZERS = "pipelines/train/optimizers/__init__.py"
# a field with a default goes before one of these
FIELDS = {
    "pipelines/train/spec.py": "    objective: Objective | None = None\n",
    "pipelines/train/network/architecture.py": "    dim_model_base: Count = 256\n",
    "pipelines/train/optimizers/adamw.py": "    eps: Positive = 1e-8\n",
    "pipelines/train/schedules/schedule.py": "    decay_steps: Whole | None = None\n",
    "pipelines/data/corpus/recipe.py": "    dedup: DedupConfig = field(default_factory=DedupConfig)\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add("workflows/fingerprints.py", "growth/fingerprints.py")
    return tree


def fingerprints(tree: Tree) -> dict[str, str]:
    done = tree.run("workflows.fingerprints")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_what_is_added_changes_no_fingerprint(tree: Tree) -> None:
    before = fingerprints(tree)
    assert before.keys() == {"pretrain", "sft", "corpus"}
    for path, beside in FIELDS.items():
        tree.edit(path, beside, f"    lora: int | None = None\n{beside}")
    tree.add("pipelines/train/objectives/ipo.py", "objective/ipo.py")
    tree.row(OBJECTIVES, after="import Dpo", line="from pipelines.train.objectives.ipo import Ipo")
    tree.row(OBJECTIVES, after='"dpo": Dpo', line='    "ipo": Ipo,')
    tree.add("pipelines/train/optimizers/lion.py", "optimizer/lion.py")
    tree.row(OPTIMIZERS, after="import adamw, muon", line="from pipelines.train.optimizers import lion")
    tree.row(OPTIMIZERS, after='"muon": muon', line='    "lion": lion.LionRow(),')
    tree.row(
        "pipelines/train/schedules/decays.py", after='"linear"', line='    "square": lambda progress: 1 - progress**2,'
    )
    assert fingerprints(tree) == before


def test_an_edit_of_what_was_chosen_changes_it_and_of_another_row_does_not(tree: Tree) -> None:
    before = fingerprints(tree)
    for row in ("objectives/dpo", "objectives/preference", "batches/pairs", "optimizers/muon"):
        path = tree.folder / f"pipelines/train/{row}.py"
        path.write_text(path.read_text() + "\n\ndef another() -> None: ...\n")
    assert fingerprints(tree) == before
    for row in ("objectives/next_token", "optimizers/adamw"):
        path = tree.folder / f"pipelines/train/{row}.py"
        text = path.read_text()
        path.write_text(text + "\n\ndef another() -> None: ...\n")
        after = fingerprints(tree)
        assert after["corpus"] == before["corpus"]
        assert after["pretrain"] != before["pretrain"]
        assert after["sft"] != before["sft"]
        path.write_text(text)


def test_a_changed_default_or_a_computed_property_does_change_it(tree: Tree) -> None:
    before = fingerprints(tree)
    tree.edit(
        "pipelines/train/network/architecture.py", "self.d_model // self.heads", "self.d_model // 2 // self.heads"
    )
    tree.edit(
        "pipelines/data/corpus/assemble.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\n\nMASKED = 1\n",
    )
    after = fingerprints(tree)
    assert all(after[name] != before[name] for name in before)
