"""Somebody else's server, started on loopback with a token, watched, and ended with this process.

Enters: a `Server` (what a runtime's row says). Leaves: lines that say how to ask it; no process.

The token is given in the environment, where other users of the machine do not see it. On Linux the kernel ends the
server where this process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

from pipelines.errors import ConfigError
from pipelines.train.runtimes.contract import Server

_PATIENCE_SECONDS, _GRACE_SECONDS = 600.0, 10.0
_PR_SET_PDEATHSIG = 1


def new_token() -> str:
    """Nobody guesses it."""
    return secrets.token_urlsafe(24)


def usable_port(port: int) -> int:
    """The port, or a free one for 0. Raises: ConfigError when another program has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port={port} cannot be used on this machine: {error.strerror}; name another, or port=0 for any that "
                "is free"
            ) from error
        return int(probe.getsockname()[1])


def curl_line(port: int, token: str, model: str, question: str) -> str:
    """A command that asks the server one question."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 64}
    return shlex.join([
        "curl", "-s", f"http://127.0.0.1:{port}/v1/chat/completions",
        "-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json",
        "-d", json.dumps(body, ensure_ascii=False),
    ])  # fmt: skip


@contextlib.contextmanager
def running(server: Server, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server, wait until it answers, and end it with the block.

    SIGTERM and SIGHUP end the block as Ctrl-C does. Raises: ConfigError when the server ends before it answers, with
    what it said.
    """
    with tempfile.TemporaryFile() as log, _ended_by_signals():
        process = subprocess.Popen(
            server.command,
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            _wait(process, port, server.health, log)
            yield process
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], port: int, health: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ConfigError(f"the server ended before it answered (exit code {process.returncode}): {_tail(log)}")
        if _healthy(port, health):
            return
        time.sleep(0.1)
    raise ConfigError(f"the server did not answer within {_PATIENCE_SECONDS:.0f} seconds: {_tail(log)}")


def _healthy(port: int, health: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", health)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-4:]) or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started; first politely."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
            return


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP as KeyboardInterrupt in the block."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
