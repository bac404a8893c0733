"""Where the host waits for the device in a step: by source line, and how often.

PyTorch's own debug mode tells of copies and reads; a wait for the whole device it does not tell of, so that call is
counted apart. While nothing waits, kernels queue and the card has no gaps.
"""

from __future__ import annotations

import argparse
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

import benchmarks.train as bench
from benchmarks.gpu.record import CUDA, sync
from benchmarks.gpu.setting import Built


def of_a_step(built: Built) -> dict[str, int]:
    """Waits in one step of two micro-batches, that are ready beforehand."""
    built.seconds(1, 2, warm=0)
    assert built.arm is not None
    options = argparse.Namespace(**{**vars(built.options), "accumulation": 2})
    batches = bench.batches(options, built.model, 9, built.arm)
    sync()
    waits: dict[str, int] = {}

    def count(kind: str) -> None:
        frames = [frame for frame in traceback.extract_stack()[:-2] if not frame.filename.endswith("warnings.py")]
        where = " < ".join(
            f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}"
            for frame in reversed(frames[-3:])
        )
        waits[f"{kind} {where}"] = waits.get(f"{kind} {where}", 0) + 1

    plain, shown = torch.cuda.synchronize, warnings.showwarning

    def synchronize(*arguments: Any, **named: Any) -> None:
        count("whole device:")
        plain(*arguments, **named)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # not torch's word that this mode itself is a prototype
        warnings.showwarning = lambda message, *_, **__: "called a synchronizing" in str(message) and count("")
        torch.cuda.synchronize = synchronize
        if CUDA:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            built.arm.step(batches)
        finally:
            if CUDA:
                torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize = plain
            warnings.showwarning = shown
    return waits
