"""The tests of a GPU (`tests/gpu`) on a CPU, at toy sizes: so that no minute on a card is spent on their own faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
# of each file something
SOME = "products or loss_kernel or float32 or waits_are or to_a_cpu or still_works"


@pytest.mark.parametrize(
    "chosen",
    [pytest.param(SOME, id="some", marks=pytest.mark.slow), pytest.param("", id="all", marks=pytest.mark.campaign)],
)
def test_the_tests_of_a_gpu_pass_on_a_cpu(chosen: str, tmp_path: Path) -> None:
    """Without this project's own conftest, as on a card's machine, which has neither Ray nor MLflow."""
    own = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    alone = ["--confcutdir=tests/gpu", "-p", "no:cacheprovider", "-q", "-o", "addopts=", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", *alone, "-k", chosen],
        cwd=ROOT,
        env={**own, "TINY": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert '"failed": 0' in (tmp_path / "results.json").read_text()
