"""What the infrastructure tests need beside Python packages: programs on PATH.

A test that cannot have its program is skipped with what to install; in CI, where `CI` is set, it fails instead, so that a
machine that lacks something never passes by leaving tests out.
"""

import os
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent
TERRAFORM = PROJECT / "infra" / "terraform"

_INSTALL = {
    "terraform": "Terraform 1.11 or later (developer.hashicorp.com/terraform/install)",
    "shellcheck": "shellcheck (pip install -e '.[infra]', or apt-get install shellcheck)",
    "hadolint": "hadolint (pip install -e '.[infra]')",
    "openssl": "openssl (apt-get install openssl)",
    "ip": "iproute2 (apt-get install iproute2)",
    "postgres": "PostgreSQL (apt-get install postgresql)",
}


def missing(what: str) -> None:
    """Ends the test because of something that is not there: skipped, or failed where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {what}", pytrace=False)
    pytest.skip(what)


def need(program: str) -> str:
    """The path of a program; without it the test ends as `missing` says."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not on PATH: install {_INSTALL.get(program, program)}")
        raise AssertionError("missing() returned")
    return path
