"""Where a step's time goes: `profile=true` traces a few steps of rank zero, for a picture and for a table.

Enters: the steps of the loop. Leaves, in the run's folder: `profile/trace-rank0.json.gz` for chrome://tracing or
https://ui.perfetto.dev, and `profile/table.txt`, which is printed too and attached to the MLflow run.

The table sums to the step. On a CPU it counts the main thread's own time in every operation, by what the operation is
and in which part of the step it ran; a backward operation belongs where its forward one did. On a GPU it cuts the
step's wall time where kernels begin and end and gives each piece to one kernel that ran then, computation before
communication, so communication is what was not hidden, and what no kernel covers is idle.

Tracing costs some percent of the steps that are traced. The ranges (`record_function`) cost a microsecond each
otherwise.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.store.storage import Storage
from pipelines.tracking.tracker import Tracker

_RANGES = {
    "step/data": "data wait",
    "step/checkpoint": "checkpoint stall",
    "step/optimizer": "optimizer",
    "step/loss": "loss",
}
_COMMUNICATION = ("c10d::", "gloo:", "nccl", "record_param_comms", "all_reduce", "reduce_scatter", "all_gather")
_ATTENTION = ("scaled_dot_product", "flash", "fmha", "flex_attention", "varlen_attn", "cudnn")
_PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::matmul",
    "aten::linear",
    "aten::baddbmm",
    "aten::_scaled_mm",
)
_PRODUCT_KERNELS = ("gemm", "cutlass", "nvjet", "xmma", "cublas")
_OPTIMIZER_KERNELS = ("adam", "multi_tensor", "foreach")
_ORDER = (
    "matrix products", "attention", "loss", "normalisation, elementwise", "optimizer", "communication", "copies",
    "data wait", "checkpoint stall", "Python and the rest", "GPU idle",
)  # fmt: skip


class StepProfiler:
    """Traces steps `first` to `last` of this process's own, counted from 1; does nothing when they are None."""

    def __init__(
        self, steps: tuple[int, int] | None, storage: Storage, run: str, emit: Callable[[str], None], tracker: Tracker
    ):
        self.storage, self.run, self.emit, self.tracker = storage, run, emit, tracker
        self._profiler: Any = None
        if steps is None:
            return
        self._first, self._last = steps
        self._left = steps[1]
        self._profiler = torch.profiler.profile(
            schedule=torch.profiler.schedule(
                wait=max(0, steps[0] - 2), warmup=min(1, steps[0] - 1), active=steps[1] - steps[0] + 1
            )
        )
        self._profiler.start()

    def step(self) -> None:
        """Say that a step of the loop is over."""
        if self._profiler is None:
            return
        self._left -= 1
        if self._left:
            self._profiler.step()
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._profiler.stop()
        self._publish(self._profiler)
        self._profiler = None

    def close(self) -> None:
        """Say so, where the run ended before its profile did."""
        if self._profiler is not None:
            self._profiler.stop()
            self.emit(
                f"   WARNING profile_steps=[{self._first},{self._last}], but this start had only "
                f"{self._last - self._left} steps: nothing was traced"
            )

    def _publish(self, profiler: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-profile-")  # until the tracker has sent the table
        trace, table = Path(self._folder.name, "trace-rank0.json.gz"), Path(self._folder.name, "table.txt")
        profiler.export_chrome_trace(str(trace))
        text = table_text(
            step_parts(profiler.events()), self._last - self._first + 1, f"steps {self._first} to {self._last}"
        )
        table.write_text(text + "\n", encoding="utf-8")
        for line in text.splitlines():
            self.emit(f"   {line}")
        for path in (trace, table):
            copy = self.storage.scratch(f"{self.run}/profile/{path.name}")
            copy.write_bytes(path.read_bytes())
            self.storage.put(copy, f"{self.run}/profile/{path.name}")
        self.tracker.file(table, "profile")
        self.emit(
            f"   trace: {self.storage.uri}/{self.run}/profile/trace-rank0.json.gz (open it in https://ui.perfetto.dev)"
        )


def step_parts(events: Sequence[Any]) -> dict[str, float]:
    """Microseconds of all traced steps by part; they sum to the steps' wall time.

    Args: events, torch.profiler's FunctionEvents.
    """
    steps = [event for event in events if event.name.startswith("ProfilerStep") and event.device_type.name == "CPU"]
    spans = [(step.time_range.start, step.time_range.end) for step in steps]
    if torch.cuda.is_available():
        kernels = [
            (event.name, event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        ]
        return device_parts(kernels, spans)
    parts: dict[str, float] = {}
    losses = {event.sequence_nr for event in events if event.sequence_nr >= 0 and "step/loss" in _names_above(event)}
    for event in events:
        if event.thread == steps[0].thread and any(start <= event.time_range.start < end for start, end in spans):
            part = _host_part(event, losses)
            parts[part] = parts.get(part, 0.0) + event.self_cpu_time_total
    return parts


def device_parts(kernels: Iterable[tuple[str, float, float]], spans: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Time of the spans by what ran on the GPU.

    Args: (name, start, end) of kernels; (start, end) of steps; one unit for all.
    """
    pieces = [(_kernel_part(name), start, end) for name, start, end in kernels]
    rank = {
        part: i
        for i, part in enumerate(
            sorted({part for part, _, _ in pieces}, key=lambda p: p in ("communication", "copies"))
        )
    }
    edges = sorted(
        {time for _, start, end in pieces for time in (start, end)} | {time for span in spans for time in span}
    )
    begins = sorted(pieces, key=lambda kernel: kernel[1])
    parts: dict[str, float] = {}
    running: list[tuple[str, float, float]] = []
    at = 0
    for start, end in itertools.pairwise(edges):
        while at < len(begins) and begins[at][1] <= start:
            running.append(begins[at])
            at += 1
        running = [kernel for kernel in running if kernel[2] > start]
        if any(first <= start < last for first, last in spans):
            part = min((kernel[0] for kernel in running), key=lambda p: rank[p], default="GPU idle")
            parts[part] = parts.get(part, 0.0) + end - start
    return parts


def table_text(parts: Mapping[str, float], steps: int, which: str) -> str:
    """The table. Args: microseconds by part over `steps` steps."""
    total = sum(parts.values())
    lines = [f"where a step's time goes: {which}, {total / steps / 1e3:,.1f} ms each, on rank 0"]
    for part in sorted(parts, key=_ORDER.index):
        share = parts[part] / total
        lines.append(
            f"  {part:<27} {parts[part] / steps / 1e3:>10,.2f} ms  {share:>6.1%}  {'█' * round(40 * share)}".rstrip()
        )
    return "\n".join(lines)


def _host_part(event: Any, losses: set[int]) -> str:
    own = event.name
    if any(mark in own for mark in _COMMUNICATION):
        return "communication"
    above = list(_names_above(event))
    for name in above:
        if name in ("step/data", "step/checkpoint", "step/optimizer"):
            return _RANGES[name]
    if "step/loss" in above or any(number in losses for number in _backward_numbers(event)):
        return "loss"
    if any(mark in name for name in above for mark in _ATTENTION):
        return "attention"
    if own in _PRODUCTS:
        return "matrix products"
    return "normalisation, elementwise" if own.startswith("aten::") else "Python and the rest"


def _names_above(event: Any) -> Iterator[str]:
    """The event's name and those of all that it ran in."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _backward_numbers(event: Any) -> Iterator[int]:
    while event is not None:
        if event.name.startswith("autograd::engine::evaluate_function"):
            yield event.sequence_nr
        event = event.cpu_parent


def _kernel_part(name: str) -> str:
    lower = name.lower()
    for part, marks in (
        ("communication", ("nccl",)),
        ("attention", _ATTENTION),
        ("matrix products", _PRODUCT_KERNELS),
        ("optimizer", _OPTIMIZER_KERNELS),
        ("copies", ("memcpy", "memset")),
        ("loss", ("softmax", "nll", "cross_entropy")),
    ):
        if any(mark in lower for mark in marks):
            return part
    return "normalisation, elementwise"
