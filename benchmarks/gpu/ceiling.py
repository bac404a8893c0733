"""What the card reaches in each kind of work that a step is made of: products, copies, sums, the update, attention.

Leaves: section `ceiling` of results.json. Shapes are those of the 2.4B model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.gpu.record import CUDA, DEVICE, TINY, median_ms, part, put

D, FF, V = (64, 160, 1003) if TINY else (2304, 5760, 122_753)


def main() -> None:
    """All of them, the short ones first."""
    for key, work, needs in (
        ("memory", memory_speeds, 5), ("products", product_speeds, 5), ("vocabulary", vocabulary_speeds, 5),
        ("attention", attention_speeds, 8), ("pinned", pinned_speed, 5),
    ):  # fmt: skip
        with part("ceiling", key, needs=needs) as go:
            if go:
                work()
        if CUDA:
            torch.cuda.empty_cache()


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def memory_speeds() -> None:
    """A copy; bfloat16 gradients added to float32 sums; the fused update."""
    n = (1 << 18) if TINY else (1 << 29)
    x = torch.empty(n, dtype=torch.float32, device=DEVICE).normal_()
    copy_and_sums(x)
    if CUDA:
        torch.cuda.empty_cache()
    p = torch.nn.Parameter(x)
    p.grad = torch.empty_like(x).normal_()
    optimizer = torch.optim.AdamW([p], lr=1e-4, fused=True)
    optimizer.step()
    put("ceiling", "fused AdamW, ms per 1e9", round(median_ms(optimizer.step, 5, 1) * 1e9 / n, 2))


def copy_and_sums(x: torch.Tensor) -> None:
    """What is written and read of a float32 tensor."""
    n = x.numel()
    y = torch.empty_like(x)
    put("ceiling", "copy, TB/s read and written", round(8 * n / median_ms(lambda: y.copy_(x), 10) / 1e9, 3))
    g = torch.empty(n, dtype=torch.bfloat16, device=DEVICE).normal_()
    scale = 1e9 / n
    two = median_ms(lambda: x.add_(g.to(torch.float32)), 5) * scale
    put("ceiling", "sums, ms per 1e9: converted, then added", round(two, 2))
    put("ceiling", "sums, ms per 1e9: one kernel", round(median_ms(lambda: x.add_(g), 5) * scale, 2))


def product_speeds() -> None:
    """TFLOP/s of a block's products, forward and both backward ones."""
    for N in (256,) if TINY else (4096, 8192):
        speeds = {}
        for label, (i, o) in {"qkv": (D, 3 * D), "o": (D, D), "gate_up": (D, 2 * FF), "down": (FF, D)}.items():
            x, w, g = _random(N, i), _random(o, i), _random(N, o)
            ways: dict[str, Callable[[], object]] = {
                "fwd": lambda x=x, w=w: x @ w.t(),  # type: ignore[misc]
                "dx": lambda g=g, w=w: g @ w,  # type: ignore[misc]
                "dw": lambda g=g, x=x: g.t() @ x,  # type: ignore[misc]
            }
            for way, work in ways.items():
                speeds[f"{label} {way}"] = round(2 * N * i * o / median_ms(work, 10) / 1e9, 1)
        put("ceiling", f"products at {N} tokens, TFLOP/s", speeds)


def vocabulary_speeds() -> None:
    """TFLOP/s of the output products: as they are, rows apart by a multiple of 128, and all sizes a multiple of 128."""
    N = 128 if TINY else 4096
    h, back = _random(N, D), torch.empty(N, D, device=DEVICE, dtype=torch.bfloat16)
    wide = -(-V // 128) * 128
    for width, apart in ((V, V), (V, wide), (wide, wide)):
        w, g = _random(width, D), _random(N, apart)[:, :width]

        def dw(g: torch.Tensor = g) -> torch.Tensor:
            return torch.mm(g.t(), h, out_dtype=torch.float32) if CUDA else g.t() @ h

        work: dict[str, Callable[[], object]] = {
            "logits": lambda w=w, g=g: torch.mm(h, w.t(), out=g),  # type: ignore[misc]
            "dh": lambda w=w, g=g: torch.mm(g, w, out=back),  # type: ignore[misc]
            "dw": dw,
        }
        speeds = {label: round(2 * N * width * D / median_ms(one, 8) / 1e9, 1) for label, one in work.items()}
        put("ceiling", f"{width} columns, rows {apart} apart, TFLOP/s", speeds)


def attention_speeds() -> None:
    """Causal attention of one whole row and of four, by each kernel that PyTorch has."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.varlen import varlen_attn

    for B, T, H, K in ((1, 128, 2, 64),) if TINY else ((1, 4096, 36, 64), (4, 4096, 36, 64)):
        q, k, v = (x.detach().requires_grad_() for x in _random(B, T, 3 * H, K).split(H, dim=2))
        g = _random(B, T, H, K)
        starts = torch.arange(0, B * T + 1, T, device=DEVICE, dtype=torch.int32)

        def varlen(q=q, k=k, v=v, starts=starts, T=T, g=g):
            flat = (x.flatten(0, 1) for x in (q, k, v))
            return varlen_attn(*flat, starts, starts, T, T, window_size=(-1, 0)).view(g.shape)

        def sdpa(backend, q=q, k=k, v=v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(
                    *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True
                ).transpose(1, 2)

        ways = {
            "varlen": varlen,
            "SDPA flash": lambda sdpa=sdpa: sdpa(SDPBackend.FLASH_ATTENTION),
            "SDPA cuDNN": lambda sdpa=sdpa: sdpa(SDPBackend.CUDNN_ATTENTION),
        }
        if not CUDA:
            ways = {"SDPA": lambda sdpa=sdpa: sdpa([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])}
        flops = 2 * B * T * T * H * K  # causal: half of 4·T²·H·K
        for label, way in ways.items():
            with part("ceiling", f"attention {label}"):
                with torch.no_grad():
                    forward = median_ms(way, 10)
                both = median_ms(lambda way=way, q=q, k=k, v=v, g=g: torch.autograd.grad(way(), (q, k, v), g), 10)
                put("ceiling", f"attention {B}×{T}, {H} heads of {K}: {label}", {
                    "forward_ms": round(forward, 3),
                    "backward_ms": round(both - forward, 3),
                    "forward_tflops": round(flops / forward / 1e9, 1),
                    "backward_tflops": round(2.5 * flops / max(1e-6, both - forward) / 1e9, 1),
                })  # fmt: skip


def pinned_speed() -> None:
    """The device to pinned memory of the host."""
    if CUDA:
        n = 1 << 30
        host, x = torch.empty(n, dtype=torch.uint8, pin_memory=True), torch.empty(n, dtype=torch.uint8, device=DEVICE)
        speed = n / median_ms(lambda: host.copy_(x, non_blocking=True), 5) / 1e6
        put("ceiling", "device to pinned host, GB/s", round(speed, 1))


if __name__ == "__main__":
    main()
