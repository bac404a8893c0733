"""Speed and memory on this machine: every model in processes of its own, their rounds taken in turn.

Enters: what to load, by which runtime, with how many threads. Leaves: for each a `Measured`: tokens a second of every
round, and the most memory that its process had; or the reason why it was not measured.

Why in turn: another program that takes a core for a minute then slows all models alike, and not one of them. So models
are compared round by round (`compared`): what a round of one took beside the same round of another. The order turns by
one place in each round. One round before the first is not counted: it reads the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.train.cost import process
from pipelines.train.cost.process import Order, Timed

_ROOM = 0.6  # of the memory that is free, what processes may take together
_INTERPRETER_BYTES = 700 << 20  # Python with torch and transformers, measured
_ERROR_LINES = 3
_LEAST_ROUNDS = 5  # that must agree before a difference is told: by chance they do in 1 of 16 cases


@dataclass(frozen=True)
class Figure:
    """The rounds of one number: its median, and the least and the most of them."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)

    @property
    def spread(self) -> float:
        """The whole range of the rounds as a share of their median."""
        return (self.high - self.low) / self.median

    def __str__(self) -> str:
        return f"{self.median:,.3g} ({self.low:,.3g}–{self.high:,.3g})"


@dataclass(frozen=True)
class Measured:
    """One model with so many threads."""

    threads: int
    prompt: Figure | None = None  # tokens a second
    decode: Figure | None = None
    prompt_tokens: int = 0  # of a round, as the model's positions allow
    new_tokens: int = 0
    peak_bytes: int = 0  # of the process, Python and libraries counted
    before_bytes: int = 0  # of it, before the model was loaded
    load_seconds: float = 0.0
    runtime: str = ""  # with its version
    unmeasured: str = ""  # the reason; "": it was measured


@dataclass(frozen=True)
class Task:
    """One process to come. Attributes: key, who asks; weight_bytes, of all parameters in float32: the room it takes."""

    key: str
    order: Order
    weight_bytes: int


class _Process:
    """A running process and the rounds that it has taken."""

    def __init__(self, task: Task, errors: IO[bytes]):
        self.task, self.errors, self.failed = task, errors, ""
        self.rounds: list[Timed] = []
        self.about: dict[str, Any] = {}
        self.peak_bytes = 0
        threads = str(task.order.threads)
        beside = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        self.child = subprocess.Popen(
            [sys.executable, "-m", process.__name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8",
            cwd=Path(__file__).parents[3],
            env={**os.environ, **beside, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )  # fmt: skip
        self._say(json.dumps(dataclasses.asdict(task.order)))

    def load(self) -> None:
        """Wait until the model is there."""
        self.about = self._answer()

    def round(self, counted: bool) -> None:
        """Have one round taken."""
        if self.failed:
            return
        self._say("round")
        answer = self._answer()
        if answer:
            self.peak_bytes = answer["peak_bytes"]
            if counted:
                self.rounds.append(Timed(**answer["timed"]))

    def measured(self) -> Measured:
        """What it took."""
        threads = self.task.order.threads
        if self.failed or not self.rounds:
            return Measured(threads, unmeasured=self.failed or "no round was taken")
        return Measured(
            threads,
            prompt=Figure(tuple(timed.prompt_speed for timed in self.rounds)),
            decode=Figure(tuple(timed.decode_speed for timed in self.rounds)),
            prompt_tokens=self.about["prompt_tokens"], new_tokens=self.about["new_tokens"],
            peak_bytes=self.peak_bytes, before_bytes=self.about["before_bytes"],
            load_seconds=self.about["load_seconds"], runtime=self.about["ready"],
        )  # fmt: skip

    def end(self) -> None:
        """Have it end, at once where it does not."""
        with contextlib.suppress(OSError):
            assert self.child.stdin is not None
            self.child.stdin.close()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        assert self.child.stdout is not None
        self.child.stdout.close()

    def _say(self, line: str) -> None:
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
        except OSError:  # it has died: the answer that does not come tells
            pass

    def _answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        if not line:
            self.failed = f"its process ended with code {self.child.wait()}: {self._last_words()}"
        elif "error" in answer:
            self.failed = answer["error"]
            return {}
        return answer

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return " / ".join(lines[-_ERROR_LINES:]) or "it said nothing"


def measure(tasks: Sequence[Task], rounds: int, tell: Callable[[str], None] = lambda words: None) -> list[Measured]:
    """Every task's figures, in their order. Args: rounds, counted ones; tell, is told of each step in words."""
    measured: dict[int, Measured] = {}
    groups = list(grouped(tasks, free_bytes()))
    for group in groups:
        measured.update(zip(group, _together([tasks[place] for place in group], rounds, tell), strict=True))
    return [measured[place] for place in range(len(tasks))]


def grouped(tasks: Sequence[Task], free: float) -> Iterator[list[int]]:
    """Places of the tasks whose processes live at the same time: all, or those of one model where that is too much."""
    needed = sum(task.weight_bytes + _INTERPRETER_BYTES for task in tasks)
    if needed <= _ROOM * free:
        yield list(range(len(tasks)))
        return
    for key in dict.fromkeys(task.key for task in tasks):
        yield [place for place, task in enumerate(tasks) if task.key == key]


def _together(tasks: Sequence[Task], rounds: int, tell: Callable[[str], None]) -> list[Measured]:
    with contextlib.ExitStack() as stack:
        running: list[_Process] = []
        for task in tasks:  # one after the other: loads would slow each other down
            tell(f"load {task.key}, threads {task.order.threads}")
            one = _Process(task, stack.enter_context(tempfile.TemporaryFile()))
            stack.callback(one.end)
            one.load()
            running.append(one)
        for number in range(rounds + 1):
            tell(f"round {number} of {rounds}")
            turned = number % max(1, len(running))
            for one in (*running[turned:], *running[:turned]):
                one.round(counted=number > 0)
        return [one.measured() for one in running]


def free_bytes() -> float:
    """Memory that processes may still have."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024.0
    return 0.0


@dataclass(frozen=True)
class Ratio:
    """How much faster one is than another, round by round."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def told(self) -> bool:
        """Whether every round says the same, and there are enough of them."""
        return self.rounds >= _LEAST_ROUNDS and (self.low > 1 or self.high < 1)


def compared(one: Figure, other: Figure) -> Ratio | None:
    """`one` over `other`, round by round; None where they have not the same rounds."""
    if len(one.rounds) != len(other.rounds):
        return None
    ratios = [mine / its for mine, its in zip(one.rounds, other.rounds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


@dataclass(frozen=True)
class Host:
    """The machine that it was measured on."""

    cpu: str
    cores: int  # that this process may use
    memory_bytes: float


def this_host() -> Host:
    """The machine of this process."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Host(names[0] if names else os.uname().machine, len(os.sched_getaffinity(0)), memory)
