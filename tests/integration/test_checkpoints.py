"""Saving and loading on two processes: slow and broken stores, retention, kills, and checkpoints loaded anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import TrackingConfig
from tests import tiny
from tests.integration import saver_cases
from tests.integration.ranks import Ranks
from workflows.running.session import Session
from workflows.verify_resume import VerifyResumeConfig, _end, run


@pytest.fixture(scope="module")
def results(two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = two_ranks.call(saver_cases.run_all, tmp_path_factory.mktemp("saver"))
    assert not done.error, done.error
    return done.result  # type: ignore[no-any-return]


def test_a_slow_store_holds_training_only_when_the_next_save_is_due(results: Any) -> None:
    slow = results["slow"]
    assert slow["steps"] == [1, 2, 3]
    assert slow["as it was"]  # a step that is taken while it is written changes nothing of it
    assert slow["during"] == [True, True, True]
    assert slow["waited"] == [False, True, True]  # the first came back before anything was written
    assert slow["wait_seconds"] > 2 * saver_cases.SLOW_SECONDS
    first, second, third = slow["held"]
    assert min(second, third) > saver_cases.SLOW_SECONDS
    assert slow["stall"] == pytest.approx(first + second + third)
    assert len(slow["warnings"]) == 1  # told once
    assert "the checkpoint of step 1 was still being written when the next was due" in slow["warnings"][0]
    assert "raise checkpoint.every_steps or use a faster store" in slow["warnings"][0]
    stalls = {each["step"]: each["checkpoint_stall_s"] for each in slow["points"] if "checkpoint_stall_s" in each}
    assert stalls == {1: first, 2: second, 3: third}


def test_one_failed_save_is_a_warning_and_two_in_a_row_an_alarm(results: Any) -> None:
    broken = results["broken"]
    assert broken["seen"] == [[1, 0], [2, 0], [3, 0], [3, 1], [4, 1]]
    assert "checkpoint at step 1 failed; training goes on" in broken["warnings"][0]
    assert "checkpoint at step 2 was saved, after 1 that failed" in broken["warnings"][1]
    assert broken["alarms"] == ["checkpoint at step 4 failed (2 in a row): rank 1: no space left on device"]
    assert broken["failures"] == [1, 0, 1, 2, 0, 1]
    assert broken["steps"] == [2, 5]
    # the rows of lost saves go with the next one
    assert broken["rows"]["pretrain/x/metrics/step-000002.jsonl"] == "1\n2\n"
    assert broken["rows"]["pretrain/x/metrics/step-000005.jsonl"] == "3\n4\n5\n"
    assert "the last checkpoint of pretrain/x (step 6) could not be saved" in broken["last"]


def test_a_writer_that_may_not_change_its_priority_still_writes(results: Any) -> None:
    """A run under `nice -n 19`, not root, once waited for ever: its writer died before it began."""
    assert results["strange"]["steps"] == [1]
    assert results["strange"]["niceness"] == [15]


def test_a_group_given_up_for_dead_that_commits_late_changes_nothing(results: Any) -> None:
    assert results["fenced"] == {"same": True, "attempts": [True, False], "files": True}


def test_an_error_without_words_is_told_by_its_name(results: Any) -> None:
    (warning,) = [each for each in results["strange"]["warnings"] if "step 2 failed" in each]
    assert warning.endswith("rank 0: MemoryError(); rank 1: MemoryError()")


def test_a_checkpoint_that_an_error_names_as_kept_is_committed_before_the_processes_end(results: Any) -> None:
    assert "step 2 has loss" in results["diverged"]["said"]
    assert "The checkpoint at step 1 is kept" in results["diverged"]["said"]
    assert results["diverged"]["steps"] == [1]


def test_all_ranks_go_on_from_the_checkpoint_that_rank_zero_sees(results: Any) -> None:
    assert any("resumed from pretrain/run@step-2" in line for line in results["lagging"]["lines"])
    assert results["lagging"]["steps"] == results["lagging"]["rows"] == [1, 2, 3, 4]


def test_the_rule_is_applied_behind_training(results: Any) -> None:
    assert results["kept"]["steps"] == [1, 2, 4, 5]  # named by a branch; every second; the last


def test_what_is_loaded_before_any_update_and_what_is_refused(results: Any) -> None:
    loads = results["loads"]
    for name in ("from zero updates into 0", "from zero updates into 1", "from zero updates into 3", "weights alone"):
        expected, found = loads[name]
        assert found == pytest.approx(expected, rel=1e-6), name
    assert "holds the state of the optimizer adamw, and this run uses muon" in loads["refused"]


def test_verify_resume_kills_resumes_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's command on the tiny store: one stage on two workers, a real SIGKILL, and the checkpoints loaded
    back.
    """
    store = tiny.build(str(tmp_path / "store"))
    config = VerifyResumeConfig(
        name="tiny",
        experiment="smoke",
        store=store.uri,
        tracking=TrackingConfig(enabled=False),
        steps=2,
        stages=[2],
        worlds=[2],
        overrides=["data=mixture/tiny_stable", "model.vocabulary=128", "batch.sequence_length=32"],
    )
    with Session(config) as session:
        run(config, session)
    said = capsys.readouterr().out
    assert len(re.findall(r"bit-exact\b", said)) == 6
    assert "state bit-equal, same samples" in said
    assert "as promised" in said
    results = store.get("verify_resume/tiny").json("results.json")
    assert [row["problems"] for row in results["loaded"]] == [[]]
    assert not list((tmp_path / "store").glob("pretrain/*"))  # nothing of it stays among the user's runs
    results["killed"][0]["loss"] = "from step 3: 1.0e-07"
    with pytest.raises(SystemExit) as ended:
        _end(store.get("verify_resume/tiny"), results)
    assert ended.value.code == 1
    assert "NOT as promised, 1 differences; the first: ZeRO-2 loss: from step 3" in capsys.readouterr().out
