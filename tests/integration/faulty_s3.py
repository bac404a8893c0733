"""An HTTP proxy before a real S3 server that does what networks and busy servers do: refuse, cut, corrupt, delay.

    with faulty_s3(server.endpoint) as proxy, server.environment(AWS_ENDPOINT_URL=proxy.endpoint):
        proxy.inject(Fault("slow_down", times=5))

Enters: S3 requests, passed on as they came (the signature covers the Host header, so that stays too). Leaves: the
server's answers, except where a fault says otherwise. A body is damaged in its middle byte, or cut after its first
half.

    python -m tests.integration.faulty_s3 --upstream http://127.0.0.1:8333 --port 9333 --latency 0.02
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.waits import PATIENCE_SECONDS

Kind = Literal["slow_down", "cut_upload", "cut_download", "corrupt_upload", "corrupt_download"]
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request '
    b"rate.</Message></Error>"
)
_OWN = {"connection", "transfer-encoding"}  # headers of one hop, which the proxy sets itself


@dataclass
class Fault:
    """What goes wrong, for which requests, how often."""

    kind: Kind
    times: int = 1
    every: int = 1  # only each so-manieth of the matching requests
    path: str = ""  # a regular expression found in "METHOD /bucket/key?query"
    met: int = 0
    fired: int = 0

    def strikes(self, request: str, has_body: bool) -> bool:
        """Whether this request is hit; counts it."""
        if self.fired >= self.times or not re.search(self.path, request) or not (has_body or self.kind == "slow_down"):
            return False
        self.met += 1
        if self.met % self.every:
            return False
        self.fired += 1
        return True


class FaultyS3:
    """A running proxy: its endpoint, what is to go wrong, and how many requests came."""

    def __init__(self, upstream: str, port: int = 0, latency_seconds: float = 0.0):
        self.upstream = urlsplit(upstream)
        self.latency_seconds = latency_seconds
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def inject(self, *faults: Fault) -> None:
        """Replace what goes wrong from now on, and forget the requests so far."""
        with self._lock:
            self.faults, self.requests = [dataclasses.replace(fault) for fault in faults], []

    def fired(self) -> int:
        """How many requests were hit since `inject`."""
        return sum(fault.fired for fault in self.faults)

    def strike(self, side: str, request: str, has_body: bool) -> Kind | None:
        """The fault that hits this request on its way up or down, if any."""
        with self._lock:
            for fault in self.faults:
                way = "download" if fault.kind.endswith("download") else "upload"
                if way == side and fault.strikes(request, has_body):
                    return fault.kind
        return None

    def stop(self) -> None:
        """Accept no more requests."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultyS3

    def handle_any(self) -> None:
        request, body = f"{self.command} {self.path}", self._body()
        self.proxy.requests.append(request)
        time.sleep(self.proxy.latency_seconds)
        fault = self.proxy.strike("upload", request, bool(body))
        if fault == "slow_down":
            self._answer(503, "Slow Down", [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        connection = http.client.HTTPConnection(self.proxy.upstream.netloc, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OWN | {"expect"}:
                    connection.putheader(name, value)
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            if fault == "cut_upload":
                connection.send(body[: len(body) // 2])
                self._hang_up()
                return
            connection.send(self._damaged(body) if fault == "corrupt_upload" else body)
            answer = connection.getresponse()
            data = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
            self._answer(
                answer.status, answer.reason, headers, data, self.proxy.strike("download", request, bool(data))
            )
        except (OSError, http.client.HTTPException):
            self._hang_up()
        finally:
            connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(
        self, status: int, reason: str, headers: list[tuple[str, str]], data: bytes, fault: Kind | None = None
    ) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers) and status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "cut_download":
            self.wfile.write(data[: len(data) // 2])
            self._hang_up()
        else:
            self.wfile.write(self._damaged(data) if fault == "corrupt_download" else data)

    def _damaged(self, data: bytes) -> bytes:
        """One byte is another, and each time another one: accidents do not repeat themselves."""
        middle, flips = len(data) // 2, 1 + self.proxy.fired() % 255
        return data[:middle] + bytes([data[middle] ^ flips]) + data[middle + 1 :]

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: the tests read `requests`."""


@contextlib.contextmanager
def faulty_s3(upstream: str, port: int = 0, latency_seconds: float = 0.0) -> Iterator[FaultyS3]:
    """A proxy before `upstream` for the length of the block; `port` 0 takes a free one."""
    proxy = FaultyS3(upstream, port, latency_seconds)
    try:
        yield proxy
    finally:
        proxy.stop()


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--upstream", required=True, help="the real server, e.g. http://127.0.0.1:8333")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every request")
    choices = parser.parse_args()
    with faulty_s3(choices.upstream, choices.port, choices.latency) as proxy:
        print(proxy.endpoint, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
