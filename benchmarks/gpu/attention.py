"""What attention costs: forward and backward of each kernel, in the shapes of MiniCPM, and how far each is off.

Enters: the card. Leaves: section `attention` of results.json: for each shape and kernel milliseconds, TFLOP/s (of the
pairs that are seen: 4·H·K for each forward, 2.5 times that backward), the seconds of the first call, and relative
distances of result and gradients from float64. Kernels run as the model calls them: `locate`, then `attend`.

A kernel that writes beyond its buffers spoils the device for its process, so each has a process of its own.
    python -m benchmarks.gpu.attention [KERNEL …]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.gpu.record import CUDA, DEADLINE, DEVICE, TINY, findings, left, median_ms, part, put, say, sync
from pipelines.train.network import cudnn_attention
from pipelines.train.network.attention import attend, locate
from pipelines.train.network.compute import Attention

SECTION = "attention"
KERNELS: tuple[Attention, ...] = ("varlen", "cudnn", "flex") if CUDA else ("blocks",)
# query heads, key heads, head width: MiniCPM-2.4B, the same width in heads of 128, MiniCPM-1.2B
HEADS = ((36, 36, 64), (18, 18, 128), (24, 8, 64)) if not TINY else ((4, 4, 16), (4, 2, 16))
ROWS = (1, 4) if not TINY else (1, 2)
T = 4096 if not TINY else 64
MEAN = 700 if not TINY else 12  # tokens of a document
SECONDS = {"flex": 45.0}  # a kernel's process, at least; others 20
FEW = ("flex",)  # compiled anew for each shape: one shape shows what there is to gain


def positions(rows: int, length: int, mean: int | None) -> Tensor:
    """(rows, length) places in documents whose lengths are spread as a web page's are; None: one a row."""
    if mean is None:
        return torch.arange(length).repeat(rows, 1)
    random = torch.Generator().manual_seed(rows)
    made = []
    for _ in range(rows):
        drawn = torch.empty(8 * length // mean).exponential_(1 / mean, generator=random)
        made.append(torch.cat([torch.arange(1 + int(n)) for n in drawn])[:length])
        assert len(made[-1]) == length
    return torch.stack(made)


def tensors(rows: int, length: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Queries, keys, values and the gradient that comes back, drawn where they are used: a host takes seconds."""
    heads, kv_heads, width = shape
    random = torch.Generator(DEVICE).manual_seed(1)
    return [
        torch.randn(rows, length, n, width, generator=random, device=DEVICE).to(dtype)
        for n in (heads, kv_heads, kv_heads, heads)
    ]


def tera(placed: Tensor, heads: int, width: int) -> float:
    """10¹² operations of a forward pass: two products over each pair of a query and a key that it sees."""
    return 4 * heads * width * float((placed + 1).sum()) / 1e12


def distances(
    kernel: Attention, shape: tuple[int, int, int], deterministic: bool = False, whole: bool = False
) -> dict[str, Any]:
    """How far result and gradients are from float64, and whether a second pass gives the same bits."""
    rows, length = (2, 512) if not TINY else (2, 64)
    placed = positions(rows, length, None if whole else length // 9)
    placed[1] = torch.arange(length)  # a row that is one document
    q, k, v, weight = tensors(rows, length, shape)
    documents = locate(placed, kernel, masking=True).to(torch.device(DEVICE))
    torch.use_deterministic_algorithms(deterministic)
    try:
        first, second = (_pass(lambda *x: attend(*x, documents), (q, k, v), weight) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    dense = locate(placed, "dense", masking=True)
    wanted = _pass(lambda *x: attend(*x, dense), [x.double().cpu() for x in (q, k, v)], weight.double().cpu())
    far: dict[str, Any] = {}
    for name, a, b, c in zip(("out", "dq", "dk", "dv"), first, wanted, second, strict=True):
        far[name] = float((a.double().cpu() - b).norm() / b.norm())
        far[f"{name} repeats"] = bool(torch.equal(a, c))
    far["right"] = max(far[name] for name in ("out", "dq", "dk", "dv")) < 1.2e-2  # NaN is not
    return far


def repeats(kernel: Attention, shape: tuple[int, int, int], mean: int | None) -> dict[str, bool]:
    """Whether three passes over rows of full length give the same bits."""
    placed = positions(max(ROWS), T, mean)
    q, k, v, weight = tensors(*placed.shape, shape)
    documents = locate(placed, kernel, masking=True).to(torch.device(DEVICE))
    first, *others = (_pass(lambda *x: attend(*x, documents), (q, k, v), weight) for _ in range(3))
    return {
        name: all(torch.equal(a, b[number]) for b in others)
        for number, (name, a) in enumerate(zip(("out", "dq", "dk", "dv"), first, strict=True))
    }


def _pass(attention: Callable[..., Tensor], inputs: Any, weight: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight)]


def in_a_graph(kernel: Attention) -> dict[str, Any]:
    """The kernel as an operator of a compiled function, for two numbers of documents."""
    shape = (4, 2, 64)
    q, k, v, weight = tensors(2, 128 if TINY else 512, shape)
    compiled = torch.compile(lambda q, k, v, documents: attend(q * 1.5, k, v, documents) * 0.5, fullgraph=True)
    far = {}
    for mean in (32, 64):
        documents = locate(positions(2, q.shape[1], mean), kernel, masking=True).to(torch.device(DEVICE))
        found = _pass(lambda *x, d=documents: compiled(*x, d), (q, k, v), weight)
        wanted = _pass(lambda *x, d=documents: attend(x[0] * 1.5, *x[1:], d) * 0.5, (q, k, v), weight)
        far[f"mean {mean}"] = max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))
    return far


def timed(kernel: Attention | str, placed: Tensor, shape: tuple[int, int, int]) -> dict[str, float]:
    """Milliseconds and TFLOP/s of both passes."""
    heads, _, width = shape
    q, k, v, weight = tensors(*placed.shape, shape)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    if kernel == "sdpa-cudnn":
        attention = _sdpa_cudnn
    else:
        documents = locate(placed, kernel, masking=True).to(torch.device(DEVICE))  # type: ignore[arg-type]

        def attention(*x: Tensor) -> Tensor:
            return attend(*x, documents)

    began = time.perf_counter()
    out = attention(*leaves)
    torch.autograd.grad(out, leaves, weight, retain_graph=True)
    sync()
    first = time.perf_counter() - began
    with torch.no_grad():
        forward = median_ms(lambda: attention(q, k, v))
    backward = median_ms(lambda: torch.autograd.grad(out, leaves, weight, retain_graph=True))
    work = tera(placed, heads, width)
    return {
        "forward_ms": forward,
        "backward_ms": backward,
        "both_ms": forward + backward,
        "forward_tflops": work / forward * 1e3,
        "backward_tflops": 2.5 * work / backward * 1e3,
        "first_call_s": first,
    }


def _sdpa_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own cuDNN path, for whole rows: what the packed layout costs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=q.shape[2] > k.shape[2]
        )
    return out.transpose(1, 2)


def cases() -> Iterator[tuple[str, Tensor, tuple[int, int, int]]]:
    """The most telling first: documents of four rows in the 2.4B's heads."""
    for shape in HEADS:
        for rows in sorted(ROWS, reverse=True):
            for mean in (MEAN, None):
                name = f"{shape[0]}/{shape[1]}x{shape[2]} {rows}x{T} {'documents' if mean else 'whole'}"
                yield name, positions(rows, T, mean), shape


def one(kernel: Attention) -> None:
    """Everything about one kernel, in this process."""
    missing = cudnn_attention.obstacle() if kernel == "cudnn" else None
    if missing:
        put(SECTION, f"{kernel}!missing", missing)
        return
    for shape in HEADS:
        with part(SECTION, f"{kernel} off {shape}", 5) as time_enough:
            if time_enough:
                name = f"{kernel} off {shape[0]}/{shape[1]}x{shape[2]}"
                put(SECTION, name, distances(kernel, shape))
                put(SECTION, f"{name} whole", distances(kernel, shape, whole=True))
        if kernel in FEW:
            break
    for mean in (None, MEAN):
        with part(SECTION, f"{kernel} repeats", 3) as time_enough:
            if time_enough and kernel not in FEW:
                put(SECTION, f"{kernel} repeats, {'documents' if mean else 'whole'}", repeats(kernel, HEADS[0], mean))
    for name, placed, shape in cases():
        for variant in (kernel, *(["sdpa-cudnn"] if kernel == "varlen" and CUDA and "whole" in name else [])):
            with part(SECTION, f"{name} {variant}", 3) as time_enough:
                if time_enough:
                    put(
                        SECTION, f"{name} {variant}", {k: round(v, 3) for k, v in timed(variant, placed, shape).items()}
                    )
        if kernel in FEW:
            break
    if kernel != "flex":
        with part(SECTION, f"{kernel} repeatable", 3) as time_enough:
            if time_enough:
                put(SECTION, f"{kernel} asked to repeat", distances(kernel, HEADS[0], deterministic=True))
        with part(SECTION, f"{kernel} in a graph", 15) as time_enough:
            if time_enough and kernel != "blocks":
                put(SECTION, f"{kernel} in a graph", in_a_graph(kernel))


def summarise() -> None:
    """One line a shape."""
    found = findings(SECTION)
    for name, _, _ in cases():
        row = {key.removeprefix(f"{name} "): value for key, value in found.items() if key.startswith(f"{name} ")}
        times = {k: v for k, v in row.items() if isinstance(v, dict) and "both_ms" in v}
        if times:
            say(name, " | ".join(f"{k} {v['forward_ms']:.2f} + {v['backward_ms']:.2f} ms" for k, v in times.items()))


def main(names: list[str] | None = None) -> None:
    """Each kernel in a process of its own, one after another."""
    if names and len(names) == 1:
        one(next(kernel for kernel in get_args(Attention) if kernel == names[0]))
        return
    for kernel in names or KERNELS:
        wanted = SECONDS.get(kernel, 20.0)
        if not TINY and left() < wanted:
            put(SECTION, f"{kernel}!skipped", f"{left():.0f} s left, wants {wanted:.0f}")
            continue
        limit = min(left() - 2, 1.5 * wanted)  # one that is slow leaves the others their time
        environment = {**os.environ, "STEP_DEADLINE": str(min(DEADLINE, time.time() + limit))}
        command = [sys.executable, "-m", "benchmarks.gpu.attention", kernel]
        try:
            code = subprocess.run(command, env=environment, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            code = 124
        if code:
            put(SECTION, f"{kernel}!ended", f"with status {code}")
    summarise()


if __name__ == "__main__":
    main(sys.argv[1:])
