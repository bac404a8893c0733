"""Where a command was typed: by whom, on which machine, and from which state of the code.

Enters: the environment, the code's own folder. Leaves: plain data for the tags of an MLflow run. A Ray job runs in a
copy of the code without its history, so whoever submits one hands on what is known here (`handed_on`). What is not
known anywhere is None, never a guess.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from typing import Any

import pipelines
from pipelines.store.code import git_state

HANDED_ON = "TRUNKLINE_ORIGIN"  # of a job's environment
_KEYS = ("user", "commit", "dirty")


def origin(command: str | None = None) -> dict[str, Any]:
    """`user`, `host`, `version`, `commit` and whether the code differs from it (`dirty`), `job`, and the command."""
    commit, dirty = git_state()
    handed = _handed()
    here = {"user": _user(), "commit": commit, "dirty": dirty}
    if commit is None:
        here |= {"commit": handed.get("commit"), "dirty": handed.get("dirty")}
    return {
        **here,
        "user": handed.get("user") or here["user"],
        "host": socket.gethostname(),
        "version": pipelines.__version__,
        "job": os.environ.get("RAY_JOB_SUBMISSION_ID"),
        "command": command,
    }


def handed_on() -> dict[str, str]:
    """What a job's environment gets, so that its runs can tell who submitted it, and which code."""
    told = {key: value for key, value in origin().items() if key in _KEYS}
    return {HANDED_ON: json.dumps(told)}


def _handed() -> dict[str, Any]:
    try:
        told = json.loads(os.environ.get(HANDED_ON) or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return None
