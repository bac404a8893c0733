"""A study and a measure, each one file and one row, are planned, trained, measured and told; nothing else is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.additions import Tree

STUDIES, MEASURES = "pipelines/train/studies/__init__.py", "pipelines/train/measures/__init__.py"


@pytest.mark.slow
def test_a_new_study_and_its_measure_are_a_file_and_a_row_each(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    tree = Tree(tmp_path)
    tree.add("pipelines/train/studies/weight_decay.py", "study/weight_decay.py")
    tree.row(STUDIES, after="import WSD", line="from pipelines.train.studies.weight_decay import WEIGHT_DECAY")
    tree.row(STUDIES, after='"wsd"', line='    "weight_decay": WEIGHT_DECAY,')
    tree.add("pipelines/train/measures/weight_norm.py", "study/weight_norm.py")
    tree.row(MEASURES, after="import Measure", line="from pipelines.train.measures.weight_norm import WEIGHT_NORM")
    tree.row(MEASURES, after='"heldout"', line='    "weight_norm": WEIGHT_NORM,')
    tree.add("conf/sandbox/own/weight_decay.yaml", "study/weight_decay.yaml")

    run = tree.run("workflows.sandbox", "sandbox=[own/weight_decay]", "name=own", f"store={store.uri}")
    assert run.returncode == 0, run.stderr + run.stdout
    results = json.loads((store.storage.root / "sandbox/own/results.json").read_text(encoding="utf-8"))
    (finding,) = results["studies"]["weight_decay"]["findings"]
    assert finding["verdict"] == "reproduced"
    assert len(finding["runs"]) == 6
    assert finding["estimate"]["low"] > 0
    assert "weights shrink with the weight decay" in run.stdout
    assert tree.opened() == []
