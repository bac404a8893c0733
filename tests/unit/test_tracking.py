"""MLflow tracking against a real SQLite backend and a real server that is away for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines import tracking
from pipelines.artifacts import Artifact, ArtifactStore
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.tracking import Tracker, artifact_of_run, open_tracker, tracking_uri


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
    assert run.data.params["list.0."] == "1"
    assert run.data.tags["trunkline.artifact"] == "tokens/b"
    assert run.data.tags["mlflow.parentRunId"] == corpus.run_id
    assert run.inputs.dataset_inputs[0].dataset.name == "corpus/a"
    assert [point.value for point in client.get_metric_history(str(first.run_id), "loss")] == [3.5, 2.5, 1.5]
    assert [file.path for file in client.list_artifacts(str(first.run_id), "plots")] == ["plots/report.txt"]
    assert len(client.search_runs([run.info.experiment_id])) == 2
    assert artifact_of_run(str(first.run_id), config, store.uri) == "tokens/b"
    with pytest.raises(ConfigError, match="looks like an MLflow run id"):
        artifact_of_run("0" * 32, config, store.uri)


def test_an_absent_server_costs_a_warning_and_never_a_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrackingConfig(uri="http://127.0.0.1:9")  # nothing listens there
    tracker = open_tracker(config, ArtifactStore(str(tmp_path / "store")), "corpus/a", {}, {})
    assert tracker.run_id is None
    assert "this run goes untracked" in capsys.readouterr().out
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.end("FINISHED")


def test_points_are_spooled_while_the_server_is_away_and_delivered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    made = open_tracker(config, store, "corpus/a", {}, {})
    made.close()
    run_id, uri = str(made.run_id), tracking_uri(config, store.uri)
    real = tracking._client
    monkeypatch.setattr(tracking, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_client", lambda uri: real("http://127.0.0.1:9"))
    tracker = Tracker(uri, run_id, flush_seconds=0.05)
    began = time.perf_counter()
    for step in range(200):
        tracker.metrics({"loss": float(step)}, step)
    assert time.perf_counter() - began < 1.0  # logging does not wait for a server that is away
    spool = next((tmp_path / "cache" / "spool").glob(f"{run_id}-*.jsonl"))
    assert len(spool.read_text().splitlines()) == 200
    assert json.loads(spool.read_text().splitlines()[0])["metrics"][0][:2] == ["loss", 0.0]
    monkeypatch.setattr(tracking, "_client", real)
    tracker.end("FINISHED")
    history = real(uri).get_metric_history(run_id, "loss")
    assert sorted(point.step for point in history) == list(range(200))
    assert real(uri).get_run(run_id).info.status == "FINISHED"
    assert not spool.exists()


def test_a_remote_store_needs_a_server() -> None:
    with pytest.raises(ConfigError, match="set tracking.uri="):
        tracking_uri(TrackingConfig(), "s3://bucket/prefix")


@pytest.mark.slow
def test_two_commands_that_begin_at_once_are_both_tracked(tmp_path: Path) -> None:
    code = "import sys; from pipelines.tracking import _client; _client(sys.argv[1]).search_experiments()"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    begun = [
        subprocess.Popen([sys.executable, "-c", code, uri], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        for _ in range(3)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in begun]
    assert [process.returncode for process in begun] == [0, 0, 0], errors
