"""Steps are written down one step late, all of them before a checkpoint, and a loss that is no number stops the run."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.data.stream.cuts import Cut
from pipelines.errors import TrainingError
from pipelines.store.storage import FolderStorage
from pipelines.tracking.tracker import Tracker
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.roles import KINDS, frozen_numbers
from pipelines.train.plan.planning import plan_stage
from pipelines.train.run.garbage import garbage_left_lying
from pipelines.train.run.log import Efficiency, Launched, StepLog
from pipelines.train.run.loop import _last_checkpoint_committed
from pipelines.train.run.monitor import NoiseScale
from pipelines.train.run.stream import Stream
from pipelines.train.update.step import StepResult
from tests import tiny
from tests.integration.conftest import TINY_MODEL, train_config


@pytest.fixture
def log(tmp_path: Path) -> Any:
    store = tiny.build(str(tmp_path / "store"))
    spec = plan_stage("pretrain", train_config(log_every_steps=2), store, None, 2).spec
    lines: list[str] = []
    log = StepLog(spec, Stream(spec, store), lines.append, Tracker(None), NoiseScale(), 0, 2)
    log.lines = lines  # type: ignore[attr-defined]
    return log


def step(number: int, loss: float, norm: float = 1.0) -> Launched:
    """A step of two sources that counted 60 and 40 tokens."""
    totals = torch.tensor([100 * loss, 100.0, norm, 60 * loss, 40 * loss, 60.0, 40.0], dtype=torch.float64)
    return Launched(number, 0.01, StepResult(totals, 2, []), 0.0)


def test_rows_come_one_step_late_and_all_of_them_at_a_checkpoint(log: Any) -> None:
    log.launched(step(1, 5.0))
    log.launched(step(2, 4.0))
    assert log.lines == []  # step 2 may still be running
    log.launched(step(3, 3.0))
    assert len(log.lines) == 1
    assert "2/12  loss  4.0000  lr 1.000e-02  grad  1.000" in log.lines[0]
    rows = log.take()
    assert [row["loss"] for row in rows] == [5.0, 4.0, 3.0]
    assert rows[1]["loss_by_source"] == pytest.approx({"jumps": 4.5, "walks": 4.5})  # since the last line
    assert [row["tokens"] for row in rows] == [256, 512, 768]
    assert log.take() == []


@pytest.mark.parametrize("bad", [(float("nan"), 1.0), (2.0, float("inf"))])
def test_a_loss_that_is_no_number_stops_the_run_before_its_checkpoint(log: Any, bad: tuple[float, float]) -> None:
    log.rank = 1  # every rank notices
    for number in range(1, 7):
        log.launched(step(number, 5.0))
    log.launched(step(7, *bad))
    with pytest.raises(TrainingError, match=r"step 7 has loss .*: training has diverged: lower schedule.peak_lr"):
        log.take()


@pytest.mark.parametrize(
    ("in_flight", "kept"), [(True, "The checkpoint at step 3 is kept"), (False, "No checkpoint was committed")]
)
def test_an_error_names_the_checkpoint_that_is_committed(
    in_flight: bool, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that should be, by the number of steps: saves fail, and begin again at odd steps after a resume."""
    storage = FolderStorage(tmp_path)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda objects, src: None)

    class Saving:
        def wait(self) -> None:
            if in_flight:
                storage.write("pretrain/x/checkpoints/step-000003/manifest.json", b"{}")

    with pytest.raises(TrainingError, match=rf"^step 9 has diverged\. {kept}$"):
        diverge(Saving(), storage)


def diverge(saving: Any, storage: FolderStorage) -> None:
    with _last_checkpoint_committed(saving, storage, "pretrain/x"):
        raise TrainingError("step 9 has diverged")


def test_a_step_of_which_nothing_counts_stops_the_run_on_every_rank(log: Any) -> None:
    log.rank = 1
    log.launched(step(5, 5.0))
    log.launched(Launched(6, 0.01, StepResult(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).double(), 2, []), 0.0))
    with pytest.raises(TrainingError, match="step 6: none of the targets of its 8 rows counts"):
        log.take()


def test_what_windows_cut_off_is_said_at_both_ends_and_tracked(log: Any) -> None:
    sent: list[Any] = []
    log.tracker.metrics = lambda values, step: sent.append((values, step))
    log.tracker.tags = sent.append
    log.data.cuts = {
        "chat": Cut(unit="conversations", rows=60, cut=20, left_out=12, lost_tokens=700, lost_targets=9, whole_from=300)
    }
    log.cuts()
    log.cuts(ended=True)
    said = "chat: of 60 conversations 20 lose their end and 12 are left out because nothing of them would count"
    assert [line.strip()[:11] for line in log.lines] == ["cut: chat: ", "cut all alo"]
    assert all(said in line for line in log.lines)
    counts = {"cut_rows/chat": 20.0, "left_out_rows/chat": 12.0, "lost_tokens/chat": 700.0}
    assert sent[0] == (counts, 0)
    assert said in sent[1]["trunkline.cut"]


def test_an_error_elsewhere_still_tells_of_the_last_step(log: Any) -> None:
    with contextlib.suppress(ValueError), log:
        log.launched(step(2, 4.0))
        raise ValueError("elsewhere")
    assert "loss  4.0000" in log.lines[0]


def test_python_collects_no_garbage_in_the_loop_and_does_again_after_it() -> None:
    assert gc.isenabled()
    with contextlib.suppress(ValueError), garbage_left_lying():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 1000
        raise ValueError("elsewhere")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_both_conventions_of_mfu() -> None:
    config = ModelConfig(**TINY_MODEL)
    efficiency = Efficiency(config, 64, world=2)
    assert efficiency.full - efficiency.causal == 6 * 2 * 32 * 64  # L·D·T more multiply-adds than causal attention
    assert efficiency.points(1000.0) == {"gflops_per_worker": pytest.approx(efficiency.causal * 500 / 1e9)}
    efficiency.peak = 100 * efficiency.causal
    assert efficiency.points(20.0) == {
        "mfu": pytest.approx(0.1), "mfu_full_attention": pytest.approx(0.1 * efficiency.full / efficiency.causal)
    }  # fmt: skip
    assert efficiency.phrase(20.0) == "MFU 10.0%"


def test_a_frozen_weight_costs_four_flops_a_token_instead_of_six() -> None:
    config = ModelConfig(**TINY_MODEL)
    embedding = config.vocabulary * config.d_model
    assert frozen_numbers(config, None) == frozen_numbers(config, KINDS) == 0
    assert frozen_numbers(config, ("matrix", "norm")) == embedding
    all_train, frozen = Efficiency(config, 64, world=2), Efficiency(config, 64, world=2, frozen=embedding)
    assert all_train.causal - frozen.causal == all_train.full - frozen.full == 2 * embedding
    assert "- 2·frozen weights" in frozen.formula()
    assert "frozen" not in all_train.formula()
