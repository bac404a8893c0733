"""Output projection and cross-entropy together, without ever holding all logits.

Legend: N tokens, D model width, V vocabulary. At V = 122,753 the logits of 4,096 tokens are 2 GB, and as much again for
their gradient; here those of a chunk exist at a time, and turn into their own gradient in place.

    weighted_sum   Σ w·loss with w known beforehand: gradients are made in the forward pass, three products a chunk
    token_losses   every token's loss, for any use of it: logits are made again in the backward pass, four products

Softmax and loss are float32 whatever the weights' type; the weight's gradient is summed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_CHUNK_BYTES = 256 << 20  # of float32 logits


def chunk_tokens(vocabulary: int) -> int:
    """Tokens whose logits exist at a time where the config leaves it open: 256 MiB of them, a multiple of 64."""
    return max(64, _CHUNK_BYTES // (4 * vocabulary) // 64 * 64)


def weighted_sum(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Σ w·loss (a float32 scalar to differentiate) and w·loss of every token ((N,) float32, without gradient).

    Args: weights_N, float32, of each token's loss (no gradient); chunk, tokens whose logits exist at a time.
    """
    out: tuple[Tensor, Tensor] = _WeightedSum.apply(hidden_ND, weight_VD, targets_N, weights_N, chunk)  # type: ignore[no-untyped-call]
    return out


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
        weight_grad = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for part, logits in _chunks(hidden_ND, weight_VD, chunk):
            losses_N[part] = _log_softmax_loss_(logits, targets_N[part]) * weights_N[part]
            if needs_hidden or needs_weight:
                _into_gradient_(logits, targets_N[part], weights_N[part])
                _products(logits, hidden_ND[part], weight_VD, hidden_grad, weight_grad, part)
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        ctx.set_materialize_grads(False)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, scale: Tensor | None, _: Any) -> Any:
        if scale is None:
            return None, None, None, None, None
        hidden_grad, weight_grad = ctx.saved_tensors
        # in place: nobody else holds them, and a copy of the weight's gradient would be the largest tensor of the step
        hidden_grad = None if hidden_grad is None else hidden_grad.mul_(scale.to(hidden_grad.dtype))
        weight_grad = None if weight_grad is None else weight_grad.mul_(scale).to(ctx.weight_dtype)
        return hidden_grad, weight_grad, None, None, None


class _TokenLosses(Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        for part, logits in _chunks(hidden_ND, weight_VD, chunk):
            losses_N[part] = _log_softmax_loss_(logits, targets_N[part])
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.chunk = chunk
        return losses_N

    @staticmethod
    def backward(ctx: Any, grads_N: Tensor) -> Any:
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden_ND) if needs_hidden else None
        weight_grad = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for part, logits in _chunks(hidden_ND, weight_VD, ctx.chunk):
            _log_softmax_loss_(logits, targets_N[part])
            _into_gradient_(logits, targets_N[part], grads_N[part])
            _products(logits, hidden_ND[part], weight_VD, hidden_grad, weight_grad, part)
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight_VD.dtype), None, None


def _chunks(hidden_ND: Tensor, weight_VD: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Which tokens, and their logits (n, V) in float32, in memory that the next chunk takes over."""
    for start in range(0, len(hidden_ND), chunk):
        part = slice(start, min(start + chunk, len(hidden_ND)))
        hidden = hidden_ND[part]
        if hidden.dtype == torch.float32:
            yield part, torch.mm(hidden, weight_VD.t(), out=_scratch(len(hidden), len(weight_VD), hidden.device))
        else:
            yield part, torch.mm(hidden, weight_VD.t()).float()


def _scratch(rows: int, columns: int, device: torch.device) -> Tensor:
    """Memory that stays between calls: on a CPU fresh pages for every chunk cost as much as its softmax."""
    held = _SCRATCH.get(device)
    if held is None or held.numel() < rows * columns:
        held = _SCRATCH[device] = torch.empty(rows * columns, device=device)
    return held[: rows * columns].view(rows, columns)


_SCRATCH: dict[torch.device, Tensor] = {}


def _log_softmax_loss_(logits: Tensor, targets: Tensor) -> Tensor:
    """Turn logits into log-probabilities in place. Returns: each row's loss."""
    if logits.is_cuda:
        logits.copy_(torch.log_softmax(logits, dim=1))
    else:
        torch.log_softmax(logits, dim=1, out=logits)  # row by row, and each row is read before it is written
    return -logits.gather(1, targets[:, None])[:, 0]


def _into_gradient_(logps: Tensor, targets: Tensor, weights: Tensor) -> None:
    """Turn log-probabilities into weight · (p - onehot) in place: the gradient of Σ weight · loss by the logits."""
    logps.exp_()
    logps.scatter_add_(1, targets[:, None], torch.full_like(weights, -1.0)[:, None])
    logps.mul_(weights[:, None])


def _products(
    gradient: Tensor, hidden: Tensor, weight_VD: Tensor, hidden_grad: Tensor | None, weight_grad: Tensor | None, part: slice
) -> None:  # fmt: skip
    low = gradient.to(hidden.dtype)
    if hidden_grad is not None:
        torch.mm(low, weight_VD, out=hidden_grad[part])
    if weight_grad is not None:
        if hidden.dtype == torch.float32:
            weight_grad.addmm_(low.t(), hidden)
        elif hidden.is_cuda:
            weight_grad += torch.mm(low.t(), hidden, out_dtype=torch.float32)
        else:
            weight_grad += (low.t() @ hidden).float()
