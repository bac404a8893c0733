"""MLflow, and only here: one run per artifact, from rank zero alone, the same run after a resume.

A tracking server that is down never stops or slows training: what is logged goes to a spool (`spool.py`), and a thread
delivers it whenever the server answers, the making of the run itself included. What is undelivered when the process
ends goes out with the next command that tracks at the same server. What was deleted in MLflow is told by name, and its
points stay in the spool (`errors.py`). Where the default database lies: `place.py`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.config import TrackingConfig
from pipelines.display.progress import say
from pipelines.errors import ArtifactError, ConfigError, StorageError
from pipelines.identity import flatten
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.disk import disk_error
from pipelines.store.opening import open_storage
from pipelines.store.storage import FolderStorage, Storage
from pipelines.tracking.errors import (
    Deleted,
    NotMLflow,
    experiment_deleted,
    first_line,
    is_gone,
    kind_of,
    run_deleted,
    run_gone,
    told,
)
from pipelines.tracking.place import alone_at, bring_home, came_along, database_of, files_uri, tracking_uri
from pipelines.tracking.spool import Spool, leftovers

_RETRY_SECONDS = 5.0
_LAST_TRY_SECONDS = 20.0
_LARGEST_STEP = 2**63 - 1  # what MLflow's databases hold
_DESCRIBED = "trunkline.store"  # the tag that is set last: the run has its parameters and inputs
_told: set[str] = set()  # what this process has said of leftovers: they are looked at again and again


class Tracker:
    """Logs into one MLflow run. Every method returns at once; use it from rank zero only."""

    def __init__(self, run: Mapping[str, Any] | None, flush_seconds: float = 5.0, tell: Callable[[str], None] = say):
        """Args: run, what `open_tracker` says of a run (`Tracker.run`), or None for a tracker that drops everything;
        tell, where a line for people goes."""
        self.run, self.flush_seconds, self.tell = dict(run) if run else None, flush_seconds, tell
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said: set[str | None] = {self.run.get("told")} if self.run else set()
        self._why, self._why_kind = "the time for the last try was over", "away"  # of what is undelivered
        self._ready = False
        self._lost = 0  # entries that the spool's disk had no room for
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
        """Before a checkpoint is committed: have what its restart would not log again in the store, if it is still
        here.

        Costs a small write where something is undelivered, and no word with the server. Raises: StorageError.
        """
        if self.run is not None:
            self._spool.keep(self._storage)

    def end(self, status: str) -> None:
        """Deliver what is left (for at most 20 s) and set the run's end: FINISHED, FAILED or KILLED."""
        self._put({"end": status, "at": int(time.time() * 1000)})
        self.close()

    def close(self) -> None:
        """Deliver what is left and stop, leaving the run's state alone (a worker's tracker: the driver ends the
        run).
        """
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            self._thread.join(_LAST_TRY_SECONDS)
            self._thread = None
            with contextlib.suppress(StorageError):  # then it is on this machine's disk alone
                self.keep()
            assert self.run is not None
            if left := len(self._spool.waiting()[0]):
                self.tell(
                    f"   {left} entries of {self.run['folder']} have not reached MLflow ({self._why}); they are kept "
                    f"in {self._spool.path}"
                )
            if self._lost:
                self.tell(
                    f"   {self._lost} entries of {self.run['folder']} could not be written down and are lost to MLflow"
                )
            self._spool.close()

    def _put(self, item: dict[str, Any]) -> None:
        if self.run is None:
            return
        try:
            if not self._lost:
                self._spool.put(item)
                self._wake.set()
                return
        except OSError as error:  # training does not end because its log has no room
            self.tell(
                f"   {disk_error(error) or error}; until the end of this command nothing more is logged to MLflow"
            )
        self._lost += 1

    def _deliver(self) -> None:
        assert self.run is not None
        look_in: Storage | None = self._storage  # once; on this machine's disk every time
        while True:
            self._wake.wait(self.flush_seconds)
            stopping = self._stop.is_set()
            self._wake.clear()
            sent = self._send_waiting()
            if sent or self._why_kind == "deleted":  # a run that is gone holds up no other
                try:
                    deliver_leftovers(self.run["uri"], look_in)
                    look_in = None
                except Exception as error:
                    self._warn(error)
                    sent = False
            if stopping:
                return
            self._stop.wait(self.flush_seconds if sent else _RETRY_SECONDS)

    def _send_waiting(self) -> bool:
        """Send what waits; whether all of it arrived."""
        assert self.run is not None
        try:
            items, place = self._spool.waiting()
            if items:
                if not self._ready:
                    self.run["run_id"] = _ready(self.run)
                    self._ready = True
                _send(self.run, items, self.tell)
                self._spool.delivered(place)
        except Exception as error:
            self._ready = False
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        assert self.run is not None
        said = told(self.run["uri"], error)
        self._why_kind = kind_of(error)
        self._why = "deleted there, see above" if self._why_kind == "deleted" else first_line(error)
        if self._why_kind not in self._said:
            self._said.add(self._why_kind)
            self.tell(f"   {said}; points are kept in {self._spool.path} until they can be sent")


def open_tracker(
    config: TrackingConfig,
    store: ArtifactStore,
    folder: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    under: str | None = None,
) -> Tracker:
    """The MLflow run of the artifact `kind/name`: the one it began with, or a new one.

    Args: settings, the resolved config, logged as parameters; inputs, the artifacts read, logged as parents and
        datasets; under, below which run MLflow shows one that begins from none: an artifact, as kind/name, or the id of
        a run.

    A server that cannot be reached costs a warning, never the run: the MLflow run is made later, with all its points.
    """
    if not config.enabled:
        return Tracker(None)
    root = store.storage.root if isinstance(store.storage, FolderStorage) and not config.uri else None
    run: dict[str, Any] = {
        "uri": tracking_uri(config, store.uri),
        "store": store.uri,
        "folder": folder,
        "run_id": None,
        "experiment": config.experiment,
        "fingerprint": _fingerprint(store.storage, folder),
        "artifacts": files_uri(root) if root else None,
        "settings": dict(settings),
        "inputs": [[reference, artifact.folder, artifact.fingerprint] for reference, artifact in inputs.items()],
        "began": int(time.time() * 1000),
        **({} if under is None else {"under": under}),
    }
    try:
        run["run_id"] = _recorded(store.storage, folder, run["uri"])
        run["run_id"] = _ready(run)
        _client_of(run).update_run(run["run_id"], status="RUNNING")
    except Exception as error:
        run["told"] = kind_of(error)
        kept = (
            "points are kept and sent when it answers, to this command or a later one"
            if run["told"] == "away"
            else "until then this run's points are kept"
        )
        say(f"   {told(run['uri'], error)}; {kept}")
    return Tracker(run)


def deliver_leftovers(uri: str, storage: Storage | None) -> int:
    """Send what dead processes left undelivered for this server. Args: storage, a store that may hold some, or None.

    What is left of a deleted run stays where it is, and the way back is told.

    Returns: how many items the server has got. Raises: whatever a server that does not answer makes MLflow's client
        raise.
    """
    count = 0
    for left in leftovers(uri, storage):
        refused = 0
        try:
            if left.items:
                refused = _send({**left.header, "run_id": _ready(left.header)}, left.items, say)
        except Deleted as error:
            if left.where not in _told:
                _told.add(left.where)
                say(
                    f"   {error}; {len(left.items)} entries wait for it in {left.where} (remove that file to let them "
                    "go)"
                )
            continue
        left.drop()
        count += len(left.items) - refused
    return count


@contextlib.contextmanager
def delivering(config: TrackingConfig, store: ArtifactStore) -> Iterator[None]:
    """For the length of a command: deliver what earlier ones left, in a thread; at its end wait for that 20 seconds at
    most.
    """
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
            say(f"   {told(uri, error)}; what earlier commands logged is kept")
        else:
            if count:
                say(f"   MLflow at {uri} has got what earlier commands could not send: {count} entries")

    thread = threading.Thread(target=deliver, name="mlflow-leftovers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_LAST_TRY_SECONDS)


def _send(run: Mapping[str, Any], items: Sequence[Mapping[str, Any]], tell: Callable[[str], None]) -> int:
    """Send items to their run. What MLflow will never take is told by name and left out.

    Returns: how many items were left out, in whole or in part. Raises: Deleted; whatever a server that is away makes
        MLflow raise.
    """
    client = _client_of(run)
    refused: dict[int, str] = {}
    rows = [(i, row) for i, item in enumerate(items) for row in item.get("metrics", [])]
    for first in range(0, len(rows), 900):  # MLflow takes at most 1,000 a call
        _send_metrics(client, run, rows[first : first + 900], refused)
    for i, item in enumerate(items):
        send: dict[str, Callable[[], Any]] = {
            f"tag {name}": partial(client.set_tag, run["run_id"], name, value)
            for name, value in item.get("tags", {}).items()
        }
        if "file" in item and not Path(item["file"]).exists():
            refused[i] = f"the file {item['file']}: it is not on this machine any more"
        elif "file" in item:
            send[f"file {item['file']}"] = partial(
                client.log_artifact, run["run_id"], item["file"], item["folder"] or None
            )
        if "end" in item:
            send["end"] = partial(client.set_terminated, run["run_id"], item["end"], item["at"])
        for name, call in send.items():
            _unless_invalid(client, run, i, name, refused, call)
    if refused:
        tell(
            f"   MLflow cannot take {len(refused)} of {len(items)} entries of {run['folder']}, first "
            f"{next(iter(refused.values()))}"
        )
    return len(refused)


def _send_metrics(
    client: Any, run: Mapping[str, Any], rows: Sequence[tuple[int, Any]], refused: dict[int, str]
) -> None:
    """Log rows of metrics; one that is refused is searched for by halves, so that it costs the others nothing."""
    from mlflow.entities import Metric

    def log() -> None:
        if any(abs(row[3]) > _LARGEST_STEP for _, row in rows):
            raise OverflowError(f"its step has more than 64 bits; accepted are those up to {_LARGEST_STEP}")
        client.log_batch(run["run_id"], metrics=[Metric(*row) for _, row in rows])

    if len(rows) == 1:
        (i, (name, _, _, step)) = rows[0]
        _unless_invalid(client, run, i, f"metric {name!r} at step {step}", refused, log)
        return
    try:
        log()
    except Exception as error:
        if kind_of(error) != "invalid":
            raise
        half = len(rows) // 2
        _send_metrics(client, run, rows[:half], refused)
        _send_metrics(client, run, rows[half:], refused)


def _unless_invalid(
    client: Any, run: Mapping[str, Any], i: int, name: str, refused: dict[int, str], send: Callable[[], Any]
) -> None:
    """Send one thing; where MLflow will never take it, note that under the number of its item."""
    try:
        send()
    except Exception as error:
        if kind_of(error) != "invalid":
            raise
        _check_alive(client, run, run["run_id"])  # a deleted run is refused in the same words
        refused[i] = f"the {name}: {first_line(error)}"


def artifact_of_run(run_id: str, config: TrackingConfig, store_uri: str) -> str:
    """The artifact reference that an MLflow run made. Raises: ConfigError when there is no such run."""
    uri = tracking_uri(config, store_uri)
    try:
        tags = _client(uri).get_run(run_id).data.tags
    except Exception as error:
        if is_gone(error, run_id):
            raise ConfigError(
                f"{run_id} looks like an MLflow run id, but no such Trunkline run was found: {first_line(error)}"
            ) from error
        raise ConfigError(
            f"{run_id} looks like an MLflow run id, and {told(uri, error)}: name the artifact itself, as kind/name"
        ) from error
    if "trunkline.artifact" not in tags:
        raise ConfigError(
            f"{run_id} looks like an MLflow run id, but no such Trunkline run was found: the run at {uri} has no tag "
            "trunkline.artifact"
        )
    return str(tags["trunkline.artifact"])


def runs_matching(query: str, config: TrackingConfig, store_uri: str) -> list[dict[str, Any]]:
    """A row for each run of the experiment that MLflow's search finds: `run` (its name), `run_id`, `status`, and its
    `metrics.…` (the last of each), `params.…` and `tags.…`.

    Args: query, MLflow's filter, e.g. `metrics.loss < 4`; "" for all runs.
    Raises: ConfigError when there is no such experiment, or MLflow does not take the query.
    """
    storage = open_storage(store_uri)
    if not config.uri and isinstance(storage, FolderStorage) and not storage.root.exists():
        raise ConfigError(f"there is no store {store_uri}, so nothing was tracked there: set store= or tracking.uri=")
    uri = tracking_uri(config, store_uri)
    rows: list[dict[str, Any]] = []
    try:
        client = _client(uri)
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            raise ConfigError(f"MLflow at {uri} has no experiment {config.experiment}: set tracking.experiment=")
        token = None
        while True:
            page = client.search_runs([experiment.experiment_id], query, max_results=1000, page_token=token)
            rows += [_row(run) for run in page]
            token = page.token
            if not token:
                return rows
    except ConfigError:
        raise
    except Exception as error:
        if kind_of(error) == "invalid":
            raise ConfigError(
                f"MLflow does not take the query {query!r}: {first_line(error)}: write it as its search has it, e.g. "
                "tags.`trunkline.kind` = 'pretrain' and metrics.loss < 4"
            ) from error
        raise ConfigError(f"{told(uri, error)}: its runs cannot be read") from error


def _row(run: Any) -> dict[str, Any]:
    data = run.data
    named = {"run": run.info.run_name or run.info.run_id, "run_id": run.info.run_id, "status": run.info.status}
    parts = {"metrics": data.metrics, "params": data.params, "tags": data.tags}
    return {**named, **{f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()}}


def _ready(run: Mapping[str, Any]) -> str:
    """The id of the artifact's run: that of its header, else that in the store, else one that is made now; described,
    and not deleted.

    What is left of a run that was deleted goes to the run that `mlflow.json` names now, or to a new one where it names
    none any more, as long as the artifact is still the same.

    Raises: Deleted; whatever a server that is away makes MLflow's client raise.
    """
    client, storage = _client_of(run), open_storage(run["store"])
    same = run.get("fingerprint", "") == _fingerprint(storage, run["folder"])
    first, lost = run["run_id"], None
    while True:
        recorded = _recorded(storage, run["folder"], run["uri"])
        for run_id in dict.fromkeys([first, recorded if same or first is None else None]):
            if run_id is None:
                continue
            try:
                if not _check_alive(client, run, run_id):
                    _describe(client, run, run_id)
                return str(run_id)
            except Deleted as error:
                lost = lost or error
        left_behind = lost is not None and lost.gone and _record(storage, run["folder"]).get("uri") != run["uri"]
        if lost is not None and (not same if recorded is None else not left_behind):
            raise lost
        _make(client, run, storage, replace=recorded is not None)
        first, lost = None, None


def _check_alive(client: Any, run: Mapping[str, Any], run_id: str) -> bool:
    """Whether the run has its parameters and inputs. Raises: Deleted, naming what was deleted and the way back."""
    try:
        mlflow_run = client.get_run(run_id)
    except Exception as error:
        if is_gone(error, run_id):
            raise run_gone(run, run_id) from error
        raise
    if mlflow_run.info.run_id != run_id:
        raise NotMLflow(f"it was asked for run {run_id}, and gave {mlflow_run.info.run_id!r}")
    if mlflow_run.info.lifecycle_stage != "active":
        experiment = client.get_experiment(mlflow_run.info.experiment_id)
        if experiment.lifecycle_stage != "active":
            raise experiment_deleted(run, experiment.name, experiment.experiment_id, run_id)
        raise run_deleted(run, run_id)
    return _DESCRIBED in mlflow_run.data.tags


def _make(client: Any, run: Mapping[str, Any], storage: Storage, replace: bool) -> None:
    """Make the artifact's run and note it in the store, unless another process was first."""
    key = f"{run['folder']}/mlflow.json"
    made = _create_run(client, run, storage)
    record = json.dumps({"uri": run["uri"], "run_id": made}).encode()
    if replace:
        storage.write(key, record)
    elif not storage.create(key, record):
        if _recorded(storage, run["folder"], run["uri"]) is not None:
            client.delete_run(made)
        else:
            storage.write(key, record)  # what was there is another server's


def _create_run(client: Any, run: Mapping[str, Any], storage: Storage) -> str:
    folder = run["folder"]
    kind, name = folder.split("/")
    experiment_id = _experiment(client, run)
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
            if run["settings"].get("parent", parent) is not None:
                # MLflow folds children under their parent. A run that takes one and has none, a trunk, stays at the
                # top, so that trunks over the same data stand side by side; its link to the mixture is the tag above
                tags["mlflow.parentRunId"] = parent
                if _recorded(storage, parent_folder, run["uri"]):  # else the parent was tracked elsewhere
                    _check_parent(client, run, parent_folder, parent)
    under = run.get("under")
    if under and (parent := _run_of(storage, under) if "/" in under else under):
        tags.setdefault("mlflow.parentRunId", parent)
    return str(client.create_run(experiment_id, start_time=run["began"], tags=tags).info.run_id)


def _experiment(client: Any, run: Mapping[str, Any]) -> str:
    """The id of the run's experiment, made where there is none. Raises: Deleted."""
    experiment = client.get_experiment_by_name(run["experiment"])
    if experiment is None:
        try:
            return str(
                client.create_experiment(
                    run["experiment"],
                    artifact_location=run["artifacts"],
                    tags={"mlflow.experimentKind": "custom_model_development"},  # the page opens on runs, not on traces
                )
            )
        except Exception:
            experiment = client.get_experiment_by_name(run["experiment"])
            if experiment is None:  # else another command has just made it
                raise
    if experiment.name != run["experiment"]:
        raise NotMLflow(f"it was asked for experiment {run['experiment']!r}, and gave {experiment.name!r}")
    if experiment.lifecycle_stage != "active":
        raise experiment_deleted(run, experiment.name, experiment.experiment_id, None)
    return str(experiment.experiment_id)


def _check_parent(client: Any, run: Mapping[str, Any], folder: str, parent: str) -> None:
    """Say so when the run under which MLflow would show this one was deleted there."""
    try:
        _check_alive(client, {**run, "folder": folder}, parent)
    except Deleted as error:
        if parent not in _told:
            _told.add(parent)
            gone = f"MLflow's run {parent} of {folder}, under which it would stand, was removed for good"
            say(f"   {run['folder']} stands alone in MLflow: {gone if error.gone else error.deletion}")


def _describe(client: Any, run: Mapping[str, Any], run_id: str) -> None:
    """Log parameters, the whole config and the inputs; done again, it says the same."""
    from mlflow.entities import Param

    leaves = {
        re.sub(r"[^\w\-. :/]", ".", key): str(value)[:500]
        for key, value in flatten(run["settings"]).items()
        if value is not None
    }
    params = [Param(key[:250], value) for key, value in leaves.items()]
    for first in range(0, len(params), 100):  # MLflow takes at most 100 a call
        try:
            client.log_batch(run_id, params=params[first : first + 100])
        except Exception as error:
            if kind_of(error) != "invalid":
                raise
            say(
                f"   MLflow cannot take some parameters of {run['folder']}: {first_line(error)}; all are in its "
                "config.json"
            )
    client.log_dict(run_id, run["settings"], "config.json")
    _log_inputs(client, run_id, run)
    client.set_tag(run_id, _DESCRIBED, run["store"])


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


def _run_of(storage: Storage, folder: str) -> str | None:
    """The id of an artifact's run, at whatever server."""
    record = _record(storage, folder)
    return str(record["run_id"]) if record else None


def _recorded(storage: Storage, folder: str, uri: str) -> str | None:
    """The id of an artifact's run at this server, which may have come along with a copied store."""
    record = _record(storage, folder)
    here = record and (record["uri"] == uri or came_along(uri, storage, record["uri"]))
    return str(record["run_id"]) if here else None


def _record(storage: Storage, folder: str) -> dict[str, Any]:
    """Which MLflow run is an artifact's; {} where none is. Raises: ArtifactError when the record is damaged."""
    key = f"{folder}/mlflow.json"
    try:
        record = json.loads(storage.find(key) or b"{}")
        if record and not {"uri", "run_id"} <= set(record):
            raise ValueError("it names no run")
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"{storage.uri}/{key} is damaged ({error}), so it is not known which MLflow run is that of {folder}: "
            "delete the file, and the same command makes a new run"
        ) from error
    return dict(record)


def _fingerprint(storage: Storage, folder: str) -> str | None:
    """That of the artifact as it is in the store now; None before it is claimed."""
    claim = json.loads(storage.find(f"{folder}/claim.json") or b"{}")
    return str(claim["fingerprint"]) if claim else None


def _client_of(run: Mapping[str, Any]) -> Any:
    """A client for the run's server; the database of a store that was copied or moved is brought home first."""
    client = _client(run["uri"])  # makes the tables
    if run["artifacts"]:
        bring_home(Path(run["store"]))
    return client


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints the traceback of what it raises
    if (database := database_of(uri)) is None:
        return MlflowClient(tracking_uri=uri)
    with alone_at(database):
        return MlflowClient(tracking_uri=uri)
