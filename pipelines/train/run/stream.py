"""A stage's stream of batches: sample numbers in, this rank's tensors out.

Enters: a `TrainSpec`. Leaves: the micro-batches of any step, read by a thread two steps ahead of the training step, and
on a GPU already there: the thread copies them from pinned memory on a CUDA stream of its own, beside the computation.
Where the store is remote, a `Prefetcher` has the shards on this machine before that. What each source has given is a
function of the step alone, so it is the same after any restart.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue
from typing import Any

import numpy as np
import torch
from torch.profiler import record_function

from pipelines.data.stream.loader import rank_indices
from pipelines.data.stream.prefetch import Prefetcher, WorkingSet
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.cache import cache_limit
from pipelines.store.storage import FolderStorage
from pipelines.train.batches import Arrays
from pipelines.train.network.attention import Documents
from pipelines.train.network.batch import Batch
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.spec import TrainSpec
from pipelines.train.update.engine import device

_READ_AHEAD_STEPS = 2
_END_SECONDS = 5.0  # for the reading thread to end; one that waits for a download is not waited for
_LOOK_SECONDS = 0.02  # between two looks whether the reading thread has ended


class Stream:
    """The batches of a stage, as a function of the step alone.

    Attributes:
        names: its sources.
        warning: what will make steps wait, or "".
        cuts: source -> what its windows cut off, where they do.
        wait_seconds: how long the last step waited for its batches.

    Raises: ConfigError when the cache is too small for what the mixture reads at a time.
    """

    def __init__(self, spec: TrainSpec, store: ArtifactStore):
        self.spec = spec
        self.warning, self.cache_bytes = "", 0  # 0: the shards are here, nothing is fetched ahead
        self.wait_seconds = 0.0  # of the last step, for its batches
        opened = OBJECTIVES[spec.objective.name].batches
        self.batches = opened(store.get(spec.tokens), spec.segments, spec.seed, spec.batch.sequence_length)
        self.names, self.cuts = self.batches.names, self.batches.cuts
        if self.batches.loader is not None and not isinstance(store.storage, FolderStorage):
            self.cache_bytes = cache_limit()
            self.warning = WorkingSet.of(self.batches.loader).check(self.cache_bytes)

    def steps(
        self, first: int, rank: int, world: int, locate: Callable[[torch.Tensor], Documents] | None = None
    ) -> Generator[list[Batch], None, None]:
        """This rank's micro-batches of each step from `first` on, read ahead by a thread.

        Args: locate, finds the documents in a micro-batch's positions (`Transformer.locate`); None: the model looks for
            itself.
        """
        ready: Queue[_Copied | Exception] = Queue(_READ_AHEAD_STEPS)
        ahead = None
        if self.cache_bytes and self.batches.loader is not None:
            ahead = Prefetcher(
                self.batches.loader, self.samples_after(first), self.samples_after(self.spec.steps), self.cache_bytes
            )

        over = threading.Event()

        def read() -> None:
            try:
                copies = _Copies()
                for step in range(first, self.spec.steps):
                    if over.is_set():
                        return
                    ready.put(copies.beside_the_computation(partial(self._step, step, rank, world, locate)))
                    if ahead is not None:
                        ahead.reached(self.samples_after(step + 1))
            except Exception as error:
                ready.put(error)

        # the GPU memory of a step's batches is the copying stream's, and may be written again once they are let go:
        # they are kept until the step that reads them is over, since the loop waits for a step before it asks for the
        # next but one
        recent: deque[_Copied] = deque(maxlen=3)
        reader = threading.Thread(target=read, name="batch-reader", daemon=True)
        reader.start()
        try:
            for _ in range(first, self.spec.steps):
                began = time.perf_counter()
                with record_function("step/data"):
                    item = ready.get()
                self.wait_seconds = time.perf_counter() - began
                if isinstance(item, Exception):
                    raise item
                recent.append(item)
                yield item.hand_over()
        finally:
            over.set()
            until = time.monotonic() + _END_SECONDS
            # it may wait for room to hand over what nobody takes any more
            while reader.is_alive() and time.monotonic() < until:
                with contextlib.suppress(Empty):
                    ready.get(timeout=_LOOK_SECONDS)
            if ahead is not None:
                ahead.close()

    def samples_after(self, step: int) -> int:
        """Samples of the stream read when `step` steps are done."""
        return self.spec.start.samples + step * self.spec.batch.global_batch

    def tokens_after(self, step: int) -> int:
        """Tokens trained on, ancestors included, when `step` steps are done; of pairs, without padding."""
        return self.spec.start.tokens + self.batches.tokens_in(self.spec.start.samples, self.samples_after(step))

    def delivered(self, steps: int) -> dict[str, int]:
        """Samples that each source gave to this run."""
        return self.batches.delivered(self.spec.start.samples, self.samples_after(steps))

    def tokens_by_source(self, step: int) -> dict[str, int]:
        """Tokens that each source has given to this run when `step` steps are done."""
        return self.batches.tokens_by_source(self.spec.start.samples, self.samples_after(step))

    def _step(
        self, step: int, rank: int, world: int, locate: Callable[[torch.Tensor], Documents] | None
    ) -> list[Batch]:
        batch = self.spec.batch
        micro_steps = rank_indices(
            step, global_batch=batch.global_batch, rank=rank, world_size=world, micro_batch=batch.micro_batch
        )
        return [to_batch(self.batches.read(self.spec.start.samples + indices), locate) for indices in micro_steps]


class _Copies:
    """The reading thread's own CUDA stream; nothing on a CPU, where a batch is where it was read."""

    def __init__(self) -> None:
        self._stream = None
        if torch.cuda.is_available():
            torch.cuda.set_device(device())  # of this thread
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def beside_the_computation(self, read: Callable[[], list[Batch]]) -> _Copied:
        """What `read` copies to the GPU goes over this stream."""
        with torch.cuda.stream(self._stream):
            batches = read()
            return _Copied(batches, None if self._stream is None else self._stream.record_event())


@dataclass(frozen=True)
class _Copied:
    """A step's batches on their way to the GPU."""

    batches: list[Batch]
    arrived: Any  # a CUDA event, or None

    def hand_over(self) -> list[Batch]:
        """The batches, for computation that waits for the copies; the host does not."""
        if self.arrived is not None:
            torch.cuda.current_stream().wait_event(self.arrived)
        return self.batches


def to_batch(arrays: Arrays, locate: Callable[[torch.Tensor], Documents] | None = None) -> Batch:
    """A micro-batch's arrays as tensors on this rank's device.

    They go to a GPU through pinned memory, and nobody waits for the copy.

    Args: locate, finds the documents in positions on the host: on the device it would make the host wait.
    """
    place = device()

    def tensor(array: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        here = torch.from_numpy(np.ascontiguousarray(array))
        there = (here.pin_memory() if place.type == "cuda" else here).to(place, non_blocking=True)
        return there if dtype is None else there.to(dtype)

    return Batch.shifted(
        tokens=tensor(arrays["tokens"], torch.int64),
        positions=tensor(arrays["positions"], torch.int64),
        loss_mask=tensor(arrays["loss_mask"], torch.float32),
        sources=tensor(arrays["sources"], torch.int64),
        documents=None if locate is None else locate(torch.from_numpy(arrays["positions"])).to(place),
        sidecars={name: tensor(array) for name, array in arrays.get("sidecars", {}).items()},
    )
