"""What the machine of a run does meanwhile: processors, memory, disk, network, GPUs, as MLflow's page of them expects.

Enters: nothing but time. Leaves: numbers named `system/…` into the run's spool, so that a server that is away costs
nothing. MLflow's own monitor asks its server from within the process, and needs a run before it can begin.

Measured is the machine of one process: of rank zero where there are workers, else of the command.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_GPU_SECONDS = 10.0  # nvidia-smi waits for a driver that has fallen asleep
_GPU = {  # what nvidia-smi is asked for -> name, and how many of its unit are one of the name's
    "utilization.gpu": ("utilization_percentage", 1.0),
    "memory.used": ("memory_usage_megabytes", 1.048576),  # it counts in MiB
    "memory.total": ("memory_total_megabytes", 1.048576),
    "power.draw": ("power_usage_watts", 1.0),
}


class Sampler:
    """A thread that measures every so often until it is told to stop."""

    def __init__(self, log: Callable[[Mapping[str, float], int], None], every_seconds: float, began: float):
        """Args: log, takes the numbers and the seconds since `began`, which is in seconds of the clock."""
        self._log, self._every, self._began = log, every_seconds, began
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Measure no more; one that is under way is not waited for longer than a moment."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # a container that shows less of its machine: the work goes on without
            import psutil

            psutil.cpu_percent()  # the next call tells of the time since this one
            first = _network()
            # the first one soon: a run may last less than the pause
            pause = min(2.0, self._every)
            while not self._stop.wait(pause):
                numbers, pause = measured(first), self._every
                if not self._stop.is_set():
                    self._log(numbers, max(0, round(time.time() - self._began)))


def measured(first: tuple[float, float]) -> dict[str, float]:
    """The numbers of now, under MLflow's names. Args: first, what the network had counted when measuring began."""
    import psutil

    memory, disk, network = psutil.virtual_memory(), shutil.disk_usage(Path.cwd()), _network()
    numbers = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": 100 * memory.used / memory.total,
        "system/disk_usage_percentage": 100 * disk.used / disk.total,
        "system/disk_usage_megabytes": disk.used / 1e6,
        "system/disk_available_megabytes": disk.free / 1e6,
    }
    for name, count, before in zip(("receive", "transmit"), network, first, strict=True):
        numbers[f"system/network_{name}_megabytes"] = (count - before) / 1e6
    return {name: round(value, 2) for name, value in (numbers | gpus()).items()}


def _network() -> tuple[float, float]:
    """Bytes that came to this machine and left it, since it was started."""
    import psutil

    cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    return float(sum(card.bytes_recv for card in cards)), float(sum(card.bytes_sent for card in cards))


def gpus() -> dict[str, float]:
    """The numbers of every GPU of this machine; {} where there is none, or its driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    asked = [program, f"--query-gpu=index,{','.join(_GPU)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return gpu_numbers(answer)


def gpu_numbers(answer: str) -> dict[str, float]:
    """Numbers by MLflow's names, out of nvidia-smi's lines: index, then what `_GPU` asks for."""
    numbers: dict[str, float] = {}
    for line in answer.splitlines():
        index, *values = [value.strip() for value in line.split(",")]
        told: dict[str, float] = {}
        for (name, unit), value in zip(_GPU.values(), values, strict=False):
            with contextlib.suppress(ValueError):  # [N/A], [Not Supported]
                told[name] = float(value) * unit
        total = told.pop("memory_total_megabytes", 0.0)
        if total and "memory_usage_megabytes" in told:
            told["memory_usage_percentage"] = 100 * told["memory_usage_megabytes"] / total
        numbers |= {f"system/gpu_{index}_{name}": value for name, value in told.items()}
    return numbers
