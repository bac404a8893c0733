"""When a command reached what, on the one clock of a machine: read by `benchmarks.overhead --startup`.

With TRUNKLINE_TIMELINE=file, every process of the command appends a line `seconds moment` to that file; without,
nothing happens.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def reached(moment: str) -> None:
    """Note that this process has come so far."""
    if path := os.environ.get("TRUNKLINE_TIMELINE"):
        with Path(path).open("a", encoding="utf-8") as timeline:
            timeline.write(f"{time.monotonic():.4f} {moment}\n")
