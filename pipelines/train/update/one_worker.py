"""The gradients and the update of a worker that is alone, without what ZeRO does for many.

Enters: DeepSpeed's engine of ZeRO stage 1 or 2 in bfloat16, before its first step. Leaves: the same engine, but its
gradients are summed in one flat float32 tensor a group, where the optimizer finds them.

    backward   each bfloat16 gradient is added to its place in the sums (10 bytes a weight; 6 by the first
               micro-batch, which overwrites), and freed at once
    step       norm of the sums (4 bytes a weight), the update, which clips as it goes (32), weights in bfloat16 (6)

DeepSpeed sums each parameter apart, copies the sums to a bucket of reduction, divides them by one worker, flattens
them, reduces them over one worker, adds them to a flat tensor, and clips that in a pass of its own: 98 bytes a weight.
It holds 8 bytes a weight meanwhile where this holds 4, and for each group it makes the host wait for the device.

Where weights and moments lie stays DeepSpeed's: slices, checkpoints and optimizer rows see no difference, and a run may
be resumed on either path. The sums are the same numbers to the bit, and so is all else until a gradient is clipped:
here it is divided by the factor, there multiplied with the factor's rounded inverse.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from pipelines.train.optimizers import pieces
from pipelines.train.optimizers.adamw_step import AdamW


class OneWorker:
    """Sums gradients where the optimizer finds them, and steps; nothing in here waits for the device."""

    def __init__(self, deepspeed: Any):
        """Take gradients and step over from DeepSpeed's engine."""
        self._zero = deepspeed.optimizer
        # a flat tensor of sums for each group; zero where the group is padded
        self._flat_sums = {flat: torch.zeros_like(flat) for flat in self._zero.single_partition_of_fp32_groups}
        named: dict[str, Any] = dict(pieces.parameters(deepspeed))
        groups: dict[Tensor, dict[Any, Tensor]] = {flat: {} for flat in self._flat_sums}
        for piece in pieces.updated(deepspeed):  # one a parameter, since nothing is split
            p, sums = named[piece.name], self._flat_sums[piece.flat]
            groups[piece.flat][p] = sums.narrow(0, piece.offset, piece.length).view_as(p)
        for flat, sums in self._flat_sums.items():
            flat.grad = sums
        self._sums = {p: total for group in groups.values() for p, total in group.items()}
        self._group_lengths = [len(group) for group in groups.values()]
        self._begun: set[Any] = set()  # those that have a gradient in this step

        deepspeed.enable_backward_allreduce = False
        hooks = self._zero._grad_acc_hooks  # what is in this list DeepSpeed removes as it is closed
        for hook in hooks:
            hook.remove()
        hooks[:] = [p.register_post_accumulate_grad_hook(self._add) for p in self._sums]
        self._zero.step = self._step

    def _add(self, p: Any) -> None:
        """Add the gradient that autograd has just made."""
        if p in self._begun:
            add_(self._sums[p], p.grad)
        else:
            self._sums[p].copy_(p.grad)
            self._begun.add(p)
        p.grad = None

    @torch.no_grad()
    def _step(self) -> None:
        """What DeepSpeed's own step does."""
        for p in self._sums.keys() - self._begun:  # no micro-batch had a gradient for it
            self._sums[p].zero_()
        self._begun.clear()
        norm = self._zero._global_grad_norm = self._norm()
        optimizer = self._zero.optimizer
        if self._zero.clip_grad:
            factor = ((norm + 1e-6) / self._zero.clip_grad).clamp(min=1.0)
            if clips_in_update(optimizer):
                optimizer.grad_scale = factor  # the fused kernel divides by it
            else:
                torch._foreach_mul_(list(self._flat_sums.values()), 1.0 / factor)
        optimizer.step()
        self._zero._lazy_init_hp_params_optimizer_state()  # for DeepSpeed's own functions that gather moments
        self._zero.update_lp_params()

    def _norm(self) -> Tensor:
        """Of all sums, by parameter and group as DeepSpeed takes it; infinite where anything is not finite."""
        norms = torch.split(torch.stack(torch._foreach_norm(list(self._sums.values()))), self._group_lengths)
        groups = torch.stack([of_group.square().sum().sqrt() for of_group in norms])
        whole: Tensor = torch.linalg.vector_norm(groups)
        return whole.nan_to_num(nan=torch.inf, posinf=torch.inf)


def add_(sums: Tensor, gradient: Tensor) -> None:
    """Add a gradient of another type to its float32 sums, in one kernel.

    On a GPU a compiled one: torch's own reads numbers of two types one by one (2.8 of 4.1 TB/s on an H200; 0.8 % of a
    step of 2.4B).
    """
    (_compiled_add() if sums.is_cuda else Tensor.add_)(sums, gradient)


@functools.cache
def _compiled_add() -> Any:
    def add(sums: Tensor, gradient: Tensor) -> None:
        sums.add_(gradient)

    # a graph for each shape of a parameter, of which a model has some six; more than a process may hold run as they are
    return torch.compile(add, dynamic=False)


def clips_in_update(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer divides gradients by its `grad_scale`: torch's AdamW, not what has a step of its own."""
    return type(optimizer).step is AdamW.step
