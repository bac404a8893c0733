"""Runs and experiments that somebody deleted in MLflow: told by name, their points kept, the others tracked; against a
real SQLite backend.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.config import TrackingConfig
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking import making
from pipelines.tracking import tracker as tracking
from pipelines.tracking.errors import NotMLflow, kind_of, told
from pipelines.tracking.place import own_uri
from pipelines.tracking.tracker import delivering, open_tracker

pytestmark = pytest.mark.slow


class Desk:
    """A store, its MLflow, and the commands run on them."""

    def __init__(self, folder: Path, tables: Path):
        self.store, self.config = ArtifactStore(str(folder / "store")), TrackingConfig()
        self.root, self.cache = folder / "store", folder / "cache"
        self.root.mkdir()
        (self.root / "mlflow.db").write_bytes(tables.read_bytes())
        self.client = MlflowClient(own_uri(self.root))

    def command(self, folder: str, points: int = 1, inputs: dict[str, Artifact] | None = None) -> str | None:
        """A command that logs so many points. Returns: the id of its run."""
        kind, name = folder.split("/")
        self.store.begin(kind, name, {"x": 1})
        with delivering(self.config, self.store):
            tracker = open_tracker(self.config, self.store, folder, {"size": 4}, inputs or {})
            for step in range(points):
                tracker.metrics({"loss": 0.5}, step)
            tracker.end("FINISHED")
        return tracker.run_id

    def steps(self, run_id: str | None) -> list[int]:
        return [point.step for point in self.client.get_metric_history(str(run_id), "loss")]

    def spooled(self) -> list[Path]:
        return sorted((self.cache / "spool").glob("*.jsonl"))


@pytest.fixture
def desk(tmp_path: Path, mlflow_tables: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tracking, "_RETRY_SECONDS", 0.1)
    making.told.clear()
    return Desk(tmp_path, mlflow_tables)


def test_a_deleted_run_is_named_with_the_way_back_and_gets_its_points_when_restored(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = desk.command("pretrain/a")
    desk.client.delete_run(str(run_id))
    desk.command("pretrain/a", points=7)
    said = capsys.readouterr().out
    assert f"MLflow's run {run_id} of pretrain/a was deleted" in said
    assert f"mlflow runs restore --run-id {run_id}" in said
    assert "does not answer" not in said
    assert "cannot be reached" not in said
    assert "8 entries of pretrain/a have not reached MLflow" in said  # seven points and the end
    assert len(desk.spooled()) == 1

    other = desk.command("pretrain/b")  # tracked all the same, and what waits is told again
    said = capsys.readouterr().out
    assert desk.steps(other) == [0]
    assert f"8 entries wait for it in {desk.spooled()[0]}" in said
    assert "has got what earlier commands could not send" not in said

    desk.client.restore_run(str(run_id))
    making.told.clear()
    desk.command("pretrain/b")
    assert "has got what earlier commands could not send: 8 entries" in capsys.readouterr().out
    assert sorted(set(desk.steps(run_id))) == list(range(7))
    assert desk.spooled() == []
    assert desk.store.storage.keys(".spool") == []


def test_a_run_deleted_while_it_is_logged_to_keeps_the_rest(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.store.begin("pretrain", "a", {"x": 1})
    tracker = open_tracker(desk.config, desk.store, "pretrain/a", {}, {})
    tracker.flush_seconds = 0.05
    desk.client.delete_run(str(tracker.run_id))
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end("FINISHED")
    said = capsys.readouterr().out
    assert f"mlflow runs restore --run-id {tracker.run_id}" in said
    assert "2 entries of pretrain/a have not reached MLflow" in said
    desk.client.restore_run(str(tracker.run_id))
    desk.command("pretrain/b")
    assert desk.steps(tracker.run_id) == [1]
    assert desk.client.get_run(str(tracker.run_id)).info.status == "FINISHED"


def test_a_run_removed_for_good_is_made_anew_once_its_record_is_removed(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = str(desk.command("pretrain/a"))
    with sqlite3.connect(desk.root / "mlflow.db") as link:  # what `mlflow gc` leaves
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            link.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))
    desk.command("pretrain/a", points=3)
    said = capsys.readouterr().out
    assert f"MLflow's run {run_id} of pretrain/a is not at {own_uri(desk.root)} any more" in said
    assert f"remove {desk.root}/pretrain/a/mlflow.json" in said
    (desk.root / "pretrain/a/mlflow.json").unlink()
    again = desk.command("pretrain/a")
    assert again != run_id
    assert sorted(set(desk.steps(again))) == [0, 1, 2]  # what was kept, too
    assert desk.spooled() == []
    assert json.loads((desk.root / "pretrain/a/mlflow.json").read_text(encoding="utf-8"))["run_id"] == again


def test_what_a_rebuilt_artifact_left_is_not_mixed_into_its_new_run(desk: Desk) -> None:
    run_id = str(desk.command("pretrain/a"))
    desk.client.delete_run(run_id)
    desk.command("pretrain/a", points=3)
    desk.store.storage.delete("pretrain/a")
    desk.store.begin("pretrain", "a", {"x": 2})
    tracker = open_tracker(desk.config, desk.store, "pretrain/a", {}, {})
    tracker.metrics({"loss": 2.0}, 9)
    tracker.end("FINISHED")
    assert desk.steps(tracker.run_id) == [9]
    assert len(desk.spooled()) == 1


def test_a_deleted_experiment_is_named_and_gets_all_when_restored(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    first = desk.command("pretrain/a")
    experiment = desk.client.get_experiment_by_name("trunkline")
    desk.client.delete_experiment(experiment.experiment_id)
    capsys.readouterr()
    desk.command("pretrain/b", points=2)
    said = capsys.readouterr().out
    assert "MLflow's experiment 'trunkline' was deleted" in said
    assert f"mlflow experiments restore --experiment-id {experiment.experiment_id}" in said
    assert "tracking.experiment=" in said
    assert "does not answer" not in said
    desk.command("pretrain/a", points=2)
    said = capsys.readouterr().out
    assert f"and with it the run {first} of pretrain/a" in said
    desk.client.restore_experiment(experiment.experiment_id)
    last = desk.command("pretrain/c")
    runs = desk.client.search_runs([experiment.experiment_id])
    assert {run.data.tags["trunkline.artifact"] for run in runs} == {"pretrain/a", "pretrain/b", "pretrain/c"}
    assert desk.steps(last) == [0]
    assert sorted(set(desk.steps(first))) == [0, 1]
    assert desk.spooled() == []


def test_a_child_of_a_deleted_run_is_tracked_and_says_so(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    parent = desk.command("pretrain/a")
    draft = desk.store.begin("pretrain", "a", {"x": 1})
    artifact = draft if isinstance(draft, Artifact) else draft.commit({}, {})
    desk.client.delete_run(str(parent))
    child = desk.command("anneal/b", inputs={"pretrain/a": artifact})
    said = capsys.readouterr().out
    assert f"anneal/b stands alone in MLflow: MLflow's run {parent} of pretrain/a was deleted" in said
    assert "the same command" not in said  # makes the child, never its parent
    assert desk.steps(child) == [0]


def test_a_point_that_mlflow_cannot_store_holds_up_no_other(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.store.begin("pretrain", "a", {"x": 1})
    tracker = open_tracker(desk.config, desk.store, "pretrain/a", {}, {})
    for step in range(20):
        tracker.metrics({"loss": 1.0}, step)
    tracker.metrics({"a*b": 1.0, "accuracy": 0.5}, 3)
    tracker.metrics({"loss": 1.0}, 10**30)
    tracker.metrics({"loss": 1.0}, 20)
    tracker.file(desk.root / "nothing", "plots")
    tracker.end("FINISHED")
    run = desk.client.get_run(str(tracker.run_id))
    assert sorted(desk.steps(tracker.run_id)) == list(range(21))
    assert run.data.metrics["accuracy"] == 0.5
    assert run.info.status == "FINISHED"
    said = capsys.readouterr().out
    assert "MLflow cannot take" in said
    assert "the metric 'a*b' at step 3: Invalid value" in said
    assert desk.spooled() == []


def test_a_parent_that_was_tracked_elsewhere_is_not_told_as_deleted(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.command("pretrain/a")
    draft = desk.store.begin("pretrain", "a", {"x": 1})
    artifact = draft if isinstance(draft, Artifact) else draft.commit({}, {})
    elsewhere = desk.root.parent / "elsewhere.db"
    elsewhere.write_bytes((desk.root / "mlflow.db").read_bytes())
    with sqlite3.connect(elsewhere) as link:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            link.execute(f"DELETE FROM {table}")
    desk.config = TrackingConfig(uri=f"sqlite:///{elsewhere}")
    desk.command("anneal/b", inputs={"pretrain/a": artifact})
    assert "stands alone" not in capsys.readouterr().out


def test_a_server_that_gives_something_else_is_no_mlflow(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.entities import Experiment

    empty = Experiment("", "", "", "")  # what MLflow's client makes of a page that is empty
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", lambda *_: empty)
    desk.command("pretrain/a")
    said = capsys.readouterr().out
    assert "is no MLflow (it was asked for experiment 'trunkline', and gave '')" in said
    assert "deleted" not in said


class Away(Exception):
    """MLflow's exception, as far as it is looked at."""

    def __init__(self, code: str, status: int, message: str = "no"):
        super().__init__(message)
        self.error_code, self.status = code, status

    def get_http_status_code(self) -> int:
        return self.status


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (Away("PERMISSION_DENIED", 403), "refused", "MLFLOW_TRACKING_USERNAME"),
        (Away("UNAUTHENTICATED", 401), "refused", "MLFLOW_TRACKING_PASSWORD"),
        (Away("INTERNAL_ERROR", 500), "away", "does not answer"),
        (Away("TEMPORARILY_UNAVAILABLE", 503), "away", "does not answer"),
        (Away("RESOURCE_DOES_NOT_EXIST", 404), "away", "is no MLflow"),
        (Away("INVALID_PARAMETER_VALUE", 400), "invalid", "does not take this run"),
        (ConnectionError("refused"), "away", "does not answer"),
        (
            Away(
                "INTERNAL_ERROR",
                500,
                f"{'long ' * 50}: Max retries exceeded (Caused by ResponseError('too many 500 error responses'))",
            ),
            "away",
            "does not answer (too many 500 error responses)",
        ),
        (NotMLflow("it gave ''"), "away", "is no MLflow"),
        (
            Away(
                "TEMPORARILY_UNAVAILABLE",
                503,
                "(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) database or disk is "
                "full\n[SQL: UPDATE]",
            ),
            "away",
            "does not answer (database or disk is full)",
        ),
        (json.JSONDecodeError("a page", "<html>", 0), "away", "does not answer"),
        (OverflowError("64 bits"), "invalid", "does not take this run"),
    ],
)
def test_failures_are_told_apart(error: Any, kind: str, words: str) -> None:
    assert kind_of(error) == kind
    assert words in told("http://mlflow:5000", error)
