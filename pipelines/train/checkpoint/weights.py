"""The one way to a checkpoint's weights: tensor after tensor, without an engine.

Enters: committed checkpoints of any ZeRO stage and world size. Leaves: each parameter's name and its float32 value, in
the model's order, merged from the slices that hold it and averaged over several checkpoints as asked. What changes
weights on their way (a format that folds scalings, say) is a generator over that stream: `fold(weights_of(checkpoint),
model)`.

Why a stream: a model of 2.4 billion parameters is 10 GB of float32, its largest tensor 1 GB. The memory is that of one
tensor, and of the float64 sum of one where several checkpoints are averaged. Whoever needs all of a model at once says
so: `read_weights`, `whole_model`. `write_weights` takes such a stream and commits it as a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import CheckpointError
from pipelines.store.storage import Storage, disk_errors
from pipelines.train.checkpoint.committed import (
    Checkpoint,
    Index,
    commit,
    first_difference,
    folder_of,
    open_checkpoint,
)
from pipelines.train.checkpoint.snapshot import body_bytes, file_head, write_all
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer

_FILE = "weights.safetensors"  # of a checkpoint that holds weights alone

WeightStream = Iterable[tuple[str, Tensor]]


def weights_of(
    checkpoints: Checkpoint | Sequence[Checkpoint], shares: Sequence[float] = (1.0,), verify: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Name and float32 value of one parameter after the other, on the CPU. Every value is the caller's own.

    Args:
        checkpoints: one, or several of one architecture.
        shares: of each checkpoint in the mean of them; they sum to 1.
        verify: compare every file with its checksum before this returns. Whoever has just done that passes False.

    Raises: CheckpointError for a damaged file, before any weight is read.
    """
    several = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    if verify:
        for checkpoint in several:
            checkpoint.verify()
    if len(several) == 1:
        return _merged(several[0])
    return ((name, mean.float()) for name, mean, _ in weighted_mean(several, shares))


def weighted_mean(checkpoints: Sequence[Checkpoint], shares: Sequence[float]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, mean (float64) and the last checkpoint's value (float32) of one parameter after the other.

    No checksum is compared. Sums are float64, so that the order of the checkpoints does not show after rounding to
    float32 once.
    """
    indexes = [Index(checkpoint) for checkpoint in checkpoints]
    for name, shape in checkpoints[-1].state["shapes"].items():
        mean, value = torch.zeros(math.prod(shape), dtype=torch.float64), torch.empty(math.prod(shape))
        for index, share in zip(indexes, shares, strict=True):
            index.fill(name, "fp32", 0, value)
            mean.add_(value, alpha=share)
        yield name, mean.view(shape), value.view(shape)


def _merged(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    index = Index(checkpoint)
    for name, shape in checkpoint.state["shapes"].items():
        value = torch.empty(math.prod(shape))
        index.fill(name, "fp32", 0, value)
        yield name, value.view(shape)


def read_weights(checkpoint: Checkpoint, expected: Mapping[str, torch.Size] | None = None) -> dict[str, Tensor]:
    """All float32 weights by parameter name, 4 bytes a parameter; checksums are compared first.

    Args: expected, the shapes that a model has; a difference is refused.
    Raises: CheckpointError for a damaged file, or another architecture.
    """
    checkpoint.verify()
    shapes = {name: torch.Size(shape) for name, shape in checkpoint.state["shapes"].items()}
    if expected is not None and shapes != expected:
        raise CheckpointError(f"{checkpoint.folder} is of another architecture: {first_difference(shapes, expected)}")
    return dict(weights_of(checkpoint, verify=False))


def whole_model(checkpoint: Checkpoint) -> Transformer:
    """The checkpoint's model on the CPU in float32, 4 bytes a parameter, for single documents (causal attention alone).

    Raises: CheckpointError when a file is damaged, naming the checkpoint before it.
    """
    config = ModelConfig(**checkpoint.state["model"])
    with torch.device("meta"):
        model = Transformer(dataclasses.replace(config, document_masking=False))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict(read_weights(checkpoint, shapes), assign=True)
    return model.eval().requires_grad_(False)


def write_weights(
    storage: Storage, run: str, step: int, state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]],
    weights: WeightStream,
) -> Checkpoint:  # fmt: skip
    """Commit a checkpoint of whole weights, without an engine: an average of others, say. One file, no optimizer state.

    It can be evaluated, exported, and started from with weights alone (sft, dpo); `load(…, optimizer_state=True)`
    refuses it.
    The weights go to the file as they come, so no more than one is in memory.

    Args:
        run: `kind/name`; step: under which it is found as `run@step-N`.
        state: what a training run records (take that of `open_checkpoint(…).state` and change what differs);
            `step`, `shapes`, `updates`, `optimizer`, `world` and `zero_stage` are set here.
        shapes: of every parameter by name. weights: each parameter's name and value, in the order of `shapes`.

    Raises: StorageError when it cannot be written; nothing is committed then.
    """
    folder = folder_of(run, step)
    path = storage.scratch(f"{folder}/{_FILE}")
    try:
        entry = _write_file(path, shapes, weights)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    storage.put(path, f"{folder}/{_FILE}")
    own = {
        "step": step,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "updates": 0,
        "optimizer": None,
        "world": 1,
        "zero_stage": 0,
    }
    own.update(zip(("kind", "name"), run.split("/"), strict=True))
    kept = {
        key: value for key, value in state.items() if key not in ("frozen", "trains")
    }  # every weight is in this file
    commit(storage, folder, {_FILE: entry}, {**kept, **own})
    return open_checkpoint(storage, run, f"step-{step}")


def _write_file(path: Path, shapes: Mapping[str, Sequence[int]], weights: WeightStream) -> dict[str, Any]:
    """Write the slices file, hashing what is written. Returns: `{"bytes", "sha256"}`. Raises: StorageError."""
    head, places = file_head({f"{name}@fp32@0": (torch.float32, [math.prod(shape)]) for name, shape in shapes.items()})
    digest = hashlib.sha256(head)
    with disk_errors("write", path), path.open("wb", buffering=0) as file:
        write_all(file, memoryview(head))
        for (name, shape), (given, value) in zip(shapes.items(), weights, strict=True):
            if (given, list(value.shape)) != (name, list(shape)):
                raise ValueError(f"{given} {list(value.shape)} was given in the place of {name} {list(shape)}")
            piece = memoryview(value.detach().float().contiguous().view(-1).numpy()).cast("B")  # type: ignore[arg-type]
            digest.update(piece)
            write_all(file, piece)
    return {"bytes": len(head) + body_bytes(places), "sha256": digest.hexdigest()}
