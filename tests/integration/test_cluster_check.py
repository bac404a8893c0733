"""`workflows.cluster_check` against moto's AWS, against answers that moto does not give, and against a real Ray."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.outside import aws
from pipelines.cluster.outside.aws import Finding
from pipelines.cluster.outside.instances import known
from pipelines.errors import ConfigError
from tests.integration.ray_cluster import RayCluster, ray_cluster
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BLOCKED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A moto server; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    import urllib.request

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=60)
            return True
        return False

    wait_until(answers, "moto's server", log.read_text)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def account(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Credentials for moto in this process's environment; gives an S3 client."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": moto, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return aws.client("s3", "us-east-1")


def bucket(client: Any, name: str) -> None:
    """One as infra/terraform makes it."""
    client.create_bucket(Bucket=name)
    client.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=BLOCKED)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    client.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})


def marks(findings: list[Finding]) -> dict[str, str]:
    return {finding.name.strip(): finding.mark for finding in findings}


def test_a_bucket_as_terraform_makes_it_is_all_right(account: Any) -> None:
    bucket(account, "whole")
    found = aws.ask("bucket", lambda: aws.bucket("whole", "store", "us-east-1"))
    assert set(marks(found).values()) == {"✓"}
    assert "Contents" not in account.list_objects_v2(Bucket="whole")  # asking whether one may write left nothing


def test_a_bucket_that_is_open_or_not_encrypted_is_found(account: Any) -> None:
    bucket(account, "open")
    account.put_public_access_block(
        Bucket="open", PublicAccessBlockConfiguration={**BLOCKED, "BlockPublicPolicy": False}
    )
    account.delete_bucket_encryption(Bucket="open")
    found = aws.ask("bucket", lambda: aws.bucket("open", "", "us-east-1"))
    assert marks(found) == {"bucket open": "✓", "encrypted": "⚠", "closed to the public": "✗", "may be written": "✓"}
    closed = next(finding for finding in found if "closed" in finding.name)
    assert closed.answer == "BlockPublicPolicy off"
    assert "put-public-access-block --bucket open" in closed.todo


def test_a_bucket_that_is_not_there_or_in_another_region(account: Any) -> None:
    (found,) = aws.ask("bucket", lambda: aws.bucket("nowhere", "", "us-east-1"))
    assert (found.mark, found.answer) == ("✗", "does not exist")
    europe = aws.client("s3", "eu-west-1")
    europe.create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    (found,) = aws.ask("bucket", lambda: aws.bucket("far", "", "us-east-1"))
    assert found.mark == "✗"
    assert "is in eu-west-1" in found.answer


def test_machines_are_those_that_aws_describes(account: Any) -> None:
    for instance_type in ("g6.48xlarge", "p5.48xlarge", "g5.xlarge", "p4d.24xlarge"):
        listed, asked = known(instance_type), aws.describe_instance(instance_type)
        assert listed is not None
        assert (listed.cpus, listed.gpus, listed.accelerator) == (asked.cpus, asked.gpus, asked.accelerator)
        assert listed.gpu_gib == pytest.approx(asked.gpu_gib, abs=0.01)
    assert aws.describe_instance("m7i.large").gpus == 0
    with pytest.raises(ConfigError, match="instance_type=g99.large is no type of EC2"):
        aws.describe_instance("g99.large")
    assert aws.offered("g6.xlarge", "us-east-1").mark == "✓"
    assert aws.offered("g99.large", "us-east-1").mark == "✗"


def test_a_secret_of_aws_is_read_by_name(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cluster.outside import secrets

    aws.client("secretsmanager").create_secret(Name="mine/jobs/HF_TOKEN", SecretString="from AWS")
    monkeypatch.setenv("TRUNKLINE_SECRETS_PREFIX", "mine/jobs/")
    assert secrets.resolve(["HF_TOKEN"]) == {"HF_TOKEN": "from AWS"}
    with pytest.raises(ConfigError, match="the AWS secret mine/jobs/OTHER: .*create-secret --name mine/jobs/OTHER"):
        secrets.resolve(["OTHER"])


# ── Answers that moto does not give ───────────────────────────────────────────────────────────────────────────────────


Answer = tuple[int, dict[str, str], str]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Answer], None]]:
    """An AWS that gives one answer to everything; returns the function that sets it."""
    said: list[Answer] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = said[-1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    yield said.append
    server.shutdown()
    server.server_close()


def xml(code: str) -> str:
    return f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>"


@pytest.mark.parametrize(
    ("code", "found", "todo"),
    [
        ("ExpiredToken", "the AWS credentials have expired (ExpiredToken)", "log in again: `aws sso login`"),
        ("InvalidClientTokenId", "AWS does not know these credentials (InvalidClientTokenId)", "log in: "),
        ("AccessDenied", "these credentials may not ask this (AccessDenied)", "permission"),
    ],
)
def test_credentials_that_are_not_taken(answering: Callable[[Answer], None], code: str, found: str, todo: str) -> None:
    answering((403, {"Content-Type": "text/xml"}, xml(code)))
    (finding,) = aws.ask("AWS credentials", aws.credentials, "✗")
    assert (finding.mark, finding.answer) == ("✗", found)
    assert todo in finding.todo


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ((403, {}, ""), "exists, and is closed to these credentials: most likely it belongs to another account"),
        ((301, {"x-amz-bucket-region": "ap-south-1"}, ""), "is in ap-south-1, not in us-east-1"),
    ],
)
def test_a_bucket_of_somebody_else(answering: Callable[[Answer], None], answer: Answer, found: str) -> None:
    answering(answer)
    (finding,) = aws.ask("bucket theirs", lambda: aws.bucket("theirs", "", "us-east-1"))
    assert (finding.mark, finding.answer) == ("✗", found)


@pytest.mark.parametrize(("value", "mark"), [(0.0, "✗"), (191.0, "✗"), (192.0, "✓")])
def test_a_quota_is_compared_in_vcpus(answering: Callable[[Answer], None], value: float, mark: str) -> None:
    answering((200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps({"Quota": {"Value": value}})))
    instance = known("p5.48xlarge")
    assert instance is not None
    finding = aws.quota(instance, 1, False, "us-east-1")
    assert finding.mark == mark
    assert finding.answer == f"Running On-Demand P instances: {value:g} vCPUs; 1 × p5.48xlarge take 192"
    assert ("--quota-code L-417A185B --desired-value 192" in finding.todo) is (mark == "✗")


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    variables = {"TRUNKLINE_STORE": "s3://checked/store", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    with ray_cluster(folder, **variables) as running:
        yield running


def check(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    shell = {
        name: value for name, value in environment.items() if not name.startswith(("AWS_", "TRUNKLINE_", "MLFLOW_"))
    }
    shell |= {"AWS_EC2_METADATA_DISABLED": "true"}
    shell |= {name: value for name, value in environment.items() if name in (*KEYS, "AWS_ENDPOINT_URL")}
    command = [sys.executable, "-m", "workflows.cluster_check", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return done.returncode, done.stdout + done.stderr


def test_everything_is_asked_and_said(cluster: RayCluster, account: Any, moto: str) -> None:
    bucket(account, "checked")
    code, output = check(
        {**cluster.environment, **KEYS, "AWS_ENDPOINT_URL": moto},
        "cluster.workers=16",
        "instance_type=g6.48xlarge",
        "max_nodes=2",
    )
    assert "✓ AWS credentials" in output, output
    assert "✓ workers                  16 workers on 2 × g6.48xlarge" in output
    assert re.search(r"⚠ quota ", output)  # moto has no quotas of EC2: not known is not ✓
    assert "✓ cluster                  http://127.0.0.1:" in output
    for name in ("python", "ray", "torch", "deepspeed"):
        assert re.search(rf"✓ {name} +\S+ on the cluster", output), output
    assert "✓ store                    TRUNKLINE_STORE=s3://checked/store" in output
    assert "✓ bucket checked           ours, in us-east-1" in output  # the cluster's store, not named here
    assert "✗ tracking server          http://127.0.0.1:1 does not answer the head" in output
    assert code == 2
    assert "1 in the way" in output


def test_without_anything_every_check_still_speaks(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}
    for name in KEYS:
        environment.pop(name, None)
    for name in (
        "AWS_ENDPOINT_URL",
        "RAY_AUTH_MODE",
    ):  # with the latter, Ray asks for a token before it looks for a cluster
        environment.pop(name, None)
    code, output = check(environment, "instance_type=m7i.large")
    assert code == 2, output
    for line in (
        "✗ AWS credentials          no AWS credentials",
        "✗ region                   none is set",
        "✗ workers                  instance_type=m7i.large has no GPU",
        "✗ Ray's token              there is none here",
        "✗ cluster                  no Ray answers at http://127.0.0.1:1",
        "⚠ buckets                  the store's is not known here",
    ):
        assert line in output, output
