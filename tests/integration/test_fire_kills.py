"""kill -9 of a worker and of Ray, one after the other, on one build: what is committed stays, the bytes are the same.

Two kills each time; `make test-full` has twenty, and `python -m benchmarks.kills` takes a fresh build for every four
and prints a table.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from benchmarks.kills import command, draw, trial, undisturbed, write_source


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_killed_builds_go_on_from_what_is_committed(tmp_path: Path, times: int) -> None:
    source = write_source(tmp_path, 0.5)
    reference, store = tmp_path / "reference", tmp_path / "store"
    receipts = undisturbed(command(source, reference, 400_000), reference)
    rng = random.Random(7)
    kills = draw(
        list(itertools.islice(itertools.cycle(["worker", "ray", "driver", "all"]), times)), receipts * 3 // 4, rng
    )
    outcome = trial(command(source, store, 400_000), store, reference, kills, rng)
    assert outcome.good, (outcome, kills)
    # on a busy machine a kill may find nothing: its build is over before it is due
    assert sum(kill.processes > 0 for kill in kills) >= times / 2, kills
