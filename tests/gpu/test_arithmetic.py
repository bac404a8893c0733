"""Products, attention kernels and the loss kernel on the device against float64 on the CPU.

Legend: B rows, T tokens, H query heads, G key/value heads, K head width; N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.record import CUDA, DEVICE, TINY
from pipelines.train.network import linear_cross_entropy
from pipelines.train.network.attention import attend, locate
from pipelines.train.network.compute import Attention
from tests.gpu.cases import distance, skip_where_missing

# A bfloat16 number is off by up to 2^-9 = 2e-3 of itself. Probabilities, scores and results are each rounded once, so
# the norm of a result is off by some 4e-3, that of a gradient, which has more such steps behind it, by up to 7e-3.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1.2e-2}
B, H, G = 2, 4, 2
T = 128 if TINY else 512


def test_float32_products_are_float32(note: Callable[..., None]) -> None:
    """TF32, which keeps 11 bits of each factor, would be off by 3e-4; nothing here switches it on."""
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=random) for _ in range(2))
    off = distance(a.to(DEVICE) @ b.to(DEVICE), a.double() @ b.double())
    note(off=off)
    assert off < 2e-6


def _kernels() -> list[Any]:
    """Which kernel takes what: on a CPU FlexAttention has no backward pass, and `blocks` is for a CPU."""
    found = []
    for name in get_args(Attention):
        if name == "dense":
            found += [(name, torch.float32, 64), (name, torch.bfloat16, 128)]
        elif name == "blocks":
            found += [(name, torch.float32, 64)] * (not CUDA)
        elif name == "flex":  # what float32 takes; compiled for each shape, some five seconds
            found += [(name, torch.float32, 64)] * CUDA
        else:
            found += [(name, torch.bfloat16, width) for width in (64, 128)] * CUDA
    return [pytest.param(*one, id=f"{one[0]}-{str(one[1]).removeprefix('torch.')}-{one[2]}") for one in found]


def _positions() -> Tensor:
    """(B, T): a row of documents of 1 to 200 tokens, the first of which a window has cut; a row that is one."""
    lengths = [n for n in (3, 1, 40, 12, 200, 9, 1, 70) if TINY is False or n < 50]
    first = torch.cat([torch.arange(n) for n in (*lengths, T - sum(lengths))])
    first[:3] += 50
    return torch.stack([first, torch.arange(T)])


def _attention(kernel: Any, dtype: torch.dtype, width: int, where: str, masking: bool) -> dict[str, Tensor]:
    """The kernel's result and gradients. Queries, keys and values lie in memory as a model's products leave them."""
    random = torch.Generator().manual_seed(5)
    qk, qkv = (torch.randn(B, T, n, width, generator=random).bfloat16() for n in (H + G, H + 2 * G))
    weight = torch.randn(B, T, H, width, generator=random).bfloat16()
    qk, qkv = (x.to(where, dtype).requires_grad_() for x in (qk, qkv))
    q, k = qk.split([H, G], dim=2)
    documents = locate(_positions(), kernel, masking).to(torch.device(where))
    out = attend(q, k, qkv[:, :, H + G :], documents)
    (out * weight.to(where, dtype)).sum().backward()
    assert qk.grad is not None
    assert qkv.grad is not None
    return {"out": out, "dq": qk.grad[:, :, :H], "dk": qk.grad[:, :, H:], "dv": qkv.grad[:, :, H + G :]}


@pytest.mark.parametrize("masking", [True, False], ids=["documents", "rows"])
@pytest.mark.parametrize(("kernel", "dtype", "width"), _kernels())
def test_an_attention_kernel_is_the_plain_one(
    kernel: Any, dtype: torch.dtype, width: int, masking: bool, note: Callable[..., None]
) -> None:
    """Forward and three gradients; over documents with grouped keys, and over whole rows."""
    skip_where_missing(kernel)
    if kernel == "flex" and not masking:
        pytest.skip("the same code with another mask")
    found = _attention(kernel, dtype, width, DEVICE, masking)
    wanted = _attention("dense", torch.float64, width, "cpu", masking)
    errors = {name: distance(found[name], wanted[name]) for name in wanted}
    again = _attention(kernel, dtype, width, DEVICE, masking)
    # FlashAttention adds up dq in any order; whether a run can be repeated to the bit depends on this
    note(**errors, same_bits_again={name: torch.equal(found[name], again[name]) for name in wanted})
    assert max(errors.values()) < LIMITS[dtype], errors


@pytest.mark.cuda
@pytest.mark.parametrize("masking", [True, False], ids=["documents", "rows"])
def test_repeatable_attention_repeats_over_full_rows(masking: bool, note: Callable[..., None]) -> None:
    """Two rows of 4,096 tokens, three times: the same bits, or a run that goes on after a crash would not have them."""
    skip_where_missing("cudnn")
    positions = torch.arange(4096).repeat(2, 1)
    positions[0] %= 1500
    random = torch.Generator(DEVICE).manual_seed(7)
    parts = [torch.randn(2, 4096, 8, 64, generator=random, device=DEVICE).bfloat16() for _ in range(4)]

    def once() -> tuple[Tensor, ...]:
        leaves = [part.clone().requires_grad_() for part in parts[:3]]
        documents = locate(positions, "cudnn", masking, repeatable=True).to(torch.device(DEVICE))
        return torch.autograd.grad(attend(*leaves, documents), leaves, parts[3])

    first, *others = (once() for _ in range(3))
    same = {
        name: all(torch.equal(a, other[number]) for other in others)
        for number, (name, a) in enumerate(zip(("dq", "dk", "dv"), first, strict=True))
    }
    note(**same)
    assert all(same.values()), same


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted_sum", "token_losses"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_the_loss_kernel_over_an_odd_vocabulary(dtype: torch.dtype, weighted: bool, note: Callable[..., None]) -> None:
    """Chunks of 256 tokens, the last of 188, against softmax over all logits in float64."""
    N, D, V = (300, 64, 515) if TINY else (700, 256, 4099)
    random = torch.Generator().manual_seed(6)
    h = torch.randn(N, D, generator=random).bfloat16()
    w = (torch.randn(V, D, generator=random) * 0.2).bfloat16()
    targets = torch.randint(V, (N,), generator=random)
    targets[:3] = torch.tensor([0, V - 1, V - 2])  # the edges, where a padded vocabulary would show
    weights = (torch.rand(N, generator=random) > 0.3).float()
    h64, w64 = h.double().requires_grad_(), w.double().requires_grad_()
    losses = F.cross_entropy(h64 @ w64.t(), targets, reduction="none")
    (0.5 * (losses * weights.double()).sum()).backward()
    hx, wx = h.to(DEVICE, dtype).requires_grad_(), w.to(DEVICE, dtype).requires_grad_()
    there = targets.to(DEVICE), weights.to(DEVICE)
    if weighted:
        total, each = linear_cross_entropy.weighted_sum(hx, wx, *there, 256)
        wanted = losses * weights
    else:
        each = linear_cross_entropy.token_losses(hx, wx, there[0], 256)
        total, wanted = (each * there[1]).sum(), losses
    (total * 0.5).backward()
    assert hx.grad is not None
    assert wx.grad is not None
    errors = {
        "loss": abs(total.item() / (losses * weights).sum().item() - 1),
        "losses": distance(each, wanted),
        "dh": distance(hx.grad, h64.grad),
        "dw": distance(wx.grad, w64.grad),
    }
    note(**errors)
    # logits in bfloat16 are off by 2^-9 each, at random: a token's loss by as much of a logit, their sum by far less
    limits = {"loss": 1e-3, "losses": 5e-3, "dh": 1e-2, "dw": 1e-2} if dtype == torch.bfloat16 else {}
    assert all(error < limits.get(name, 1e-5) for name, error in errors.items()), errors
