"""The boot scripts, run under a scratch root: real bash, openssl, pip and moto; stand-ins for disks, GPUs, systemd and,
here, Ray.

Ray itself is started by these scripts in test_cluster_boot.py.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.infra.cloud import REGION, Cloud, render
from tests.infra.machine import RAY, SCRIPTS, STOPPED, Machine
from tests.infra.test_boot_identity import new_secret
from tests.infra.tools import PROJECT, need
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    found = subprocess.run(
        [need("shellcheck"), "-x", str(script)], cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
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
        [need("shellcheck"), str(tmp_path / "user_data.sh")], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert found.returncode == 0, found.stdout


def test_user_data_hands_over_to_the_boot_scripts(machine: Machine, aws: Cloud) -> None:
    script = b'echo "$0 $*"; cat "$(dirname "$0")"/requirements.lock; cat /etc/trunkline/node.env\n'
    for key, body in [("worker.sh", script), ("requirements.lock", b"torch==2.13.0\n")]:
        body = body.replace(b"/etc/", f"{machine.root}/etc/".encode())
        aws.client("s3").put_object(Bucket="demo-data", Key=f"bootstrap/{key}", Body=body)
    settings = '{ NAME = "demo", REGION = "us-east-1", BUCKET = "demo-data" }'
    text = render(RAY / "user_data.sh.tftpl", f'{{ role = "worker", settings = {settings} }}')
    for folder in ("/etc/trunkline", "/opt/trunkline", "/dev/console"):
        text = text.replace(folder, f"{machine.root}{folder}")
    done = subprocess.run(
        ["bash", "-c", text], env=machine.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{machine.root}/opt/trunkline/bootstrap/worker.sh install",
        "torch==2.13.0",
        *("BUCKET=demo-data", "NAME=demo", "REGION=us-east-1"),
    ]


def test_user_data_without_boot_scripts_says_so(machine: Machine) -> None:
    (machine.bin / "aws").write_text("#!/bin/sh\nexit 1\n")
    (machine.scripts / "worker.sh").unlink()
    settings = '{ NAME = "demo", REGION = "us-east-1", BUCKET = "demo-data" }'
    text = render(RAY / "user_data.sh.tftpl", f'{{ role = "worker", settings = {settings} }}')
    for folder in ("/etc/trunkline", "/opt/trunkline", "/dev/console"):
        text = text.replace(folder, f"{machine.root}{folder}")
    done = subprocess.run(
        ["bash", "-c", text], env=machine.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 1
    assert "error: no boot scripts after ten minutes" in machine.console


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


def test_a_driver_that_sees_no_gpu_stops(tmp_path: Path) -> None:
    machine = Machine(tmp_path, None, nvidia_smi="exit 0")
    machine.settings["GPUS_PER_NODE"] = "1"
    assert machine.run("check_gpus").returncode == STOPPED
    assert "GPUS_PER_NODE is 1, and nvidia-smi sees 0" in machine.console
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


def test_disks_that_cannot_be_listed_stop_a_node(tmp_path: Path) -> None:
    machine = Machine(tmp_path, None, lsblk="exit 1", blkid="exit 2")
    assert machine.run("mount_scratch").returncode == STOPPED
    assert "lsblk cannot list this machine's disks" in machine.console
    machine.metadata.close()


@pytest.mark.parametrize("role", ["head", "worker"])
@pytest.mark.parametrize(("item", "value"), [("local-ipv4", ""), ("instance-id", ""), ("instance-id", None)])
def test_a_machine_that_does_not_know_itself_stops(machine: Machine, role: str, item: str, value: str | None) -> None:
    if value is None:
        del machine.metadata.items[item]
    else:
        machine.metadata.items[item] = value
    ended = machine.run(f"{role}.sh", "run")
    assert ended.returncode == STOPPED
    assert "instance metadata service" in machine.console
    assert "ray start" not in ended.stdout


# packages


def wheel(folder: Path, version: str, name: str = "trunkprobe") -> None:
    """A package of one module, as an index would offer it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def builder(folder: Path) -> None:
    """A `setuptools` that makes of a source archive the wheel beside its PKG-INFO (PEP 517), which is all that is asked
    of it here.
    """
    wheel(folder, "1.0", "setuptools")
    with zipfile.ZipFile(next(folder.glob("setuptools-*.whl")), "a") as archive:
        archive.writestr(
            "probe_backend.py",
            "import pathlib, shutil\n"
            "def build_wheel(target, config_settings=None, metadata_directory=None):\n"
            "    (made,) = pathlib.Path('.').glob('*.whl')\n"
            "    return shutil.copy(made, target).rpartition('/')[2]\n",
        )


def source(folder: Path, version: str) -> None:
    """A source archive, and no wheel."""
    project = folder.parent / f"trunkprobe-{version}"
    project.mkdir()
    (project / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: trunkprobe\nVersion: {version}\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=99"]\nbuild-backend = "probe_backend"\n'
    )
    wheel(project, version)
    with tarfile.open(folder / f"trunkprobe-{version}.tar.gz", "w:gz") as archive:
        archive.add(project, project.name)


def locked(index: Path, *versions: str, name: str = "trunkprobe") -> str:
    """A lock over packages of a local index: setuptools as it is for every node, and a line for each version."""
    lines = []
    for version in versions:
        (file,) = index.glob(f"{name}-{version}-*.whl")
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n")
    return "".join(lines)


@pytest.fixture
def index(machine: Machine) -> Path:
    """A package index in a folder, with three versions of a package and something to build with."""
    folder = machine.root / "index"
    folder.mkdir()
    for version in ("1.0", "2.0", "3.0"):
        wheel(folder, version)
    wheel(folder, "1.0", "setuptools")
    del machine.settings["VENV"]
    machine.settings["PYTHON"] = sys.executable
    machine.environment |= {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }
    return folder


SHOW = 'install_packages; "$VENV/bin/python" -c "import trunkprobe; print(trunkprobe.version)"'


def test_packages_are_those_of_the_lock(machine: Machine, index: Path) -> None:
    lock = machine.scripts / "requirements.lock"
    lock.write_text("# a comment\n" + locked(index, "1.0", name="setuptools") + locked(index, "2.0"))
    first = machine.run(SHOW)
    assert (first.returncode, first.stdout) == (0, "2.0\n"), first.stderr
    again = machine.run(SHOW)
    assert again.stdout == "2.0\n"
    assert "installing packages" not in again.stderr
    lock.write_text(lock.read_text() + "# another lock, another environment\n")
    assert "installing packages" in machine.run(SHOW).stderr


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (r"(trunkprobe==2.0).*", r"\1"),  # without a checksum
        (r"(trunkprobe==2.0 --hash=sha256:).*", r"\g<1>" + 64 * "0"),  # the index has another file
        (r"trunkprobe==2.0", "trunkprobe>=2.0"),
        (r"(setuptools==1.0 --hash=sha256:).*", r"\g<1>" + 64 * "0"),
        (r"setuptools==1.0.*\n", ""),
    ],
    ids=["no checksum", "another file", "no version", "another builder", "no builder"],
)
def test_what_is_not_as_locked_is_not_installed(machine: Machine, index: Path, was: str, becomes: str) -> None:
    good = locked(index, "1.0", name="setuptools") + locked(index, "2.0")
    bad, changed = re.subn(was, becomes, good)
    assert changed == 1
    (machine.scripts / "requirements.lock").write_text(bad)
    ended = machine.run(SHOW)
    assert ended.returncode == STOPPED
    assert "requirements.lock" in machine.console
    venv = machine.root / "opt/trunkline/venv"
    assert not list(venv.glob("lib/*/site-packages/trunkprobe.py"))
    assert not (venv / ".made-from").exists()


def test_a_node_without_a_lock_stops(machine: Machine) -> None:
    del machine.settings["VENV"]
    assert machine.run("install_packages").returncode == STOPPED
    assert "terraform apply uploads it" in machine.console


def test_a_source_package_is_built_by_what_the_lock_names(machine: Machine, index: Path) -> None:
    """pip would fetch what builds it into an environment of its own, without a look at a checksum: here there is none
    to be had.
    """
    for file in index.glob("setuptools-*"):
        file.unlink()
    builder(index)
    source(index, "4.0")
    lines = locked(index, "1.0", name="setuptools")
    (archive,) = index.glob("trunkprobe-4.0.tar.gz")
    lines += f"trunkprobe==4.0 --hash=sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}\n"
    (machine.scripts / "requirements.lock").write_text(lines)
    done = machine.run(SHOW)
    assert (done.returncode, done.stdout) == (0, "4.0\n"), done.stderr


def test_a_python_that_is_too_old_is_refused(machine: Machine) -> None:
    for name in ("python3.9", "apt-get", "dnf"):
        (machine.bin / name).write_text("#!/bin/sh\nexit 1\n")
        (machine.bin / name).chmod(0o755)
    (machine.scripts / "requirements.lock").write_text("setuptools==1.0\n")
    del machine.settings["VENV"]
    machine.settings["PYTHON"] = "python3.9"
    assert machine.run("install_packages").returncode == STOPPED
    assert "PYTHON is python3.9: Trunkline needs Python 3.11 or 3.12" in machine.console


def test_a_registry_that_lets_nobody_in_stops_a_node(machine: Machine) -> None:
    (machine.bin / "docker").write_text('#!/bin/sh\ncat > /dev/null\n[ "$1" != image ]\n')
    (machine.bin / "docker").chmod(0o755)
    (machine.bin / "aws").write_text("#!/bin/sh\nexit 254\n")
    machine.settings["IMAGE"] = "1.dkr.ecr.us-east-1.amazonaws.com/trunkline:0.1.0"
    assert machine.run("install_packages").returncode == STOPPED
    assert "cannot log in to the registry" in machine.console


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


@pytest.mark.parametrize("bucket", ["none", "empty"])
def test_a_configuration_that_is_none_is_not_taken_over(machine: Machine, aws: Cloud, bucket: str) -> None:
    aws.client("s3").create_bucket(Bucket="demo-empty")
    aws.client("s3").put_object(Bucket="demo-empty", Key="bootstrap/cluster.yaml", Body=b"")
    new_secret(machine, aws)
    machine.settings |= {"AUTOSCALING": "true", "BUCKET": f"demo-{bucket}"}
    ended = machine.run("head.sh", "run")
    assert ended.returncode == STOPPED
    assert "was terraform apply interrupted?" in machine.console
    kept = machine.root / "etc/trunkline/cluster.yaml"
    kept.write_text("max_workers: 3\n")
    assert machine.run("head.sh", "config").returncode != 0
    assert kept.read_text() == "max_workers: 3\n"


@pytest.mark.parametrize("notice", ["{}", "", "gone", '{"action": "terminate", "time": "soon"}'])
def test_a_notice_without_a_time_still_drains(machine: Machine, notice: str) -> None:
    program = machine.root / "venv/bin/python"
    program.write_text('#!/bin/bash\necho "drains $*"\n')
    program.chmod(0o755)
    machine.metadata.items["spot/instance-action"] = notice
    (machine.root / "etc/trunkline").mkdir(parents=True)
    (machine.root / "etc/trunkline/ray.env").touch()
    done = machine.run("worker.sh", "watch")
    assert (done.returncode, done.stdout) == (0, "drains - 127.0.0.1:6379 i-0123456789abcdef0 120\n"), done.stderr


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
        found = subprocess.run(
            ["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert not [
            line for line in found.stderr.splitlines() if "trunkline-" in line and "is not executable" not in line
        ]
