"""What each change is worth: the same step with one thing put back as it was, in the same process.

Today's code has one change undone at a time; the other commit's code (`before`) has one of today's put in. A swap is a
context manager over a built arm (`live`); those that need another engine, or compile all anew, come last (`rebuilt`).

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
from pipelines.train.network import linear_cross_entropy as loss_module
from pipelines.train.network import losses
from pipelines.train.network import model as network_module
from pipelines.train.network.compute import Attention
from pipelines.train.update import engine as engine_module

Swap = Callable[[Built], AbstractContextManager[None]]
TOKENS = 32_768  # of a timed step


class Absent(Exception):
    """The code has nothing of the kind to swap."""


def live(built: Built, section: str, before: bool) -> None:
    """Time the arm as it is, and every swap that leaves it as it was."""
    spent: dict[str, float | str] = {}
    _time(built, section, "as it is", spent)
    for label, swap in BEFORE if before else NOW:
        with part(section, f"swap {label}", needs=8) as go:
            if go:
                _one(built, section, label, swap, spent)


def rebuilt(built: Built, section: str) -> None:
    """Time the swaps that do not."""
    spent: dict[str, float | str] = findings(section).get("swaps", {})
    for label, swap, needs in NOW_REBUILT:
        with part(section, f"swap {label}", needs=needs) as go:
            if go:
                _one(built, section, label, swap, spent)


def _time(built: Built, section: str, label: str, spent: dict[str, float | str]) -> None:
    accumulation = 2 if TINY else max(2, TOKENS // built.options.sequence // built.options.micro_batch)
    built.seconds(1, accumulation, warm=0)
    seconds = built.seconds(1 if TINY else 2, accumulation, warm=0)
    tokens = accumulation * built.options.micro_batch * built.options.sequence
    spent[label] = round(seconds / tokens * 4096e3, 2)
    put(section, "swaps", spent)


def _one(built: Built, section: str, label: str, swap: Swap, spent: dict[str, float | str]) -> None:
    try:
        with swap(built):
            _time(built, section, label, spent)
    except Absent as reason:
        spent[label] = str(reason)
    except torch.OutOfMemoryError as error:
        spent[label] = f"out of memory: {error}"[:120]
        error.__traceback__ = None
    put(section, "swaps", spent)


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
        if kernel not in kernels_to_compare(built):
            raise Absent("this code, or this machine, has no such kernel")
        if kernel == own_kernel(built):
            raise Absent("the kernel as it is")
        with kernel_chosen(built, kernel):
            yield

    return swap


def own_kernel(built: Built) -> str:
    """The attention kernel that the arm takes by itself."""
    return network_module.choose_attention(_network(built).compute, "cuda" if CUDA else "cpu")


def kernels_to_compare(built: Built) -> list[str]:
    """The arm's own attention kernel, and the others that could be it."""
    # a kernel that writes beyond its buffers would take this process and its other findings along
    wrong = [key.split()[0] for key, v in findings("attention").items() if " off " in key and not v.get("right")]
    others = ["varlen"] if CUDA else ["dense"]
    if CUDA and "cudnn" in get_args(Attention) and "cudnn" not in wrong:
        from pipelines.train.network.cudnn_attention import obstacle

        others += [] if obstacle() else ["cudnn"]
    return list(dict.fromkeys([own_kernel(built), *others]))


def kernel_chosen(built: Built, kernel: str) -> AbstractContextManager[None]:
    """An attention kernel for a while."""
    network = _network(built)
    return _set(network, "compute", dataclasses.replace(network.compute, attention=kernel))


@contextmanager
def chosen_by_timing(built: Built) -> Iterator[None]:
    """The compiler chooses kernels by timing them, as it does by itself: no two processes need choose alike."""
    network = _network(built)
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(network.layers):
            if layer.whole is None:
                raise Absent("its blocks are not compiled whole")
            joined = layer.joined_keeping_products if network.policy.keep(number) == "products" else layer.joined
            stack.enter_context(_set(layer, "whole", torch.compile(joined, dynamic=False, fullgraph=True)))
        stack.enter_context(_set(loss_module, "compiler_options", lambda _device: None))
        loss_module._compiled.cache_clear()
        stack.callback(loss_module._compiled.cache_clear)
        yield


@contextmanager
def unrepeatable(built: Built) -> Iterator[None]:
    """Attention's gradients summed in any order."""
    from pipelines.train.network import cudnn_attention

    if own_kernel(built) != "cudnn":
        raise Absent("attention is not by cuDNN")
    plain = cudnn_attention._shape
    with _set(cudnn_attention, "_shape", lambda *parts, **_: plain(*parts[:4], repeatable=False)):
        yield


@contextmanager
def plain_sums(built: Built) -> Iterator[None]:
    """Gradients added to their sums by torch's kernel for two types, which reads them number by number."""
    from pipelines.train.update import one_worker

    with _set(one_worker, "add_", lambda sums, gradient: sums.add_(gradient)):
        yield


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
    ("attention=varlen", attention("varlen")),
    ("attention=cudnn", attention("cudnn")),
    ("attention summed in any order", unrepeatable),
    ("sums by torch's own kernel", plain_sums),
    ("blocks compiled in two parts", blocks_in_two_parts),
)
NOW_REBUILT: tuple[tuple[str, Swap, float], ...] = (  # and the seconds that it wants
    ("inductor chooses by timing", chosen_by_timing, 20),
    ("DeepSpeed's boundary", deepspeed_boundary, 15),
    ("and its sums in two kernels", deepspeed_sums, 6),
    ("and its overlap and clocks", deepspeed_overlap, 15),
    ("and the loss of the other commit", other_loss, 10),
)
BEFORE: tuple[tuple[str, Swap], ...] = (
    ("today's loss", other_loss),
    ("sums in one kernel", sums_in_one_kernel),
    ("no overlap", no_overlap),
    ("cuDNN by SDPA", cudnn_by_sdpa),
)
