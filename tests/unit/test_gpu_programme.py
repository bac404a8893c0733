"""The GPU programme's own machinery: steps that fail, hang or have no time leave the others alone, and results come
back whatever ends them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.gpu import programme
from benchmarks.gpu.programme import Programme
from benchmarks.gpu.steps import FIRST, STEPS, Step
from benchmarks.gpu.summary import write_summary


def step(name: str, text: str, **changes: object) -> Step:
    return Step(name, ("{python}", "-c", text), **{"seconds": 20, "limit": 60, "says": "a test", **changes})  # type: ignore[arg-type]


def ended(out: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in (out / "steps.tsv").read_text().splitlines()]
    return {name: code for name, code, _ in rows}


def test_a_step_that_fails_or_hangs_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programme, "_LEAST", 0.5)
    monkeypatch.setitem(STEPS, "beside", step("beside", "print('beside it')"))
    monkeypatch.setitem(STEPS, "beside-before", step("beside-before", "print('no')", before=True))
    hangs = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('begins', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    )
    monkeypatch.setattr(programme, "_GRACE", 0.5)
    began = time.monotonic()
    Programme(600, tmp_path, tmp_path, None).run(
        [
            step("fails", "print('x' * 1000); raise SystemExit(3)", beside=(("beside", "beside-before"),)),
            step("hangs", hangs, limit=2),
            Step("absent", ("/no/such/program",), 20, 60, "a test"),
            step("before", "print('no')", before=True),
            step("last", "import os; print(os.environ['STEP'], float(os.environ['STEP_DEADLINE']) > 0)"),
        ]
    )
    assert time.monotonic() - began < 250, "the child of the one that hangs was waited for"
    codes = ended(tmp_path)
    assert codes == {
        "fails": "3", "beside": "0", "hangs": "-9", "absent": "failed", "before": "skipped",
        "last": "0",
    }  # fmt: skip
    log = (tmp_path / "log.txt").read_text()
    assert "last True" in log
    assert "beside: beside it" in log
    assert "x" * 1000 in log
    shown = capsys.readouterr().out
    assert "x" * 301 not in shown
    assert "beside it" not in shown


def test_the_last_steps_are_the_first_to_go(tmp_path: Path) -> None:
    one = Programme(100, tmp_path, tmp_path, None)
    given: list[tuple[str, int]] = []
    one._one = lambda step, most: given.append((step.name, round(most)))  # type: ignore[method-assign]
    one.run([step("a", "", seconds=60, limit=90), step("b", "", seconds=30, limit=50), step("c", "", seconds=80)])
    # the first its expected time, though those behind it want more than is left; they see what is left then
    assert given == [("a", 60), ("b", 30), ("c", 60)]
    given.clear()
    one.run([step("a", "", seconds=60, limit=90), step("b", "", seconds=80, limit=90, spare=True)])
    assert given == [("a", 90), ("b", 90)]


def test_every_step_says_what_it_runs() -> None:
    for name in FIRST:
        assert name in STEPS
    for step in STEPS.values():
        assert step.seconds <= step.limit
        assert all(other in STEPS for chain in step.beside for other in chain)


def test_the_summary_is_of_what_there_is(tmp_path: Path) -> None:
    assert "Training" in write_summary(tmp_path)
    arm = {
        "micro_batch": 2, "accumulation": 8, "tokens_per_s": 20000.0, "ms_per_4096_tokens": 204.8, "mfu_causal": 0.37,
        "mfu_full": 0.41, "causal_of_product": None, "loss": 11.0,
    }  # fmt: skip
    found = {
        "card": {"product_tflops": 790.0},
        "ours 2.4b": {
            "micro_batch=2": arm,
            "micro_batch=4 out of memory": "of 80 GiB",
            "swaps": {"as it is": 200.0, "no overlap": 210.0},
        },
        "peer 2.4b": {"micro_batch=1": {**arm, "tokens_per_s": 10000.0}, "profile!error": {"error": "Boom()"}},
    }
    (tmp_path / "results.json").write_text(json.dumps(found))
    text = write_summary(tmp_path)
    assert "ours 2.4b: peer × 2.00" in text
    assert "no overlap: 210.0 (+10.00)" in text
    assert "Boom()" in text
    assert text == (tmp_path / "summary.md").read_text().rstrip("\n")
