"""MLflow tracking against a real SQLite backend and a real server that is away for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking import tracker as tracking
from pipelines.tracking.spool import leftovers
from pipelines.tracking.tracker import artifact_of_run, delivering, open_tracker, tracking_uri
from tests.waits import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))


def committed(store: ArtifactStore, folder: str) -> Artifact:
    kind, name = folder.split("/")
    draft = store.begin(kind, name, {"x": 1})
    return draft if isinstance(draft, Artifact) else draft.commit({}, {})


@pytest.mark.slow
def test_one_run_per_artifact_with_its_parent_and_the_same_run_after_a_resume(tmp_path: Path) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    corpus = open_tracker(config, store, "corpus/a", {"corpus": {"sources": ["x"]}}, {})
    corpus.end("FINISHED")
    parent = committed(store, "corpus/a")
    first = open_tracker(config, store, "tokens/b", {"size": 4, "list": [1, 2]}, {"corpus/a": parent})
    first.metrics({"loss": 3.5}, step=1)
    first.metrics({"loss": 2.5}, step=2)
    first.end("FAILED")
    again = open_tracker(config, store, "tokens/b", {"size": 4}, {"corpus/a": parent})
    assert again.run_id == first.run_id
    again.metrics({"loss": 1.5}, step=3)
    report = tmp_path / "report.txt"
    report.write_text("plot")
    again.file(report, "plots")
    again.end("FINISHED")

    client = MlflowClient(tracking_uri(config, store.uri))
    run = client.get_run(str(first.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["size"] == "4"
    assert run.data.params["list"] == "[1, 2]"
    assert run.data.tags["trunkline.artifact"] == "tokens/b"
    assert run.data.tags["mlflow.parentRunId"] == corpus.run_id
    assert run.inputs.dataset_inputs[0].dataset.name == "corpus/a"
    assert [point.value for point in client.get_metric_history(str(first.run_id), "loss")] == [3.5, 2.5, 1.5]
    assert [file.path for file in client.list_artifacts(str(first.run_id), "plots")] == ["plots/report.txt"]
    assert len(client.search_runs([run.info.experiment_id])) == 2
    assert artifact_of_run(str(first.run_id), config, store.uri) == "tokens/b"
    with pytest.raises(ConfigError, match="looks like an MLflow run id"):
        artifact_of_run("0" * 32, config, store.uri)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No server answers until the function that this gives is called."""
    real = tracking._client
    monkeypatch.setattr(tracking, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_client", lambda uri: real("http://127.0.0.1:9"))  # nothing listens there
    return lambda: monkeypatch.setattr(tracking, "_client", real)


def spooled(cache: Path) -> list[list[dict[str, Any]]]:
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in (cache / "spool").glob("*.jsonl")]


def test_points_are_spooled_while_the_server_is_away_and_delivered_later(
    tmp_path: Path, away: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    tracker = open_tracker(config, store, "corpus/a", {"size": 4}, {})
    assert tracker.run_id is None
    assert "points are kept and sent when it answers" in capsys.readouterr().out
    asked, unanswered = [], tracking._client
    monkeypatch.setattr(tracking, "_client", lambda uri: asked.append(threading.current_thread()) or unanswered(uri))
    for step in range(200):
        tracker.metrics({"loss": float(step)}, step)
    assert threading.main_thread() not in asked  # logging does not wait for a server that is away
    ((header, *items),) = spooled(tmp_path / "cache")
    assert header["folder"] == "corpus/a"
    assert [item["metrics"][0][0] for item in items] == ["loss"] * 200
    away()
    tracker.end("FINISHED")
    client = MlflowClient(tracking_uri(config, store.uri))
    run = client.get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["size"] == "4"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(200))
    assert spooled(tmp_path / "cache") == []
    assert store.storage.keys(".spool") == []


def test_what_ended_without_a_server_goes_out_with_the_next_command(tmp_path: Path, away: Callable[[], None]) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    parent = committed(store, "corpus/a")
    for folder, inputs in (("corpus/a", {}), ("tokens/b", {"corpus/a": parent})):
        tracker = open_tracker(config, store, folder, {}, inputs)
        tracker.metrics({"loss": 1.5}, step=7)
        tracker.end("FAILED")
    away()
    with delivering(config, store):  # what every command does
        pass
    client = MlflowClient(tracking_uri(config, store.uri))
    ours, theirs = (artifact_run(client, folder) for folder in ("tokens/b", "corpus/a"))
    assert ours.data.tags["mlflow.parentRunId"] == theirs.info.run_id
    for run in (ours, theirs):
        assert run.info.status == "FAILED"
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [7]
    assert spooled(tmp_path / "cache") == []
    assert store.storage.keys(".spool") == []


def test_what_a_vanished_machine_kept_in_the_store_is_delivered_once(
    tmp_path: Path, away: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    tracker = open_tracker(config, store, "corpus/a", {}, {})
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.keep()
    tracker.metrics({"loss": 2.0}, step=2)
    tracker.end("KILLED")
    away()
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "another machine"))
    with delivering(config, store):
        pass
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))  # and the first comes back
    with delivering(config, store):
        pass
    client = MlflowClient(tracking_uri(config, store.uri))
    run = artifact_run(client, "corpus/a")
    assert run.info.status == "KILLED"
    assert [point.value for point in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 2.0]
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_a_living_command_keeps_its_own_spool(tmp_path: Path, away: Callable[[], None]) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    living = open_tracker(config, store, "corpus/a", {}, {})
    living.metrics({"loss": 1.0}, step=1)
    assert list(leftovers(str(living.run["uri"]), store.storage)) == []  # type: ignore[index]
    living.end("FINISHED")
    left = list(leftovers(str(living.run["uri"]), None))  # type: ignore[index]
    assert [sorted(item) for item in left[0].items] == [["metrics"], ["at", "end"]]


def artifact_run(client: MlflowClient, folder: str) -> Any:
    experiment = client.get_experiment_by_name("trunkline")
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`trunkline.artifact` = '{folder}'")
    return found


def test_a_remote_store_needs_a_server() -> None:
    with pytest.raises(ConfigError, match="set tracking.uri="):
        tracking_uri(TrackingConfig(), "s3://bucket/prefix")


@pytest.mark.slow
def test_two_commands_that_begin_at_once_are_both_tracked(tmp_path: Path) -> None:
    code = "import sys; from pipelines.tracking.tracker import _client; _client(sys.argv[1]).search_experiments()"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in begun]
    assert [process.returncode for process in begun] == [0, 0, 0], errors
