"""What a run's gradients, updates and attention look like, at a few steps of it.

Enters: a step's micro-batches and the engine around a step. Leaves, late like the step's own numbers:

    noise_scale            B_simple = tr Σ / |G|², in tokens (DPO: pairs): the batch beyond which more data per step
                           stops paying (McCandlish et al., arXiv 1812.06162, appendix A.1). |G|² is measured at two
                           batch sizes: of every micro-batch on every rank, as autograd hands it over, before ZeRO
                           reduces anything; and of the whole batch, which is the gradient norm. Both estimates are
                           smoothed, then divided.
    update_ratio/<part>    RMS of the step's change / RMS of the weights, by layer, in float32 before rounding to
                           bfloat16; not of parts that are frozen.
    attention_logit_max/<layer>   the largest q·k/√K over the visible pairs and all heads of each rank's first row.

Nothing of it takes part in the step, so the curve is bit-equal with and without. Cost of a monitored step: a norm per
gradient, a copy of at most 262,144 elements per parameter, and one row's attention logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.train.network.batch import Batch
from pipelines.train.network.roles import places, roles
from pipelines.train.optimizers.pieces import Slice
from pipelines.train.update.engine import Engine
from pipelines.train.update.step import Late

_SAMPLE = 1 << 18  # elements of a parameter whose change is looked at, evenly spaced: the RMS is right to some 0.2 %
_SMOOTHING = 0.9  # of the noise scale's two estimates, per monitored step: about the last ten count
_LOGITS_BYTES = 256 << 20  # of attention logits that exist at a time


class Monitor:
    """Looks at every `every_steps`-th step; never, when that is 0."""

    def __init__(self, engine: Engine, every_steps: int):
        self.engine, self.every_steps = engine, every_steps
        self.parts = places(engine.model_config)
        self._number = {name: self.parts.index(role.place) for name, role in roles(engine.model_config).items()}
        self._watching = False

    def missing(self) -> str:
        """What cannot be measured here and why, or ""."""
        if not self.every_steps or self.engine.world * self.engine.accumulation > 1:
            return ""
        return (
            "no noise_scale: one micro-batch is the whole batch, and it takes two sizes; a smaller "
            "batch.micro_batch gives it"
        )

    def begin(self, step: int, batches: Sequence[Batch]) -> None:
        """Before step number `step` (from 1) is launched."""
        self._watching = bool(self.every_steps) and step % self.every_steps == 0
        if not self._watching:
            return
        model = self.engine.deepspeed.module.model
        self._counts = [self.engine.objective.count(batch).double() for batch in batches]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]  # others get no gradient
        self._norms: list[list[Tensor]] = [[] for _ in trained]
        self._hooks = [
            parameter.register_hook(lambda gradient, norms=norms: _note_norm(gradient, norms))
            for parameter, norms in zip(trained, self._norms, strict=True)
        ]
        self._before = [(piece, _sample(piece, self.engine).clone()) for piece in self.engine.shares()]
        self._logits: dict[int, Tensor] = {}
        position_T = batches[0].positions[0]
        for number, block in enumerate(model.layers):
            block.probe = self._probe(number, position_T)

    def end(self) -> Readings | None:
        """After the step was launched: its readings, or None where it is not monitored. All ranks call it together."""
        if not self._watching:
            return None
        model = self.engine.deepspeed.module.model
        for hook in self._hooks:
            hook.remove()
        for block in model.layers:
            block.probe = None
        counts_J = torch.stack(self._counts)
        squares_J = torch.stack([torch.stack(norms) for norms in self._norms]).double().square().sum(dim=0)
        counted_J = counts_J > 0
        # a micro-batch's loss sum was scaled by world/N: with N/world/n it is a mean over its own n
        small = torch.where(counted_J, squares_J / counts_J.clamp(min=1).square(), 0.0).sum()
        inverse = torch.where(counted_J, 1 / counts_J.clamp(min=1), 0.0).sum()
        changes_P2 = torch.zeros(len(self.parts), 2, dtype=torch.float64, device=counts_J.device)
        for piece, before in self._before:
            after = _sample(piece, self.engine)
            share = piece.length / after.numel()
            sums = torch.stack([(after - before).square().sum(), after.square().sum()])
            changes_P2[self._number[piece.name]] += share * sums.to(changes_P2)
        self._before = []
        sums = torch.cat(
            [torch.stack([small, inverse, counted_J.sum().double(), counts_J.sum()]), changes_P2.flatten()]
        )
        dist.all_reduce(sums)
        logits_L = torch.stack([self._logits[i] for i in range(len(self._logits))]).double()
        dist.all_reduce(logits_L, op=dist.ReduceOp.MAX)
        return Readings(torch.cat([sums, logits_L]), self.parts, self.engine.world)

    def _probe(self, number: int, positions_T: Tensor) -> Any:
        def probe(q_BTHK: Tensor, k_BTGK: Tensor) -> None:
            if number not in self._logits:  # the first micro-batch, and once where a block is computed again
                self._logits[number] = attention_logit_max(q_BTHK[0], k_BTGK[0], positions_T, self._masked)

        return probe

    @property
    def _masked(self) -> bool:
        return self.engine.model_config.document_masking


class Readings:
    """A monitored step's numbers; reading them waits for the step."""

    def __init__(self, numbers: Tensor, parts: Sequence[str], world: int):
        self._late, self._parts, self._world = Late(numbers), list(parts), world

    def values(self, gradient_norm: float) -> dict[str, Any]:
        """`gradient_trace` and `gradient_square` (one step's estimates of tr Σ and |G|², where there are two batch
        sizes), `update_ratio` by part, `attention_logit_max` by layer.

        Args: gradient_norm, of the whole batch's mean gradient.
        """
        numbers = self._late.values().tolist()
        squares, inverses, batches, count = numbers[:4]
        changes, logits = numbers[4 : 4 + 2 * len(self._parts)], numbers[4 + 2 * len(self._parts) :]
        values: dict[str, Any] = {}
        if batches > 1:
            small = squares / batches * (count / self._world) ** 2
            trace, square = noise_estimates(small, inverses / batches, gradient_norm**2, 1 / count)
            values |= {"gradient_trace": trace, "gradient_square": square}
        ratios = zip(self._parts, changes[0::2], changes[1::2], strict=True)
        values["update_ratio"] = {part: math.sqrt(change / weight) for part, change, weight in ratios if weight}
        values["attention_logit_max"] = {f"layer_{i:02d}": value for i, value in enumerate(logits)}
        return values


class NoiseScale:
    """tr Σ / |G|², each smoothed over the monitored steps: single estimates of |G|² are often negative."""

    def __init__(self) -> None:
        self.trace = self.square = 0.0

    def add(self, row: Mapping[str, Any]) -> float | None:
        """Take in a row's two estimates. Returns: the noise scale, where the mean of |G|² is above 0 so far."""
        if "gradient_trace" not in row:
            return None
        self.trace = _SMOOTHING * self.trace + (1 - _SMOOTHING) * row["gradient_trace"]
        self.square = _SMOOTHING * self.square + (1 - _SMOOTHING) * row["gradient_square"]
        return self.trace / self.square if self.square > 0 else None


def noise_estimates(small: float, small_inverse: float, big: float, big_inverse: float) -> tuple[float, float]:
    """Unbiased estimates of tr Σ and |G|², since E|g|² = |G|² + tr Σ / n for the mean gradient g of n tokens.

    Args: mean squared norm over small batches and the mean of their 1/n; the same of the big batch.
    """
    trace = (small - big) / (small_inverse - big_inverse)
    return trace, big - trace * big_inverse


def attention_logit_max(q_THK: Tensor, k_TGK: Tensor, positions_T: Tensor, masked: bool) -> Tensor:
    """The largest q·k/√K of a row over all heads and the pairs that may see each other: a float32 scalar.

    Args: queries, keys after rotation, H divisible by G; positions, 0 at each document's first token; masked, whether
        documents are kept apart.
    """
    T, H, K = q_THK.shape
    q_HTK = q_THK.detach().transpose(0, 1).float()
    k_HKT = k_TGK.detach().repeat_interleave(H // k_TGK.shape[1], dim=1).permute(1, 2, 0).float()
    document_T = (positions_T == 0).cumsum(dim=0) if masked else torch.zeros_like(positions_T)
    place_T = torch.arange(T, device=q_THK.device)
    queries = max(1, min(T, _LOGITS_BYTES // (4 * T)))
    heads = max(1, min(H, _LOGITS_BYTES // (4 * T * queries)))
    logits = q_HTK.new_empty(heads * queries * T)
    highest = []
    for start in range(0, T, queries):
        part = slice(start, start + queries)
        hidden_qT = (document_T[part, None] != document_T) | (place_T[part, None] < place_T)
        for first in range(0, H, heads):
            some = slice(first, first + heads)
            n, m = len(q_HTK[some]), len(hidden_qT)
            # `out`: a block that keeps its products (model.py) would keep these until its backward pass, too
            logits_HqT = torch.bmm(q_HTK[some, part], k_HKT[some], out=logits[: n * m * T].view(n, m, T))
            highest.append(logits_HqT.masked_fill_(hidden_qT, -math.inf).amax())
    return torch.stack(highest).amax() / math.sqrt(K)


def _note_norm(gradient: Tensor, norms: list[Tensor]) -> None:
    norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float32))


def _sample(piece: Slice, engine: Engine) -> Tensor:
    return piece.tensors(engine.optimizer)["fp32"].detach()[:: math.ceil(piece.length / _SAMPLE)]
