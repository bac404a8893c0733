"""Where a store's tracking lies: in the store, wherever the store lies now.

Enters: a store, or a tracking URI of the user's own. Leaves: the URI that MLflow takes, and a database whose runs have
their files beside it. MLflow writes absolute paths into its database, so that the copy of a store would go on writing
into its original: `bring_home` rewrites them in the copy.

    python -m pipelines.tracking.place STORE      the URI of the store's database, brought home (what `make ui` serves)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipelines.config import TrackingConfig
from pipelines.display.progress import say
from pipelines.errors import ConfigError, TrunklineError
from pipelines.store.cache import cache_folder
from pipelines.store.opening import open_storage
from pipelines.store.storage import FolderStorage, Storage

DATABASE, FILES = "mlflow.db", "mlflow-artifacts"
_BUSY_SECONDS = 30.0


def tracking_uri(config: TrackingConfig, store_uri: str) -> str:
    """The URI to track at. Default: SQLite beside the store.

    Raises: ConfigError for an s3:// store without a server, since SQLite cannot live there.
    """
    if config.uri:
        return config.uri
    storage = open_storage(store_uri)
    if not isinstance(storage, FolderStorage):
        raise ConfigError(
            f"store {store_uri} is remote, and the default tracking is a SQLite file beside a local store: set "
            "tracking.uri=http://your-mlflow:5000, or tracking.enabled=false"
        )
    storage.root.mkdir(parents=True, exist_ok=True)
    return own_uri(storage.root)


def own_uri(root: Path) -> str:
    """The URI of the SQLite file in the store at `root`.

    SQLAlchemy reads `%41` and `?` in a URI's path as an escape and as the beginning of options, so these two are
    escaped. MLflow makes the parent folder of what follows `sqlite:///` without reading escapes; with the driver's name
    in front it does not.
    """
    path = str(root / DATABASE)
    if "%" in path or "?" in path:
        return "sqlite+pysqlite:///" + path.replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def files_uri(root: Path) -> str:
    """Where MLflow keeps the files of the runs of the store at `root`."""
    return (root / FILES).as_uri()


def database_of(uri: str) -> Path | None:
    """The SQLite file that a tracking URI names; None for anything else."""
    scheme, separator, path = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite" or not separator:
        return None
    return Path(unquote(path.partition("?")[0]))


@contextlib.contextmanager
def alone_at(database: Path) -> Iterator[None]:
    """One process at a time: the first client makes the tables, and two that do so at once would each fail on the
    other's.
    """
    with Path(f"{database}.lock").open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def with_tables(database: Path, version: str) -> Iterator[None]:
    """Give a database that is not there yet the tables that MLflow made elsewhere, and keep those that it makes here.

    MLflow makes them by way of some fifty migrations, which take a second and a half; a copy takes a millisecond. Args:
    version, MLflow's, since another one may have other tables.
    """
    kept = cache_folder() / "mlflow" / f"tables-{version}.db"
    made_here = not database.exists()
    if made_here and kept.exists():
        _publish(database, lambda path: shutil.copyfile(kept, path))
        made_here = not database.exists()
    yield
    if made_here and database.exists():
        _publish(kept, lambda path: _copy_tables(database, path))


def _copy_tables(database: Path, path: Path) -> None:
    """MLflow's tables without an experiment: it makes its `Default` in each database, and writes a path into it."""
    with contextlib.closing(sqlite3.connect(path)) as copy:
        with contextlib.closing(sqlite3.connect(database, timeout=_BUSY_SECONDS)) as link:
            link.backup(copy)
        with copy:
            copy.execute("DELETE FROM experiments")


def _publish(target: Path, write: Callable[[Path], Any]) -> None:
    """Have `target` appear whole, or not at all where it cannot be written: then MLflow makes its tables by itself."""
    beside = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, target)
    except (OSError, sqlite3.Error):
        with contextlib.suppress(OSError):
            beside.unlink()


def bring_home(root: Path) -> None:
    """Have the database of the store at `root` name this store's files, where it was copied or moved here with its
    runs.

    Files that came along are listed from here again, and new ones go here; nothing is written to where the store was.
    """
    database, home = root / DATABASE, files_uri(root)
    if not database.exists():
        return
    with alone_at(database), contextlib.closing(sqlite3.connect(database, timeout=_BUSY_SECONDS)) as link, link:
        if not link.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        strangers = link.execute(
            "SELECT experiment_id, artifact_location FROM experiments WHERE artifact_location <> ? AND "
            "(artifact_location LIKE ? OR (experiment_id NOT IN (SELECT experiment_id FROM runs) AND "
            "(artifact_location LIKE '/%' OR artifact_location LIKE 'file:%')))",
            (
                home,
                f"file:%/{FILES}",
            ),  # and MLflow's own `Default`, which it puts into the working folder, while it is empty
        ).fetchall()
        told: dict[str, str] = {}  # by where the store was: several experiments may have been there
        for experiment, there in strangers:
            link.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (home, experiment))
            if not there.endswith(f"/{FILES}"):
                continue
            link.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                (home, len(there) + 1, len(there) + 1, f"{there}/"),
            )
            before = unquote(there.removeprefix("file://")).removesuffix(f"/{FILES}")
            _bring_models_home(link, before, str(root))
            link.execute("UPDATE tags SET value = ? WHERE key = 'trunkline.store' AND value = ?", (str(root), before))
            link.execute(
                "UPDATE tags SET value = replace(value, ?, ?) WHERE key = 'mlflow.note.content'",
                (f"in `{before}`", f"in `{root}`"),
            )
            told[before] = (
                f"   MLflow's files of this store are in {root / FILES} now: it was copied or moved from {before}"
            )
    for line in told.values():
        say(line)


def _bring_models_home(link: sqlite3.Connection, before: str, root: str) -> None:
    """Registered models lie in the store itself: have their versions name it."""
    if not link.execute("SELECT 1 FROM sqlite_master WHERE name = 'model_version_tags'").fetchone():
        return
    for column in ("source", "storage_location"):
        link.execute(
            f"UPDATE model_versions SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (root, len(before) + 1, len(before) + 1, f"{before}/"),
        )
    link.execute("UPDATE model_version_tags SET value = ? WHERE key = 'trunkline.store' AND value = ?", (root, before))


def came_along(uri: str, storage: Storage, record_uri: str) -> bool:
    """Whether something recorded for the server `record_uri` came here in a store that was copied or moved, so is in
    its `uri`.
    """
    if not isinstance(storage, FolderStorage) or uri != own_uri(storage.root) or record_uri == uri:
        return False
    database = database_of(record_uri)
    return database is not None and database.name == DATABASE


def header_here(header: Mapping[str, Any], uri: str, storage: Storage) -> dict[str, Any] | None:
    """The header of a spool that lies in the store `storage`, as delivering it to `uri` needs it; None when it is for
    another server.
    """
    if header["uri"] == uri:
        return dict(header)
    if isinstance(storage, FolderStorage) and header.get("artifacts") and came_along(uri, storage, header["uri"]):
        return {**header, "uri": uri, "store": storage.uri, "artifacts": files_uri(storage.root)}
    return None


def main() -> None:
    """Print the URI of a store's tracking, for `make ui`."""
    try:
        uri = tracking_uri(TrackingConfig(), sys.argv[1])
        database = database_of(uri)
        assert database is not None
        with contextlib.redirect_stdout(sys.stderr):
            bring_home(database.parent)
    except TrunklineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    print(uri)


if __name__ == "__main__":
    main()
