"""A store's tracking lies in the store: strange names, copies and moves, and URIs that hold a password."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.config import TrackingConfig, WorkflowConfig, parse
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking.place import database_of, own_uri, tracking_uri
from pipelines.tracking.tracker import client_at, delivering, open_tracker
from pipelines.uris import without_secrets

NAMES = ["s q?x=1", "s%20p", "a%3Fb", "?", "%", "a#b", "a;b", "a&b=c", "ü 中", "quo'te\"s", "a@b:c", "[x]"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", NAMES)
def test_the_database_of_a_store_with_a_strange_name_is_in_that_store(tmp_path: Path, name: str) -> None:
    from sqlalchemy.engine import make_url

    store = ArtifactStore(str(tmp_path / name))
    uri = tracking_uri(TrackingConfig(), store.uri)
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")
    assert database_of(uri) == tmp_path / name / "mlflow.db"


def test_an_ordinary_name_keeps_the_uri_that_records_of_older_stores_hold(tmp_path: Path) -> None:
    assert own_uri(tmp_path / "my store") == f"sqlite:///{tmp_path}/my store/mlflow.db"


def test_mlflow_makes_its_tables_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client_at(TrackingConfig(), ArtifactStore(str(tmp_path / "first")))
    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", lambda engine: pytest.fail("made again"))
    _, client = client_at(TrackingConfig(), ArtifactStore(str(tmp_path / "second")))
    (experiment,) = client.search_experiments()
    assert experiment.artifact_location == (tmp_path / "second" / "mlflow-artifacts").as_uri()
    assert client.create_run(experiment.experiment_id).info.status == "RUNNING"


def test_where_the_cache_cannot_be_written_each_database_gets_tables_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    for name in ("first", "second"):
        _, client = client_at(TrackingConfig(), ArtifactStore(str(tmp_path / name)))
        assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def original(tmp_path: Path, mlflow_tables: Path) -> ArtifactStore:
    (tmp_path / "original ü").mkdir()
    (tmp_path / "original ü/mlflow.db").write_bytes(mlflow_tables.read_bytes())
    return ArtifactStore(str(tmp_path / "original ü"))


def logged(store: ArtifactStore, folder: str, file: Path) -> str:
    kind, name = folder.split("/")
    store.begin(kind, name, {"x": 1})
    tracker = open_tracker(TrackingConfig(), store, folder, {}, {})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.file(file, "plots")
    tracker.end("FINISHED")
    return str(tracker.run_id)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copy", "c q?x=1%20"])
def test_a_copied_store_tracks_in_itself_and_shows_the_files_that_came_along(
    tmp_path: Path, original: ArtifactStore, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.txt"
    report.write_text("plot", encoding="utf-8")
    old = logged(original, "pretrain/a", report)
    copied = tmp_path / name
    shutil.copytree(tmp_path / "original ü", copied)
    before = tree(tmp_path / "original ü")
    copy = ArtifactStore(str(copied))
    assert logged(copy, "pretrain/a", report) == old  # the same artifact goes on with its run
    assert capsys.readouterr().out.count("it was copied or moved from") == 1
    new = logged(copy, "pretrain/b", report)
    assert tree(tmp_path / "original ü") == before
    shutil.rmtree(tmp_path / "original ü")
    client = MlflowClient(own_uri(copied))
    (tmp_path / "got").mkdir()
    for run_id in (old, new):
        assert [file.path for file in client.list_artifacts(run_id, "plots")] == ["plots/report.txt"]
        local = client.download_artifacts(run_id, "plots/report.txt", str(tmp_path / "got"))
        assert Path(local).read_text(encoding="utf-8") == "plot"
        assert (copied / "mlflow-artifacts" / run_id / "artifacts/plots/report.txt").exists()
        assert client.get_run(run_id).data.tags["trunkline.store"] == str(copied)
    assert len(client.search_runs([client.get_run(old).info.experiment_id])) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "cache", "got", "report.txt"])


@pytest.mark.slow
def test_files_of_an_experiment_that_mlflow_made_itself_are_in_the_store(
    tmp_path: Path, original: ArtifactStore
) -> None:
    original.begin("pretrain", "a", {"x": 1})
    tracker = open_tracker(TrackingConfig(experiment="Default"), original, "pretrain/a", {}, {})
    tracker.end("FINISHED")
    assert (tmp_path / "original ü/mlflow-artifacts" / str(tracker.run_id) / "artifacts/config.json").exists()


@pytest.mark.slow
def test_what_is_served_from_a_copy_is_brought_home_first(tmp_path: Path, original: ArtifactStore) -> None:
    report = tmp_path / "report.txt"
    report.write_text("plot", encoding="utf-8")
    run_id = logged(original, "pretrain/a", report)
    shutil.move(tmp_path / "original ü", tmp_path / "mo%ved")
    served = subprocess.run(
        [sys.executable, "-m", "pipelines.tracking.place", str(tmp_path / "mo%ved")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert served.stdout.strip() == own_uri(tmp_path / "mo%ved")
    listed = MlflowClient(served.stdout.strip()).list_artifacts(run_id, "plots")
    assert [file.path for file in listed] == ["plots/report.txt"]


@pytest.mark.slow
def test_points_that_wait_in_a_store_go_along_with_its_copy(
    tmp_path: Path, original: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.txt"
    report.write_text("plot", encoding="utf-8")
    run_id = logged(original, "pretrain/a", report)
    waiting = open_tracker(TrackingConfig(), original, "pretrain/a", {}, {})
    waiting.flush_seconds = 3600.0
    waiting._wake.clear()
    waiting._spool.put({"metrics": [["loss", 2.0, 1, 2]]})
    waiting.keep()
    shutil.copytree(tmp_path / "original ü", tmp_path / "copy")
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "another machine"))
    copy = ArtifactStore(str(tmp_path / "copy"))
    with delivering(TrackingConfig(), copy):
        pass
    history = MlflowClient(own_uri(tmp_path / "copy")).get_metric_history(run_id, "loss")
    assert sorted(point.step for point in history) == [1, 2]
    assert copy.storage.keys(".spool") == []
    waiting.close()


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@mlflow:5000",
        "https://me:hunter2@mlflow",
        "http://hunter2@mlflow:5000",
        "http://me:hun/ter2@mlflow:5000",
        "postgresql://me:hunter2@db/mlflow",
        "postgresql+psycopg2://me:hunter2@db:5432/mlflow",
        "mysql+pymysql://:hunter2@db/x",
        "postgresql://me@db/mlflow?password=hunter2",
        "postgresql://db/mlflow?sslmode=require&sslpassword=hunter2",
        "https://mlflow/?access_token=hunter2",
        "https://mlflow/?api_key=hunter2",
        "https://mlflow/?aws_credentials=hunter2",
        "https://mlflow/?X-Amz-Signature=hunter2",
        "https://mlflow/#token=hunter2",
        "me:hunter2@mlflow:5000",
        "http://me%3Ahunter2@mlflow",
        "mssql://db/x?PWD=hunter2",
        "sqlite+pysqlcipher://:hunter2@//data/x.db",
        "http://me:hun#ter2@mlflow:5000",
        "http://me:hun?ter2@mlflow:5000",
        "postgresql://me:hun#ter2@db/mlflow",
        "//me:hunter2@mlflow:5000",
    ],
)
def test_a_password_in_the_tracking_uri_is_refused_and_not_said(uri: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as refused:
        parse(TrackingConfig, {"uri": uri}, "tracking")
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "https://mlflow/docs#access-token",
        "postgresql://db:5432/mlflow?user=me@cloud",
        "http://[::1]:5000/?x=a@b",
        "https://mlflow/base/path",
        "postgresql://me@db/mlflow",
        "postgresql://db:5432/mlflow?sslmode=require",
        "postgresql://db/mlflow?sslkey=/etc/client.pem&sslmode=verify-full",
        "sqlite:////home/a:b@c/mlflow.db",
        "sqlite:///mlflow.db?timeout=30",
        "databricks://profile",
        "databricks",
        "./mlruns",
    ],
)
def test_a_uri_without_a_password_is_taken(uri: str) -> None:
    assert parse(TrackingConfig, {"uri": uri}, "tracking").uri == uri


def test_a_password_anywhere_in_a_config_is_refused_and_not_said() -> None:
    for uri in ("s3://me:hunter2@bucket/prefix", "s3://AKIA:hun/ter2@bucket", "s3://bucket/x?secret_key=hunter2"):
        with pytest.raises(ConfigError, match="store holds a password") as refused:
            parse(WorkflowConfig, {"name": "x", "store": uri})
        assert "hunter2" not in str(refused.value)
        assert "ter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="experiment holds a password"):
        parse(TrackingConfig, {"experiment": "http://me:hunter2@mlflow"}, "tracking")


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/data@v1",
        "http://host:8000?x=a@b",
        "s3://bucket/a:b@c",
        "hf://datasets/x@main",
        "https://x/docs#access-token",
    ],
)
def test_a_port_and_a_place_in_a_page_are_no_password(text: str) -> None:
    assert parse(TrackingConfig, {"experiment": text}, "tracking").experiment == text


def test_many_uris_without_a_password_are_looked_through_at_once() -> None:
    """A megabyte took over an hour: from each `://` on, the whole rest was read."""
    for text in ("a://" * 250_000, "a://b:" * 160_000, "a://" + "b" * 1_000_000):
        assert parse(TrackingConfig, {"uri": text + " /x"}, "tracking").uri == text + " /x"
        assert parse(WorkflowConfig, {"name": "x", "store": text}).store == text
        assert without_secrets(text) == text
    assert without_secrets("a://b a://c:d@e a://@f") == "a://b a://***@e a://***@f"
    assert without_secrets("no answer from db://me:hun@ter2@host/x") == "no answer from db://***@host/x"
    assert without_secrets("db://me:hunter2@host(x@)") == "db://***@)"


def test_an_experiment_whose_name_mlflow_cannot_keep_is_refused() -> None:
    assert parse(TrackingConfig, {"experiment": "x" * 256}, "tracking")
    with pytest.raises(ConfigError, match=r"tracking.experiment has 257 characters; MLflow keeps 256: shorten it"):
        parse(TrackingConfig, {"experiment": "x" * 257}, "tracking")
