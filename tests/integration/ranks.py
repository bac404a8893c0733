"""Training processes that torchrun starts once, and in which tests then call functions: a start with DeepSpeed costs
ten seconds.

    ranks = Ranks(2, folder)
    done = ranks.call(train, spec)     # on both processes at once; what rank zero printed and returned
    assert done.error == ""

A function is importable and its arguments can be pickled. An error on every rank leaves the processes as they are;
where one rank fails and another waits for it in a collective, all are ended, and the next call starts new ones.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import below, send
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
_GRACE_SECONDS = 60  # for the other ranks, after one has failed


@dataclass(frozen=True)
class Done:
    """What a call came to: rank zero's result and what it printed, and the traceback of the lowest rank that failed."""

    result: Any
    out: str
    error: str


class Ranks:
    """A number of processes under torchrun, started by the first call."""

    def __init__(self, count: int, folder: Path):
        self.count, self._folder = count, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._starts, self._calls = itertools.count(), 0

    def call(self, function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> Done:
        """Run `function(*arguments)` on every rank, with these variables set meanwhile."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        number, self._calls = self._calls, self._calls + 1
        _write(self._room / f"call-{number}", pickle.dumps((function, arguments, dict(environment or {}))))
        files = [self._room / f"done-{number}-{rank}" for rank in range(self.count)]
        what = f"{function.__name__} on {self.count} ranks"
        wait_until(lambda: any(f.exists() for f in files) or self._ended(), what, self._log)
        with contextlib.suppress(AssertionError):
            failed = any(pickle.loads(f.read_bytes())[2] for f in files if f.exists())
            patience = _GRACE_SECONDS if failed else PATIENCE_SECONDS
            wait_until(lambda: all(f.exists() for f in files) or self._ended(), what, seconds=patience)
        found = [pickle.loads(f.read_bytes()) if f.exists() else (None, "", "") for f in files]
        errors = [error for _, _, error in found if error]
        if not all(f.exists() for f in files):
            self.stop()
            errors = errors or [f"{what}: not every rank came to its end\n{self._log()}"]
        return Done(found[0][0], found[0][1], errors[0] if errors else "")

    def stop(self) -> None:
        """End the processes, if there are any."""
        if self._process is not None:
            send(below(self._process.pid), signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        self._room, self._calls = self._folder / f"start-{next(self._starts)}", 0
        self._room.mkdir(parents=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.count}"]
        with (self._room / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-m", __name__, str(self._room), str(os.getpid())], cwd=ROOT, stdout=log, stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _log(self) -> str:
        return (self._room / "log").read_text(errors="replace")[-4000:]


def _write(path: Path, data: bytes) -> None:
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").rename(path)  # whole or not at all


def _serve(room: Path, starter: int) -> None:
    """Do what is asked for, until the process that started this one is gone."""
    import torch
    import torch.distributed as dist

    from pipelines.train.update.engine import start_distributed

    start_distributed()
    for number in itertools.count():
        while not (room / f"call-{number}").exists():
            if not Path(f"/proc/{starter}").exists():
                os._exit(1)
            time.sleep(0.02)
        function, arguments, environment = pickle.loads((room / f"call-{number}").read_bytes())
        before, result, error = dict(os.environ), None, ""
        os.environ.update(environment)
        torch.set_num_threads(1)  # a run sets as many as there are cores for each rank
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                result = function(*arguments)
            except BaseException:
                error = traceback.format_exc()
        os.environ.clear()
        os.environ.update(before)
        answer = (result if dist.get_rank() == 0 else None, out.getvalue(), error)
        _write(room / f"done-{number}-{dist.get_rank()}", pickle.dumps(answer))


def train(spec: dict[str, Any]) -> None:
    """A run, as `torchrun -m pipelines.train.worker` does it."""
    from pipelines.display.progress import say
    from pipelines.train.worker import work

    work(spec, say)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
