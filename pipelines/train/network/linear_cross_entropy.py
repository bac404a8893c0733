"""Output projection and cross-entropy together, without ever holding all logits.

Legend: N tokens, D model width, V vocabulary. At V = 122,753 the logits of 4,096 tokens are 2 GB, and as much again for
their gradient; here those of a chunk exist at a time, and turn into their own gradient in place.

    weighted_sum   Σ w·loss with w known beforehand: gradients are made in the forward pass, three products a chunk
    token_losses   every token's loss, for any use of it: logits are made again in the backward pass, four products

Softmax and loss are float32 whatever the weights' type; the weight's gradient is summed in float32.

A GPU's fast products want rows that begin at a multiple of 16 bytes, and sizes to match: at an odd V they run at a
third of their speed. So rows of logits lie a multiple of 128 numbers apart, and the columns beyond the last multiple of
128 are a product of their own (`pieces`). Padding the weight instead would cost a copy of it a call, and care that no
padded column enters softmax or gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pipelines.train.network.compute import compiler_options

_ALIGNED = 128  # numbers: 256 bytes of bfloat16, and the width of a tile of the output


def pieces(vocabulary: int, device: str) -> list[slice]:
    """The columns of the logits that one product makes: on a GPU the largest multiple of 128 of them, then the rest."""
    whole = vocabulary // _ALIGNED * _ALIGNED
    if device != "cuda" or whole in (0, vocabulary):
        return [slice(0, vocabulary)]
    return [slice(0, whole), slice(whole, vocabulary)]


def weighted_sum(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Σ w·loss (a float32 scalar to differentiate) and w·loss of every token ((N,) float32, without gradient).

    Args: weights_N, float32, of each token's loss (no gradient); chunk, tokens whose logits exist at a time.
    """
    out: Any = _WeightedSum.apply(hidden_ND, weight_VD, targets_N, weights_N, chunk)  # type: ignore[no-untyped-call]
    return out[0], out[1]


def token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
    """Every token's cross-entropy in nats, (N,) float32."""
    out: Tensor = _TokenLosses.apply(hidden_ND, weight_VD, targets_N, chunk)  # type: ignore[no-untyped-call]
    return out


class _WeightedSum(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        hidden_grad = torch.empty_like(hidden_ND) if needs_hidden else None
        weight_grad = torch.empty_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for part, logits in _chunks(hidden_ND, weight_VD, chunk):
            losses_N[part] = _loss_and_gradient_(logits, targets_N[part], hidden_ND[part], weight_VD) * weights_N[part]
            _products(logits, hidden_ND, weight_VD, weights_N, hidden_grad, weight_grad, part)
        ctx.gradients = hidden_grad, weight_grad  # not `save_for_backward`: they are handed over, and once
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        ctx.set_materialize_grads(False)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, scale: Tensor | None, _: Any) -> Any:
        if scale is None:
            return None, None, None, None, None
        (hidden_grad, weight_grad), ctx.gradients = ctx.gradients, (None, None)
        # in place: nobody else holds them, and a copy of the weight's gradient would be the largest tensor of the step
        hidden_grad = None if hidden_grad is None else hidden_grad.mul_(scale.to(hidden_grad.dtype))
        weight_grad = None if weight_grad is None else _scaled_(weight_grad, scale, ctx.weight_dtype)
        return hidden_grad, weight_grad, None, None, None


class _TokenLosses(Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        for part, logits in _chunks(hidden_ND, weight_VD, chunk):
            losses_N[part] = _loss_and_gradient_(logits, targets_N[part], hidden_ND[part], weight_VD)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.chunk = chunk
        return losses_N

    @staticmethod
    def backward(ctx: Any, grads_N: Tensor) -> Any:
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden_ND) if needs_hidden else None
        weight_grad = torch.empty_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for part, logits in _chunks(hidden_ND, weight_VD, ctx.chunk):
            _loss_and_gradient_(logits, targets_N[part], hidden_ND[part], weight_VD)
            _products(logits, hidden_ND, weight_VD, grads_N, hidden_grad, weight_grad, part)
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight_VD.dtype), None, None


def _chunks(hidden_ND: Tensor, weight_VD: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Which tokens, and their logits (n, V) in the weight's type, in memory that the next chunk takes over."""
    for start in range(0, len(hidden_ND), chunk):
        part = slice(start, min(start + chunk, len(hidden_ND)))
        yield part, _logits(hidden_ND[part], weight_VD)


def _logits(hidden: Tensor, weight_VD: Tensor) -> Tensor:
    if not hidden.is_cuda and hidden.dtype == torch.float32 and torch._C._has_mkldnn:
        # oneDNN, which PyTorch would not choose by itself: 143 GFLOP/s where MKL reaches 108 in this shape, V >> D
        logits: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight_VD, None, "none", [], "")
        return logits
    logits = _scratch(len(hidden), len(weight_VD), hidden)
    for columns in pieces(len(weight_VD), hidden.device.type):
        torch.mm(hidden, weight_VD[columns].t(), out=logits[:, columns])
    return logits


def _scratch(rows: int, columns: int, like: Tensor) -> Tensor:
    """Memory that stays between calls: on a CPU fresh pages for every chunk cost as much as its softmax."""
    key = (like.device, like.dtype)
    apart = columns if len(pieces(columns, like.device.type)) == 1 else -(-columns // _ALIGNED) * _ALIGNED
    memory = _SCRATCH.get(key)
    if memory is None or memory.numel() < rows * apart:
        memory = _SCRATCH[key] = like.new_empty(rows * apart)
    return memory[: rows * apart].view(rows, apart)[:, :columns]


_SCRATCH: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def let_go() -> None:
    """Give back the memory that stays between calls: the run is over."""
    _SCRATCH.clear()


def _loss_and_gradient_(logits: Tensor, targets: Tensor, hidden: Tensor, weight_VD: Tensor) -> Tensor:
    """Turn logits = hidden · weightᵀ into softmax - onehot, each row's gradient, in place. Returns: losses, float32."""
    if logits.is_cuda:
        # of the shapes only the number of tokens may change: the kernel knows where rows begin, and reads in wide words
        torch._dynamo.maybe_mark_dynamic(logits, 0)
        torch._dynamo.maybe_mark_dynamic(targets, 0)
        losses: Tensor = _compiled()(logits, targets)
        return losses
    columns = targets[:, None]
    if logits.dtype != torch.float32:
        logps = torch.log_softmax(logits, dim=1, dtype=torch.float32)
        logits.copy_(logps.exp().scatter_add_(1, columns, -torch.ones_like(columns, dtype=torch.float32)))
        return -logps.gather(1, columns)[:, 0]
    wanted = logits.gather(1, columns)[:, 0]
    # one pass, row by row, each row read before it is written; with log-probabilities in between it would be two
    torch.softmax(logits, dim=1, out=logits)
    chosen = logits.gather(1, columns)[:, 0]
    losses = -chosen.log()
    rare = (chosen < 1e-30).nonzero()[:, 0]
    if len(
        rare
    ):  # the probability says little or nothing: loss = ln Σ exp x - x_target, ln Σ exp x = x_best - ln p_best
        best = logits[rare].max(dim=1)
        best_logits = (hidden[rare] * weight_VD[best.indices]).sum(dim=1)
        losses[rare] = best_logits - best.values.log() - wanted[rare]
    logits.scatter_add_(1, columns, -torch.ones_like(columns, dtype=torch.float32))
    return losses


@functools.cache
def _compiled() -> Any:
    """The same in one kernel for a GPU: logits are read twice and written once, whatever their type."""

    def fused(logits: Tensor, targets: Tensor) -> Tensor:
        logps = torch.log_softmax(logits.float(), dim=1)
        onehot = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
        logits.copy_(logps.exp() - onehot.float())
        return -logps.gather(1, targets[:, None])[:, 0]

    return torch.compile(fused, options=compiler_options("cuda"))


def _products(
    gradient: Tensor, hidden_ND: Tensor, weight_VD: Tensor, weights_N: Tensor,
    hidden_grad: Tensor | None, weight_grad: Tensor | None, part: slice,
) -> None:  # fmt: skip
    # tokens are weighted in the narrow factor and the narrow result, not in the (n, V) gradient
    scale = weights_N[part, None]
    parts = pieces(len(weight_VD), gradient.device.type)
    if hidden_grad is not None:
        torch.mm(gradient[:, parts[0]], weight_VD[parts[0]], out=hidden_grad[part])
        for columns in parts[1:]:
            hidden_grad[part].addmm_(gradient[:, columns], weight_VD[columns])
        hidden_grad[part] *= scale
    if weight_grad is None:
        return
    hidden = (hidden_ND[part] * scale).to(hidden_ND.dtype)
    for columns in parts:
        _add_product_(weight_grad[columns], gradient[:, columns].t(), hidden, first=part.start == 0)


def _add_product_(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """The first chunk writes left · right into the float32 total, the others add it."""
    if right.dtype == torch.float32:
        total.addmm_(left, right, beta=float(not first))
    elif right.is_cuda:  # in one product: made apart and added, it would cost a gradient of a gigabyte, and its time
        torch.addmm(total, left, right, beta=float(not first), out_dtype=torch.float32, out=total)
    else:
        product = left @ right
        total.copy_(product) if first else total.add_(product)


def _scaled_(total: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    if total.is_cuda and dtype != torch.float32:  # read once, written once in the narrow type
        return torch.mul(total, scale, out=torch.empty_like(total, dtype=dtype))
    return total.mul_(scale).to(dtype)
