"""What the shards of a job cost: CPU seconds, memory, bytes read and left, by stage.

    meter = Meter(cluster.map_shards, folder)      a `ShardMap` that counts, around one that works
    build(config, draft, meter)
    meter.stages["clean"].core_seconds

It works around any `ShardMap`; the plan measures a sample with it in this process, the benchmark a whole corpus over
workers.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipelines.cluster.cluster import ShardMap

R = TypeVar("R")


@dataclass
class Measured:
    """One stage, all of its shards added up."""

    name: str
    tasks: int = 0
    core_seconds: float = 0.0
    seconds: float = 0.0  # from its first shard to its last
    memory_bytes: int = 0  # what the hungriest shard added to its process
    read_bytes: int = 0  # by read calls, from page cache or disk; mapped files are not counted
    left_bytes: int = 0  # in the folder, more than before
    shards: list[tuple[Any, Any, float]] = field(default_factory=list)  # (shard, its result, core seconds)


def metered(function: Callable[[Any], R]) -> Callable[[Any], tuple[R, float, int, int]]:
    """A shard function that gives its result, core seconds, bytes of memory added and bytes read."""

    def measure(shard: Any) -> tuple[R, float, int, int]:
        before, read, began = _reset_peak(), _read_so_far(), time.process_time()
        result = function(shard)
        return result, time.process_time() - began, max(0, _peak() - before), _read_so_far() - read

    return measure


class Meter:
    """A `ShardMap` around another. Args: folder, whose growth is measured."""

    def __init__(self, inner: ShardMap, folder: Path):
        self.inner, self.folder = inner, folder
        self.stages: dict[str, Measured] = {}

    def __call__(
        self,
        function: Callable[[Any], R],
        shards: Sequence[Any],
        label: str,
        describe: Callable[[R], dict[str, Any]] | None = None,
    ) -> list[R]:
        """Apply the function, as `ShardMap` says."""
        stage = self.stages.setdefault(label, Measured(label))
        before, began = folder_bytes(self.folder), time.monotonic()

        def counts(cost: tuple[R, float, int, int]) -> dict[str, Any]:
            return describe(cost[0]) if describe else {}

        measured = self.inner(metered(function), shards, label, counts)
        stage.seconds += time.monotonic() - began
        stage.left_bytes += folder_bytes(self.folder) - before
        stage.tasks += len(shards)
        for shard, (result, core_seconds, memory, read) in zip(shards, measured, strict=True):
            stage.core_seconds += core_seconds
            stage.memory_bytes = max(stage.memory_bytes, memory)
            stage.read_bytes += read
            stage.shards.append((shard, result, core_seconds))
        return [result for result, *_ in measured]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for where, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(where, file)).st_size
            except FileNotFoundError:  # a temporary file that was renamed meanwhile
                continue
    return total


def _reset_peak() -> int:
    """Begin a new peak where the kernel can; returns the bytes in memory now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field_name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field_name}:")), 0)


def _read_so_far() -> int:
    try:
        return int(Path("/proc/self/io").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):
        return 0
