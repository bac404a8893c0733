"""Why MLflow did not take something: told apart, since each has another way out.

    away      no connection, a server's fault (5xx), a busy database: it passes, so what waits is sent later
    refused   401 or 403: credentials, which a person mends
    deleted   the run or its experiment was deleted in MLflow; a person brings it back or lets it go
    invalid   this one point cannot be stored, now or later; those after it can

Knows MLflow's exceptions by their attributes only: nothing is imported.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["away", "refused", "deleted", "invalid"]
_INVALID = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS", "ENDPOINT_NOT_FOUND"}
_REFUSED = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
# the end of what urllib3 says when it has tried often enough
_CAUSE = re.compile(r"\(Caused by \w+\(['\"]?(.+?)['\"]?\)+$")
# what a database says, in a message of SQLAlchemy's: `(sqlite3.OperationalError) database or disk is full`
_DATABASE = re.compile(r"^(?:.*: )?\([\w.]+Error\) (.+)$", re.MULTILINE)


class Deleted(Exception):
    """A run that somebody deleted in MLflow, or whose experiment was deleted. The message names the way back."""

    def __init__(self, deletion: str, other: str = "", gone: bool = False):
        """Args: deletion, what was deleted and how it comes back; other, what the one who makes that run can do
        instead; gone, for good: MLflow has no such run at all."""
        super().__init__(f"{deletion}; or {other}" if other else deletion)
        self.deletion, self.gone = deletion, gone


class NotMLflow(ConnectionError):
    """A server that answers anything that it is asked, but not with what it was asked for."""


def kind_of(error: BaseException) -> Kind:
    """What kind of failure an exception of MLflow's client is."""
    if isinstance(error, Deleted):
        return "deleted"
    code, status = str(getattr(error, "error_code", "")), status_of(error)
    if code in _REFUSED or status in (401, 403):
        return "refused"
    if isinstance(error, (OSError, json.JSONDecodeError)):  # requests' own are OSErrors; a proxy's page is no JSON
        return "away"
    if isinstance(error, (ValueError, TypeError, OverflowError)):  # what the client itself cannot encode
        return "invalid"
    return "invalid" if code in _INVALID and status == 400 else "away"


def status_of(error: BaseException) -> int | None:
    """The HTTP status that MLflow's exception stands for; None where it has none."""
    ask = getattr(error, "get_http_status_code", None)
    return int(ask()) if callable(ask) else None


def is_gone(error: BaseException, run_id: str) -> bool:
    """Whether MLflow says that it has no such run; a 404 of another kind of server names no run."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST" and run_id in str(error)


def first_line(error: BaseException) -> str:
    """The beginning of an exception's message, or the cause that it names."""
    line = (str(error) or repr(error)).splitlines()[0]
    cause = _CAUSE.search(line) or _DATABASE.search(str(error))
    return (cause[1] if cause else line)[:160]


def told(uri: str, error: BaseException) -> str:
    """The failure as the first half of a line for people."""
    kind = kind_of(error)
    if kind == "deleted":
        return str(error)
    if kind == "refused":
        return (
            f"MLflow at {uri} refuses this user ({first_line(error)}): are MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) set and right, and may they write?"
        )
    if status_of(error) == 404 or isinstance(error, NotMLflow):
        return f"what answers at {uri} is no MLflow ({first_line(error)}): is tracking.uri right?"
    if kind == "invalid":
        return f"MLflow at {uri} does not take this run ({first_line(error)})"
    return f"MLflow at {uri} does not answer ({first_line(error)})"


def run_deleted(run: Mapping[str, Any], run_id: str) -> Deleted:
    """Somebody deleted the run, which MLflow still has."""
    return Deleted(
        f"MLflow's run {run_id} of {run['folder']} was deleted: "
        f"`{_command(run['uri'], 'runs restore --run-id', run_id)}` brings it back",
        f"remove {run['store']}/{run['folder']}/mlflow.json, and the same command makes a new run",
    )


def run_gone(run: Mapping[str, Any], run_id: str) -> Deleted:
    """The run is not there any more."""
    return Deleted(
        f"MLflow's run {run_id} of {run['folder']} is not at {run['uri']} any more (deleted, then removed for good?): "
        f"remove {run['store']}/{run['folder']}/mlflow.json, which names it, and the same command makes a new run",
        gone=True,
    )


def experiment_deleted(run: Mapping[str, Any], name: str, experiment_id: str, run_id: str | None) -> Deleted:
    """Somebody deleted the experiment, and with it the run `run_id` if there was one."""
    back = _command(run["uri"], "experiments restore --experiment-id", experiment_id)
    other = (
        f"remove {run['store']}/{run['folder']}/mlflow.json and give another tracking.experiment=…, and the same "
        "command makes a new run"
        if run_id
        else "give another tracking.experiment=…"
    )
    return Deleted(
        f"MLflow's experiment {name!r} was deleted, and with it "
        f"{f'the run {run_id} of' if run_id else 'the place for a run of'} {run['folder']}: `{back}` brings it back; "
        f"or {other}"
    )


def _command(uri: str, subcommand: str, argument: str) -> str:
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow {subcommand} {argument}"
