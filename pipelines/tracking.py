"""MLflow, and only here: one run per artifact, from rank zero alone, the same run after a resume.

A tracking server that is down never stops or slows training: what is logged goes to a spool (`spool.py`), and a thread delivers it
whenever the server answers, the making of the run itself included. What is undelivered when the process ends goes out with
the next command that tracks at the same server.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.artifacts import Artifact, ArtifactStore
from pipelines.config import TrackingConfig, flatten
from pipelines.errors import ConfigError, StorageError
from pipelines.progress import say
from pipelines.spool import Spool, leftovers
from pipelines.storage import FolderStorage, Storage, open_storage

_RETRY_SECONDS = 5.0
_LAST_TRY_SECONDS = 20.0
_REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}  # what MLflow says of a run that somebody deleted


class Tracker:
    """Logs into one MLflow run. Every method returns at once; use it from rank zero only."""

    def __init__(self, run: Mapping[str, Any] | None, flush_seconds: float = 5.0, tell: Callable[[str], None] = say):
        """Args: run, what `open_tracker` says of a run (`Tracker.run`), or None for a tracker that drops everything; tell, where
        a line for people goes."""
        self.run, self.flush_seconds, self.tell = dict(run) if run else None, flush_seconds, tell
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned = False
        if self.run is None:
            return
        self._storage = open_storage(self.run["store"])
        self._spool = Spool(self.run)
        self._thread = threading.Thread(target=self._deliver, name="mlflow-spool", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None while the server has not been reached, or when nothing is tracked."""
        return self.run["run_id"] if self.run else None

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

    def keep(self) -> None:
        """Before a checkpoint is committed: have what its restart would not log again in the store, if it is still here.

        Costs a small write where something is undelivered, and no word with the server. Raises: StorageError.
        """
        if self.run is not None:
            self._spool.keep(self._storage)

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
            with contextlib.suppress(StorageError):  # then it is on this machine's disk alone
                self.keep()
            self._spool.close()

    def _put(self, item: dict[str, Any]) -> None:
        if self.run is None:
            return
        self._spool.put(item)
        self._wake.set()

    def _deliver(self) -> None:
        assert self.run is not None
        look_in: Storage | None = self._storage  # once; on this machine's disk every time
        while True:
            self._wake.wait(self.flush_seconds)
            stopping = self._stop.is_set()
            self._wake.clear()
            try:
                items, place = self._spool.waiting()
                if items:
                    self.run["run_id"] = _send(self.run, items)
                    self._spool.delivered(place)
                deliver_leftovers(self.run["uri"], look_in)
                look_in = None
            except Exception as error:
                if not self._warned:
                    self._warned = True
                    self.tell(
                        f"   MLflow at {self.run['uri']} does not answer ({_first_line(error)}); points are kept in {self._spool.path} and sent later"
                    )
                if stopping:
                    return
                self._stop.wait(_RETRY_SECONDS)
                continue
            if stopping:
                return
            self._stop.wait(self.flush_seconds)


def open_tracker(
    config: TrackingConfig,
    store: ArtifactStore,
    folder: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
) -> Tracker:
    """The MLflow run of the artifact `kind/name`: the one it began with, or a new one.

    Args: settings, the resolved config, logged as parameters; inputs, the artifacts read, logged as parents and datasets.

    A server that cannot be reached costs a warning, never the run: the MLflow run is made later, with all its points.
    """
    if not config.enabled:
        return Tracker(None)
    root = store.storage.root if isinstance(store.storage, FolderStorage) and not config.uri else None
    run: dict[str, Any] = {
        "uri": tracking_uri(config, store.uri), "store": store.uri, "folder": folder, "run_id": None, "experiment": config.experiment,
        "artifacts": (root / "mlflow-artifacts").as_uri() if root else None, "settings": dict(settings),
        "inputs": [[reference, artifact.folder, artifact.fingerprint] for reference, artifact in inputs.items()],
        "began": int(time.time() * 1000),
    }  # fmt: skip
    try:
        run["run_id"] = _run_of(store.storage, folder, run["uri"])
        if run["run_id"] is None:
            run["run_id"] = _made_run(run)
        else:
            _client(run["uri"]).update_run(run["run_id"], status="RUNNING")
    except Exception as error:
        say(
            f"   MLflow at {run['uri']} cannot be reached ({_first_line(error)}); points are kept and sent when it answers, to this command or a later one"
        )
    return Tracker(run)


def deliver_leftovers(uri: str, storage: Storage | None) -> int:
    """Send what dead processes left undelivered for this server. Args: storage, a store that may hold some, or None.

    Returns: how many items. Raises: whatever a server that does not answer makes MLflow's client raise.
    """
    from mlflow.exceptions import MlflowException

    count = 0
    for left in leftovers(uri, storage):
        try:
            if left.items:
                _send(left.header, left.items)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            say(
                f"   MLflow at {uri} refuses what {left.header['folder']} left to be sent, and it is dropped: {_first_line(error)}"
            )
        left.drop()
        count += len(left.items)
    return count


@contextlib.contextmanager
def delivering(config: TrackingConfig, store: ArtifactStore) -> Iterator[None]:
    """For the length of a command: deliver what earlier ones left, in a thread; at its end wait for that 20 seconds at most."""
    begun = not isinstance(store.storage, FolderStorage) or store.storage.root.exists()  # looking must not make a store
    try:
        uri = tracking_uri(config, store.uri) if config.enabled and begun else ""
    except ConfigError:  # a command that tracks says so itself
        uri = ""
    if not uri or next(leftovers(uri, store.storage), None) is None:
        yield
        return

    def deliver() -> None:
        try:
            count = deliver_leftovers(uri, store.storage)
        except Exception as error:
            say(f"   MLflow at {uri} does not answer ({_first_line(error)}); what earlier commands logged is kept")
        else:
            say(f"   MLflow at {uri} has got what earlier commands could not send: {count} entries")

    thread = threading.Thread(target=deliver, name="mlflow-leftovers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_LAST_TRY_SECONDS)


def _send(run: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """Send items to their run, which is made first where there is none yet. Returns: its id."""
    from mlflow.entities import Metric

    client = _client(run["uri"])
    run_id = run["run_id"] or _made_run(run)
    metrics = [Metric(*row) for item in items for row in item.get("metrics", [])]
    for first in range(0, len(metrics), 900):  # MLflow takes at most 1,000 a call
        client.log_batch(run_id, metrics=metrics[first : first + 900])
    for item in items:
        for name, value in item.get("tags", {}).items():
            client.set_tag(run_id, name, value)
        if "file" in item and Path(item["file"]).exists():
            client.log_artifact(run_id, item["file"], item["folder"] or None)
        if "end" in item:
            client.set_terminated(run_id, item["end"], item["at"])
    return str(run_id)


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


def _made_run(run: Mapping[str, Any]) -> str:
    """The id of the artifact's run, made now unless another process was first. Returns: its id."""
    storage, key = open_storage(run["store"]), f"{run['folder']}/mlflow.json"
    if (held := _run_of(storage, run["folder"], run["uri"])) is not None:
        return held
    client = _client(run["uri"])
    made = _create_run(client, run, storage)
    record = json.dumps({"uri": run["uri"], "run_id": made}).encode()
    if storage.create(key, record):
        return made
    if (held := _run_of(storage, run["folder"], run["uri"])) is not None:
        client.delete_run(made)
        return held
    storage.write(key, record)  # what was there is another server's
    return made


def _create_run(client: Any, run: Mapping[str, Any], storage: Storage) -> str:
    from mlflow.entities import Param

    folder, artifacts = run["folder"], run["artifacts"]
    kind, name = folder.split("/")
    experiment = client.get_experiment_by_name(run["experiment"])
    if experiment is None:
        experiment_id = client.create_experiment(
            run["experiment"],
            artifact_location=artifacts,
            tags={"mlflow.experimentKind": "custom_model_development"},  # the page opens on runs, not on traces
        )
    else:
        experiment_id = experiment.experiment_id
        if artifacts and experiment.artifact_location != artifacts:
            say(f"   MLflow goes on keeping files in {experiment.artifact_location}: this store was copied or moved")
    tags = {
        "mlflow.runName": folder.replace("/", "-"),
        "trunkline.artifact": folder,
        "trunkline.kind": kind,
        "trunkline.name": name,
    }
    for i, (reference, parent_folder, _) in enumerate(run["inputs"]):
        parent = _run_of(storage, parent_folder)
        tags[f"trunkline.input.{reference.split('/')[0]}"] = reference
        if parent and i == 0:
            tags["trunkline.parent_run"] = parent
            if kind != "pretrain":
                # MLflow folds children under their parent. A trunk stays at the top, so that trunks over the same data
                # stand side by side; its link to the mixture is the tag above
                tags["mlflow.parentRunId"] = parent
    run_id: str = client.create_run(experiment_id, start_time=run["began"], tags=tags).info.run_id
    leaves = {
        re.sub(r"[^\w\-. :/]", ".", key): str(value)[:500]
        for key, value in flatten(run["settings"]).items()
        if value is not None
    }
    params = [Param(key[:250], value) for key, value in leaves.items()]
    for first in range(0, len(params), 100):  # MLflow takes at most 100 a call
        client.log_batch(run_id, params=params[first : first + 100])
    client.set_tag(run_id, "trunkline.store", run["store"])
    client.log_dict(run_id, run["settings"], "config.json")
    _log_inputs(client, run_id, run)
    return run_id


def _log_inputs(client: Any, run_id: str, run: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    datasets = [
        DatasetInput(
            Dataset(
                name=reference,
                digest=fingerprint,
                source_type="local",
                source=json.dumps({"uri": f"{run['store']}/{reference}"}),
            ),
            [InputTag("mlflow.data.context", reference.split("/")[0])],
        )
        for reference, _, fingerprint in run["inputs"]
    ]
    if datasets:
        client.log_inputs(run_id, datasets)


def _run_of(storage: Storage, folder: str, uri: str | None = None) -> str | None:
    """The id of an artifact's run, at this server or (None) at any."""
    held = json.loads(storage.find(f"{folder}/mlflow.json") or b"{}")
    return str(held["run_id"]) if held and uri in (None, held["uri"]) else None


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


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0][:160]
