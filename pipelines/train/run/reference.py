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
from pipelines.errors import CheckpointError
from pipelines.storage import Storage
from pipelines.train.run.stream import to_batch, trimmed
from pipelines.train.stages import TrainSpec
from pipelines.train.update.engine import Engine, device

_PAIRS_PER_FORWARD = 8


def reference_logps(
    spec: TrainSpec, storage: Storage, engine: Engine, preferences: PreferenceLoader, fresh: bool
) -> NDArray[np.float32]:
    """Log-probability of every response under the parent: float32 [pairs, 2].

    Args: fresh, whether the engine still holds the parent's weights; after a restart the stored values are read.
    Raises: CheckpointError when a resumed run's stored values are gone.
    """
    key = f"{spec.run}/reference/logps.npy"
    stored: list[Any] = [storage.exists(key)]
    dist.broadcast_object_list(stored, src=0)
    if stored[0]:
        found: NDArray[np.float32] = np.load(storage.fetch(key))
        if len(found) == len(preferences):
            return found
    if not fresh:
        raise CheckpointError(
            f"{key} is missing or of another size, and this run has already left its parent's weights: start over with on_change=rebuild"
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
        buffer = io.BytesIO()
        np.save(buffer, result)
        storage.write(key, buffer.getvalue())
    dist.barrier()
    return result
