"""Parts of a checkpoint that need no engine: random states, reading ranges, setting commits aside."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.errors import CheckpointError
from pipelines.storage import FolderStorage, sha256
from pipelines.train.checkpoint import (
    Checkpoint,
    committed_steps,
    open_checkpoint,
    read_weights,
    set_aside_after,
    slices,
)


def saved(root: Path, files: dict[str, dict[str, torch.Tensor]], step: int = 4) -> Checkpoint:
    storage, folder = FolderStorage(root), f"pretrain/x/checkpoints/step-{step:06d}"
    entries = {}
    for name, tensors in files.items():
        path = storage.scratch(f"{folder}/{name}")
        save_file(tensors, path)
        entries[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        storage.put(path, f"{folder}/{name}")
    state = {"shapes": {"w": [3, 4]}}
    manifest = {"step": step, "files": entries, "state": state}
    storage.write(f"{folder}/manifest.json", json.dumps(manifest).encode())
    return open_checkpoint(storage, "pretrain/x", f"step-{step}")


def test_weights_are_assembled_from_slices_wherever_they_were_cut(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    whole = saved(tmp_path, {"rank-00000.safetensors": {"w@fp32@0": flat[:5].clone()}, "rank-00001.safetensors": {"w@fp32@5": flat[5:].clone()}})  # fmt: skip
    assert torch.equal(read_weights(whole)["w"], flat.view(3, 4))
    gap = saved(tmp_path, {"rank-00000.safetensors": {"w@fp32@0": flat[:5].clone(), "w@fp32@6": flat[6:].clone()}}, 8)
    with pytest.raises(CheckpointError, match=r"holds 11 of 12 values of w"):
        read_weights(gap)
    with pytest.raises(CheckpointError, match=r"w is \[3, 4\] there and \[4, 3\] here"):
        read_weights(whole, {"w": torch.Size([4, 3])})


def test_every_generator_of_this_rank_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices.dist, "get_rank", lambda: 0)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    random.random(), np.random.rand(3), torch.rand(3)
    states = {name: value.clone() for name, value in slices.random_states().items()}
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    held = saved(tmp_path, {"rank-00000.safetensors": states})
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    slices.load_random_states(held)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


def test_later_checkpoints_are_set_aside_not_lost(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        saved(tmp_path, {"rank-00000.safetensors": {"w@fp32@0": torch.zeros(12)}}, step)
    storage = FolderStorage(tmp_path)
    assert set_aside_after(storage, "pretrain/x", 4) == [8, 12]
    assert committed_steps(storage, "pretrain/x") == [4]
    assert storage.exists("pretrain/x/checkpoints/step-000012/manifest.superseded.json")
    with pytest.raises(CheckpointError, match=r"step-8 does not exist; committed steps: 4"):
        set_aside_after(storage, "pretrain/x", 8)
