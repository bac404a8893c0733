"""A real MLflow server, as a cluster's head runs it: a PostgreSQL database behind it, artifacts passed on to S3."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.infra.postgres import Postgres
from tests.integration.s3_server import S3Server
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS, wait_until


class MlflowServer:
    """`mlflow server` at `uri`; it may be killed and started again."""

    def __init__(self, folder: Path, address: str, database: Postgres, storage: S3Server):
        self.port = free_port()
        self.folder, self.address, self.database, self.storage = folder, address, database, storage
        self.uri = f"http://{address}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self.database.uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            self.address,
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--serve-artifacts",
            "--artifacts-destination",
            f"s3://{self.storage.bucket}/mlflow",
        ]
        with self.storage.environment(), (self.folder / "mlflow.log").open("ab") as log:
            environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        if wait:
            process, log_of = self._process, (self.folder / "mlflow.log").read_text
            wait_until(
                lambda: process.poll() is not None or self.answers(), "MLflow to answer", lambda: log_of()[-3000:]
            )
            assert process.poll() is None, log_of()[-3000:]

    def answers(self) -> bool:
        """Whether it serves now."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """End all its processes at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=PATIENCE_SECONDS)


@contextlib.contextmanager
def mlflow_server(folder: Path, address: str, database: Postgres, storage: S3Server) -> Iterator[MlflowServer]:
    """A running server; killed at the end."""
    server = MlflowServer(folder, address, database, storage)
    try:
        server.start()
        yield server
    finally:
        server.kill()
