"""Checkpoints as safetensors slices: no pickle, no collectives, any ZeRO stage and world size reads any other's.

Each rank writes the 1-D slices that it owns of float32 weights and of whatever the optimizer keeps per weight, keyed
`parameter@state@offset`, and its random-number states. A checkpoint exists once `manifest.json` does, and that is
written by rank zero when every rank's file is durable.

    checkpoints/step-000200/rank-00000-….safetensors  manifest.json (checksums of the files, the run's state)

    committed.py    what exists: finding, verifying and reading checkpoints
    weights.py      weights without an engine: one tensor after the other, averaged as asked; the whole; writing them
    slices.py       which slices an engine holds, and filling an engine from a checkpoint
    snapshot.py     slices in host memory, and as a file
    saver.py        saving behind the training thread
    retention.py    which checkpoints stay

This replaces DeepSpeed's own format, which cannot change stage or world size, and its universal one, which copies the
first group's learning rate and decay onto all (docs/design/decisions.md).

Its names are looked up when they are first asked for: most of these modules import torch, which takes seconds, and a
command that only looks which checkpoints there are imports `committed` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.train.checkpoint.committed import (
        Checkpoint,
        committed_steps,
        open_checkpoint,
        recorded_steps,
        set_aside_after,
    )
    from pipelines.train.checkpoint.retention import Rule
    from pipelines.train.checkpoint.saver import Saver
    from pipelines.train.checkpoint.slices import load, load_random_states
    from pipelines.train.checkpoint.weights import read_weights, weights_of, whole_model, write_weights

__all__ = [
    "Checkpoint",
    "Rule",
    "Saver",
    "committed_steps",
    "load",
    "load_random_states",
    "open_checkpoint",
    "read_weights",
    "recorded_steps",
    "set_aside_after",
    "weights_of",
    "whole_model",
    "write_weights",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipelines.train.checkpoint import committed, retention

    found = [vars(module).get(name) for module in (committed, retention)]
    if not any(found):
        from pipelines.train.checkpoint import saver, slices, weights  # with torch

        found = [vars(module).get(name) for module in (saver, slices, weights)]
    return next(each for each in found if each is not None)
