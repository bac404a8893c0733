"""MLflow, and only here: one run per artifact, from rank zero alone, the same run after a resume.

A tracking server that is down never stops or slows training: what is logged goes to a spool file on local disk, and a
thread delivers the spool from where it last got through. What is undelivered when the process ends stays in the spool and
goes out with the next run of the same artifact, or with any `Tracker` opened on the same machine for that run.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.artifacts import Artifact, ArtifactStore
from pipelines.cache import cache_folder
from pipelines.config import TrackingConfig, flatten
from pipelines.errors import ConfigError
from pipelines.progress import say
from pipelines.storage import FolderStorage, open_storage

_RETRY_SECONDS = 5.0
_LAST_TRY_SECONDS = 20.0


class Tracker:
    """Logs into one MLflow run. Every method returns at once; use it from rank zero only."""

    def __init__(self, uri: str, run_id: str | None, flush_seconds: float = 5.0):
        """Args: uri, MLflow's tracking URI; run_id, an existing run, or None for a tracker that drops everything."""
        self.uri, self.run_id, self.flush_seconds = uri, run_id, flush_seconds
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._warned = False
        if run_id is None:
            return
        folder = cache_folder() / "spool"
        folder.mkdir(parents=True, exist_ok=True)
        self._spool = folder / f"{run_id}-{os.getpid()}.jsonl"
        self._spool.touch()
        self._thread = threading.Thread(target=self._deliver, name="mlflow-spool", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at `step`."""
        stamp = int(time.time() * 1000)
        self._put({"metrics": [[name, float(value), stamp, step] for name, value in values.items()]})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags on the run."""
        self._put({"tags": dict(values)})

    def file(self, path: Path, folder: str = "") -> None:
        """Attach a local file to the run; it must stay where it is until `end`."""
        self._put({"file": str(path), "folder": folder})

    def end(self, status: str) -> None:
        """Deliver what is left (for at most 20 s) and set the run's end: FINISHED, FAILED or KILLED."""
        self._put({"end": status, "at": int(time.time() * 1000)})
        self.close()

    def close(self) -> None:
        """Deliver what is left and stop, leaving the run's state alone (a worker's tracker: the driver ends the run)."""
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            self._thread.join(_LAST_TRY_SECONDS)
            self._thread = None

    def _put(self, item: dict[str, Any]) -> None:
        if self.run_id is None:
            return
        with self._lock, self._spool.open("a") as handle:
            handle.write(json.dumps(item) + "\n")
        self._wake.set()

    def _deliver(self) -> None:
        position = 0
        while True:
            self._wake.wait(self.flush_seconds)
            stopping = self._stop.is_set()
            self._wake.clear()
            try:
                position = self._send_from(self._spool, position)
                for left in self._spool.parent.glob(f"{self.run_id}-*.jsonl"):
                    if left != self._spool and not _alive(left):
                        self._send_from(left, 0)
                        left.unlink(missing_ok=True)
            except Exception as error:
                if not self._warned:
                    self._warned = True
                    say(
                        f"   MLflow at {self.uri} does not answer ({str(error).splitlines()[0][:120]}); points are kept in {self._spool} and sent later"
                    )
                if stopping:
                    return
                self._stop.wait(_RETRY_SECONDS)
                continue
            if stopping and position >= self._spool.stat().st_size:
                self._spool.unlink(missing_ok=True)
                return
            self._stop.wait(self.flush_seconds if not stopping else 0)

    def _send_from(self, spool: Path, position: int) -> int:
        """Send whole lines from byte `position` on; returns where it got to."""
        with spool.open("rb") as handle:
            handle.seek(position)
            lines = handle.read().splitlines(keepends=True)
        items = [(json.loads(line), len(line)) for line in lines if line.endswith(b"\n")]
        if not items:
            return position
        from mlflow.entities import Metric

        client = _client(self.uri)
        metrics = [Metric(*row) for item, _ in items for row in item.get("metrics", [])]
        for first in range(0, len(metrics), 900):  # MLflow takes at most 1,000 a call
            client.log_batch(self.run_id, metrics=metrics[first : first + 900])
        for item, _ in items:
            for name, value in item.get("tags", {}).items():
                client.set_tag(self.run_id, name, value)
            if "file" in item and Path(item["file"]).exists():
                client.log_artifact(self.run_id, item["file"], item["folder"] or None)
            if "end" in item:
                client.set_terminated(self.run_id, item["end"], item["at"])
        return position + sum(length for _, length in items)


def open_tracker(
    config: TrackingConfig,
    store: ArtifactStore,
    folder: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
) -> Tracker:
    """The MLflow run of the artifact `kind/name`: the one it began with, or a new one.

    Args: settings, the resolved config, logged as parameters; inputs, the artifacts read, logged as parents and datasets.

    A server that cannot be reached costs a warning, never the run.
    """
    if not config.enabled:
        return Tracker("", None)
    uri = tracking_uri(config, store.uri)
    key = f"{folder}/mlflow.json"
    try:
        held = json.loads(store.storage.read(key)) if store.storage.exists(key) else {}
        run_id = held["run_id"] if held.get("uri") == uri else None
        client = _client(uri)
        if run_id is None:
            run_id = _create_run(client, config, store, folder, settings, inputs)
            store.storage.write(key, json.dumps({"uri": uri, "run_id": run_id}).encode())
        else:
            client.update_run(run_id, status="RUNNING")
    except Exception as error:
        say(f"   MLflow at {uri} cannot be reached ({str(error).splitlines()[0][:160]}); this run goes untracked")
        return Tracker(uri, None)
    return Tracker(uri, run_id)


def tracking_uri(config: TrackingConfig, store_uri: str) -> str:
    """The URI to track at. Default: SQLite beside the store.

    Raises: ConfigError for an s3:// store without a server, since SQLite cannot live there.
    """
    if config.uri:
        return config.uri
    storage = open_storage(store_uri)
    if not isinstance(storage, FolderStorage):
        raise ConfigError(
            f"store {store_uri} is remote, and the default tracking is a SQLite file beside a local store: set tracking.uri=http://your-mlflow:5000, or tracking.enabled=false"
        )
    storage.root.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{storage.root / 'mlflow.db'}"


def artifact_of_run(run_id: str, config: TrackingConfig, store_uri: str) -> str:
    """The artifact reference that an MLflow run made. Raises: ConfigError when there is no such run."""
    try:
        tags = _client(tracking_uri(config, store_uri)).get_run(run_id).data.tags
        return str(tags["trunkline.artifact"])
    except Exception as error:
        raise ConfigError(
            f"{run_id} looks like an MLflow run id, but no such Trunkline run was found: {str(error).splitlines()[0]}"
        ) from error


def _create_run(
    client: Any,
    config: TrackingConfig,
    store: ArtifactStore,
    folder: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
) -> str:
    from mlflow.entities import Param

    kind, name = folder.split("/")
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        root = store.storage.root if isinstance(store.storage, FolderStorage) and not config.uri else None
        experiment_id = client.create_experiment(
            config.experiment,
            artifact_location=(root / "mlflow-artifacts").as_uri() if root else None,
            tags={"mlflow.experimentKind": "custom_model_development"},  # the page opens on runs, not on traces
        )
    else:
        experiment_id = experiment.experiment_id
        if not config.uri and experiment.artifact_location != (store.storage.root / "mlflow-artifacts").as_uri():  # type: ignore[attr-defined]
            say(f"   MLflow goes on keeping files in {experiment.artifact_location}: this store was copied or moved")
    tags = {
        "mlflow.runName": folder.replace("/", "-"),
        "trunkline.artifact": folder,
        "trunkline.kind": kind,
        "trunkline.name": name,
    }
    for i, (reference, artifact) in enumerate(inputs.items()):
        parent = _run_of(store, artifact)
        tags[f"trunkline.input.{reference.split('/')[0]}"] = reference
        if parent and i == 0:
            tags["trunkline.parent_run"] = parent
            if kind != "pretrain":
                # MLflow folds children under their parent. A trunk stays at the top, so that trunks over the same data
                # stand side by side; its link to the mixture is the tag above
                tags["mlflow.parentRunId"] = parent
    run_id: str = client.create_run(experiment_id, tags=tags).info.run_id
    leaves = {
        re.sub(r"[^\w\-. :/]", ".", key): str(value)[:500]
        for key, value in flatten(settings).items()
        if value is not None
    }
    params = [Param(key[:250], value) for key, value in leaves.items()]
    for first in range(0, len(params), 100):  # MLflow takes at most 100 a call
        client.log_batch(run_id, params=params[first : first + 100])
    client.set_tag(run_id, "trunkline.store", store.uri)
    client.log_dict(run_id, dict(settings), "config.json")
    _log_inputs(client, run_id, inputs)
    return run_id


def _log_inputs(client: Any, run_id: str, inputs: Mapping[str, Artifact]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    datasets = [
        DatasetInput(
            Dataset(
                name=reference,
                digest=artifact.fingerprint,
                source_type="local",
                source=json.dumps({"uri": f"{artifact.storage.uri}/{reference}"}),
            ),
            [InputTag("mlflow.data.context", reference.split("/")[0])],
        )
        for reference, artifact in inputs.items()
    ]
    if datasets:
        client.log_inputs(run_id, datasets)


def _run_of(store: ArtifactStore, artifact: Artifact) -> str | None:
    key = f"{artifact.folder}/mlflow.json"
    return json.loads(store.storage.read(key))["run_id"] if store.storage.exists(key) else None


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri)
    # the first client makes the tables, and two commands that do so at once would each fail on the other's
    with Path(f"{uri.removeprefix('sqlite:///')}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return MlflowClient(tracking_uri=uri)


def _alive(spool: Path) -> bool:
    pid = int(spool.stem.rsplit("-", 1)[1])
    return Path(f"/proc/{pid}").exists() if Path("/proc").exists() else False
