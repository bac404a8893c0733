"""When `make` makes the environment anew: when what it is made of has changed, whatever the files' dates."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that decide, and no environment."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    return tmp_path


def would_do(clone: Path) -> str:
    """What `make setup` would run."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", "setup"]
    return subprocess.check_output(command, cwd=clone, text=True, timeout=PATIENCE_SECONDS, env=variables)


def made(clone: Path) -> None:
    """Leave what `make setup` leaves at its end."""
    last = would_do(clone).strip().splitlines()[-1]
    assert re.fullmatch(r"echo [0-9a-f]{16} > \.venv/\.ready", last)
    subprocess.run(last, shell=True, cwd=clone, check=True)


def test_an_environment_that_is_ready_is_left_alone_whatever_the_dates(clone: Path) -> None:
    assert "pip install" in would_do(clone)
    made(clone)
    os.utime(clone / ".venv/.ready", (0, 0))  # a fresh clone's files are all newer
    assert "pip install" not in would_do(clone)


def test_one_of_before_that_says_nothing_is_made_anew(clone: Path) -> None:
    (clone / ".venv/.ready").touch()
    assert "pip install" in would_do(clone)


@pytest.mark.parametrize(
    ("file", "line", "changed", "anew"),
    [
        ("constraints.txt", "xxhash==", "xxhash==0.0.", True),
        ("constraints.txt", "# Every", "# All, every", False),
        ("pyproject.toml", '    "xxhash",', '    "xxhash",\n    "zstandard",', True),
        ("pyproject.toml", 'llama = ["llama-cpp-python"]', 'llama = ["llama-cpp-python>=1"]', True),
        ("pyproject.toml", "trunkline = ", "other = ", True),
        ("pyproject.toml", 'requires-python = ">=3.11', 'requires-python = ">=3.12', True),
        ("pyproject.toml", "line-length = 120", "line-length = 100", False),
        ("pyproject.toml", 'description = "', 'description = "It ', False),
        ("pyproject.toml", '    "xxhash",', '    "xxhash",  # faster than hashlib', False),
    ],
)
def test_what_changes_the_packages_makes_it_anew_and_nothing_else(
    clone: Path, file: str, line: str, changed: str, anew: bool
) -> None:
    made(clone)
    text = (clone / file).read_text()
    assert text.count(line) == 1
    (clone / file).write_text(text.replace(line, changed))
    assert ("pip install" in would_do(clone)) == anew
