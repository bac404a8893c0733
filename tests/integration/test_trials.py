"""Trials one after another in the same processes: the memory stays as it is, and what is measured is what an evaluation
says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.errors import TrainingError
from pipelines.train.checkpoint import open_checkpoint, read_weights
from pipelines.train.run.loop import read_metrics
from pipelines.train.trials.rows import missing_rows, parse_measures, read_rows
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks
from tests.integration.test_torchrun import losses
from tests.integration.trial_cases import bits_per_byte, probe_one, train_in_a_row, train_one

MEASURES = {"heldout": {"max_tokens": 300, "every_steps": 5}}


def trial(store: Any, name: str, workers: int = 1, measures: Any = MEASURES, **changes: Any) -> dict[str, Any]:
    config = train_config(name=name, **{"zero.stage": 0, **changes})
    return {"spec": claimed_spec("pretrain", config, store, workers), "measures": measures, "threads": 1}


def flat(left: list[tuple[float, int]], warm: int, mebibytes_per_trial: float) -> None:
    """No trial leaves a tensor behind, and the process grows by less than the allocator's own noise."""
    mebibytes, tensors = np.array([held for held, _ in left[warm:]]), [count for _, count in left[warm:]]
    assert len(set(tensors)) == 1
    assert np.polyfit(np.arange(len(mebibytes)), mebibytes, 1)[0] < mebibytes_per_trial


@pytest.mark.parametrize("stage", [0, 1])
def test_trials_leave_nothing_behind(one_rank: Ranks, store: Any, stage: int) -> None:
    trials = [trial(store, f"t{i}", steps=4, seed=i, **{"zero.stage": stage}) for i in range(30)]
    done = one_rank.call(train_in_a_row, trials)
    assert done.error == ""
    flat(done.result, 10, 0.5)


@pytest.mark.campaign
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_hundred_trials_leave_nothing_behind(one_rank: Ranks, store: Any, stage: int) -> None:
    trials = [trial(store, f"t{i}", steps=4, seed=i, **{"zero.stage": stage}) for i in range(200)]
    done = one_rank.call(train_in_a_row, trials)
    assert done.error == ""
    flat(done.result, 40, 0.05)


def test_a_trial_that_diverges_leaves_nothing_behind(one_rank: Ranks, store: Any) -> None:
    bad = trial(store, "bad", **{"schedule.peak_lr": 1e20, "optimizer.gradient_clip": 0.0, "zero.stage": 1})
    diverged = one_rank.call(train_one, bad)
    assert TrainingError.__name__ in diverged.error
    before = one_rank.call(train_in_a_row, [trial(store, "before")])
    for _ in range(3):
        assert one_rank.call(train_one, bad).error
    after = one_rank.call(train_in_a_row, [trial(store, "after")])
    assert after.result[0][1] == before.result[0][1]
    assert losses(store, "pretrain/before") == losses(store, "pretrain/after")


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_held_out_bits_are_those_of_an_evaluation_on_any_layout(two_ranks: Ranks, store: Any, stage: int) -> None:
    values = trial(store, f"z{stage}", workers=2, **{"zero.stage": stage})
    assert two_ranks.call(train_one, values).error == ""
    rows = read_rows(store.storage, f"pretrain/z{stage}")
    assert [row.step for row in rows] == [5, 10, 12]
    curve = read_metrics(store.storage, f"pretrain/z{stage}")
    assert [row.tokens for row in rows] == [curve[row.step - 1]["tokens"] for row in rows]
    weights = read_weights(open_checkpoint(store.storage, f"pretrain/z{stage}"))
    assert rows[-1].values == pytest.approx(bits_per_byte(values["spec"], weights, 300), rel=1e-6)
    assert rows[-1].values.keys() == {"walks", "jumps"}
    assert rows[-1].values["walks"] < 0.9 * rows[0].values["walks"]


def test_measuring_changes_no_bit_of_a_run(one_rank: Ranks, store: Any) -> None:
    for name, measures in (("measured", MEASURES), ("alone", {})):
        assert one_rank.call(train_one, trial(store, name, measures=measures, **{"zero.stage": 1})).error == ""
    (measured, alone) = (
        [path.read_bytes() for path in (store.storage.root / f"pretrain/{name}").rglob("step-000012/*.safetensors")]
        for name in ("measured", "alone")
    )
    assert measured == alone
    assert losses(store, "pretrain/measured") == losses(store, "pretrain/alone")


def test_a_finished_run_is_measured_later_and_not_twice(one_rank: Ranks, store: Any) -> None:
    values = trial(store, "later", measures={})
    assert one_rank.call(train_one, values).error == ""
    manifest = (store.storage.root / "pretrain/later/manifest.json").read_bytes()
    at_end = parse_measures({"heldout": {"max_tokens": 300}})
    assert missing_rows(store.storage, "pretrain/later", at_end, 12) == {"heldout": [12]}
    values["measures"] = {"heldout": {"max_tokens": 300}}
    assert one_rank.call(train_one, values).error == ""
    assert missing_rows(store.storage, "pretrain/later", at_end, 12) == {}
    assert (store.storage.root / "pretrain/later/manifest.json").read_bytes() == manifest
    (row,) = (store.storage.root / "pretrain/later/measured/heldout").iterdir()
    written = row.stat().st_mtime_ns
    assert one_rank.call(train_one, values).error == ""
    assert row.stat().st_mtime_ns == written
    # with other settings it is another measurement
    values["measures"] = {"heldout": {"max_tokens": 200}}
    assert one_rank.call(train_one, values).error == ""
    assert row.stat().st_mtime_ns != written


@pytest.mark.parametrize("stage", [0, 2])
def test_a_probe_trains_a_trial_and_leaves_nothing(two_ranks: Ranks, store: Any, stage: int) -> None:
    values = {**trial(store, "probed", workers=2, **{"zero.stage": stage}), "steps": 3}
    assert two_ranks.call(probe_one, values).error == ""
    assert [path.name for path in (store.storage.root / "pretrain/probed").iterdir()] == ["claim.json"]


def test_a_run_takes_over_the_rows_of_the_steps_that_it_shares(one_rank: Ranks, store: Any) -> None:
    assert (
        one_rank.call(
            train_one, trial(store, "trunk", **{"schedule.decay": "linear", "schedule.decay_fraction": 0.1})
        ).error
        == ""
    )
    leaf = trial(store, "leaf", **{"schedule.decay": "linear", "schedule.decay_fraction": 0.1})
    leaf["spec"]["adopts"] = {"run": "pretrain/trunk", "step": 8}
    assert one_rank.call(train_one, leaf).error == ""
    trunk, own = (read_rows(store.storage, f"pretrain/{name}") for name in ("trunk", "leaf"))
    assert [(row.step, row.tokens, row.values) for row in own] == [(row.step, row.tokens, row.values) for row in trunk]
    assert [row.step for row in own] == [5, 10, 12]
