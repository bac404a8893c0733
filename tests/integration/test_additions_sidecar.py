"""A sidecar added as one file and one row: written with the ids, in every batch of two ranks, the same after a
resume.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.additions import ROOT, Tree
from tests.integration.sidecar_steps import STEPS

TABLE = "pipelines/data/tokens/sidecars/__init__.py"
DRIVER = "tests.integration.sidecar_steps"


@pytest.mark.slow
def test_a_new_sidecar_is_one_file_and_one_row(tmp_path: Path) -> None:
    tree, store = Tree(tmp_path), tmp_path / "store"
    for name in ("echo", "characters"):
        tree.add(f"pipelines/data/tokens/sidecars/{name}.py", f"sidecar/{name}.py")
        tree.row(TABLE, after="import document_bytes", line=f"from pipelines.data.tokens.sidecars import {name}")
        tree.row(TABLE, after="document_bytes.SIDECAR", line=f'    "{name}": {name}.SIDECAR,')
    environment = {"PYTHONPATH": f"{tree.folder}:{ROOT}"}

    # ── written with the ids, where the source has it ──
    prepared = tree.run(DRIVER, "prepare", str(store), **environment)
    assert prepared.returncode == 0, prepared.stderr
    sources = json.loads(prepared.stdout.splitlines()[-1])
    assert sources["chat"] == ["mask", "bytes"]
    assert set(sources["one"]) == {"bytes", "echo", "characters"}

    # ── in each step of two ranks; a run that dies in its sixth step goes on from its checkpoint at the fourth ──
    ranks = ("--nproc_per_node=2", "--standalone", "-m", DRIVER, "train", str(store))
    for run, first, dies in (("straight", 0, -1), ("interrupted", 0, 5), ("interrupted", 4, -1)):
        variables = {**environment, "FIRST_STEP": str(first), "DIE_IN_STEP": str(dies)}
        done = tree.run("torch.distributed.run", *ranks, run, **variables)
        assert (done.returncode == 0) == (dies < 0), done.stderr[-3000:]
        if dies >= 0:
            for rank in (0, 1):  # what the resumed run has to write again
                (store / f"seen-{run}-4-{rank}.npz").unlink()
    beside = set()
    for step in range(STEPS):
        for rank in (0, 1):
            straight, resumed = (
                np.load(store / f"seen-{run}-{step}-{rank}.npz") for run in ("straight", "interrupted")
            )
            assert (
                set(straight.files)
                == set(resumed.files)
                == {f"{micro} {name}" for micro in (0, 1) for name in ("inputs", "echo", "characters")}
            )
            assert all(np.array_equal(straight[key], resumed[key]) for key in straight.files)
            for micro in (0, 1):
                inputs, echo, characters = (straight[f"{micro} {name}"] for name in ("inputs", "echo", "characters"))
                assert echo.shape == characters.shape == inputs.shape
                written = echo < 253  # 253: a conversation, 254: padding
                assert np.array_equal(echo[written], inputs[written] * 7 % 251)
                assert np.array_equal(written, characters > 0)
                beside |= set(np.unique(echo[~written])) | set(np.unique(characters[~written]))
    assert beside == {253, 254, -1, -2}

    # ── chosen by name, refused by name ──
    unknown = tree.run("workflows.tokenize", "data=corpus/c", "sidecars=[ekho]", f"store={store}", "dry_run=true")
    assert "sidecars names ekho; expected some of mask, bytes, characters, echo" in unknown.stderr
    dry = tree.run(
        "workflows.tokenize", "name=t2", "data=corpus/c", "sidecars=[echo]", f"store={store}", "dry_run=true"
    )
    assert dry.returncode == 0, dry.stderr
    assert tree.opened() == []
