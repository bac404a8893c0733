"""What a launched optimizer step leaves: numbers that are fetched late.

Enters: device tensors of a step that the GPU may still be working on. Leaves: Python numbers, when somebody
asks for them.

Asking at once would make the host wait for the device and the device then wait for the host to launch its next step. So
the numbers are copied to pinned memory behind the step, and the loop asks for those of step s when step s + 1 is
launched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Moment:
    """A point in this rank's work; on a GPU its time is known once the device got there."""

    def __init__(self) -> None:
        self._event: Any = None
        if torch.cuda.is_available():
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._time = time.perf_counter()
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Until the device got there."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: Moment) -> float:
        """Seconds of device time (CPU: wall time) between two moments; waits for both."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        earlier.wait()
        self.wait()
        return float(earlier._event.elapsed_time(self._event)) / 1e3


class Late:
    """Device numbers on their way to the host: `values()` waits for them, nothing else does."""

    def __init__(self, numbers: Tensor):
        """Args: numbers, 1-D on the device, as they stand after all work launched so far."""
        self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True) if numbers.is_cuda else numbers
        if numbers.is_cuda:
            self._host.copy_(numbers, non_blocking=True)
        self.moment = Moment()

    def values(self) -> Tensor:
        """The numbers, on the CPU."""
        self.moment.wait()
        return self._host


class StepResult:
    """Sums of one optimizer step over all ranks; reading any of them waits until the device is done with the step."""

    def __init__(self, totals: Tensor, sources: int, extras: Sequence[str]):
        """Args: totals, float64: loss sum, count, gradient norm, loss sums and counts by source, the extras' sums."""
        self._late, self._sources, self._extras = Late(totals), sources, list(extras)

    @property
    def ended(self) -> Moment:
        """When the step was done."""
        return self._late.moment

    @property
    def loss(self) -> float:
        """Nats per token, or per pair."""
        total, count = self._late.values()[:2].tolist()
        return float(total / max(count, 1.0))

    @property
    def count(self) -> float:
        """Tokens, or pairs, that counted."""
        return float(self._late.values()[1])

    @property
    def gradient_norm(self) -> float:
        """Before clipping."""
        return float(self._late.values()[2])

    @property
    def source_loss(self) -> Tensor:
        """(S,) nats, summed by source."""
        return self._late.values()[3 : 3 + self._sources]

    @property
    def source_count(self) -> Tensor:
        """(S,) tokens that counted, by source."""
        return self._late.values()[3 + self._sources : 3 + 2 * self._sources]

    @property
    def extras(self) -> dict[str, float]:
        """Means of what else the objective counts: accuracy and margin of DPO."""
        sums = self._late.values()[3 + 2 * self._sources :].tolist()
        return {name: total / self.count for name, total in zip(self._extras, sums, strict=True)}
