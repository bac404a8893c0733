"""What stands on a run's page in MLflow: its end, what others write onto it, whose place it took, what its machine did;
against a real SQLite backend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.config import TrackingConfig
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft, Making
from pipelines.store.lease import Lease
from pipelines.tracking import machine, origin
from pipelines.tracking.account import About, page_of
from pipelines.tracking.place import own_uri
from pipelines.tracking.records import replaced_run
from pipelines.tracking.spool import Spool
from pipelines.tracking.tracker import Tracker, delivering, open_tracker
from tests.waits import wait_until

pytestmark = pytest.mark.slow
NOTE = "mlflow.note.content"


class Desk:
    """A store and its MLflow."""

    def __init__(self, folder: Path, tables: Path):
        self.store, self.config = ArtifactStore(str(folder / "store")), TrackingConfig(system_every_seconds=0)
        self.root = folder / "store"
        self.root.mkdir()
        (self.root / "mlflow.db").write_bytes(tables.read_bytes())
        self.client = MlflowClient(own_uri(self.root))

    def begin(self, folder: str, x: int = 1) -> Draft:
        draft = self.store.begin(*folder.split("/"), {"x": x}, on_change="rebuild" if x > 1 else "refuse")
        assert isinstance(draft, Draft)
        return draft

    def open(self, folder: str, about: About | None = None, inputs: dict[str, Artifact] | None = None) -> Tracker:
        return open_tracker(self.config, self.store, folder, {"parent": None}, inputs or {}, about=about)

    def make(self, folder: str, values: dict[str, float] | None = None) -> tuple[Artifact, str]:
        """A finished artifact and the id of its run."""
        draft = self.begin(folder)
        tracker = self.open(folder)
        tracker.metrics(values or {}, 7)
        artifact = draft.commit({}, {})
        tracker.end("FINISHED")
        return artifact, str(tracker.run_id)

    def tags(self, run_id: str) -> dict[str, str]:
        return dict(self.client.get_run(run_id).data.tags)


@pytest.fixture
def desk(tmp_path: Path, mlflow_tables: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    return Desk(tmp_path, mlflow_tables)


def test_a_run_says_how_it_ended_and_why_and_that_it_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "git_state", lambda: ("1a2b", True))
    parent, parent_run = desk.make("corpus/a")
    desk.begin("tokens/b")
    about = About(what="Ids on disk.", command="python -m workflows.tokenize", bases=("x",))
    tracker = desk.open("tokens/b", about, {"corpus/a": parent})
    note = desk.tags(str(tracker.run_id))[NOTE]
    assert note.startswith("Ids on disk.")
    assert f"[corpus/a](#/{page_of('1', parent_run)})" in note
    assert "running since" in note
    tracker.metrics({"tokens.web": 1000.0, "tokens.books": 234.0}, 0)
    assert not tracker.arrived
    tracker.end("FAILED", why="no room left", checkpoint="tokens/b@step-3")
    assert tracker.arrived
    run = desk.client.get_run(str(tracker.run_id))
    assert run.info.status == "FAILED"
    assert run.data.tags["trunkline.why"] == "no room left"
    for told in ("**Result:** 1,234 tokens", "`tokens/b@step-3`", ": `no room left`", "artifacts/config.json"):
        assert told in run.data.tags[NOTE]
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["corpus/a"]

    monkeypatch.setattr(origin, "git_state", lambda: ("5e6f", False))
    again = desk.open("tokens/b", About(what="Ids on disk.", command="another"), {"corpus/a": parent})
    assert again.run_id == tracker.run_id
    run = desk.client.get_run(str(again.run_id))
    assert run.info.status == "RUNNING"
    # by which command and code: no longer that of before, nor why that ended
    assert "trunkline.why" not in run.data.tags
    assert (run.data.tags["mlflow.source.name"], run.data.tags["mlflow.source.git.commit"]) == ("another", "5e6f")
    assert run.data.tags["trunkline.earlier_commits"] == "1a2b"
    assert "running since" in run.data.tags[NOTE]
    desk.client.set_tag(run.info.run_id, NOTE, "Somebody's own words.")
    again.end("FINISHED")
    assert desk.tags(run.info.run_id)[NOTE] == "Somebody's own words."


def test_an_evaluation_stands_on_the_run_that_was_evaluated_and_mixes_no_two_held_out_sets(desk: Desk) -> None:
    trunk, trunk_run = desk.make("pretrain/a", {"loss": 3.0})
    numbers = {"bits_per_byte": 2.5, "bits_per_byte/web": 2.4, "heldout_loss/web": 3.3}
    for name, heldout, factor in (("one", "tokens/t 1a2b", 1.0), ("two", "tokens/other 3c4d", 2.0)):
        desk.begin(f"evaluate/{name}")
        tracker = desk.open(f"evaluate/{name}", inputs={"pretrain/a": trunk})
        tracker.evaluated(trunk, heldout, {key: factor * value for key, value in numbers.items()}, 7)
        tracker.end("FINISHED")
    run = desk.client.get_run(trunk_run)
    assert {key: value for key, value in run.data.metrics.items() if "." not in key} == {"loss": 3.0, **numbers}
    assert run.data.metrics["other.3c4d/bits_per_byte"] == 5.0
    assert [point.step for point in desk.client.get_metric_history(trunk_run, "bits_per_byte")] == [7]
    assert run.data.tags["trunkline.heldout"] == "tokens/t 1a2b"
    assert run.info.status == "FINISHED"
    first, second = run.data.tags[NOTE].split("\n")[0], run.data.tags[NOTE].split("\n")[2]
    assert "5.0000 bits per byte of `pretrain/a@step-7` on `tokens/other 3c4d`" in first
    assert "2.5000 bits per byte of `pretrain/a@step-7` on `tokens/t 1a2b`" in second
    # the run goes on: what was measured at another step stays on lines of its own
    tracker = desk.open("pretrain/a")
    tracker.end("FINISHED")
    note = desk.tags(trunk_run)[NOTE]
    assert note.count("**Evaluated:**") == 2
    assert "- **Result:** last loss 3.0000\n" in note
    # the checkpoint is a parent, and no dataset of the evaluation
    evaluation = desk.client.get_run(json.loads((desk.root / "evaluate/one/mlflow.json").read_text())["run_id"])
    assert evaluation.inputs.dataset_inputs == []
    assert evaluation.data.tags["trunkline.input.pretrain"] == "pretrain/a"


def test_numbers_of_what_was_made_anew_since_are_not_written_onto_its_run(desk: Desk) -> None:
    trunk, trunk_run = desk.make("pretrain/a")
    desk.begin("pretrain/a", x=2)
    desk.begin("evaluate/e")
    tracker = desk.open("evaluate/e")
    tracker.evaluated(trunk, "tokens/t 1a2b", {"bits_per_byte": 2.5}, 7)
    tracker.end("FINISHED")
    assert "bits_per_byte" not in desk.client.get_run(trunk_run).data.metrics


def rebuilt(desk: Desk, status: str) -> tuple[str, str]:
    """Make pretrain/a, then make it anew. Returns: the ids of both runs."""
    _, old = desk.make("pretrain/a", {"loss": 3.0})
    draft = desk.store.prepare("pretrain", "a", Making({"x": 2}), "rebuild")
    assert isinstance(draft, Draft)
    assert draft.replaces
    replaces = replaced_run(desk.store.storage, "pretrain/a", own_uri(desk.root), rebuilt=True)
    assert replaces == old
    draft.start()
    tracker = desk.open("pretrain/a", About(replaces=replaces))
    tracker.end(status)
    return old, str(tracker.run_id)


def test_a_rebuild_that_is_finished_marks_the_run_whose_place_it_took(desk: Desk) -> None:
    old, new = rebuilt(desk, "FINISHED")
    tags = desk.tags(old)
    assert tags["trunkline.replaced_by"] == new
    assert tags["mlflow.runName"] == "replaced: a (pretrain/a)"
    assert tags[NOTE].startswith(f"**Replaced** by [the run](#/{page_of('1', new)})")
    assert desk.tags(new)["trunkline.replaces"] == old
    assert desk.client.get_run(old).data.metrics["loss"] == 3.0


def test_a_rebuild_that_failed_marks_nothing_and_the_one_that_goes_on_still_knows(desk: Desk) -> None:
    old, new = rebuilt(desk, "FAILED")
    assert "trunkline.replaced_by" not in desk.tags(old)
    uri = own_uri(desk.root)
    assert replaced_run(desk.store.storage, "pretrain/a", uri, rebuilt=False) == old
    desk.store.storage.delete(".replaced/pretrain/a")  # a store that cannot move has nothing set aside
    assert replaced_run(desk.store.storage, "pretrain/a", uri, rebuilt=False) == old
    tracker = desk.open("pretrain/a", About(replaces=old))
    assert tracker.run_id == new
    tracker.end("FINISHED")
    tracker = desk.open("pretrain/a", About(replaces=old))  # a trunk that is asked for more steps
    tracker.end("FINISHED")
    tags = desk.tags(old)
    assert tags["trunkline.replaced_by"] == new
    assert tags["mlflow.runName"].count("replaced") == tags[NOTE].count("**Replaced**") == 1


def test_a_damaged_record_does_not_keep_a_rebuild_from_its_work(desk: Desk) -> None:
    desk.make("pretrain/a")
    (desk.root / "pretrain/a/mlflow.json").write_text("{")
    assert replaced_run(desk.store.storage, "pretrain/a", own_uri(desk.root), rebuilt=True) is None


def test_the_run_of_a_command_that_was_killed_is_ended_by_the_next_and_nothing_is_said_to_be_sent(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.begin("pretrain/a")
    tracker = desk.open("pretrain/a")
    run_id, header = str(tracker.run_id), dict(tracker.run or {})
    tracker.close()
    Spool({**header, "command": True})._file.close()  # what is left of a process that was killed: no end, no lock
    lease = Lease(desk.store.storage, "pretrain/a")
    with delivering(desk.config, desk.store):
        pass
    assert desk.client.get_run(run_id).info.status == "RUNNING"  # somebody works on it
    lease.release()
    Spool({**header, "command": True})._file.close()
    with delivering(desk.config, desk.store):
        pass
    run = desk.client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert "**Ended:** stopped at " in run.data.tags[NOTE]
    assert "the command ended without a word" in run.data.tags[NOTE]
    assert "entries" not in capsys.readouterr().out


def test_one_entry_is_one_and_none_is_not_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.begin("pretrain/a")
    tracker = desk.open("pretrain/a")
    header = dict(tracker.run or {})
    tracker.close()
    for items in ([], [{"tags": {"a": "b"}}]):
        spool = Spool(header)
        for item in items:
            spool.put(item)
        spool._file.close()
        with delivering(desk.config, desk.store):
            pass
        said = capsys.readouterr().out
        assert said.count("could not send: 1 entry\n") == len(items)
        assert "entries" not in said


def test_the_machine_is_measured_into_the_spool_by_the_one_process_that_is_to(desk: Desk) -> None:
    desk.config = TrackingConfig(system_every_seconds=0.05)
    desk.begin("pretrain/a")
    driver = desk.open("pretrain/a", About(sampled="worker"))
    assert driver._sampler is None
    worker = Tracker(driver.run, flush_seconds=0.05)
    name = "system/cpu_utilization_percentage"
    wait_until(lambda: name in desk.client.get_run(str(driver.run_id)).data.metrics, "a measurement in MLflow")
    worker.close()
    assert worker._sampler is None
    driver.end("FINISHED")
    metrics = desk.client.get_run(str(driver.run_id)).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    assert 0 < metrics["system/disk_usage_percentage"] <= 100
    assert metrics["system/network_receive_megabytes"] >= 0


def test_numbers_of_gpus_have_mlflows_names_and_what_a_gpu_does_not_tell_is_left_out() -> None:
    answer = "0, 87, 40960, 81920, 412.5\n1, [N/A], 0, 81920, [Not Supported]\n"
    assert machine.gpu_numbers(answer) == {
        "system/gpu_0_utilization_percentage": 87.0,
        "system/gpu_0_memory_usage_megabytes": pytest.approx(42949.67296),
        "system/gpu_0_memory_usage_percentage": pytest.approx(50),
        "system/gpu_0_power_usage_watts": 412.5,
        "system/gpu_1_memory_usage_megabytes": 0.0,
        "system/gpu_1_memory_usage_percentage": 0.0,
    }


def test_a_job_says_what_whoever_submitted_it_knew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "git_state", lambda: ("1a2b", True))
    handed = origin.handed_on()
    monkeypatch.setattr(origin, "git_state", lambda: (None, None))  # a copy without its history
    assert origin.origin()["commit"] is None
    monkeypatch.setenv("RAY_JOB_SUBMISSION_ID", "pretrain-demo-1")
    for key, value in handed.items():
        monkeypatch.setenv(key, value)
    told: dict[str, Any] = origin.origin("a command")
    assert (told["commit"], told["dirty"], told["job"]) == ("1a2b", True, "pretrain-demo-1")
    monkeypatch.setenv(origin.HANDED_ON, "no JSON")
    assert origin.origin()["commit"] is None
