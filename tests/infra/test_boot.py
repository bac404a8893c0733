"""The boot scripts, run under a scratch root: real bash, openssl, pip and moto; stand-ins for disks, GPUs, systemd and, here, Ray.

Ray itself is started by these scripts in test_cluster_boot.py.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.infra.cloud import REGION, Cloud, Metadata, bootstrap, cloud, commands, free_port, render
from tests.infra.tools import PROJECT, TERRAFORM, need

RAY = TERRAFORM / "modules" / "ray" / "templates"
MLFLOW = TERRAFORM / "modules" / "mlflow" / "templates" / "server.sh"
SCRIPTS = [RAY / "node.sh", RAY / "head.sh", RAY / "worker.sh", MLFLOW]
STOPPED = 78  # the status that systemd does not start again after


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    with cloud() as server:
        server.client("s3").create_bucket(Bucket="demo-data")
        server.client("s3").put_object(Bucket="demo-data", Key="bootstrap/cluster.yaml", Body=b"max_workers: 1\n")
        yield server


class Machine:
    """A scratch root with settings, boot scripts and stand-ins; `aws` in it talks to moto."""

    def __init__(self, root: Path, aws: Cloud | None, **programs: str):
        self.root = root
        self.bin = commands(root / "bin", **{"sleep": "exit 0"} | programs)  # between attempts
        self.scripts = bootstrap(root, *SCRIPTS)
        shutil.copy(MLFLOW, self.scripts / "mlflow_server.sh")
        (root / "dev").mkdir()
        (root / "dev" / "console").touch()
        self.metadata = Metadata(local_ipv4="10.20.0.10", instance_id="i-0123456789abcdef0")
        self.settings = {
            "NAME": "demo",
            "REGION": REGION,
            "BUCKET": "demo-data",
            "SECRET_ARN": "demo/ray",
            "HEAD_ADDRESS": "127.0.0.1",
            "RUN_AS": subprocess.check_output(["id", "-un"], text=True).strip(),
            "VENV": str(root / "venv"),
            "STORE_URI": "s3://demo-checkpoints/store",
            "MLFLOW_ARTIFACTS_URI": "s3://demo-mlflow/artifacts",
        }
        for name in ("ray", "mlflow"):  # say what they were given, and end
            program = root / "venv" / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f'#!/bin/bash\necho "{name} $*"\nenv\n')
            program.chmod(0o755)
        self.environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_", "MLFLOW_"))
            },
            **(aws.environment if aws else {}),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "TRUNKLINE_ROOT": str(root),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
        }

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`run("head.sh", "run")`, or a line of bash with node.sh's functions."""
        etc = self.root / "etc" / "trunkline"
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "node.env").write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        if command[0].endswith(".sh"):
            call = ["bash", str(self.scripts / command[0]), *command[1:]]
        else:
            call = ["bash", "-c", f"set -euo pipefail; . {self.scripts}/node.sh; load_settings; {command[0]}"]
        return subprocess.run(
            call, env=self.environment | environment, capture_output=True, text=True, timeout=240, cwd=self.root
        )

    def called(self, program: str) -> list[str]:
        log = self.bin / f"{program}.log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def console(self) -> str:
        return (self.root / "dev" / "console").read_text()


@pytest.fixture
def machine(tmp_path: Path, aws: Cloud) -> Iterator[Machine]:
    made = Machine(tmp_path, aws, nvidia_smi='echo "NVIDIA L4"; echo "NVIDIA L4"')
    yield made
    made.metadata.close()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    found = subprocess.run(
        [need("shellcheck"), "-x", str(script)], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("role", ["head", "worker"])
def test_user_data_is_small_and_clean(role: str, tmp_path: Path) -> None:
    settings = '{ NAME = "demo", REGION = "us-east-1", BUCKET = "demo-data", IMAGE = "" }'
    text = render(RAY / "user_data.sh.tftpl", f'{{ role = "{role}", settings = {settings} }}')
    assert len(text.encode()) < 16_000  # what EC2 takes
    assert "\nNAME=demo\n" in text
    assert "\nIMAGE=\n" in text
    assert f"{role}.sh install" in text
    (tmp_path / "user_data.sh").write_text(text)
    found = subprocess.run(
        [need("shellcheck"), str(tmp_path / "user_data.sh")], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stdout


def test_user_data_hands_over_to_the_boot_scripts(machine: Machine, aws: Cloud) -> None:
    script = b'echo "$0 $*"; cat "$(dirname "$0")"/constraints.txt; cat /etc/trunkline/node.env\n'
    for key, body in [("worker.sh", script), ("constraints.txt", b"torch==2.13.0\n")]:
        body = body.replace(b"/etc/", f"{machine.root}/etc/".encode())
        aws.client("s3").put_object(Bucket="demo-data", Key=f"bootstrap/{key}", Body=body)
    settings = '{ NAME = "demo", REGION = "us-east-1", BUCKET = "demo-data" }'
    text = render(RAY / "user_data.sh.tftpl", f'{{ role = "worker", settings = {settings} }}')
    for folder in ("/etc/trunkline", "/opt/trunkline", "/dev/console"):
        text = text.replace(folder, f"{machine.root}{folder}")
    done = subprocess.run(["bash", "-c", text], env=machine.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{machine.root}/opt/trunkline/bootstrap/worker.sh install",
        "torch==2.13.0",
        *("BUCKET=demo-data", "NAME=demo", "REGION=us-east-1"),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SECRET_ARN": ""}, "lacks SECRET_ARN"),
        ({"HEAD_ADDRESS": ""}, "lacks HEAD_ADDRESS"),
        ({"gpus per node": "8"}, "'gpus per node' is no setting"),
    ],
)
def test_wrong_settings_stop_a_node(machine: Machine, change: dict[str, str], said: str) -> None:
    machine.settings |= change
    ended = machine.run("worker.sh", "run")
    assert ended.returncode == STOPPED
    assert said in ended.stderr


def test_an_unknown_command_is_refused(machine: Machine) -> None:
    for script in ("head.sh", "worker.sh", "mlflow_server.sh"):
        ended = machine.run(script, "instal")
        assert ended.returncode == STOPPED
        assert "not 'instal'" in ended.stderr


def test_settings_are_data_and_not_commands(machine: Machine) -> None:
    machine.settings["STORE_URI"] = f"$(touch {machine.root}/ran)"
    assert machine.run('echo "$STORE_URI"').stdout == f"$(touch {machine.root}/ran)\n"
    assert not (machine.root / "ran").exists()


# GPUs and disks


def test_a_node_with_too_few_gpus_stops(machine: Machine) -> None:
    machine.settings["GPUS_PER_NODE"] = "2"
    assert machine.run("check_gpus").returncode == 0
    machine.settings["GPUS_PER_NODE"] = "8"
    ended = machine.run("worker.sh", "run")
    assert ended.returncode == STOPPED
    assert "GPUS_PER_NODE is 8, and nvidia-smi sees 2: NVIDIA L4;NVIDIA L4" in machine.console


def test_a_broken_driver_stops_with_its_reason(tmp_path: Path) -> None:
    machine = Machine(tmp_path, None, nvidia_smi='echo "Failed to initialize NVML: Driver mismatch"; exit 18')
    machine.settings["GPUS_PER_NODE"] = "1"
    assert machine.run("check_gpus").returncode == STOPPED
    assert "Failed to initialize NVML: Driver mismatch" in machine.console
    machine.metadata.close()


def test_efa_that_is_not_there_stops(machine: Machine) -> None:
    machine.settings |= {"GPUS_PER_NODE": "2", "EFA": "true"}
    assert machine.run("check_gpus").returncode == STOPPED
    assert "no /dev/infiniband/uverbs" in machine.console
    (machine.root / "dev/infiniband").mkdir()
    (machine.root / "dev/infiniband/uverbs0").touch()
    assert machine.run("check_gpus").returncode == 0


NVME = "/dev/nvme{} Amazon EC2 NVMe Instance Storage"


@pytest.mark.parametrize(
    ("disks", "label", "made", "mounted"),
    [
        (
            [1, 2],
            "",
            ["--create /dev/md/scratch --run --level=0 --raid-devices=2 /dev/nvme1 /dev/nvme2"],
            "/dev/md/scratch",
        ),
        ([1], "", [], "/dev/nvme1"),
        ([1, 2], "/dev/md127", [], "/dev/md127"),  # as a reboot finds it
        ([], "", [], None),
    ],
    ids=["two disks", "one disk", "after a reboot", "no disk"],
)
def test_scratch_is_made_of_instance_store(
    tmp_path: Path, disks: list[int], label: str, made: list[str], mounted: str | None
) -> None:
    lines = ["/dev/nvme0 Amazon Elastic Block Store", *(NVME.format(disk) for disk in disks)]
    machine = Machine(
        tmp_path,
        None,
        lsblk="".join(f'echo "{line}";' for line in lines),
        blkid=f"echo {label}" if label else "exit 2",
        **{"mkfs.ext4": "exit 0"},
        mdadm="exit 0",
        mount="exit 0",
    )
    ended = machine.run("mount_scratch")
    assert ended.returncode == 0, ended.stderr
    assert machine.called("mdadm") == made
    scratch = machine.root / "scratch"
    assert machine.called("mount") == ([f"-o noatime {mounted} {scratch}"] if mounted else [])
    assert machine.called("mkfs.ext4") == ([f"-q -F -L scratch {mounted}"] if mounted and not label else [])
    assert (scratch / "ray").is_dir()
    assert ("is on the root volume" in machine.console) == (not disks)
    machine.metadata.close()


# packages


def wheel(folder: Path, version: str) -> None:
    """A package of one module, as an index would offer it."""
    info = f"trunkprobe-{version}.dist-info"
    with zipfile.ZipFile(folder / f"trunkprobe-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("trunkprobe.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: trunkprobe\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_packages_are_those_of_constraints(machine: Machine) -> None:
    index = machine.root / "index"
    index.mkdir()
    for version in ("1.0", "2.0", "3.0"):
        wheel(index, version)
    (machine.scripts / "pyproject.toml").write_text(
        '[project]\ndependencies = ["trunkprobe"]\n[project.optional-dependencies]\nserver = []\n'
    )
    constraints = machine.scripts / "constraints.txt"
    constraints.write_text("trunkprobe==2.0\n")
    del machine.settings["VENV"]
    machine.settings["PYTHON"] = sys.executable
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    show = 'install_packages; "$VENV/bin/python" -c "import trunkprobe; print(trunkprobe.version)"'

    first = machine.run(show, **offline)
    assert (first.returncode, first.stdout) == (0, "2.0\n"), first.stderr
    again = machine.run(show, **offline)
    assert "installing packages" not in again.stderr
    constraints.write_text("trunkprobe==9.0\n")  # other constraints, another environment
    refused = machine.run(show, PIP_RETRIES="0", **offline)
    assert refused.returncode == STOPPED
    assert "pip could not install the packages" in machine.console


def test_a_python_that_is_too_old_is_refused(machine: Machine) -> None:
    for name in ("python3.9", "apt-get", "dnf"):
        (machine.bin / name).write_text("#!/bin/sh\nexit 1\n")
        (machine.bin / name).chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (machine.scripts / name).touch()
    del machine.settings["VENV"]
    machine.settings["PYTHON"] = "python3.9"
    assert machine.run("install_packages").returncode == STOPPED
    assert "PYTHON is python3.9: Trunkline needs Python 3.11 or 3.12" in machine.console


# the cluster's secret, and what a node makes of it


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


# what becomes of it


def test_the_head_becomes_ray_with_an_environment_for_jobs(machine: Machine, aws: Cloud) -> None:
    new_secret(machine, aws)
    machine.settings |= {"AUTOSCALING": "true", "TRACKING_URI": "http://10.20.0.10:5000", "RAY_FLAGS": "--num-cpus=3"}
    said = machine.run("head.sh", "run").stdout.splitlines()
    etc = machine.root / "etc/trunkline"
    assert said[0].split() == [
        *("ray", "start", "--head", "--node-ip-address=10.20.0.10", "--port=6379", "--dashboard-host=127.0.0.1"),
        *("--dashboard-port=8265", f"--autoscaling-config={etc}/cluster.yaml", "--num-gpus=0"),
        *(f"--temp-dir={machine.root}/scratch/ray", "--disable-usage-stats", "--num-cpus=3", "--block"),
    ]
    environment = dict(line.split("=", 1) for line in said[1:] if "=" in line)
    expected = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": f"{etc}/token",
        "RAY_USE_TLS": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": "i-0123456789abcdef0",
        "RAY_NODE_TYPE_NAME": "head",
        "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": "1800",
        "TRUNKLINE_STORE": "s3://demo-checkpoints/store",
        "MLFLOW_TRACKING_URI": "http://10.20.0.10:5000",
        "AWS_REGION": REGION,
    }
    assert expected.items() <= environment.items()
    assert yaml.safe_load((etc / "cluster.yaml").read_text()) == {"max_workers": 1}


def test_a_head_that_was_stopped_takes_the_new_user_data(machine: Machine, aws: Cloud) -> None:
    new_secret(machine, aws)
    fresh = "".join(f"{key}={value}\n" for key, value in (machine.settings | {"GPUS_PER_NODE": "1"}).items())
    machine.metadata.items["/latest/user-data"] = (
        f"#!/bin/bash\ncat > node.env <<'SETTINGS'\n{fresh}SETTINGS\nexec true\n"
    )
    assert "--num-gpus=1" in machine.run("head.sh", "run").stdout.splitlines()[0]
    assert (machine.root / "etc/trunkline/node.env").read_text() == fresh


def test_a_head_alone_has_no_autoscaler(machine: Machine, aws: Cloud) -> None:
    new_secret(machine, aws)
    machine.settings |= {"GPUS_PER_NODE": "2"}
    said = machine.run("head.sh", "run").stdout.splitlines()[0]
    assert "--autoscaling-config" not in said
    assert "--num-gpus=2" in said


def test_a_worker_without_its_head_gives_up(machine: Machine, aws: Cloud) -> None:
    name = new_secret(machine, aws)
    machine.run("head.sh", "run")
    machine.settings |= {"SECRET_ARN": name, "HEAD_PORT": str(free_port())}
    ended = machine.run("worker.sh", "run", HEAD_PATIENCE_SECONDS="10")
    assert ended.returncode == STOPPED
    assert "has not answered for 10 seconds" in machine.console
    assert machine.run("worker.sh", "give-up", GIVE_UP_SECONDS="0").returncode == 0
    assert machine.called("systemctl") == ["poweroff"]


def test_efa_is_told_to_nccl(machine: Machine) -> None:
    machine.settings |= {"EFA": "true"}
    assert machine.run("write_environment gpu i-1").returncode == 0
    assert "NCCL will use TCP instead of EFA" in machine.console
    plugin = machine.root / "opt/amazon/ofi-nccl/lib"
    plugin.mkdir(parents=True)
    (plugin / "libnccl-net.so").touch()
    machine.run("write_environment gpu i-1")
    lines = (machine.root / "etc/trunkline/ray.env").read_text().splitlines()
    assert "FI_PROVIDER=efa" in lines
    assert f"LD_LIBRARY_PATH={plugin}:{machine.root}/opt/amazon/efa/lib" in lines


@pytest.mark.parametrize(
    ("script", "units"),
    [
        (
            "head.sh",
            [
                *("trunkline-config.service", "trunkline-config.timer", "trunkline-mlflow-password.service"),
                *("trunkline-mlflow-password.timer", "trunkline-mlflow.service", "trunkline-ray.service"),
            ],
        ),
        ("worker.sh", ["trunkline-give-up.service", "trunkline-ray.service", "trunkline-watch.service"]),
    ],
)
def test_systemd_takes_the_units(machine: Machine, script: str, units: list[str]) -> None:
    machine.settings |= {"AUTOSCALING": "true"}
    ended = machine.run(script, "install")
    assert ended.returncode == 0, ended.stderr
    folder = machine.root / "etc/systemd/system"
    assert sorted(path.name for path in folder.iterdir()) == units
    assert "daemon-reload" in machine.called("systemctl")
    assert any(line.startswith("enable --now trunkline-ray.service") for line in machine.called("systemctl"))
    if shutil.which("systemd-analyze"):
        paths = [str(folder / unit) for unit in units]
        found = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=60)
        assert not [
            line for line in found.stderr.splitlines() if "trunkline-" in line and "is not executable" not in line
        ]


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
