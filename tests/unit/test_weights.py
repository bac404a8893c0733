"""Weights as a stream: what leaves a checkpoint and what is committed as one, tensor after tensor."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.errors import CheckpointError, StorageError
from pipelines.store.storage import FolderStorage, sha256
from pipelines.train.checkpoint import Checkpoint, open_checkpoint, weights, weights_of, write_weights
from pipelines.train.checkpoint.committed import Index
from pipelines.train.checkpoint.snapshot import Layout
from tests.unit.test_checkpoint import flip

SHAPES = {"a": [3, 4], "b": [5], "c": [2, 2]}
STATE = {"learning_rate": 0.1, "tokens": 10}


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def written(root: Path, seed: int, step: int) -> Checkpoint:
    return write_weights(FolderStorage(root), "pretrain/x", step, STATE, SHAPES, drawn(seed).items())


def test_the_file_is_the_one_that_a_whole_buffer_would_be(tmp_path: Path) -> None:
    made = written(tmp_path, 0, 1)
    path = tmp_path / made.folder / "weights.safetensors"
    whole = {f"{name}@fp32@0": value.reshape(-1) for name, value in drawn(0).items()}
    layout = Layout(whole)
    layout.copy(whole)
    assert made.files == {"weights.safetensors": layout.write(tmp_path / "whole")}
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert made.files["weights.safetensors"]["sha256"] == sha256(path)


def test_a_stream_gives_every_parameter_in_the_models_order(tmp_path: Path) -> None:
    stream = list(weights_of(written(tmp_path, 0, 1)))
    assert [name for name, _ in stream] == list(SHAPES)
    for name, value in stream:
        assert value.dtype == torch.float32
        assert torch.equal(value, drawn(0)[name])


def test_a_mean_is_summed_in_float64_and_rounded_once(tmp_path: Path) -> None:
    made, shares = [written(tmp_path, seed, seed + 1) for seed in range(3)], (0.2, 0.3, 0.5)
    for name, value in weights_of(made, shares):
        expected = sum(share * drawn(seed)[name].double() for seed, share in enumerate(shares))
        assert torch.equal(value, torch.as_tensor(expected).float())


def test_checksums_are_compared_before_the_first_weight(tmp_path: Path) -> None:
    made = [written(tmp_path, seed, seed + 1) for seed in range(2)]
    flip(tmp_path / made[1].folder / "weights.safetensors", 8 * (made[1].size - 1))  # of the last tensor's last byte
    for checkpoints in (made[1], made):
        with pytest.raises(CheckpointError, match=r"@step-2: weights.safetensors does not match its checksum"):
            weights_of(checkpoints, (0.5, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_range_is_read_where_it_lies_into_whatever_it_is_wanted_in(tmp_path: Path, dtype: torch.dtype) -> None:
    index, whole = Index(written(tmp_path, 0, 1)), drawn(0)["a"].view(-1)
    target = torch.full((9,), -1.0, dtype=dtype)
    index.fill("a", "fp32", 3, target[2:7])
    assert torch.equal(target[2:7], whole[3:8].to(dtype))
    assert target[[0, 1, 7, 8]].tolist() == [-1, -1, -1, -1]
    with pytest.raises(CheckpointError, match=r"holds 4 of 5 values of a \(fp32\)"):
        index.fill("a", "fp32", 8, target[:5])


def test_a_file_that_was_cut_after_its_checksum_was_compared_is_refused(tmp_path: Path) -> None:
    made = written(tmp_path, 0, 1)
    stream = weights_of(made)
    path = tmp_path / made.folder / "weights.safetensors"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(CheckpointError, match=r"ends before what its header describes; it was not loaded"):
        list(stream)


@pytest.mark.parametrize("given", [("b", "a", "c"), ("a", "b"), ("a", "b", "c", "c")])
def test_other_weights_than_were_announced_are_not_committed(tmp_path: Path, given: tuple[str, ...]) -> None:
    storage = FolderStorage(tmp_path)
    with pytest.raises(ValueError, match=r"in the place of|zip\(\)"):
        write_weights(storage, "pretrain/x", 1, STATE, SHAPES, ((name, drawn(0)[name]) for name in given))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_fails_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = weights.write_all, [2]

    def full(file: Any, piece: memoryview) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, piece)

    monkeypatch.setattr(weights, "write_all", full)
    with pytest.raises(StorageError, match=r"No space left on device; nothing was committed"):
        written(tmp_path, 0, 1)
    monkeypatch.undo()

    def stopped() -> Iterator[tuple[str, Tensor]]:
        yield "a", drawn(0)["a"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_weights(FolderStorage(tmp_path), "pretrain/x", 1, STATE, SHAPES, stopped())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(CheckpointError, match="no committed checkpoint"):
        open_checkpoint(FolderStorage(tmp_path), "pretrain/x")
