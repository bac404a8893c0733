"""MLflow's pages on a store's runs: the training runs as a tree, the evaluations of one set, the exported models.

    python -m workflows.ui                                    all training runs; Ctrl-C ends it
    python -m workflows.ui of=anneal/demo                     the runs that begin where it does, what differs first
    python -m workflows.ui group=demo-lr                      the arms of a sweep
    python -m workflows.ui tracking.uri=http://mlflow:5000    prints the addresses: that server has the pages itself

A store's own tracking is a database; this serves it, on this machine alone, as long as it runs.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from typing import Annotated

from pipelines.config import Range, WorkflowConfig, config_class
from pipelines.display.progress import say
from pipelines.errors import ClusterError, ConfigError
from pipelines.store.references import Reference
from pipelines.tracking.links import UI_HOST, UI_PORT
from pipelines.tracking.pages import Asked, comparison, opening_pages
from pipelines.tracking.place import database_of, tracking_uri
from pipelines.train.results.heldout import measures
from workflows.entry import entry
from workflows.running.session import DryRun, Session

_START_SECONDS = 600


@config_class
class UiConfig(WorkflowConfig):
    """What is opened, and where it is served."""

    of: str | None = None
    group: str | None = None
    port: Annotated[int, Range(1, 65535)] = UI_PORT
    browser: bool = True

    def __post_init__(self) -> None:
        """Raises: ConfigError for two things to compare, or one without a name."""
        super().__post_init__()
        for key in ("of", "group"):
            if getattr(self, key) == "":
                raise ConfigError(f"{key} is empty; expected a name, or null (without {key}=) for all training runs")
        if self.of is not None and self.group is not None:
            raise ConfigError(f"of={self.of} and group={self.group}: expected one of them")


def run(config: UiConfig, session: Session) -> None:
    """Print the addresses, serve what no server has, and open the first of them."""
    asked = _asked(config, session)
    pages = opening_pages(config.tracking, session.store, config.port)
    if asked is not None:
        found = comparison(config.tracking, session.store, asked, config.port, measures())
        if found is None:
            raise ConfigError(
                f"nothing stands beside {asked}: MLflow compares the runs of one kind that begin from one parent, and "
                "the arms of a sweep (-m)"
            )
        say(f"   {found.title}: {found.arms} runs, {found.order}")
        pages.insert(0, ("compared", found.url))
    wide = max(len(label) for label, _ in pages)
    for label, url in pages:
        say(f"   {label:<{wide}}  {url}")
    if config.dry_run:
        raise DryRun
    uri = tracking_uri(config.tracking, config.store)
    if database_of(uri) is None:
        _open(config, pages[0][1])
        return
    _serve(config, uri, pages[0][1])


def _asked(config: UiConfig, session: Session) -> Asked | None:
    if config.group is not None:
        return Asked(group=config.group)
    return None if config.of is None else Asked(folder=Reference.parse(session.resolve(config.of)).folder)


def _serve(config: UiConfig, uri: str, first: str) -> None:
    """Serve the database until Ctrl-C. Raises: ConfigError where the port is taken; ClusterError where MLflow ends."""
    if _answers(config.port):
        raise ConfigError(
            f"port {config.port} is taken (by another `python -m workflows.ui`?): end that, or pass "
            f"port={config.port + 1}"
        )
    # MLflow's own words are kept from the addresses above, until it ends by itself
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", UI_HOST]
    server = subprocess.Popen(
        [*command, "--port", str(config.port), "--workers", "1"],
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is ours: MLflow would print a page of it
    )
    try:
        say("   starting …")
        _wait(config.port, server)
        say("   ready; Ctrl-C ends it")
        _open(config, first)
        raise ClusterError(f"MLflow's server ended by itself:\n{_last_words(server)}")
    except KeyboardInterrupt:
        say("   ended")
    finally:
        _end(server)


def _wait(port: int, server: subprocess.Popen[str]) -> None:
    """Until the server answers. Raises: ClusterError where it ends first."""
    until = time.monotonic() + _START_SECONDS  # a busy machine takes minutes
    while not _answers(port):
        if server.poll() is not None:
            raise ClusterError(f"MLflow's server did not start:\n{_last_words(server)}")
        if time.monotonic() > until:
            raise ClusterError(f"MLflow's server does not answer after {_START_SECONDS} s: run this again")
        time.sleep(0.2)


def _last_words(server: subprocess.Popen[str]) -> str:
    """What it printed last; waits until it ends."""
    assert server.stdout is not None
    return "".join(collections.deque(server.stdout, maxlen=8))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((UI_HOST, port)) == 0


def _open(config: UiConfig, url: str) -> None:
    """Open a browser, where somebody sits before it: without a screen it would be one in this terminal."""
    screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if config.browser and screen and sys.stdout.isatty():
        webbrowser.open(url)


def _end(server: subprocess.Popen[str]) -> None:
    """End the server and the workers that it began."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


main = entry(UiConfig, run, "ui", uses_store=False)

if __name__ == "__main__":
    main()
