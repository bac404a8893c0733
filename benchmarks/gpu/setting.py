"""What the steps that train have in common: the model, the batch, an arm that is built, timed and dropped.

Enters: the name of a published size. Leaves: an arm of `benchmarks/train.py` that takes any number of micro-batches a
step, and its speed as numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

import benchmarks.train as bench
from benchmarks.gpu.record import CUDA, DEVICE, TINY, findings, put, say, sync
from pipelines.train.network import compute, linear_cross_entropy
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.compute import BlockPolicy
from pipelines.train.plan import memory

STEP_TOKENS = 65_536
GIB = 2**30


def model_of(name: str) -> ModelConfig:
    """A published size, one document a row."""
    model = dataclasses.replace(bench.shape("demo" if TINY else name), document_masking=False)
    return dataclasses.replace(model, layers=2, vocabulary=515) if TINY else model


def options_for(name: str, micro_batch: int | str, **changes: Any) -> argparse.Namespace:
    """As from the command line of `benchmarks/train.py`: a step of 65,536 tokens."""
    sequence = 64 if TINY else 4096
    rows = 1 if micro_batch == "auto" else int(micro_batch)
    values = {
        "model": name, "device": DEVICE, "precision": "bfloat16", "sequence": sequence, "micro_batch": micro_batch,
        "accumulation": max(1, (4 if TINY else STEP_TOKENS // sequence) // rows), "vocabulary": None,
        "document_tokens": 0, "zero": 1, "compile": os.environ.get("COMPILE", "on"), "attention": "auto", "keep": "all",
        "steps": 1 if TINY else 2,
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def planned(name: str, model: ModelConfig, whole: bool = False) -> tuple[int, Any]:
    """The most rows that the plan finds to fit, a power of two or `MICRO`, and what blocks keep then.

    Args: whole, every block keeps everything. Otherwise some may keep their products alone, for one or two percent of
    the time: more rows gain more. A machine without a card is taken to have one of 80 GB.
    """
    setup = dataclasses.replace(bench.memory_setup(options_for(name, "auto"), model), device="cuda")
    budget = memory.usable_bytes("cuda", card_bytes())
    rows, policy = 1, None
    for tried in (int(os.environ["MICRO"]),) if os.environ.get("MICRO") else (1, 2) if TINY else (1, 2, 4, 8):
        keeps = plan_policy(options_for(name, tried), model, budget)
        fits = memory.predict(dataclasses.replace(setup, rows=tried), keeps).total <= budget
        if policy is None or (fits and not keeps.input and not (whole and keeps.products)):
            rows, policy = tried, keeps
    return rows, BlockPolicy(all=model.layers) if whole else policy


def card_bytes() -> int:
    """Of the card's memory."""
    return torch.cuda.get_device_properties(0).total_memory if CUDA else 80 * GIB


class Built:
    """An arm with its options; `build` makes it (again), `drop` lets everything of it go."""

    def __init__(self, options: argparse.Namespace, model: ModelConfig, build: Callable[..., bench.Arm]):
        self.options, self.model, self._build = options, model, build
        self.arm: bench.Arm | None = None

    def build(self) -> None:
        """Build; what was there before is dropped."""
        self.drop()
        self.arm = self._build(self.options, self.model)
        say(f"built: {allocated_gib()} GiB allocated")

    @property
    def deepspeed(self) -> Any:
        """DeepSpeed's engine of either arm."""
        assert self.arm is not None
        return getattr(self.arm.engine, "deepspeed", self.arm.engine)

    def seconds(self, steps: int, accumulation: int, warm: int = 1) -> float:
        """Of a step of so many micro-batches."""
        assert self.arm is not None
        arm, options = self.arm, argparse.Namespace(**{**vars(self.options), "accumulation": accumulation})
        self.accumulate(accumulation)
        made = [bench.batches(options, self.model, 50 + number, arm) for number in range(warm + steps)]
        for batches in made[:warm]:
            arm.step(batches)
        sync()
        began = time.perf_counter()
        for batches in made[warm:]:
            arm.step(batches)
        sync()
        taken = (time.perf_counter() - began) / steps
        self.loss = arm.loss()
        return taken

    def accumulate(self, accumulation: int) -> None:
        """Sum the gradients of so many micro-batches from the next step on."""
        assert self.arm is not None
        self.deepspeed.set_train_batch_size(self.options.micro_batch * accumulation)
        if self.arm.engine is not self.deepspeed:
            self.arm.engine.accumulation = accumulation

    def drop(self, forget: bool = False) -> None:
        """Free what it holds, but for compiled code unless `forget`: the next arm may have the same blocks."""
        if self.arm is not None:
            with contextlib.suppress(Exception), contextlib.nullcontext() if forget else _compiled_code_kept():
                self.arm.close()
        self.arm = None
        linear_cross_entropy.let_go()
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()


def _compiled_code_kept() -> contextlib.AbstractContextManager[Any]:
    return mock.patch("torch.compiler.reset")


def allocated_gib() -> float:
    """Of the card's memory, by tensors."""
    return round(torch.cuda.memory_allocated() / GIB, 2) if CUDA else 0.0


def measured(built: Built, seconds: float, model: ModelConfig) -> dict[str, object]:
    """A step as numbers."""
    options = built.options
    tokens = options.micro_batch * options.sequence * options.accumulation
    causal, full = bench.flops_per_token(model, options.sequence)
    peak = bench.peak_flops(options.precision) if CUDA else 1e12
    ceiling = findings("card").get("product_tflops")
    rate = tokens / seconds
    values: dict[str, object] = {
        "micro_batch": options.micro_batch,
        "accumulation": options.accumulation,
        "tokens_per_s": round(rate, 1),
        "ms_per_4096_tokens": round(4096e3 / rate, 2),
        "step_s": round(seconds, 4),
        "mfu_causal": round(rate * causal / peak, 4),
        "mfu_full": round(rate * full / peak, 4),
        "causal_of_product": round(rate * causal / ceiling / 1e12, 4) if ceiling else None,
        "loss": round(built.loss, 4),
    }
    if CUDA:
        values["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        values["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    return values


def predicted(options: argparse.Namespace, model: ModelConfig) -> memory.Memory:
    """The plan's memory of our arm on a card."""
    setup = dataclasses.replace(bench.memory_setup(options, model), device="cuda")
    return memory.predict(setup, options.policy)


def plan_policy(options: argparse.Namespace, model: ModelConfig, budget: float) -> Any:
    """What blocks keep, so that it fits a budget."""
    setup = dataclasses.replace(bench.memory_setup(options, model), device="cuda")
    compute = dataclasses.replace(setup.compute, keep="auto")
    return memory.plan_keep(dataclasses.replace(setup, compute=compute), budget)


def put_plan(section: str, name: str, model: ModelConfig) -> None:
    """What the plan finds to fit, with everything kept and with blocks computed again."""
    setup = dataclasses.replace(bench.memory_setup(options_for(name, "auto"), model), device="cuda")
    budget = memory.usable_bytes("cuda", card_bytes())
    again = dataclasses.replace(setup, compute=dataclasses.replace(setup.compute, keep="auto"))
    put(section, "plan", {
        "card_gib": round(card_bytes() / GIB, 2),
        "usable_gib": round(budget / GIB, 2),
        "micro_batch_all_kept": memory.largest_micro_batch(setup, budget),
        "micro_batch_computing_again": memory.largest_micro_batch(again, budget),
    })  # fmt: skip


def trust_attention(section: str) -> None:
    """Take torch's own kernel where the step `attention` saw cuDNN's fail: the other findings are worth having."""
    found = findings("attention")
    wrong = [key for key, v in found.items() if key.startswith("cudnn off ") and not v.get("right")]
    wrong += [key for key in found if key.startswith("cudnn") and key.endswith("!error")]
    wrong += [key for key, v in found.items() if key == "cudnn!ended" and not str(v).endswith(" 124")]  # out of time
    if wrong:
        compute.FASTEST = "varlen"
        put(section, "attention", f"varlen, since {', '.join(wrong)}")
