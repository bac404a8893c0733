"""The frozen reference's log-probabilities, computed once before DPO.

Enters: the parent's weights, already in the engine. Leaves: `reference/logps.npy` in the run's folder, float32 [pairs, 2]
(chosen, rejected), in stored order of the pairs. Computing them first, instead of holding a second model beside the
policy, halves the memory and gives the same numbers.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipelines.data.stream.preferences import PreferenceLoader
from pipelines.errors import ArtifactError, CheckpointError
from pipelines.store.artifacts import Draft, how_anew
from pipelines.store.storage import Storage
from pipelines.train.run.stream import to_batch, trimmed
from pipelines.train.stages import TrainSpec
from pipelines.train.update.engine import Engine, device

_FILE = "reference/logps.npy"
_PAIRS_PER_FORWARD = 8


def reference_logps(
    spec: TrainSpec, storage: Storage, engine: Engine, preferences: PreferenceLoader, fresh: bool
) -> NDArray[np.float32]:
    """Log-probability of every response under the parent: float32 [pairs, 2].

    Args: fresh, whether the engine still holds the parent's weights; after a restart the stored values are read.
    Raises: CheckpointError when a resumed run's stored values are gone or damaged.
    """
    draft, key = Draft(storage, spec.run, spec.claim), f"{spec.run}/{_FILE}"
    stored: list[Any] = [_stored(draft, len(preferences))] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(stored, src=0)
    if isinstance(stored[0], bytes):
        found: NDArray[np.float32] = np.load(io.BytesIO(stored[0]))
        return found
    if not fresh:
        raise CheckpointError(
            f"{storage.uri}/{key} {stored[0]}, and this run has already left its parent's weights: {how_anew(spec.run, spec.claim, storage.uri)}"
        )

    rank, world = dist.get_rank(), dist.get_world_size()
    logps = torch.zeros(len(preferences), 2, device=device())
    engine.deepspeed.eval()
    # every rank runs the same number of forwards, as ZeRO-3 gathers weights in each
    chunks = range(0, len(preferences), _PAIRS_PER_FORWARD * world)
    for first in chunks:
        numbers = np.arange(first + rank * _PAIRS_PER_FORWARD, first + (rank + 1) * _PAIRS_PER_FORWARD)
        valid = numbers < len(preferences)
        rows = engine.forward_logps(to_batch(trimmed(preferences.stored(np.where(valid, numbers, 0)))))
        logps[numbers[valid]] = rows.view(-1, 2)[torch.from_numpy(valid).to(rows.device)]
    engine.deepspeed.train()
    dist.all_reduce(logps)
    result: NDArray[np.float32] = logps.cpu().numpy()
    if rank == 0:
        path = draft.scratch(_FILE)
        with path.open("wb") as file:
            np.save(file, result)
        draft.publish("reference", {_FILE: path})
    dist.barrier()
    return result


def _stored(draft: Draft, pairs: int) -> bytes | str:
    """The stored file, or a clause that says why it cannot be read."""
    try:
        if draft.receipt("reference") is None:
            return "is not there"
        data = draft.read("reference", _FILE)
    except ArtifactError as error:
        return f"is damaged ({error})"
    count = len(np.load(io.BytesIO(data)))
    return data if count == pairs else f"is of {count} pairs, expected {pairs}"
