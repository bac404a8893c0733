"""The AWS CLI, as far as the boot scripts use it, over boto3: arguments it does not know end it, as they do the real
one.

The real CLI pins another botocore than Trunkline does, so it cannot live in the same environment; the tests take it
instead where TRUNKLINE_AWS_COMMAND names it. The command on a machine's PATH is a few lines of bash that ask this
process: a Python of its own would take a second of the processor at each of a hundred calls.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError


class Clients(Protocol):
    """Whose services are asked."""

    def client(self, service: str) -> Any: ...


class AwsCommand:
    """Runs commands that `script` sends, until closed."""

    def __init__(self, cloud: Clients):
        self._cloud = cloud
        command = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
                folder, *arguments = sent.split("\0")[:-1]
                out, err = io.StringIO(), io.StringIO()
                status = command._run(arguments, out, err)
                Path(folder, "out").write_text(out.getvalue())
                Path(folder, "err").write_text(err.getvalue())
                answer = str(status).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._lock = threading.Lock()  # standard output is one, and argparse writes there
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def script(self) -> str:
        """`aws`, for a machine's PATH."""
        return f"""#!/bin/bash
folder=$(mktemp -d) || exit
status=$(printf '%s\\0' "$folder" "$@" | curl -sS --noproxy '*' --data-binary @- http://127.0.0.1:{self._server.server_port}/) || status=255
cat "$folder/out"; cat "$folder/err" >&2; rm -rf "$folder"; exit "$status"
"""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _run(self, arguments: list[str], out: io.StringIO, err: io.StringIO) -> int:
        with self._lock, contextlib.redirect_stderr(err):
            try:
                asked = parser().parse_args(arguments)
            except SystemExit as end:
                return int(end.code or 0)
        try:
            {"cp": _copy, "get-secret-value": _read, "put-secret-value": _write}[asked.verb](asked, self._cloud, out)
        except ClientError as error:
            err.write(f"\nAn error occurred ({error.response['Error']['Code']}): {error}\n")
            return 254
        except OSError as error:
            err.write(f"{error}\n")
            return 1
        return 0


def parser() -> argparse.ArgumentParser:
    """What the boot scripts may ask."""
    parser = argparse.ArgumentParser("aws", allow_abbrev=False)
    parser.add_argument("--region")
    services = parser.add_subparsers(dest="service", required=True)
    copy = services.add_parser("s3", allow_abbrev=False).add_subparsers(dest="verb", required=True).add_parser("cp")
    copy.add_argument("source")
    copy.add_argument("target")
    copy.add_argument("--recursive", action="store_true")
    copy.add_argument("--only-show-errors", action="store_true", required=True)
    copy.add_argument("--region")
    verbs = services.add_parser("secretsmanager").add_subparsers(dest="verb", required=True)
    read = verbs.add_parser("get-secret-value", allow_abbrev=False)
    read.add_argument("--secret-id", required=True)
    read.add_argument("--query", choices=["SecretString"], required=True)
    read.add_argument("--output", choices=["text"], required=True)
    write = verbs.add_parser("put-secret-value", allow_abbrev=False)
    write.add_argument("--secret-id", required=True)
    write.add_argument("--secret-string", required=True)
    return parser


def _copy(asked: argparse.Namespace, cloud: Clients, out: io.StringIO) -> None:
    bucket, _, key = asked.source.removeprefix("s3://").partition("/")
    s3 = cloud.client("s3")
    if not asked.recursive:
        s3.download_file(bucket, key, asked.target)
        return
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", []):
        target = Path(asked.target) / item["Key"].removeprefix(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, item["Key"], str(target))


def _read(asked: argparse.Namespace, cloud: Clients, out: io.StringIO) -> None:
    out.write(cloud.client("secretsmanager").get_secret_value(SecretId=asked.secret_id)["SecretString"] + "\n")


def _write(asked: argparse.Namespace, cloud: Clients, out: io.StringIO) -> None:
    value = Path(asked.secret_string.removeprefix("file://")).read_text()
    cloud.client("secretsmanager").put_secret_value(SecretId=asked.secret_id, SecretString=value)
