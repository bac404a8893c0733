"""A real PostgreSQL in a folder of its own, from the distribution's package; it listens on a socket file alone.

with postgres() as database:
    database.uri             # for SQLAlchemy and MLflow
    database.stop(); database.start()
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.infra.tools import need
from tests.waits import PATIENCE_SECONDS, wait_until

_NOBODY = 65534  # PostgreSQL refuses to run as root


class Postgres:
    """One database server over `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.uri = f"postgresql+psycopg2://trunkline@/postgres?host={folder}"
        # Debian keeps initdb beside the real binary, which PATH has a link to
        self._programs = Path(need("postgres")).resolve().parent
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(folder / "data"), "-U", "trunkline", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start it, recovering what was committed before a crash, and wait until it answers."""
        command = self._command(
            "postgres", "-D", str(self.folder / "data"), "-k", str(self.folder), "-c", "listen_addresses="
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, "PostgreSQL to answer", lambda: (self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """End it as a crash would: no checkpoint, open connections are torn."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=PATIENCE_SECONDS)

    def _answers(self) -> bool:
        asked = subprocess.run(self._command("pg_isready", "-q", "-h", str(self.folder)), timeout=PATIENCE_SECONDS)
        return asked.returncode == 0

    def _run(self, *command: str) -> None:
        done = subprocess.run(self._command(*command), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def _command(self, program: str, *arguments: str) -> list[str]:
        nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        return [*nobody, str(self._programs / program), *arguments]


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; stopped and deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tl-pg-"))  # not below pytest's folder, which only root may enter
    try:
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        server = Postgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
