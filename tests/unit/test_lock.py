"""requirements.lock is what constraints.txt and pyproject.toml say: whoever changes one of them and forgets `make lock`
learns it here.
"""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent.parent
LOCK = [line for line in (PROJECT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LINE = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)( ; python_version == \"3\.1[12]\")?(?P<sums>( "
    r"--hash=sha256:[0-9a-f]{64})+)"
)
SAY = "run `make lock`"


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    """Version by name."""
    return {match["name"]: match["version"] for line in LOCK if (match := LINE.fullmatch(line))}


def test_every_line_is_a_version_with_checksums(locked: dict[str, str]) -> None:
    assert [line for line in LOCK if not LINE.fullmatch(line)] == []
    assert len(locked) == len(LOCK) > 100
    assert "setuptools" in locked  # it builds the packages that come as source


def test_versions_are_those_of_the_constraints(locked: dict[str, str]) -> None:
    pins = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    assert {name: locked[name] for name in locked if name in pinned} == {
        name: pinned[name] for name in pinned if name in locked
    }, SAY
    # what is in the lock alone comes with torch's CUDA build; everything else has its pin
    loose = {name for name in locked if name not in pinned}
    assert {name for name in loose if not name.startswith(("cuda-", "nvidia-"))} == {"setuptools", "triton"}


def test_the_lock_is_whole(locked: dict[str, str]) -> None:
    """What pip would have to look up beside it, it would refuse on a node: nothing may be missing."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["server"]]
    missing, seen = set(), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in locked:
            missing.add(str(requirement))
            continue
        for extra in ["", *requirement.extras]:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in importlib.metadata.requires(name) or []:
                below = Requirement(line)
                if below.marker is None or below.marker.evaluate({"extra": extra, "platform_machine": "x86_64"}):
                    waiting.append(below)
    assert missing == set(), SAY
    assert {name for name, _ in seen} <= set(locked)


def test_files_are_chosen_by_python_and_platform() -> None:
    sys.path.insert(0, str(PROJECT / "infra"))
    try:
        import lock
    finally:
        sys.path.pop(0)

    def file(name: str, checksum: str) -> dict[str, object]:
        return {"url": f"https://index/packages/{name}", "hashes": {"sha256": checksum * 64}}

    def package(name: str, wheels: list[dict[str, object]], **more: object) -> dict[str, object]:
        return {"name": name, "version": "1.0", "wheels": wheels, "sdist": file(f"{name}-1.0.tar.gz", "5"), **more}

    linux, old, mac = "manylinux_2_28_x86_64", "manylinux2014_x86_64", "macosx_11_0_arm64"
    made = lock.lines(
        {
            "packages": [
                package("pure", [file("pure-1.0-py3-none-any.whl", "1")]),
                package(
                    "compiled",
                    [
                        file(f"compiled-1.0-cp311-cp311-{linux}.whl", "1"),
                        file(f"compiled-1.0-cp312-cp312-{old}.whl", "2"),
                        file(f"compiled-1.0-cp311-cp311-{mac}.whl", "3"),
                        file(f"compiled-1.0-cp310-cp310-{linux}.whl", "4"),
                    ],
                ),
                package("stable", [file(f"stable-1.0-cp39-abi3-{linux}.whl", "1")]),
                package("half", [file(f"half-1.0-cp311-cp311-{linux}.whl", "1")]),
                package("source", []),
                package("windows", [], marker="sys_platform == 'win32'"),
                package("older", [file("older-1.0-py3-none-any.whl", "1")], marker="python_full_version < '3.12'"),
            ]
        }
    )
    sums = {"1": 64 * "1", "2": 64 * "2", "5": 64 * "5"}
    assert list(made) == [
        f"pure==1.0 --hash=sha256:{sums['1']}\n",
        f"compiled==1.0 --hash=sha256:{sums['1']} --hash=sha256:{sums['2']}\n",
        f"stable==1.0 --hash=sha256:{sums['1']}\n",
        f"half==1.0 --hash=sha256:{sums['1']} --hash=sha256:{sums['5']}\n",
        f"source==1.0 --hash=sha256:{sums['5']}\n",
        f'older==1.0 ; python_version == "3.11" --hash=sha256:{sums["1"]}\n',
    ]
