"""A format added as one file and one row is written, checked, described and hashed; nothing else is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import open_checkpoint, read_weights
from pipelines.train.network.architecture import ModelConfig
from tests.additions import Tree
from tests.untrained import commit_run, commit_tokens

TABLE = "pipelines/train/formats/__init__.py"
MODEL = ModelConfig(
    layers=1, d_model=16, d_ff=32, heads=2, kv_heads=1, vocabulary=320, max_positions=64, dim_model_base=16
)


@pytest.mark.slow
def test_a_new_format_is_one_file_and_one_row(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    tokens = commit_tokens(
        store, {"prose": ["Once upon a time."] * 30}, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "5")] * 5
    )
    commit_run(store, "pretrain/a", MODEL, tokens)
    tree = Tree(tmp_path)
    tree.add("pipelines/train/formats/arrays.py", "format/arrays.py")
    tree.row(TABLE, after="from pipelines.train.formats import", line="from pipelines.train.formats import arrays")
    tree.row(TABLE, after='"minicpm"', line='    "arrays": arrays.FORMAT,')

    line = ["parent=pretrain/a", f"store={store.uri}", "dtype=float32", "tracking.enabled=false"]
    run = tree.run("workflows.export", "name=e", "format=arrays", *line)
    assert run.returncode == 0, run.stderr
    assert "NumPy arrays, float32" in run.stdout
    # it asks no program for logits, and nobody says that they agree
    assert "logits were not compared" in run.stdout

    made = store.get("export/e")
    weights = read_weights(open_checkpoint(store.storage, "pretrain/a"))
    for name, value in weights.items():
        assert np.array_equal(np.load(made.path(f"{name}.npy")), value.numpy())
    card = made.path("README.md").read_text(encoding="utf-8")
    assert "in the NumPy format, weights in float32. Every parameter is a file;" in card
    assert "compared with the checkpoint's one by one, and no logits." in card
    assert "NumPy loads it." in card
    folder = store.storage.root / made.folder
    code = card.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(folder))
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "(16,)\n"
    hashed = {module.rpartition(".")[2] for module in made.manifest["identity"]["code"] if ".formats." in module}
    assert hashed == {"arrays", "contract", "folder"}

    # ── the others are as they were, and an unknown one is refused with all of them ──
    run = tree.run("workflows.export", "name=other", "format=llama", *line)
    assert run.returncode == 0, run.stderr
    unknown = tree.run("workflows.export", "name=u", "format=ggml", *line)
    assert unknown.returncode == 2
    assert "format is 'ggml'; expected one of llama, minicpm," in unknown.stderr
    assert ", arrays" in unknown.stderr
    assert tree.opened() == []
