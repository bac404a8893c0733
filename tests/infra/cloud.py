"""An AWS for the tests of nodes: moto's server, an instance metadata service, and the `aws` command that boot scripts
call.

moto answers on 127.0.0.1 and keeps what it is told (instances, launch templates, secrets, objects). The metadata
service here speaks version 2 alone, as the launch template demands of the real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3

from tests.infra.aws_command import AwsCommand
from tests.infra.tools import need
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS, wait_until

REGION = "us-east-1"
HERE = Path(__file__).parent


class Cloud:
    """moto's server, and clients of it."""

    def __init__(self, url: str):
        self.url = url
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
        }
        self.command = AwsCommand(self)
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def client(self, service: str) -> Any:
        with self._lock:  # making one is not safe in two threads, using it is
            if service not in self._clients:
                self._clients[service] = boto3.client(
                    service,
                    region_name=REGION,
                    endpoint_url=self.url,
                    aws_access_key_id="test",
                    aws_secret_access_key="test",
                )
            return self._clients[service]

    def reset(self) -> None:
        """Forget everything: an account that nobody has used."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 200, answer.read()

    def workers(self, *states: str) -> list[dict[str, Any]]:
        """The instances that Ray's autoscaler counts as its workers, by launch time; in these states, else alive
        ones.
        """
        filters = [
            {"Name": "tag:ray-node-type", "Values": ["worker"]},
            {"Name": "instance-state-name", "Values": list(states) or ["pending", "running"]},
        ]
        found = self.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return sorted(
            (instance for reservation in found for instance in reservation["Instances"]),
            key=lambda instance: instance["LaunchTime"],
        )


@contextlib.contextmanager
def cloud() -> Iterator[Cloud]:
    """moto's server for the length of a `with` block."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: server.poll() is not None or _listens(port), "moto's server to listen")
        assert server.poll() is None, f"moto's server ended with {server.returncode}"
        made = Cloud(f"http://127.0.0.1:{port}")
        yield made
        made.command.close()
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Metadata:
    """An instance's metadata service: `items` by path below /latest/meta-data/, as the test sets them."""

    def __init__(self, **items: str):
        self.items = {key.replace("_", "-"): value for key, value in items.items()}
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                known = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
                self.answer(200 if known else 400, "a-token")

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
                    return self.answer(401, "version 2 only")
                item = service.items.get(self.path.removeprefix("/latest/meta-data/"))
                self.answer(404 if item is None else 200, item or "")

            def answer(self, status: int, body: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # how often it looks whether it is to end: `close` waits for that
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def commands(folder: Path, aws: Cloud | None = None, **scripts: str) -> Path:
    """A folder for the front of PATH: `aws`, programs that would touch this machine's disks, and `scripts` by name.

    `aws` asks the cloud that is given, and fails where there is none.

    Each program that is a stand-in notes its arguments in <folder>/<name>.log. TRUNKLINE_AWS_COMMAND names a real AWS
    CLI to run instead of the one here, which knows only what the boot scripts ask, and asks moto for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = os.environ.get("TRUNKLINE_AWS_COMMAND")
    if real:
        (folder / "aws").symlink_to(real)
    else:
        (folder / "aws").write_text(aws.command.script if aws else "#!/bin/sh\nexit 253\n")
        (folder / "aws").chmod(0o755)
    untouched = dict.fromkeys(("lsblk", "blkid", "mkfs.ext4", "mdadm", "mount", "systemctl", "nvidia-smi"), "exit 1")
    untouched["lsblk"] = untouched["systemctl"] = "exit 0"
    for name, body in {**untouched, **{key.replace("_", "-"): body for key, body in scripts.items()}}.items():
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "$*" >> {folder / name}.log\n{body}\n')
        path.chmod(0o755)
    return folder


def render(template: Path, variables: str) -> str:
    """A template as Terraform writes it. Args: variables, an HCL object."""
    done = subprocess.run(
        [need("terraform"), "console"],
        input=f'jsonencode(templatefile("{template}", {variables}))'.replace("\n", " "),
        cwd=HERE,  # a folder without configuration: no provider is asked for
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    import json

    return str(json.loads(json.loads(done.stdout)))


def bootstrap(root: Path, *scripts: Path) -> Path:
    """Boot scripts where a node has them, below a scratch root."""
    folder = root / "opt" / "trunkline" / "bootstrap"
    folder.mkdir(parents=True, exist_ok=True)
    for script in scripts:
        shutil.copy(script, folder / script.name)
    return folder
