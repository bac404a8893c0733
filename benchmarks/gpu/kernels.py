"""Three steps under the profiler: the product's own table, and the largest kernels that are no matrix product.

Leaves, in a section of results.json: `profile`, the table's lines; `kernels`, the largest by name; `not_products`, the
five largest that are no product.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile as torch_profile
from torch.profiler import record_function, schedule

import benchmarks.train as bench
from benchmarks.gpu.record import CUDA, OUT, left, put, say
from benchmarks.gpu.setting import Built
from pipelines.train.run.profile import _kernel_part, step_parts, table_text

STEPS = 3


def profile(built: Built, section: str) -> None:
    """Trace three steps of two micro-batches."""
    assert built.arm is not None
    built.seconds(1, 2, warm=0)
    options = argparse.Namespace(**{**vars(built.options), "accumulation": 2})
    read = [bench.batches(options, built.model, 90 + number, built.arm) for number in range(STEPS + 1)]
    with torch_profile(schedule=schedule(wait=0, warmup=1, active=STEPS)) as profiler:
        for number, batches in enumerate(read):
            built.arm.step(batches)
            # so that a step's kernels end in its own span
            if CUDA:
                with record_function("step/wait"):
                    torch.cuda.synchronize()
            if number < STEPS:  # one more would begin anew, and forget
                profiler.step()
    events = profiler.events()
    say(f"{len(events):,} events")
    rows = largest(events)
    put(section, "kernels", rows[:30])
    put(section, "not_products", [row for row in rows if row["part"] != "matrix products"][:5])
    lines = table_text(step_parts(events), STEPS, "three of two micro-batches").splitlines()
    put(section, "profile", lines)
    if os.environ.get("TRACE") and left() > 25:  # it takes seconds, and the machine gives few files back
        trace = Path(OUT, f"trace-{section.replace(' ', '-')}.json")
        profiler.export_chrome_trace(str(trace))
        with open(trace, "rb") as plain, gzip.open(f"{trace}.gz", "wb", 3) as packed:
            shutil.copyfileobj(plain, packed)
        trace.unlink()


def largest(events: Any) -> list[dict[str, Any]]:
    """Kernels by name, the longest first; of a CPU, operations."""
    kind = "CUDA" if CUDA else "CPU"
    spent: dict[str, list[float]] = {}
    for event in events:
        if event.device_type.name == kind and not event.is_user_annotation:
            time = event.time_range.elapsed_us() if CUDA else event.self_cpu_time_total
            spent.setdefault(event.name, []).append(time)
    total = sum(map(sum, spent.values())) or 1.0
    ordered = sorted(spent.items(), key=lambda item: -sum(item[1]))
    return [
        {
            "ms_per_step": round(sum(times) / STEPS / 1e3, 3),
            "share": round(sum(times) / total, 4),
            "calls_per_step": round(len(times) / STEPS, 1),
            "part": _kernel_part(name),
            "name": name[:140],
        }
        for name, times in ordered
    ]
