"""Addresses of MLflow's pages. Pure strings.

A tracking server has its pages at its own address. A database has them where `trunkline ui` (`make ui`) serves it.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from pipelines.tracking.place import database_of

UI_HOST, UI_PORT = "127.0.0.1", 5000


def address(uri: str, port: int = UI_PORT) -> str | None:
    """Where the pages of a tracking URI are, without a password in it; None where that is not known."""
    if database_of(uri) is not None:
        return f"http://{UI_HOST}:{port}"
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"


def view_page(base: str, experiment_id: str, key: str, charts: bool) -> str:
    """A saved view of the training runs. Args: key, as `View` has it; charts, rather than the table."""
    # a filter in the address would take the place of the view's own
    query = f"workflowType=machine_learning&viewStateShareKey={quote(key)}"
    return f"{base}/#/experiments/{experiment_id}/runs?{query}{'&compareRunsMode=CHART' if charts else ''}"


def model_page(base: str, name: str, version: str | int) -> str:
    """A version of a registered model."""
    return f"{base}/#/models/{quote(name, safe='')}/versions/{version}"
