"""What each change is worth: the same step with one thing put back as it was, in the same process.

Today's code has one change undone at a time; the other commit's code (`before`) has one of today's put in. A swap is a
context manager over a built arm; one that needs another engine builds it, so those come last, and leave it there.

Leaves: `swaps` in a section of results.json, milliseconds for 4,096 tokens, each beside the arm as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.record import CUDA, TINY, findings, part, put
from benchmarks.gpu.setting import Built
from pipelines.train.network import losses
from pipelines.train.network import model as network_module
from pipelines.train.network.compute import Attention
from pipelines.train.update import engine as engine_module

Swap = Callable[[Built], AbstractContextManager[None]]
TOKENS = 32_768  # of a timed step


class Absent(Exception):
    """The code has nothing of the kind to swap."""


def table(built: Built, section: str, before: bool) -> None:
    """Time every swap, the live ones first."""
    accumulation = 2 if TINY else max(2, TOKENS // built.options.sequence // built.options.micro_batch)
    spent: dict[str, float | str] = {}

    def time(label: str) -> None:
        built.seconds(1, 2, warm=0)
        seconds = built.seconds(1 if TINY else 2, accumulation, warm=0)
        tokens = accumulation * built.options.micro_batch * built.options.sequence
        spent[label] = round(seconds / tokens * 4096e3, 2)
        put(section, "swaps", spent)

    live, rebuilt = (BEFORE, ()) if before else (NOW, NOW_REBUILT)
    time("as it is")
    for label, swap in live:
        with part(section, f"swap {label}", needs=10) as go:
            if go:
                _one(built, label, swap, spent, time)
    time("as it is, again")
    for label, swap in rebuilt:
        with part(section, f"swap {label}", needs=18) as go:
            if go:
                _one(built, label, swap, spent, time)
    put(section, "swaps", spent)


def _one(built: Built, label: str, swap: Swap, spent: dict[str, float | str], time: Callable[[str], None]) -> None:
    try:
        with swap(built):
            time(label)
    except Absent as reason:
        spent[label] = str(reason)
    except torch.OutOfMemoryError as error:
        spent[label] = f"out of memory: {error}"[:120]
        error.__traceback__ = None


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute for a while."""
    if not hasattr(owner, name):
        raise Absent(f"this code has no {name}")
    plain = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, plain)


def _network(built: Built) -> Any:
    return built.deepspeed.module.model


def _other(path: str) -> ModuleType:
    """A module of the other commit, beside this one's."""
    file = Path(os.environ.get("OTHER", "/nowhere"), path)
    if not file.exists():
        raise Absent("no other commit here")
    spec = importlib.util.spec_from_file_location(f"other_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def other_loss(_built: Built) -> Iterator[None]:
    """The output projection and its loss, of the other commit."""
    other = _other("pipelines/train/network/linear_cross_entropy.py")
    losses.linear_cross_entropy.let_go()
    with _set(losses, "linear_cross_entropy", other):
        try:
            yield
        finally:
            other.let_go()


@contextmanager
def blocks_in_two_parts(built: Built) -> Iterator[None]:
    """Each side of attention compiled apart."""
    layers = list(_network(built).layers)
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_set(layer, "whole", None))
        yield


def attention(kernel: str) -> Swap:
    """Another attention kernel."""

    @contextmanager
    def swap(built: Built) -> Iterator[None]:
        network = _network(built)
        if kernel not in get_args(Attention):
            raise Absent("this code has no such kernel")
        # a kernel that writes beyond its buffers would take this process and its other findings along
        shown = [v for key, v in findings("attention").items() if key.startswith(f"{kernel} off ")]
        if kernel != "varlen" and not (shown and all(value.get("right") for value in shown)):
            raise Absent("not shown to be right here: step `attention`")
        if network_module.choose_attention(network.compute, "cuda" if CUDA else "cpu") == kernel:
            raise Absent("the kernel as it is")
        with _set(network, "compute", dataclasses.replace(network.compute, attention=kernel)):
            yield

    return swap


@contextmanager
def deepspeed_boundary(built: Built) -> Iterator[None]:
    """DeepSpeed's own sums and update, as with many workers; sums still by one kernel, nothing overlaps."""
    with _set(engine_module, "one_worker_serves", lambda *_: False):
        built.build()
    yield


@contextmanager
def deepspeed_sums(built: Built) -> Iterator[None]:
    """And each gradient converted before it is added."""
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    def convert_and_add(zero: Any, parameter: Any) -> None:
        if parameter.grad is None:
            return
        gradient = parameter.grad.to(zero.gradient_accumulation_dtype)
        if parameter.grad_accum is None:
            parameter.grad_accum = gradient
        else:
            parameter.grad_accum.add_(gradient.view(parameter.grad_accum.shape))
        parameter.grad = None

    if "step" in vars(built.deepspeed.optimizer):  # of `OneWorker`
        raise Absent("no arm with DeepSpeed's boundary was built")
    with _set(DeepSpeedZeroOptimizer, "_fill_param_grad_accum_attribute", convert_and_add):
        yield


@contextmanager
def deepspeed_overlap(built: Built) -> Iterator[None]:
    """And reduction on a stream of its own, with DeepSpeed's clocks."""
    plain = engine_module._deepspeed_config

    def overlapping(*arguments: Any) -> dict[str, Any]:
        config = plain(*arguments)
        config["zero_optimization"]["overlap_comm"] = CUDA
        config.pop("timers", None)
        return config

    with deepspeed_boundary_of(built, overlapping), deepspeed_sums(built):
        yield


@contextmanager
def deepspeed_boundary_of(built: Built, config: Callable[..., dict[str, Any]]) -> Iterator[None]:
    """`deepspeed_boundary` with another config of DeepSpeed."""
    with _set(engine_module, "_deepspeed_config", config), deepspeed_boundary(built):
        yield


@contextmanager
def sums_in_one_kernel(built: Built) -> Iterator[None]:
    """A gradient is added to its float32 sum as it is."""
    zero = built.deepspeed.optimizer

    def add(parameter: Any) -> None:
        if parameter.grad is not None:
            if parameter.grad_accum is None:
                parameter.grad_accum = parameter.grad.to(zero.gradient_accumulation_dtype)
            else:
                parameter.grad_accum.add_(parameter.grad.view(parameter.grad_accum.shape))
            parameter.grad = None

    with _set(zero, "_fill_param_grad_accum_attribute", add):
        yield


@contextmanager
def no_overlap(built: Built) -> Iterator[None]:
    """Nothing reduced on a stream of its own."""
    with _set(built.deepspeed.optimizer, "overlap_comm", False):
        yield


@contextmanager
def cudnn_by_sdpa(_built: Built) -> Iterator[None]:
    """cuDNN's attention over whole rows, by PyTorch."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = [SDPBackend.CUDNN_ATTENTION] if CUDA else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]

    def attend(q: Tensor, k: Tensor, v: Tensor, documents: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(backends):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] > k.shape[1])
        return out.transpose(1, 2)

    with _set(network_module, "attend", attend):
        yield


NOW: tuple[tuple[str, Swap], ...] = (
    ("loss as before", other_loss),
    ("blocks compiled in two parts", blocks_in_two_parts),
    ("attention=varlen", attention("varlen")),
    ("attention=cudnn", attention("cudnn")),
)
NOW_REBUILT: tuple[tuple[str, Swap], ...] = (
    ("DeepSpeed's boundary", deepspeed_boundary),
    ("and its sums in two kernels", deepspeed_sums),
    ("and its overlap and clocks", deepspeed_overlap),
)
BEFORE: tuple[tuple[str, Swap], ...] = (
    ("today's loss", other_loss),
    ("sums in one kernel", sums_in_one_kernel),
    ("no overlap", no_overlap),
    ("cuDNN by SDPA", cudnn_by_sdpa),
)
