"""Run steps one after another, each a process of its own within its own time: one that fails leaves the others alone.

Enters: names of steps, seconds for all. Leaves, in `$OUT`: `log.txt` (all output), `steps.tsv` (exit, seconds), and
what the steps write into `results.json`.

A step is given what the steps after it leave, but at least its own expected seconds, so the last are dropped first. One
that is over its time is told to end, and with all that it started killed five seconds later.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.steps import STEPS, Step

_LEAST = 12  # seconds for which no process is started
_GRACE = 5
_COLUMNS = 300  # of a line that is shown; log.txt has it whole


class Programme:
    """One call on a card."""

    def __init__(self, seconds: float, out: Path, root: Path, before: Path | None):
        """Args: root, today's checkout; before, the other commit's, None where there is none."""
        self.ends, self.out, self.root, self.before = time.time() + seconds, out, root, before
        self.patience = 6 if os.environ.get("TINY") else 1  # a CPU is slow even at toy sizes
        out.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.time()

    def run(self, steps: Sequence[Step]) -> None:
        """All of them, in this order."""
        for number, step in enumerate(steps):
            later = self.patience * sum(other.seconds for other in steps[number + 1 :] if not other.spare)
            own = max(min(self.patience * step.seconds, self.left()), self.left() - later)
            most = min(self.patience * step.limit, own)
            self._one(step, most)

    def _one(self, step: Step, most: float) -> None:
        """A step, and what runs beside it."""
        ends = time.time() + most
        threads = [threading.Thread(target=self._chain, args=(chain, ends)) for chain in step.beside]
        for thread in threads:
            thread.start()
        self._process(step, most, True)
        for thread in threads:
            thread.join()

    def _chain(self, names: Sequence[str], ends: float) -> None:
        """Steps one after another, unseen but in the log."""
        for step in (STEPS[name] for name in names):
            if not step.before or self.before:
                self._process(step, min(ends - time.time(), self.patience * step.limit), False)

    def _process(self, step: Step, most: float, shown: bool) -> None:
        if step.before and not self.before:
            return self._note(step, "skipped", "no base.tar.xz")
        if most < _LEAST:
            return self._note(step, "skipped", f"{self.left():.0f} s left")
        began = time.time()
        self._line(f"=== {step.name}: {step.says} (at most {most:.0f} s, {self.left():.0f} s left)", True)
        root = self.before if step.before and self.before else self.root
        command = [part.replace("{python}", sys.executable) for part in step.command]
        path = [part for part in os.environ.get("PYTHONPATH", "").split(":") if part and Path(part) != self.root]
        environment = {
            **os.environ,
            "OUT": str(self.out),
            "STEP": step.name,
            "OTHER": str((self.root if step.before else self.before) or ""),
            "STEP_DEADLINE": str(began + most),
            "PYTHONPATH": ":".join([*path, str(root)]),
        }
        try:
            process = subprocess.Popen(
                command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return self._note(step, "failed", repr(error))
        timer = threading.Timer(most, self._end, (process, step))
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            self._line(f"{step.name}: {line.rstrip()}" if not shown else line.rstrip(), shown)
        code = process.wait()
        timer.cancel()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what it left running
            os.killpg(process.pid, signal.SIGKILL)
        self._note(step, str(code), f"{time.time() - began:.0f}")

    def _end(self, process: subprocess.Popen[str], step: Step) -> None:
        self._line(f"=== {step.name}: over its time, ended", True)
        for how, wait in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait or None)
                # the pipe stays open while a child of it lives
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                return

    def _line(self, line: str, shown: bool) -> None:
        with self._lock:
            with open(self.out / "log.txt", "a", encoding="utf-8") as log:
                log.write(line + "\n")
            if shown:
                print(line[:_COLUMNS], flush=True)

    def _note(self, step: Step, code: str, more: str) -> None:
        with self._lock:
            with open(self.out / "steps.tsv", "a", encoding="utf-8") as table:
                table.write(f"{step.name}\t{code}\t{more}\n")
            print(f"=== {step.name}: {code} {more}", flush=True)
