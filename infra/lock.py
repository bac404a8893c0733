"""Writes requirements.lock: each package that a node of a cluster installs, at constraints.txt's version, with its
files' checksums.

    make lock

Enters: the requirements of pyproject.toml with `server`, constraints.txt, and what uv learns from the package index.
Leaves: one line a package, which `pip install --require-hashes` reads. A node installs as root, so what an index
answers years later must be, byte for byte, what it answers today; constraints.txt pins versions and not bytes. It also
names what torch's CUDA build brings along and constraints.txt does not (NVIDIA's libraries, Triton).

Kept are the wheels for the two Pythons on Linux x86_64, and the source archive of a package that has no such wheel: 60
kB instead of the 360 kB that every platform's files would take.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

PROJECT = Path(__file__).parent.parent
LOCK = PROJECT / "requirements.lock"
PYTHONS = ((3, 11), (3, 12))
# glibc 2.17 (manylinux2014) up to one newer than that of any image a node has
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(40, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
]
HEAD = "# What a node installs (pip install --require-hashes). Made from constraints.txt by `make lock`; do not edit.\n"


def tags(python: tuple[int, int]) -> set[Tag]:
    """The wheels that CPython of this version on Linux x86_64 takes."""
    return {
        *cpython_tags(python, platforms=PLATFORMS),
        *compatible_tags(python, f"cp{python[0]}{python[1]}", PLATFORMS),
    }


def wanted_by(package: dict[str, Any]) -> list[tuple[int, int]]:
    """The Pythons that need a package of pylock.toml."""
    if "marker" not in package:
        return list(PYTHONS)
    linux = {
        "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64",
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
    }  # fmt: skip
    marker = Marker(package["marker"])
    return [
        (major, minor)
        for major, minor in PYTHONS
        if marker.evaluate(linux | {"python_version": f"{major}.{minor}", "python_full_version": f"{major}.{minor}.9"})
    ]


def checksums(package: dict[str, Any], pythons: list[tuple[int, int]]) -> set[str]:
    """SHA-256 of the files of a package that these Pythons may install: wheels, and the source archive where one has no
    wheel.
    """
    kept, without = set[str](), False
    for python in pythons:
        taken = tags(python)
        fitting = {
            wheel["hashes"]["sha256"]
            for wheel in package.get("wheels", [])
            if taken & parse_wheel_filename(wheel["url"].rpartition("/")[2])[3]
        }
        kept |= fitting
        without = without or not fitting
    if without:
        kept.add(package["sdist"]["hashes"]["sha256"])
    return kept


def lines(pylock: dict[str, Any]) -> Iterator[str]:
    """The lock, a line a package. Args: pylock, of PEP 751."""
    for package in pylock["packages"]:
        if not (pythons := wanted_by(package)):
            continue
        only = "" if len(pythons) == len(PYTHONS) else f' ; python_version == "{pythons[0][0]}.{pythons[0][1]}"'
        hashes = " ".join(f"--hash=sha256:{checksum}" for checksum in sorted(checksums(package, pythons)))
        yield f"{package['name']}=={package['version']}{only} {hashes}\n"


def resolve(uv: str) -> dict[str, Any]:
    """What uv makes of pyproject.toml under constraints.txt. Raises: CalledProcessError, after uv has said why."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "pylock.toml")
        subprocess.run(
            [
                uv, "pip", "compile", "pyproject.toml", "--extra", "server", "-c", "constraints.txt", "--universal",
                "--python-version", "3.11", "--format", "pylock.toml", "--quiet", "--no-config", "-o", str(made),
            ],
            cwd=PROJECT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return tomllib.loads(made.read_text())


if __name__ == "__main__":
    LOCK.write_text(HEAD + "".join(lines(resolve(sys.argv[1]))))
    print(f"wrote {LOCK.name}: {len(LOCK.read_text().splitlines()) - 1} packages")
