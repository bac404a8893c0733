"""Models, batches and engines of the tests on a GPU, small enough that one process runs all of them in 90 seconds.

A case is a dictionary that goes through JSON, so that another process, to which the GPU is hidden, runs the same one.
Everything random is drawn on the CPU: a case is the same on every device.

Legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu.record import CUDA, TINY
from pipelines.config import parse
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.dpo import Dpo
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.optimizers import OPTIMIZERS
from pipelines.train.run.stream import to_batch
from pipelines.train.update import engine as engines
from pipelines.train.update.engine import Engine, device
from pipelines.train.update.zero import ZeroConfig

# heads of 64 with grouped keys, an odd vocabulary, several documents a row
MODEL = {
    "layers": 4,
    "d_model": 256,
    "d_ff": 640,
    "heads": 4,
    "kv_heads": 2,
    "vocabulary": 4099,
    "max_positions": 512,
    "dim_model_base": 64,
}
if TINY:
    MODEL |= {"layers": 2, "d_model": 128, "d_ff": 320, "heads": 2, "kv_heads": 1, "vocabulary": 515}
    MODEL |= {"max_positions": 128}
# FlashAttention adds up a query's gradient from blocks of 128 keys, in whatever order they are done. Two have only one
# sum, so documents of up to 256 tokens give the same bits in every run, and runs can be compared exactly.
LONGEST = 250
MICRO, ACCUMULATION, SOURCES = 2, 2, 2
RATE = 1e-3


def case(**changes: Any) -> dict[str, Any]:
    """The plain case with other entries; those of `model`, `zero`, `compute` and `optimizer` are merged."""
    plain: dict[str, Any] = {
        "model": MODEL,
        "objective": "next_token",
        "zero": {"stage": 1, "precision": "bfloat16"},
        # Several chunks of logits a micro-batch, the last one not full. A CPU would make a kernel of bfloat16 for each
        # length of a document.
        "compute": {"compile": "off", "loss_chunk": 50 if TINY else 320, "attention": "auto" if CUDA else "dense"},
        "optimizer": {"kind": "adamw"},
        "masks": "most",
        "general": False,  # whether one worker goes the way of many
        "steps": 5,
        "seed": 0,
    }
    merged = {
        key: {**plain[key], **value} if isinstance(plain.get(key), dict) else value for key, value in changes.items()
    }
    return {**plain, **merged}


def arrays(one: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """The micro-batches of a step as a loader gives them."""
    random = np.random.default_rng(1000 + step)
    length, vocabulary = one["model"]["max_positions"], one["model"]["vocabulary"]
    dpo, micro = one["objective"] == "dpo", one.get("micro", MICRO)
    made = []
    for number in range(one.get("accumulation", ACCUMULATION)):
        rows = 2 * micro if dpo else micro
        # pairs are as wide as the longest of them
        T = length - 16 * (1 + step % 3) if dpo else length
        tokens = (random.random((rows, T + 1)) ** 3 * vocabulary).astype(np.int64)
        tokens[:, 1::2] = (tokens[:, 0:-1:2] + 1) % vocabulary  # half of it can be learnt
        positions = np.stack([_positions(random, T, one.get("longest", LONGEST)) for _ in range(rows)])
        if dpo:
            positions = np.tile(np.arange(T), (rows, 1))
        mask = _mask(random, rows, T, one["masks"], number)
        values = {"tokens": tokens, "positions": positions, "loss_mask": mask, "sources": np.arange(rows) % SOURCES}
        if dpo:
            values["sidecars"] = {"reference": (-7.0 * mask.sum(1) + random.standard_normal(rows)).astype(np.float32)}
        made.append(values)
    return made


def _positions(random: Any, T: int, longest: int) -> Any:
    """(T,) places in documents of 1 to `longest` tokens, short ones being many."""
    lengths: list[int] = []
    while sum(lengths) < T:
        lengths.append(1 + int(random.random() ** 2 * longest))
    return np.concatenate([np.arange(n) for n in lengths])[:T]


def _mask(random: Any, rows: int, T: int, kind: str, number: int) -> Any:
    """(rows, T) float32: `most` targets count, or `answers` alone: the end of each row, none in every other row."""
    if kind == "most":
        return (random.random((rows, T)) < 0.9).astype(np.float32)
    mask = np.zeros((rows, T), np.float32)
    for row in range(rows):
        if kind == "pairs" or (row + number) % 2:
            mask[row, T - 1 - int(random.random() * T * 0.4) :] = 1
    return mask


def batches(one: dict[str, Any], step: int, model: Transformer) -> list[Batch]:
    """A step's micro-batches on the device, their documents located on the host, as the reading thread does it."""
    return [to_batch(values, model.locate) for values in arrays(one, step)]


def start(one: dict[str, Any]) -> Engine:
    """The case's engine."""
    config, zero = ModelConfig(**one["model"]), parse(ZeroConfig, one["zero"])
    compute = parse(ComputeConfig, one["compute"])
    keep = "all" if compute.keep == "auto" else compute.keep
    policy = BlockPolicy(**{"all": 0, keep: config.layers})
    network = Transformer(config).initialise(one["seed"])
    network.prepare(compute, policy, device(), whole_weights=zero.stage < 3)
    optimizer = parse(OPTIMIZERS[one["optimizer"]["kind"]].Settings, one["optimizer"])
    objective = Dpo() if one["objective"] == "dpo" else NextToken()
    micro, accumulation = one.get("micro", MICRO), one.get("accumulation", ACCUMULATION)
    short = engines.one_worker_serves
    with mock.patch.object(engines, "one_worker_serves", lambda *zero: not one["general"] and short(*zero)):
        return Engine(network, objective, zero, optimizer, micro, accumulation, SOURCES)


@contextlib.contextmanager
def running(one: dict[str, Any]) -> Iterator[Engine]:
    """The case's engine, closed behind it. What was compiled stays for the next one, which is of the same shapes."""
    engine = start(one)
    try:
        yield engine
    finally:
        with mock.patch.object(torch.compiler, "reset"):
            engine.close()


def train(engine: Engine, one: dict[str, Any], steps: Sequence[int]) -> dict[str, list[float]]:
    """Take the steps of these numbers. Returns: loss, gradient norm and metrics of each."""
    model = engine.deepspeed.module.model
    results = [engine.step(batches(one, step, model), RATE * min(1.0, (step + 1) / 3)) for step in steps]
    curve = {"loss": [r.loss for r in results], "norm": [r.gradient_norm for r in results]}
    for name in results[0].extras:
        curve[name] = [r.extras[name] for r in results]
    return curve


def curve(one: dict[str, Any]) -> dict[str, list[float]]:
    """What the case's first steps give."""
    with running(one) as engine:
        return train(engine, one, range(one["steps"]))


def state(engine: Engine) -> dict[str, Tensor]:
    """Float32 weights and moments, copied to the host, by `parameter@state@offset`."""
    return {
        f"{piece.name}@{key}@{piece.start}": value.detach().cpu().clone()
        for piece in engine.slices()
        for key, value in piece.tensors(engine.optimizer).items()
    }


def skip_where_missing(kernel: str) -> None:
    """Skip where this machine lacks what an attention kernel needs, with its reason."""
    name = f"pipelines.train.network.{kernel}_attention"
    if importlib.util.find_spec(name) and (reason := importlib.import_module(name).obstacle()):
        pytest.skip(f"{kernel}: {reason}")


def skip_what_needs_more(one: dict[str, Any]) -> None:
    """Skip a case that this machine cannot run, with the reason."""
    skip_where_missing(one["compute"]["attention"])
    if one["zero"]["precision"] == "fp8":
        pytest.importorskip("torchao")
        if CUDA and torch.cuda.get_device_capability() < (8, 9):
            pytest.skip("fp8: the GPU is older than Ada (compute capability 8.9)")


def off(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest relative distance of two lists of numbers."""
    return max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(found, wanted, strict=True))


def distance(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of `wanted`, in float64."""
    a, b = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))
