"""Which parts of the weights this rank updates, and where DeepSpeed keeps them.

Enters: DeepSpeed's engine, of any ZeRO stage. Leaves: `Slice`s, ranges of single parameters, as views of the tensors
that the optimizer updates; and the ranges of frozen parameters, which no optimizer knows.

This is the one file that reads private attributes of DeepSpeed's optimizers, hence the exact pin and the round-trip
tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """A range of one parameter, and where it lies in the tensor that the optimizer updates."""

    name: str
    start: int  # in the flattened parameter
    length: int
    flat: Tensor  # what the optimizer updates: the parameter at stage 0, else a partition of many
    offset: int  # in `flat`

    def tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """1-D views [length] of the weight ("fp32") and of what the optimizer keeps for it, by its own names."""
        state = optimizer.state.get(self.flat, {})
        kept = {k: v for k, v in state.items() if torch.is_tensor(v) and v.shape == self.flat.shape}
        whole = {"fp32": self.flat.data, **kept}
        return {key: value.view(-1).narrow(0, self.offset, self.length) for key, value in whole.items()}

    def share(self, rank: int, world: int) -> Slice:
        """An equal share of this slice for each rank: of what all of them hold."""
        first, end = (self.length * r // world for r in (rank, rank + 1))
        return Slice(self.name, self.start + first, end - first, self.flat, self.offset + first)


def torch_optimizer(deepspeed: Any) -> torch.optim.Optimizer:
    """The torch optimizer under DeepSpeed's wrapper (stage 0 in float32 has none)."""
    o = deepspeed.optimizer
    inner: torch.optim.Optimizer = o if isinstance(o, torch.optim.Optimizer) else o.optimizer
    return inner


def parameters(deepspeed: Any) -> Iterator[tuple[str, Any]]:
    """Every parameter by its name in the model; under ZeRO-3 it is empty but for `ds_…`."""
    yield from deepspeed.module.model.named_parameters()


def updated(deepspeed: Any) -> Iterator[Slice]:
    """Every slice that this rank's optimizer updates."""
    o, stage = deepspeed.optimizer, deepspeed.zero_optimization_stage()
    for name, p in parameters(deepspeed):
        if not p.requires_grad:
            continue
        if stage == 0:
            yield Slice(name, 0, p.numel(), p, 0)
        elif stage in (1, 2):
            mapping = p._hp_mapping
            if mapping is not None:  # None: no part of it here
                inner, place = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
                flat = o.single_partition_of_fp32_groups[mapping.param_group_index]
                yield Slice(name, inner.start, inner.numel, flat, place.start)
        else:
            start, valid = _partition(o, p)
            group, offset, _ = o.grad_position[o.get_param_id(p)]
            if valid:
                yield Slice(name, start, valid, o.fp32_partitioned_groups_flat[group], offset)


def frozen(deepspeed: Any) -> Iterator[Slice]:
    """Every part of a frozen parameter that this rank holds, in the precision of the computation; all but at ZeRO-3."""
    o, stage = deepspeed.optimizer, deepspeed.zero_optimization_stage()
    for name, p in parameters(deepspeed):
        if p.requires_grad:
            continue
        if stage < 3:
            yield Slice(name, 0, p.numel(), p, 0)
        else:
            start, valid = _partition(o, p)
            if valid:
                yield Slice(name, start, valid, p.ds_tensor, 0)


def begin_loading(deepspeed: Any) -> None:
    """Before weights are written into slices: at stage 3 every parameter is let go."""
    if deepspeed.zero_optimization_stage() == 3:
        deepspeed.optimizer.checkpoint_event_prologue()


def end_loading(deepspeed: Any) -> None:
    """After weights were written into slices: make those that the model computes with follow."""
    o, stage = deepspeed.optimizer, deepspeed.zero_optimization_stage()
    if stage in (1, 2):
        o.update_lp_params()
    elif stage == 3:
        _refresh_partitions(o)
        o.checkpoint_event_epilogue()


def _partition(o: Any, p: Any) -> tuple[int, int]:
    """Stage 3: where this rank's part of a parameter begins, and how much of it is no padding."""
    part = p.ds_tensor.ds_numel  # padded: equal on all ranks
    start = part * o._get_param_partition_rank(p)
    return start, max(0, min(part, p.ds_numel - start))


def _refresh_partitions(o: Any) -> None:
    """Stage 3: the partitions that the model computes with, from the float32 ones."""
    for fp32, low, parts in zip(
        o.fp32_partitioned_groups_flat, o.fp16_partitioned_groups_flat, o.fp16_partitioned_groups, strict=True
    ):
        if fp32.numel():
            low.data.copy_(fp32.data)
            for part, values in zip(parts, o.unflatten(low, parts), strict=True):
                part.data = values.data
