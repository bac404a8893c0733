"""The lanes of `make test`: what becomes of the tests of one whose process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests import lanes

def pytest_xdist_make_scheduler(config, log):
    return lanes.scheduler(config, log)
"""
TESTS = """
import os, signal
from pathlib import Path

def note(name):
    with (Path(__file__).parent / "notes").open("a") as notes:
        notes.write(name + " ")

def test_before():
    note("before")

def test_ends_its_process():
    note("ends")
    os.kill(os.getpid(), signal.SIGKILL)

def test_after():
    note("after")
"""


@pytest.mark.slow
def test_a_test_that_ends_its_lane_fails_once_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_one.py").write_text(TESTS)
    (tmp_path / "test_two.py").write_text("def test_two():\n    pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "1",
        "-c",
        "/dev/null",
        f"--rootdir={tmp_path}",
        str(tmp_path),
        "--junitxml",
    ]
    done = subprocess.run(
        [*command, str(tmp_path / "junit.xml")], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 3 passed" in done.stdout
    assert "crashed while running 'test_one.py::test_ends_its_process'" in done.stdout
    assert (tmp_path / "notes").read_text().split() == ["before", "ends", "after"]
    assert (tmp_path / "junit.xml").read_text().count("<testcase ") == 4
