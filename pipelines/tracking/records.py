"""Which MLflow run is an artifact's: `<store>/<kind>/<name>/mlflow.json`, written when the run is made.

{"uri": …, "run_id": …, "replaces": …}    replaces: the run of what a rebuild took the place of, if it did
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import ArtifactError
from pipelines.store.storage import Storage
from pipelines.store.ways_out import aside_folder
from pipelines.tracking.place import came_along


def record_key(folder: str) -> str:
    """Where the record of the artifact `kind/name` lies."""
    return f"{folder}/mlflow.json"


def record_of(storage: Storage, folder: str) -> dict[str, Any]:
    """Which MLflow run is an artifact's; {} where none is. Raises: ArtifactError when the record is damaged."""
    key = record_key(folder)
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


def run_anywhere(storage: Storage, folder: str) -> str | None:
    """The id of an artifact's run, at whatever server."""
    record = record_of(storage, folder)
    return str(record["run_id"]) if record else None


def run_at(storage: Storage, folder: str, uri: str) -> str | None:
    """The id of an artifact's run at this server, which may have come along with a copied store."""
    return _here(storage, record_of(storage, folder), uri)


def replaced_run(storage: Storage, folder: str, uri: str, rebuilt: bool) -> str | None:
    """The id of the run, at this server, of the artifact that a rebuild takes the place of; None where there is none.

    Args: rebuilt, a rebuild begins now, and what it replaces is still there. Otherwise one may go on: what it replaces
        is set aside, and its own run's record names that run.
    """
    try:
        if rebuilt:
            return run_at(storage, folder, uri)
        if (aside := run_at(storage, aside_folder(folder), uri)) is not None:
            return aside
        own = record_of(storage, folder)
    except ArtifactError:  # damage is what a rebuild is for
        return None
    return _here(storage, {**own, "run_id": own["replaces"]}, uri) if "replaces" in own else None


def fingerprint_of(storage: Storage, folder: str) -> str | None:
    """That of the artifact as it is in the store now; None before it is claimed."""
    claim = json.loads(storage.find(f"{folder}/claim.json") or b"{}")
    return str(claim["fingerprint"]) if claim else None


def _here(storage: Storage, record: dict[str, Any], uri: str) -> str | None:
    here = record and (record["uri"] == uri or came_along(uri, storage, record["uri"]))
    return str(record["run_id"]) if here else None
