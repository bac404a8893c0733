"""Muon's update: for hidden matrices, whole matrices however ZeRO splits them; AdamW for embedding and norms.

Enters: the gradients of the slices that this rank updates. Leaves: their new values.

    B ← β·B + (1−β)·G                   momentum, per weight
    U = β·B + (1−β)·G                   Nesterov
    O = orthogonal(U)                   singular values ≈ 1: five Newton-Schulz steps
    W ← W − lr·wd·W − lr·0.2·√max(rows, columns)·O

Sources: K. Jordan, "Muon" (2024) for the method and its quintic; Liu et al. (arXiv 2502.16982) for 0.2·√max, which
gives an update AdamW's root mean square, so that one schedule and one decay serve both. The fused products are parted
first, since query, key and value (gate, up) are different maps: orthogonalised together, the largest would set the
others' scale. muP's factor on lr is 1/√m, not AdamW's 1/m (docs/recipe.md).

Clipping is by the gradient's norm, before any of this. DeepSpeed's own Muon, which ZeRO calls on the gradients, takes
the norm over the orthogonal updates instead and would shrink them and AdamW's gradients together; hence this one, a
plain optimizer to it.
Each matrix is put together on one rank (`owner`), and only what others hold of it travels: at ZeRO-1 and 2 the matrices
at a partition's edges, at ZeRO-3 all of them; at stage 0 nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.train.network.roles import Role
from pipelines.train.optimizers.adamw_step import AdamW
from pipelines.train.optimizers.pieces import Slice

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUND_ELEMENTS = 2**26  # of the matrices that one rank orthogonalises at a time: 128 MiB in bfloat16


@dataclass(frozen=True)
class _Part:
    """What one rank holds of a matrix."""

    rank: int
    start: int  # in the flattened matrix
    length: int
    offset: int  # in the rank's flat tensor


@dataclass(frozen=True)
class _Matrix:
    rows: int
    columns: int
    owner: int
    parts: tuple[_Part, ...]


class Muon(AdamW):
    """Muon in the group named "matrix", AdamW in all others. State of a matrix: `momentum_buffer`, of its shape."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float, **adamw: Any):
        """Args: momentum, Muon's β; adamw, what `torch.optim.AdamW` takes."""
        super().__init__(groups, **adamw)
        self.momentum = momentum
        self._rounds: dict[Tensor, list[list[_Matrix]]] = {}
        self._device = torch.device("cpu")

    def bind(self, slices: Sequence[Slice], roles: Mapping[str, Role], device: torch.device) -> None:
        """Learn which ranges of which matrices this rank updates; all ranks call it together, before the first step.

        Args: slices, this rank's; roles, of every parameter; device, where to orthogonalise.
        """
        by_flat: dict[Tensor, list[_Range]] = defaultdict(list)
        for piece in slices:
            if roles[piece.name].kind == "matrix":
                by_flat[piece.flat].append((piece.name, piece.start, piece.length, piece.offset))
        everyone: list[Any] = [list(by_flat.values())]
        if dist.is_initialized():
            everyone = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, list(by_flat.values()))
        assert len({len(flats) for flats in everyone}) == 1, "a rank holds no part of a group: fewer workers would do"
        for flat, ranges in zip(by_flat, zip(*everyone, strict=True), strict=True):
            self._rounds[flat] = _rounds(list(ranges), roles)
        self._device = device

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every group; DeepSpeed calls it for each group or part of one, with the others left out."""
        groups = self.param_groups
        for group in groups:
            if group["name"] == "matrix":
                for flat in group["params"]:
                    self._update(flat, group["lr"], group["weight_decay"])
        self.param_groups = [group for group in groups if group["name"] != "matrix"]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _update(self, flat: Tensor, lr: float, weight_decay: float) -> None:
        assert flat.grad is not None
        update, state = flat.grad.view(-1), self.state[flat]  # the gradient's memory is free after the step
        if not state:
            state["momentum_buffer"] = torch.zeros_like(flat)
        momentum = state["momentum_buffer"].view(-1)
        momentum.lerp_(update, 1 - self.momentum)
        update.lerp_(momentum, self.momentum)
        for matrices in self._rounds[flat]:
            self._orthogonalise(matrices, update)
        flat.mul_(1 - lr * weight_decay).view(-1).add_(update, alpha=-lr)

    def _orthogonalise(self, matrices: list[_Matrix], update: Tensor) -> None:
        """Replace this rank's ranges of some matrices in `update` by those of the scaled orthogonal ones."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        own = [m for m in matrices if m.owner == rank]
        whole = [torch.empty(m.rows * m.columns, dtype=dtype, device=self._device) for m in own]

        # whom each range goes to, and where on its owner it belongs, in the one order that all ranks know
        travelling = [(m, p) for m in matrices for p in m.parts if p.rank != m.owner]
        there = [(m.owner, update.narrow(0, p.offset, p.length)) for m, p in travelling if p.rank == rank]
        places = {id(m): matrix for m, matrix in zip(own, whole, strict=True)}
        back = [(p.rank, places[id(m)].narrow(0, p.start, p.length)) for m, p in travelling if m.owner == rank]
        here = [(update.narrow(0, p.offset, p.length), places[id(m)].narrow(0, p.start, p.length))
                for m in own for p in m.parts if p.rank == rank]  # fmt: skip

        for ours, theirs in here:
            theirs.copy_(ours)
        if travelling:
            _exchange(there, back, dtype, self._device)
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for m, matrix in zip(own, whole, strict=True):
            by_shape[m.rows, m.columns].append(matrix)
        for (rows, columns), alike in by_shape.items():
            directions = orthogonal(torch.stack([matrix.view(rows, columns) for matrix in alike]))
            for matrix, direction in zip(alike, directions * update_scale(rows, columns), strict=True):
                matrix.copy_(direction.reshape(-1))
        if travelling:
            _exchange(back, there, dtype, self._device)
        for ours, theirs in here:
            ours.copy_(theirs)


def orthogonal(x_NRC: Tensor) -> Tensor:
    """(N, R, C) matrices → the same with singular values near one (0.7 to 1.2), by five Newton-Schulz steps."""
    a, b, c = _QUINTIC
    x = x_NRC.mT if x_NRC.shape[-2] > x_NRC.shape[-1] else x_NRC  # the shorter side's Gram matrix is the smaller
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if x_NRC.shape[-2] > x_NRC.shape[-1] else x


def update_scale(rows: int, columns: int) -> float:
    """What an orthogonal matrix is multiplied by, so that its entries' root mean square is 0.2, AdamW's."""
    return 0.2 * math.sqrt(max(rows, columns))


_Range = tuple[str, int, int, int]  # name, start in the parameter, length, offset in the flat tensor


def _rounds(ranges: Sequence[Sequence[_Range]], roles: Mapping[str, Role]) -> list[list[_Matrix]]:
    """The matrices of one flat tensor, in rounds of bounded size in which every rank has its share of the work.

    Args: ranges, of each rank. Returns: on every rank the same, but where each holds everything (stage 0): there only
        its own.
    """
    parts: dict[tuple[str, int], list[_Part]] = defaultdict(list)
    sizes: dict[tuple[str, int], tuple[int, int]] = {}
    for rank, slices in enumerate(ranges):
        for name, start, length, offset in slices:
            columns, first = roles[name].shape[1], 0
            for index, rows in enumerate(roles[name].maps):
                low, high = max(start, first), min(start + length, first + rows * columns)
                if low < high:
                    parts[name, index].append(_Part(rank, low - first, high - low, offset + low - start))
                    sizes[name, index] = rows, columns
                first += rows * columns
    rank = dist.get_rank() if dist.is_initialized() else 0
    load = [0] * len(ranges)
    rounds: list[list[_Matrix]] = []
    filled = [0] * len(ranges)  # elements of each rank in all rounds so far
    for key in sorted(parts, key=lambda key: -sizes[key][0] * sizes[key][1]):
        (rows, columns), of_matrix = sizes[key], parts[key]
        if sum(part.length for part in of_matrix) > rows * columns:
            owner, of_matrix = rank, [part for part in of_matrix if part.rank == rank]
        else:
            most = max(part.length for part in of_matrix)
            owner = min((part.rank for part in of_matrix if 2 * part.length >= most), key=lambda rank: load[rank])
        load[owner] += min(rows, columns) * rows * columns
        at = filled[owner] // _ROUND_ELEMENTS
        filled[owner] += rows * columns
        while len(rounds) <= at:
            rounds.append([])
        rounds[at].append(_Matrix(rows, columns, owner, tuple(of_matrix)))
    return rounds


def _exchange(
    sources: list[tuple[int, Tensor]], targets: list[tuple[int, Tensor]], dtype: torch.dtype, device: torch.device
) -> None:
    """Send each source to its rank, and fill each target from its rank; per pair of ranks in the order given."""
    world = dist.get_world_size()
    outgoing, incoming = ([[t for r, t in pairs if r == rank] for rank in range(world)] for pairs in (sources, targets))
    sizes = [[sum(t.numel() for t in tensors) for tensors in way] for way in (outgoing, incoming)]
    send = torch.cat([torch.empty(0, dtype=dtype, device=device),
                      *(t.to(device, dtype) for tensors in outgoing for t in tensors)])  # fmt: skip
    received = torch.empty(sum(sizes[1]), dtype=dtype, device=device)
    dist.all_to_all_single(received, send, sizes[1], sizes[0])
    start = 0
    for target in (t for tensors in incoming for t in tensors):
        target.copy_(received.narrow(0, start, target.numel()))
        start += target.numel()
