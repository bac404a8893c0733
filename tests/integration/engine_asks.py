"""What `engine_cases` asks of engines besides a curve: the gradient that reaches the optimizer, and what a closed
engine leaves.

Run inside the processes that `engine_cases` started; each function answers one case with arrays.
"""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.config import parse
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.update.engine import Engine, TrainingModule
from pipelines.train.update.zero import ZeroConfig
from tests.integration.engine_cases import optimizer_settings
from tests.reference_training import global_batch, micro_batch

Arrays = dict[str, np.ndarray]


def gradient(case: dict[str, Any]) -> Arrays:
    """Distance of the gradient that AdamW was given from the sum of the micro-batches' own, as a part of that sum's
    norm.

    Each micro-batch's gradient is computed without DeepSpeed in the engine's precision, and summed in float64. What
    AdamW was given is its first moment after one step, over 1 - beta1.
    """
    rank, world, micro = dist.get_rank(), dist.get_world_size(), case["micro_batch"]
    accumulation, objective = case["rows"] // (micro * world), NextToken()
    model = Transformer(ModelConfig(**case["model"])).initialise(1)
    whole = global_batch(case, 0)
    batches = [micro_batch(whole, (j * world + rank) * micro, micro) for j in range(accumulation)]
    apart = TrainingModule(copy.deepcopy(model), objective)
    apart = apart.bfloat16() if case["zero"]["precision"] == "bfloat16" else apart
    counted = torch.stack([objective.count(batch) for batch in batches]).sum().double()
    dist.all_reduce(counted)
    expected: dict[str, torch.Tensor] = {}
    for batch in batches:
        apart.zero_grad()
        (apart(batch)[0] * (world / counted).float()).backward()
        for name, parameter in apart.model.named_parameters():
            assert parameter.grad is not None
            expected[name] = expected.get(name, torch.zeros(())) + parameter.grad.double().flatten() / world
    for total in expected.values():
        dist.all_reduce(total)
    config = AdamWSettings(gradient_clip=0.0)
    engine = Engine(model, objective, parse(ZeroConfig, case["zero"]), config, micro, accumulation, sources=2)
    engine.step(batches, 0.01)
    squares = torch.zeros(2, dtype=torch.float64)
    for piece in engine.slices():
        if piece.length:
            given = piece.tensors(engine.optimizer)["exp_avg"].double() / (1 - config.betas[0])
            right = expected[piece.name][piece.start : piece.start + piece.length]
            squares += torch.stack([(given - right).square().sum(), right.square().sum()])
    dist.all_reduce(squares)
    engine.close()
    return {"distance": np.array([float((squares[0] / squares[1]).sqrt())])}


def apart(case: dict[str, Any]) -> Arrays:
    """Largest difference of `embed`, `blocks` and `head`, called apart, from the forward pass: inside a forward and
    outside of any.
    """
    rank, micro = dist.get_rank(), case["micro_batch"]
    batch = micro_batch(global_batch(case, 0), rank * micro, micro)

    class Apart(NextToken):
        def sums(self, model: Transformer, hidden: torch.Tensor, batch: Any) -> Any:
            return (model.head(model.blocks(model.embed(batch), batch)) - hidden).abs().max(), hidden

    model, zero = Transformer(ModelConfig(**case["model"])).initialise(1), parse(ZeroConfig, case["zero"])
    engine = Engine(model, Apart(), zero, AdamWSettings(), micro, 1, sources=2)
    with torch.no_grad():
        inside, hidden = engine.deepspeed(batch)
        outside = model.head(model.blocks(model.embed(batch), batch)) - hidden
    engine.close()
    return {"differences": np.array([float(inside), float(outside.abs().max())])}


def leftovers(case: dict[str, Any]) -> Arrays:
    """After each of many engines in a row: how many of its parts still live, and how many tensors there are in the
    process.
    """
    alive, tensors = [], []
    gc.collect()
    gc.freeze()  # of what is there already, no collection needs to look at again
    for step in range(case["engines"]):
        parts = _open_and_close(case, step)
        gc.collect()
        alive.append(sum(part() is not None for part in parts))
        tensors.append(_live_tensors())
    gc.unfreeze()
    return {"alive": np.array(alive), "tensors": np.array(tensors)}


def _open_and_close(case: dict[str, Any], step: int) -> list[Any]:
    micro = case["micro_batch"]
    model = Transformer(ModelConfig(**case["model"])).initialise(1)
    zero, optimizer = parse(ZeroConfig, case["zero"]), optimizer_settings(case["optimizer"])
    engine = Engine(model, NextToken(), zero, optimizer, micro, case["rows"] // micro, sources=2)
    whole = global_batch(case, step)
    assert engine.step([micro_batch(whole, j * micro, micro) for j in range(case["rows"] // micro)], 0.01).loss > 0
    parts = [model, *model.layers, engine, engine.deepspeed, engine.deepspeed.optimizer, engine.optimizer]
    references = [weakref.ref(part) for part in parts]
    engine.close()
    return references


def runs(case: dict[str, Any], folder: Path) -> Arrays:
    """After each of several whole runs of the training loop in this process: what of them is left in it."""
    from pipelines.train.run.loop import train
    from pipelines.train.spec import TrainSpec
    from tests import tiny
    from tests.integration.conftest import claimed_spec, train_config

    store = tiny.build(str(folder / "store"))
    left, tensors, threads = [], [], []
    before = _parts_of_runs()
    for stage, changes in case["runs"]:
        spec = claimed_spec(stage, train_config(**changes), store, workers=1)
        train(parse(TrainSpec, spec), lambda line: None)
        gc.collect()
        left.append(max(0, _parts_of_runs() - before) + gc.get_freeze_count())
        tensors.append(_live_tensors())
        threads.append(threading.active_count())
    return {"left": np.array(left), "tensors": np.array(tensors), "threads": np.array(threads)}


def _parts_of_runs() -> int:
    """How many models, engines, optimizers, savers, logs and readers there are; a test before may have left some of a
    failed run.
    """
    from pipelines.train.checkpoint import Saver
    from pipelines.train.run.log import StepLog
    from pipelines.train.run.stream import Stream

    kinds = (Transformer, Engine, Saver, StepLog, Stream, torch.optim.Optimizer)
    gc.collect()
    return sum(issubclass(type(each), kinds) for each in gc.get_objects())


def _live_tensors() -> int:
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
