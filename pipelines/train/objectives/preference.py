"""What the objectives over preference pairs share: their reading, their frozen reference and their figures.

Enters: pairs, whose rows 2i are chosen and rows 2i + 1 rejected. Leaves: h = (π_c − π_r) − (ρ_c − ρ_r) of each pair, of
which an objective makes its loss. π and ρ are log-probabilities of an answer under the policy and the frozen reference.

The reference is the parent. So its log-probabilities are computed once, before the first step, and kept in the run's
folder: `reference/logps.npy`, float32 [pairs, 2] (chosen, rejected), in stored order of the pairs. That halves the
memory of a second model beside the policy, and gives the same numbers.

Legend: B rows, P pairs.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Positive, config_class
from pipelines.errors import ArtifactError, CheckpointError
from pipelines.store.draft import Draft
from pipelines.store.ways_out import how_anew
from pipelines.train.batches.pairs import Pairs
from pipelines.train.objectives.objective import Objective, ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.train.network.batch import Batch
    from pipelines.train.network.model import Transformer
    from pipelines.train.objectives.objective import Forward

_PIECE = "reference"
_FILE = "reference/logps.npy"
_PAIRS_PER_FORWARD = 8


class PreferenceObjective(Objective):
    """A loss per pair that depends on h alone; see the module."""

    @config_class
    class Settings(ObjectiveSettings):
        """What they all have."""

        beta: Positive = 0.1  # strength of the pull to the reference

    unit = "pairs"
    batches = Pairs
    metrics = ("accuracy", "margin")
    settings: Settings

    @abstractmethod
    def losses(self, differences_P: Tensor) -> Tensor:
        """(P,) loss of each pair. Args: differences_P, (P,) h of each pair."""

    def count(self, batch: Batch) -> Tensor:
        import torch

        return torch.tensor(float(len(batch.inputs) // 2), device=batch.inputs.device)

    def sums(self, model: Transformer, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        from pipelines.train.network.losses import row_logps

        policy, reference = row_logps(model, hidden, batch), batch.sidecars["reference"]
        differences_P = (policy[0::2] - policy[1::2]) - (reference[0::2] - reference[1::2])
        return self.losses(differences_P).sum(), {
            "accuracy": (differences_P > 0).float().sum().detach(),
            "margin": differences_P.sum().detach() * self.settings.beta,
        }

    def prepare(self, draft: Draft, batches: Pairs, forward: Forward, fresh: bool) -> None:
        """Raises: CheckpointError when a resumed run's stored values are gone or damaged."""
        batches.attach("reference", _reference_logps(draft, batches, forward, fresh))

    def verify_prepared(self, draft: Draft) -> None:
        if draft.receipt(_PIECE) is not None:
            draft.read(_PIECE, _FILE)


def _reference_logps(draft: Draft, batches: Pairs, forward: Forward, fresh: bool) -> NDArray[np.float32]:
    """Log-probability of every answer under the parent: float32 [pairs, 2]."""
    import torch.distributed as dist

    stored: list[Any] = [_stored(draft, batches.epoch_samples)] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(stored, src=0)
    if isinstance(stored[0], bytes):
        read_back: NDArray[np.float32] = np.load(io.BytesIO(stored[0]))
        return read_back
    if not fresh:
        raise CheckpointError(
            f"{draft.storage.uri}/{draft.folder}/{_FILE} {stored[0]}, and this run has already left its parent's "
            f"weights: {how_anew(draft.folder, draft.claim, draft.storage.uri)}"
        )
    result = _compute(batches, forward)
    if dist.get_rank() == 0:
        path = draft.scratch(_FILE)
        with path.open("wb") as file:
            np.save(file, result)
        draft.publish(_PIECE, {_FILE: path})
    dist.barrier()
    return result


def _compute(batches: Pairs, forward: Forward) -> NDArray[np.float32]:
    import torch
    import torch.distributed as dist

    from pipelines.train.network.losses import row_logps

    rank, world, pairs = dist.get_rank(), dist.get_world_size(), batches.epoch_samples
    logps: Tensor | None = None
    # every rank runs the same number of forwards, as ZeRO-3 gathers weights in each
    for first in range(0, pairs, _PAIRS_PER_FORWARD * world):
        numbers = np.arange(first + rank * _PAIRS_PER_FORWARD, first + (rank + 1) * _PAIRS_PER_FORWARD)
        valid = numbers < pairs
        rows = forward(row_logps, batches.stored(np.where(valid, numbers, 0)))
        logps = rows.new_zeros(pairs, 2) if logps is None else logps
        logps[numbers[valid]] = rows.view(-1, 2)[torch.from_numpy(valid).to(rows.device)]
    assert logps is not None, "a set of pairs is never empty"
    dist.all_reduce(logps)
    result: NDArray[np.float32] = logps.cpu().numpy()
    return result


def _stored(draft: Draft, pairs: int) -> bytes | str:
    """The stored file, or a clause that says why it cannot be read."""
    try:
        if draft.receipt(_PIECE) is None:
            return "is not there"
        data = draft.read(_PIECE, _FILE)
    except ArtifactError as error:
        return f"is damaged ({error})"
    count = len(np.load(io.BytesIO(data)))
    return data if count == pairs else f"is of {count} pairs, expected {pairs}"
