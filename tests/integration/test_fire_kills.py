"""kill -9 of a worker and of Ray, one after the other, on one build: what is committed stays, the bytes are the same.

`TRUNKLINE_KILLS=20` kills so often; `python -m benchmarks.kills` takes a fresh build for each kill and prints a table.
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

from benchmarks.kills import command, draw, trial, undisturbed, write_source


def test_killed_builds_go_on_from_what_is_committed(tmp_path: Path) -> None:
    source = write_source(tmp_path, 0.5)
    reference, store = tmp_path / "reference", tmp_path / "store"
    receipts = undisturbed(command(source, reference, 400_000), reference)
    rng = random.Random(7)
    times = int(os.environ.get("TRUNKLINE_KILLS", "2"))
    kills = draw(
        list(itertools.islice(itertools.cycle(["worker", "ray", "driver", "all"]), times)), receipts * 3 // 4, rng
    )
    outcome = trial(command(source, store, 400_000), store, reference, kills, rng)
    assert outcome.good, (outcome, kills)
    assert all(kill.processes for kill in kills), kills
