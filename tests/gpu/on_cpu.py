"""A process to which the GPU is hidden: runs cases on the CPU, reads the GPU's checkpoints there and writes its own.

    python -m tests.gpu.on_cpu      one request a line on its input, as JSON; one answer a line, after `ANSWER `

`Other` starts and asks it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MARK = "ANSWER "


class Other:
    """That process, from outside. Requests are answered in their order, while the asking process goes on."""

    def __init__(self) -> None:
        hidden = {
            "CUDA_VISIBLE_DEVICES": "",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": str(min(4, os.cpu_count() or 1)),
        }
        own = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.on_cpu"], cwd=ROOT, env={**own, **hidden}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip
        self._asked = self._answered = 0
        self._answers: dict[int, Any] = {}

    def ask(self, **request: Any) -> int:
        """Send a request. Returns: its ticket, for `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._asked += 1
        return self._asked

    def answer(self, ticket: int) -> Any:
        """What it answered; waits for it. Raises: AssertionError with what it said when it ended or failed."""
        assert self._process.stdout is not None
        while self._answered < ticket:
            line = self._process.stdout.readline()
            assert line, f"the process on the CPU ended: {self._last_words()}"
            if line.startswith(_MARK):
                self._answered += 1
                self._answers[self._answered] = json.loads(line.removeprefix(_MARK))
        found = self._answers[ticket]
        assert "error" not in found, f"on the CPU: {found['error']}"
        return found["value"]

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        return self._said.read()[-2000:]

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def curves(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The first steps of each case."""
    from tests.gpu.cases import curve

    return {name: curve(one) for name, one in cases.items()}


def go_on(case: dict[str, Any], folder: str, run: str, back: str) -> dict[str, Any]:
    """Fill an engine from the latest checkpoint of `run`, save the same as `back`, then take the next step.

    Returns: its curve, and the checkpoint's ZeRO stage.
    """
    from pipelines.store.storage import FolderStorage
    from pipelines.train.checkpoint import load, load_random_states, open_checkpoint
    from tests.gpu.cases import running, train
    from tests.gpu.saving import save

    checkpoint = open_checkpoint(FolderStorage(Path(folder)), run)
    with running(case) as engine:
        load(engine, checkpoint, optimizer_state=True)
        load_random_states(checkpoint)
        save(engine, checkpoint.step, Path(folder), back)
        return {"curve": train(engine, case, [checkpoint.step]), "zero_stage": checkpoint.state["zero_stage"]}


def main() -> None:
    from pipelines.train.update.engine import start_distributed

    start_distributed()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            done = {"value": {"curves": curves, "go_on": go_on}[request.pop("do")](**request)}
        except Exception as error:
            done = {"error": repr(error)[:2000]}
        print(_MARK + json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
