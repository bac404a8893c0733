"""Findings of the GPU programme, written one by one: a process that is killed loses nothing it found.

Enters: named parts of a step, each with the seconds it wants. Leaves: `$OUT/results.json`, section by section.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

BEGAN = time.time()
OUT = Path(os.environ.get("OUT", "/tmp/gpu_out"))
TINY = bool(os.environ.get("TINY"))  # toy sizes: to try the programme without a GPU
DEADLINE = float(os.environ.get("STEP_DEADLINE", BEGAN + 3600))  # Unix time at which this process is killed
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def left() -> float:
    """Seconds until this process is killed."""
    return DEADLINE - time.time()


def say(*words: object) -> None:
    """Print, with the seconds since this process began."""
    print(f"[{time.time() - BEGAN:6.1f}s]", *words, flush=True)


def put(section: str, key: str, value: object) -> None:
    """Write a finding into results.json at once; processes may do so side by side."""
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "results.json", "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        recorded = json.loads(text) if text.strip() else {}
        recorded.setdefault(section, {})[key] = value
        file.seek(0)
        file.truncate()
        file.write(json.dumps(recorded, indent=1, default=str))
    say(section, key, json.dumps(value, default=str)[:1500])


def findings(section: str | None = None) -> dict:
    """What was found so far, all of it or one section."""
    path = OUT / "results.json"
    everything = json.loads(path.read_text(encoding="utf-8") or "{}") if path.exists() else {}
    return everything if section is None else everything.get(section, {})


@contextlib.contextmanager
def part(section: str, key: str, needs: float = 0.0) -> Iterator[bool]:
    """Run a part of a step. Yields: whether there is time for it (`needs` seconds).

    An error goes into the results and leaves the parts after it alone.
    """
    if left() < needs:
        put(section, f"{key}!skipped", f"{left():.0f} s left, wants {needs:.0f}")
        yield False
        return
    began = time.time()
    try:
        yield True
    except Exception as error:
        put(section, f"{key}!error", {"error": repr(error)[:600], "trace": traceback.format_exc()[-2500:]})
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
    say(section, key, f"took {time.time() - began:.1f} s")


def sync() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def median_ms(work: Callable[[], object], repeat: int = 20, warm: int = 4) -> float:
    """Median milliseconds of `work`, by CUDA events on a GPU."""
    if TINY:
        repeat, warm = 2, 1
    for _ in range(warm):
        work()
    sync()
    times = []
    for _ in range(repeat):
        if CUDA:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            work()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended))
        else:
            start = time.perf_counter()
            work()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)
