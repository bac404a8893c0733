"""What is compiled for one copy of a module serves every other."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

TEXT = """
from pipelines.data.text.kernels import compiled

@compiled
def total(values):
    result = {start}
    for value in values:
        result += value
    return result
"""


def module_at(folder: Path, start: int = 0) -> ModuleType:
    """A module with one kernel, as another copy of the project has it."""
    folder.mkdir()
    (folder / "copied.py").write_text(TEXT.format(start=start), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("copied", folder / "copied.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summed(kernel: Any) -> tuple[int, bool]:
    """The sum of 0, 1, 2 and whether the kernel for it was found compiled."""
    return int(kernel(np.arange(3))), sum(kernel.stats.cache_hits.values()) > 0


@pytest.fixture(autouse=True)
def no_cache_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))


def test_a_copy_finds_what_another_compiled_and_one_that_differs_does_not(tmp_path: Path) -> None:
    assert summed(module_at(tmp_path / "first").total) == (3, False)
    assert summed(module_at(tmp_path / "second").total) == (3, True)
    assert summed(module_at(tmp_path / "changed", start=10).total) == (13, False)
    assert summed(module_at(tmp_path / "third").total) == (3, True)


def test_where_the_cache_cannot_be_written_kernels_stay_beside_their_module(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert summed(module_at(tmp_path / "first").total) == (3, False)
    assert list((tmp_path / "first" / "__pycache__").glob("*.nbi"))
