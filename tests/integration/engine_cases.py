"""Runs a list of engine configurations one after another in processes that torchrun started once (`ranks.py`).

Starting two processes with DeepSpeed costs ten seconds, a tiny engine in them a fraction of one. `reference_run`
computes the same case in one process, in float64, from the formulas: `tests/reference_training.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


def run_cases(cases: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Run all cases on this rank; `then` in a case saves after so many steps and goes on in another engine; `path` says
    whether one worker may go its short way. Returns: per case `loss`, `norm`, `count` (steps,), the final weights by
    name, and `state`, all that this rank's optimizer updates and keeps.
    """
    return {name: _answer(case, folder / name) for name, case in cases.items()}


def optimizer_settings(values: dict[str, Any]) -> Any:
    """The settings of a case's optimizer; AdamW's where it names none."""
    from pipelines.config import parse
    from pipelines.train.optimizers import OPTIMIZERS

    return parse(OPTIMIZERS[values.get("kind", "adamw")].Settings, values)


def _save(engine: Any, step: int, folder: Path) -> None:
    from pipelines.store.storage import FolderStorage
    from pipelines.train.checkpoint import Saver

    class Watch:
        def saving(self, step: int) -> None: ...

        def saved(self, step: int, problem: str) -> None: ...

        def warning(self, message: str) -> None:
            print(message)

        def alarm(self, message: str) -> None:
            raise AssertionError(message)

        def points(self, values: Any, step: int) -> None: ...

    saver = Saver(FolderStorage(folder), "pretrain/x", Watch())
    saver.save(engine, step, {}, b"")
    saver.wait(final=True)


def _answer(case: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """A curve, or what the case `asks` instead."""
    from tests.integration import engine_asks

    asked = {"gradient": engine_asks.gradient, "apart": engine_asks.apart, "leftovers": engine_asks.leftovers}
    if case.get("asks") == "runs":
        return engine_asks.runs(case, folder)
    return asked[case["asks"]](case) if "asks" in case else _run(case, folder)


def _run(case: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    import gc

    import torch
    import torch.distributed as dist
    from deepspeed.runtime.zero.parameter_offload import ZeROOrderedDict

    from pipelines.config import parse
    from pipelines.store.storage import FolderStorage
    from pipelines.train.checkpoint import load, open_checkpoint
    from pipelines.train.network.architecture import ModelConfig
    from pipelines.train.network.model import Transformer
    from pipelines.train.objectives.dpo import Dpo
    from pipelines.train.objectives.next_token import NextToken
    from pipelines.train.optimizers.groups import freeze
    from pipelines.train.update import engine as engines
    from pipelines.train.update.engine import Engine
    from pipelines.train.update.zero import ZeroConfig
    from tests.reference_training import global_batch, micro_batch

    def scattered(*arguments: Any, **named: Any) -> dict[str, Any]:
        config = as_it_is(*arguments, **named)
        # else weights this small are never let go
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    as_it_is = engines._deepspeed_config
    rank, world, micro = dist.get_rank(), dist.get_world_size(), case["micro_batch"]
    objective = Dpo() if case.get("objective") == "dpo" else NextToken()
    accumulation = case["rows"] // (micro * world)

    def start(of: dict[str, Any], seed: int) -> Any:
        model = Transformer(ModelConfig(**case["model"])).initialise(seed)
        freeze(model, model.config, case.get("trains"))
        optimizer, zero = optimizer_settings(case["optimizer"]), parse(ZeroConfig, of["zero"])
        short = of.get("path", "short") == "short" and engines.one_worker_serves(zero, world)
        with (
            mock.patch.object(engines, "_deepspeed_config", scattered),
            mock.patch.object(engines, "one_worker_serves", return_value=short),
        ):
            return Engine(model, objective, zero, optimizer, micro, accumulation, sources=2)

    engine = start(case, 1)
    found: dict[str, list[float]] = {"loss": [], "norm": [], "count": []}
    for step, rate in enumerate(case["rates"]):
        if "then" in case and step == case["then"]["after"]:
            _save(engine, step, folder)
            engine.close()
            engine = start(case["then"], 2)  # other weights, so that all of them have to come from the checkpoint
            load(engine, open_checkpoint(FolderStorage(folder), "pretrain/x"), optimizer_state=True)
        whole = global_batch(case, step)
        batches = [micro_batch(whole, (j * world + rank) * micro, micro) for j in range(accumulation)]
        # the thread that reads ahead does this amid a forward pass, where ZeRO-3 gathers what it is asked for by name:
        # a collective
        with mock.patch.object(ZeROOrderedDict, "__getitem__", side_effect=AssertionError("asks for a parameter")):
            engine.deepspeed.module.model.locate(batches[0].positions)
        result = engine.step(batches, rate)
        found["loss"].append(result.loss)
        found["norm"].append(result.gradient_norm)
        found["count"].append(result.count)
    kept = [t for piece in engine.slices() for _, t in sorted(piece.tensors(engine.optimizer).items())]
    found["state"] = torch.cat(kept).tolist()
    weights = {}
    for name, parameter in engine.deepspeed.module.model.named_parameters():
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                weights[name] = parameter.detach().float().numpy().copy()
        else:
            weights[name] = parameter.detach().float().numpy().copy()
    engine.close()
    del engine
    gc.collect()
    return {**{name: np.array(values) for name, values in found.items()}, **weights}
