"""The secrets of a cluster on its nodes: who makes them, where they lie, and that a node without a whole identity does
not go on.

The boot scripts run under a scratch root, as in test_boot.py. A failure is tried at each call to AWS and to openssl,
since bash ignores `set -e` wherever a caller looks at a status, and the callers here do.
"""

import datetime
import json
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.infra.cloud import Cloud
from tests.infra.machine import STOPPED, Machine
from tests.infra.tools import need


def new_secret(machine: Machine, aws: Cloud) -> str:
    name = f"{machine.root.name}/ray"
    aws.client("secretsmanager").create_secret(Name=name)
    machine.settings["SECRET_ARN"] = name
    return name


def test_the_head_makes_the_secret_once(machine: Machine, aws: Cloud) -> None:
    name = new_secret(machine, aws)
    first = machine.run("head.sh", "run")
    assert first.returncode == 0, first.stderr
    kept = aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    assert sorted(json.loads(kept)) == ["ca_cert", "ca_key", "token"]
    assert len(json.loads(kept)["token"]) == 64
    (machine.root / "etc/trunkline/token").unlink()  # a head that was replaced
    again = machine.run("head.sh", "run")
    assert again.returncode == 0, again.stderr
    assert aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"] == kept
    assert (machine.root / "etc/trunkline/token").read_text() == json.loads(kept)["token"]
    assert "making the cluster's token" in first.stderr
    assert "making the cluster's token" not in again.stderr


def test_the_authoritys_key_is_on_no_disk(machine: Machine, aws: Cloud) -> None:
    name = new_secret(machine, aws)
    machine.run("head.sh", "run")
    secret = json.loads(aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])
    line = secret["ca_key"].splitlines()[1]
    files = [path for path in machine.root.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if line in path.read_text(errors="ignore")]
    holding = [path.name for path in files if secret["token"] in path.read_text(errors="ignore")]
    assert holding == ["token"]
    private = [machine.root / "etc/trunkline" / path for path in ("token", "tls/node.key")]
    assert [oct(path.stat().st_mode & 0o777) for path in private] == ["0o640", "0o640"]


def test_a_nodes_certificate_is_of_the_cluster_and_for_its_address(machine: Machine, aws: Cloud) -> None:
    new_secret(machine, aws)
    machine.run("head.sh", "run")
    tls = machine.root / "etc/trunkline/tls"
    check = [need("openssl"), "verify", "-CAfile", tls / "ca.crt"]
    for purpose in ("sslserver", "sslclient"):
        for name in (["-verify_ip", "10.20.0.10"], ["-verify_ip", "127.0.0.1"], ["-verify_hostname", "localhost"]):
            subprocess.run([*check, "-purpose", purpose, *name, tls / "node.crt"], check=True, capture_output=True)
    other = subprocess.run([*check, "-verify_ip", "10.20.0.11", tls / "node.crt"], capture_output=True)
    assert other.returncode != 0


def test_a_secret_that_cannot_be_read_stops_the_head(machine: Machine) -> None:
    (machine.bin / "aws").unlink()
    (machine.bin / "aws").write_text('#!/bin/sh\necho "An error occurred (AccessDeniedException)" >&2; exit 254\n')
    (machine.bin / "aws").chmod(0o755)
    ended = machine.run("head.sh", "run")
    assert ended.returncode == STOPPED
    assert "cannot read the secret demo/ray: An error occurred (AccessDeniedException)" in machine.console
    assert "making the cluster's token" not in machine.console  # it would lock out every running worker


# when AWS or openssl fails, or answers with something else


def fails(verb: str, complaint: str, times: int = 1000) -> str:
    """Bash for a program: it fails with `complaint` when one of its arguments is `verb`, so many times; else it does as
    it does.
    """
    return f"""
case " $* " in *" {verb} "*)
  if [ "$(cat "$0.failed" 2> /dev/null | wc -l)" -lt {times} ]; then
    echo again >> "$0.failed"; echo "{complaint}" >&2; exit 254
  fi ;;
esac"""


DENIED = "An error occurred (AccessDeniedException) when calling the PutSecretValue operation: not authorized"


def nothing_began(machine: Machine, ended: subprocess.CompletedProcess[str]) -> None:
    """Ray was not started, and no identity was written."""
    assert ended.returncode == STOPPED, ended.stderr
    assert "ray start" not in ended.stdout
    assert not (machine.root / "etc/trunkline/token").exists()
    assert not (machine.root / "etc/trunkline/tls/node.crt").exists()


def test_a_secret_that_cannot_be_written_stops_the_head(machine: Machine, aws: Cloud) -> None:
    name = new_secret(machine, aws)
    machine.wrap("aws", fails("put-secret-value", DENIED))
    nothing_began(machine, machine.run("head.sh", "run"))
    assert f"cannot write the secret {name}: {DENIED}" in machine.console
    with pytest.raises(aws.client("secretsmanager").exceptions.ResourceNotFoundException):
        aws.client("secretsmanager").get_secret_value(SecretId=name)


@pytest.mark.parametrize("arrives", [False, True], ids=["it was refused", "only the answer was lost"])
def test_a_write_that_fails_once_is_tried_again(machine: Machine, aws: Cloud, arrives: bool) -> None:
    name = new_secret(machine, aws)
    before = '"$real" "$@" > /dev/null; ' if arrives else ""
    machine.wrap(
        "aws", fails("put-secret-value", "ThrottlingException", 1).replace("echo again", f"{before}echo again")
    )
    ended = machine.run("head.sh", "run")
    assert ended.returncode == 0, ended.stderr
    kept = json.loads(aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])
    assert (machine.root / "etc/trunkline/token").read_text() == kept["token"]
    assert (machine.root / "etc/trunkline/tls/ca.crt").read_text().strip() == kept["ca_cert"]


@pytest.mark.parametrize("step", ["-x509", "rand", "-CAkey", "verify"])
def test_openssl_that_fails_stops_the_head(machine: Machine, aws: Cloud, step: str) -> None:
    new_secret(machine, aws)
    machine.wrap("openssl", fails(step, "no entropy"))
    nothing_began(machine, machine.run("head.sh", "run"))
    assert "no entropy" in machine.console


def test_settings_that_cannot_be_written_stop_the_head(machine: Machine, aws: Cloud) -> None:
    new_secret(machine, aws)
    machine.wrap("grep", 'if [ "$1" = ^TRUNKLINE_ ]; then echo "no space" >&2; exit 2; fi')
    ended = machine.run("head.sh", "run")
    assert ended.returncode != 0
    assert "ray start" not in ended.stdout


def test_a_warning_of_the_aws_command_is_no_part_of_the_secret(machine: Machine, aws: Cloud) -> None:
    name = new_secret(machine, aws)
    machine.wrap("aws", 'echo "a newer version of the AWS CLI is available" >&2')
    for _ in range(2):  # the second reads what the first has made
        ended = machine.run("head.sh", "run")
        assert ended.returncode == 0, ended.stderr
    kept = json.loads(aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])
    assert (machine.root / "etc/trunkline/token").read_text() == kept["token"]


def authority(days: int = 30) -> tuple[str, str]:
    """A certificate authority that has `days` left: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "demo cluster")])
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, end - datetime.timedelta(days=90), end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(encoding).decode().strip(), private.decode().strip()


CA_CERT, CA_KEY = authority()
GOOD = {"token": "0123456789abcdef" * 4, "ca_cert": CA_CERT, "ca_key": CA_KEY}
OTHERS = {
    "empty": ("", "no JSON"),
    "binary": ("None", "no JSON"),  # what the AWS CLI prints of a secret that holds no text
    "text": (GOOD["token"], "no JSON"),
    "list": ("[]", "JSON list"),
    "object": ("{}", "its token is missing"),
    "no token": (json.dumps(GOOD | {"token": ""}), "its token is empty"),
    "null token": (json.dumps(GOOD | {"token": None}), "its token is no text"),
    "short token": (json.dumps(GOOD | {"token": "hello"}), "its token has 5 characters"),
    "token with a blank": (json.dumps(GOOD | {"token": "0123456789abcdef " * 4}), "without a blank"),
    "no authority": (json.dumps({key: GOOD[key] for key in ("token", "ca_key")}), "its ca_cert is missing"),
    "no key": (json.dumps(GOOD | {"ca_key": ""}), "its ca_key is empty"),
    "authority cut short": (json.dumps(GOOD | {"ca_cert": CA_CERT[:200]}), "cannot write this node's token"),
    "key of another": (json.dumps(GOOD | {"ca_key": authority()[1]}), "cannot write this node's token"),
    "expired": (json.dumps(GOOD | dict(zip(("ca_cert", "ca_key"), authority(-1), strict=True))), "expired"),
}  # fmt: skip


def answers(machine: Machine, value: str) -> None:
    """Secrets Manager's answer to every reading, as the AWS CLI prints it."""
    (machine.root / "value").write_text(value + "\n")
    machine.wrap("aws", f'case "$2" in get-secret-value) cat {machine.root}/value; exit ;; esac')


@pytest.mark.parametrize("role", ["head", "worker"])
@pytest.mark.parametrize("case", OTHERS)
def test_a_secret_that_no_head_wrote_stops_a_node(machine: Machine, role: str, case: str) -> None:
    value, said = OTHERS[case]
    answers(machine, value)
    nothing_began(machine, machine.run(f"{role}.sh", "run", HEAD_PATIENCE_SECONDS="10"))
    assert said in machine.console
    for part in ("0123456789abcdef0123456789", "PRIVATE KEY"):
        assert part not in machine.console


def test_an_identity_stays_whole_when_the_next_fails(machine: Machine) -> None:
    answers(machine, json.dumps(GOOD))
    assert machine.run("head.sh", "run").returncode == 0
    etc = machine.root / "etc/trunkline"
    files = {path: path.read_bytes() for path in [etc / "token", *(etc / "tls").iterdir()]}
    assert len(files) == 4
    for value in (OTHERS["key of another"][0], OTHERS["no token"][0]):
        answers(machine, value)
        assert machine.run("head.sh", "run").returncode == STOPPED
        assert {path: path.read_bytes() for path in files} == files


def test_a_secret_that_cannot_be_read_stops_a_worker(machine: Machine) -> None:
    machine.wrap("aws", fails("get-secret-value", DENIED))
    nothing_began(machine, machine.run("worker.sh", "run"))


# MLflow's server


def test_mlflow_without_a_database_keeps_sqlite(machine: Machine) -> None:
    said = machine.run("mlflow_server.sh", "run").stdout.splitlines()
    assert said[0].split()[:7] == ["mlflow", "server", "--host", "10.20.0.10", "--port", "5000", "--workers"]
    assert said[0].endswith("--artifacts-destination s3://demo-mlflow/artifacts")
    assert f"MLFLOW_BACKEND_STORE_URI=sqlite:///{machine.root}/var/lib/trunkline/mlflow/mlflow.db" in said


def test_the_databases_password_is_in_one_private_file(machine: Machine, aws: Cloud) -> None:
    client = aws.client("secretsmanager")
    name = f"{machine.root.name}/database"
    client.create_secret(Name=name, SecretString=json.dumps({"username": "mlflow", "password": r"a:b\c'd"}))
    machine.settings |= {"MLFLOW_DATABASE_HOST": "db.internal", "MLFLOW_DATABASE_SECRET_ARN": name}
    said = machine.run("mlflow_server.sh", "run").stdout
    assert "MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow@db.internal/mlflow?sslmode=require\n" in said
    assert "a:b" not in said
    passwords = machine.root / "var/lib/trunkline/mlflow/pgpass"
    assert passwords.read_text() == r"*:*:*:mlflow:a\:b\\c'd" + "\n"
    assert oct(passwords.stat().st_mode & 0o777) == "0o600"  # libpq ignores it otherwise
    client.put_secret_value(SecretId=name, SecretString=json.dumps({"username": "mlflow", "password": "changed"}))
    assert machine.run("mlflow_server.sh", "password").returncode == 0
    assert passwords.read_text() == "*:*:*:mlflow:changed\n"


@pytest.mark.parametrize(
    "value",
    [None, "", "None", "{}", '{"username": "mlflow"}', '{"username": "", "password": "x"}',
     '{"username": "mlflow", "password": ""}', '{"username": "mlflow", "password": "a\\nb"}'],
    ids=["unreadable", "empty", "binary", "object", "no password", "empty name", "empty password", "two lines"],
)  # fmt: skip
def test_mlflow_does_not_start_without_the_databases_password(machine: Machine, value: str | None) -> None:
    machine.settings |= {"MLFLOW_DATABASE_HOST": "db.internal", "MLFLOW_DATABASE_SECRET_ARN": "demo/database"}
    if value is None:
        machine.wrap("aws", fails("get-secret-value", DENIED))
    else:
        answers(machine, value)
    ended = machine.run("mlflow_server.sh", "run")
    assert (ended.returncode, ended.stdout) == (STOPPED, "")
    data = machine.root / "var/lib/trunkline/mlflow"
    assert list(data.iterdir()) == []
    (data / "pgpass").write_text("of last week")
    assert machine.run("mlflow_server.sh", "password").returncode != 0
    assert (data / "pgpass").read_text() == "of last week"
