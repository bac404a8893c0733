"""What a stage writes to the store and reads from it.

Enters: a `Job` and its cost. Leaves: bytes, and bytes a second where they flow. A checkpoint holds float32 weights and
the optimizer's moments, each slice on one rank; token ids take two bytes below 65,500 of them, else four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.data.tokens.megatron import token_dtype
from pipelines.train.budget.job import Job
from pipelines.train.budget.layout import Cost


@dataclass(frozen=True)
class StorageNeed:
    """Bytes of a stage."""

    checkpoint: float
    checkpoints_kept: int
    shard_of_rank: float  # of one checkpoint
    written_per_s: float  # mean over the stage
    checkpoint_seconds: float  # between two of them
    tokens_read: float  # of the shards, each token once an epoch
    read_per_s: float

    @property
    def kept(self) -> float:
        """Bytes of all checkpoints that stay."""
        return self.checkpoint * self.checkpoints_kept


def storage_of(job: Job, cost: Cost) -> StorageNeed:
    """What the stage needs."""
    every = job.config.checkpoint.every_steps
    between = every * cost.step_seconds
    read = job.tokens * float(np.dtype(token_dtype(job.model.vocabulary)).itemsize)
    return StorageNeed(
        checkpoint=job.checkpoint_bytes,
        checkpoints_kept=job.checkpoints_kept,
        shard_of_rank=job.checkpoint_bytes / cost.layout.workers,
        written_per_s=job.checkpoint_bytes / between,
        checkpoint_seconds=between,
        tokens_read=read,
        read_per_s=read / (cost.hours * 3600),
    )
