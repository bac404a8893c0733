"""A machine for the boot scripts to run on: a scratch root, its metadata service, and stand-ins for disks, GPUs,
systemd and Ray.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.infra.cloud import REGION, Cloud, Metadata, bootstrap, commands
from tests.infra.tools import TERRAFORM, need
from tests.waits import PATIENCE_SECONDS

RAY = TERRAFORM / "modules" / "ray" / "templates"
MLFLOW = TERRAFORM / "modules" / "mlflow" / "templates" / "server.sh"
SCRIPTS = [RAY / "node.sh", RAY / "head.sh", RAY / "worker.sh", MLFLOW]
STOPPED = 78  # the status that systemd does not start again after


class Machine:
    """A scratch root with settings, boot scripts and stand-ins; `aws` in it talks to moto."""

    def __init__(self, root: Path, aws: Cloud | None, **programs: str):
        self.root = root
        self.bin = commands(root / "bin", aws, **{"sleep": "exit 0"} | programs)  # between attempts
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
            call,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            cwd=self.root,
        )

    def wrap(self, program: str, before: str) -> None:
        """Have a program do something first. Args: before, bash, in which "$real" is the program itself; `exit` there
        is its end.
        """
        path = self.bin / program
        kept = self.bin / f"{program}.real"
        if not kept.exists():
            kept.symlink_to(need(program)) if not path.exists() else path.rename(kept)
        path.write_text(f'#!/bin/bash\nreal={kept}\n{before}\nexec "$real" "$@"\n')
        path.chmod(0o755)

    def called(self, program: str) -> list[str]:
        log = self.bin / f"{program}.log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def console(self) -> str:
        return (self.root / "dev" / "console").read_text()
