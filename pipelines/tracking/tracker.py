"""MLflow, and only here: one run per artifact, from rank zero alone, the same run after a resume.

A tracking server that is down never stops or slows training: what is logged goes to a spool (`spool.py`), and a thread
delivers it whenever the server answers, the making of the run itself included. What is undelivered when the process
ends goes out with the next command that tracks at the same server. What was deleted in MLflow is told by name, and its
points stay in the spool (`errors.py`). Where the default database lies: `place.py`. What a run says of itself:
`account.py`; how it is made at a server: `making.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.config import TrackingConfig
from pipelines.display.progress import say
from pipelines.errors import ConfigError, StorageError, TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.disk import disk_error
from pipelines.store.opening import open_storage
from pipelines.store.storage import FolderStorage, Storage
from pipelines.tracking import making
from pipelines.tracking.account import GROUP, About
from pipelines.tracking.errors import Deleted, first_line, is_gone, kind_of, told
from pipelines.tracking.machine import Sampler
from pipelines.tracking.origin import origin
from pipelines.tracking.place import alone_at, bring_home, database_of, files_uri, tracking_uri, with_tables
from pipelines.tracking.records import fingerprint_of, run_at
from pipelines.tracking.registry import Model, is_registered, register
from pipelines.tracking.sending import entries, send
from pipelines.tracking.spool import Leftover, Spool, leftovers

_RETRY_SECONDS = 5.0
_LAST_TRY_SECONDS = 20.0


class Tracker:
    """Logs into one MLflow run. Every method returns at once; use it from rank zero only."""

    def __init__(
        self,
        run: Mapping[str, Any] | None,
        flush_seconds: float = 5.0,
        tell: Callable[[str], None] = say,
        opened: bool = False,
    ):
        """Args: run, what `open_tracker` says of a run (`Tracker.run`), or None for a tracker that drops everything;
        tell, where a line for people goes; opened, it is the command's own, and not a worker's."""
        self.run, self.flush_seconds, self.tell = dict(run) if run else None, flush_seconds, tell
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said: set[str | None] = {self.run.get("told")} if self.run else set()
        self._why, self._why_kind = "the time for the last try was over", "away"  # of what is undelivered
        self._ready = False
        self._lost = 0  # entries that the spool's disk had no room for
        self._sampler: Sampler | None = None
        if self.run is None:
            return
        self._storage = open_storage(self.run["store"])
        self._spool = Spool({**self.run, "command": opened})
        self._thread = threading.Thread(target=self._deliver, name="mlflow-spool", daemon=True)
        self._thread.start()
        every = self.run.get("system_every_seconds", 0)
        if every and self.run.get("sampled") == ("here" if opened else "worker"):
            self._sampler = Sampler(self.metrics, every, self.run["began"] / 1000)

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

    def evaluated(self, subject: Artifact, heldout: str, values: Mapping[str, float], step: int) -> None:
        """Have the run that was evaluated show the numbers, too. Args: subject, its artifact; heldout, the documents
        that were held out, and how they were measured; step, of its checkpoint."""
        stamp = int(time.time() * 1000)
        rows = [[name, float(value), stamp, step] for name, value in values.items()]
        told_of = {"evaluated": subject.folder, "fingerprint": subject.fingerprint, "heldout": heldout, "rows": rows}
        self._put(told_of)

    def register(self, model: Model) -> None:
        """Have MLflow's registry hold what this run has exported."""
        self._put(model.item)

    def end(self, status: str, **known: str) -> None:
        """Deliver what is left (for at most 20 s) and set the run's end: FINISHED, FAILED or KILLED.

        Args: known, what the description says of the end: `why` it failed, the last `checkpoint`.
        """
        self._stop_sampling()
        self._put({"end": status, "at": int(time.time() * 1000), **known})
        self.close()

    @property
    def arrived(self) -> bool:
        """Whether MLflow has got all that was logged."""
        return self.run_id is not None and not self._lost and self._spool.is_delivered

    def close(self) -> None:
        """Deliver what is left and stop, leaving the run's state alone (a worker's tracker: the driver ends the
        run).
        """
        self._stop_sampling()
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
                    f"   {entries(left)} of {self.run['folder']} {'has' if left == 1 else 'have'} not reached MLflow "
                    f"({self._why}); kept in {self._spool.path}"
                )
            if self._lost:
                self.tell(f"   {entries(self._lost)} of {self.run['folder']} could not be written down: lost to MLflow")
            self._spool.close()

    def _stop_sampling(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None

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
                    self.run["run_id"] = making.ready(_server_of(self.run), self.run)
                    self._ready = True
                send(_server_of(self.run), self.run, items, self.tell)
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
    about: About | None = None,
) -> Tracker:
    """The MLflow run of the artifact `kind/name`: the one it began with, or a new one.

    Args: settings, the resolved config, kept as config.json; inputs, the artifacts read, logged as datasets or
        parents; under, below which run MLflow shows one that begins from none: an artifact, as kind/name, or the id of
        a run; about, what the command knows beside.

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
        "fingerprint": fingerprint_of(store.storage, folder),
        "artifacts": files_uri(root) if root else None,
        "settings": dict(settings),
        "inputs": [[reference, artifact.folder, artifact.fingerprint] for reference, artifact in inputs.items()],
        "began": int(time.time() * 1000),
        **({} if under is None else {"under": under}),
        **_told_of(about or About()),
        "system_every_seconds": config.system_every_seconds,
    }
    try:
        run["run_id"] = known = run_at(store.storage, folder, run["uri"])
        server = _server_of(run)
        run["run_id"] = making.ready(server, run)
        if known is not None:
            making.goes_on(server, run, run["run_id"])
    except Exception as error:
        run["told"] = kind_of(error)
        kept = (
            "points are kept and sent when it answers, to this command or a later one"
            if run["told"] == "away"
            else "until then this run's points are kept"
        )
        say(f"   {told(run['uri'], error)}; {kept}")
    return Tracker(run, opened=True)


def _told_of(about: About) -> dict[str, Any]:
    """What a command knows, as the header of a spool keeps it."""
    return {
        "params": dict(about.params),
        "what": about.what,
        "parent": about.parent,
        "bases": list(about.bases),
        "replaces": about.replaces,
        "group": about.group,
        "sampled": about.sampled,
        "origin": origin(about.command),
    }


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
            items = [*left.items, *_lost(left)]
            if items:
                server = _server_of(left.header)
                run_id = making.ready(server, left.header)
                refused = send(server, {**left.header, "run_id": run_id}, items, say)
        except Deleted as error:
            if not left.items:  # nothing waits for it
                left.drop()
            elif left.where not in making.told:
                making.told.add(left.where)
                waiting = f"{entries(len(left.items))} {'waits' if len(left.items) == 1 else 'wait'}"
                say(f"   {error}; {waiting} for it in {left.where} (remove that file to let go of that)")
            continue
        left.drop()
        count += max(0, len(left.items) - refused)
    return count


def _lost(left: Leftover) -> list[dict[str, Any]]:
    """What is to be said where a command died before it had said how its run ended."""
    if not left.header.get("command") or any("end" in item for item in left.items):
        return []
    stamps = [row[2] for item in left.items for row in item.get("metrics", [])]
    return [{"lost": max([1000 * left.header["at"], *stamps])}]


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
                say(f"   MLflow at {uri} has got what earlier commands could not send: {entries(count)}")

    thread = threading.Thread(target=deliver, name="mlflow-leftovers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_LAST_TRY_SECONDS)


def client_at(config: TrackingConfig, store: ArtifactStore) -> tuple[str, Any]:
    """The URI that a command tracks at, and MLflow's client for it; whoever uses it sees MLflow's own exceptions.

    Raises: ConfigError as `tracking_uri` does.
    """
    uri = tracking_uri(config, store.uri)
    client = _client(uri)
    if not config.uri and isinstance(store.storage, FolderStorage):
        bring_home(store.storage.root)
    return uri, client


def register_again(config: TrackingConfig, store: ArtifactStore, model: Callable[[], Model], export: Artifact) -> None:
    """Have the registry hold an export that was finished by an earlier command, where that had no server to tell.

    Args: model, what is told of it; asked only where it is not registered. A server that is away costs a line.
    """
    if not config.enabled:
        return
    uri = tracking_uri(config, store.uri)
    run_id = run_at(store.storage, export.folder, uri)
    if run_id is None or is_registered(store.storage, export.folder, export.fingerprint, uri):
        return
    try:
        uri, client = client_at(config, store)
        run = {"uri": uri, "store": store.uri, "folder": export.folder, "run_id": run_id}
        register(_Server(client), run, model().item["model"])
    except TrunklineError:
        raise
    except Exception as error:
        say(f"   {told(uri, error)}; the same command registers {export.folder} when it answers")


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


def join_group(config: TrackingConfig, store: ArtifactStore, folders: Sequence[str], group: str) -> None:
    """Have the runs of finished artifacts be arms of a sweep as well, where they have runs; a server that is away costs
    a line.
    """
    if not config.enabled or not folders:
        return
    uri = tracking_uri(config, store.uri)
    try:
        client = _client(uri)
        for folder in folders:
            if (run_id := run_at(store.storage, folder, uri)) is not None:
                client.set_tag(run_id, GROUP, group)
    except Exception as error:
        say(f"   {told(uri, error)}; the arms that were finished before are not in the group {group} there")


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


class _Server:
    """MLflow's client, and the calls that take objects of its own (`making.Server`)."""

    def __init__(self, client: Any):
        self.client = client

    def log_metrics(self, run_id: str, rows: Sequence[Sequence[Any]]) -> None:
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(*row) for row in rows])

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])

    def log_datasets(self, run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for one in datasets:
            named = {key: one[key] for key in ("name", "digest", "source_type", "source")}
            inputs.append(DatasetInput(Dataset(**named), [InputTag("mlflow.data.context", one["context"])]))
        self.client.log_inputs(run_id, inputs)


def _server_of(run: Mapping[str, Any]) -> _Server:
    """The run's server; the database of a store that was copied or moved is brought home first."""
    client = _client(run["uri"])  # makes the tables
    if run["artifacts"]:
        bring_home(Path(run["store"]))
    return _Server(client)


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient
    from mlflow.version import VERSION

    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints the traceback of what it raises
    if (database := database_of(uri)) is None:
        return MlflowClient(tracking_uri=uri)
    with alone_at(database), with_tables(database, VERSION):
        return MlflowClient(tracking_uri=uri)
