"""Downloads kept on local disk, within a bound, shared by every process of the machine.

Enters: an object's name and size, and a function that downloads it. Leaves: a path whose file stays as long as the path
object is held, in this process or any other; beyond that, the files used longest ago make room for new ones.

    objects/3f/3f09…-00000.bin     an object; its modification time is that of its last use
    objects/3f/.taking-3f09…       somebody downloads it: as long as the object will be, so that what is on its way
    counts
    objects/.lock                  held for the milliseconds in which room is made

All agreement between processes is by `flock`, which ends with the process that held it: a shared lock on a file means
in use, an exclusive one on `.taking-…` means that one process downloads while the others wait for it. After `kill -9`
nothing is left to be cleaned up by hand. Needs a file system with `flock`: any local one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import resource
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StorageError

_MOST_BYTES = 50_000_000_000  # by default, and never more than _SHARE of what the disk has for it
_SHARE = 0.8
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def cache_folder() -> Path:
    """Where downloads are kept between runs: `$TRUNKLINE_CACHE`, else `~/.cache/trunkline`."""
    return Path(os.environ.get("TRUNKLINE_CACHE") or Path.home() / ".cache" / "trunkline")


def cache_limit() -> int:
    """Bytes that downloaded objects may take: `$TRUNKLINE_CACHE_BYTES` (`20GB`, `500MB`, a number), else 50 GB or 80 %
    of what is free beside what the cache holds, whichever is less.

    Raises: ConfigError when the variable is no number of bytes.
    """
    said = os.environ.get("TRUNKLINE_CACHE_BYTES", "").strip()
    if said:
        match = re.fullmatch(r"(?P<number>[\d_]+(\.\d+)?)\s*(?P<unit>[kmgt]?)b?", said.lower())
        size = int(float(match["number"].replace("_", "")) * _UNITS[match["unit"]]) if match else 0
        if size <= 0:
            raise ConfigError(
                f"TRUNKLINE_CACHE_BYTES is {said!r}; expected a number of bytes, e.g. 50GB or 500_000_000"
            )
        return size
    folder = cache_folder() / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    held_bytes = sum(size for _, size, _ in _objects(folder))
    return min(_MOST_BYTES, int(_SHARE * (shutil.disk_usage(folder).free + held_bytes)))


def replace_durably(source: Path, target: Path) -> None:
    """Rename a finished file to `target`, on the same file system: after a power cut there is all of it, or what was
    there before.
    """
    with source.open("rb") as handle:
        os.fsync(handle.fileno())
    source.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class HeldPath(type(Path())):  # type: ignore[misc]
    """A path to a cached file that stays there at least as long as this object lives."""

    def __reduce__(self) -> Any:
        return Path, (str(self),)  # elsewhere it is a path like any other: the hold does not travel


@dataclass(frozen=True)
class Cache:
    """Objects under `folder`, at most `limit_bytes` of them, downloads on their way included."""

    folder: Path
    limit_bytes: int | None = None  # None: `cache_limit()`

    def get(self, name: str, size: int, download: Callable[[Path], None]) -> Path:
        """The file `name`, downloaded when it is not there; of several who ask at once, one downloads.

        Args:
            name: names the content: another version of an object has another name.
            size: of the object, in bytes.
            download: writes the whole object to the path that it is given, or raises.

        Raises: StorageError when what is in use leaves no room; what `download` raises.
        """
        path = self.folder / name[:2] / name
        if (held_path := _hold(path)) is not None:
            return held_path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".taking-{name}"), remove=True) as taking:
            if (held_path := _hold(path)) is not None:  # another process was faster
                return held_path
            self._make_room(size, path, taking)
            partial = path.with_name(f".partial-{name}")
            try:
                download(partial)
                held_path = _hold(partial, named=path)
                replace_durably(partial, path)
            finally:
                for left in path.parent.glob(f".partial-{glob.escape(name)}*"):
                    left.unlink(missing_ok=True)
        assert held_path is not None  # `download` wrote it, or `replace` had raised
        return held_path

    def used_bytes(self) -> int:
        """Bytes of all objects, and of those on their way."""
        with _locked(self.folder / ".lock"):
            return sum(size for _, size, _ in _objects(self.folder))

    def _make_room(self, size: int, wanted: Path, taking: int) -> None:
        """Remove what must go for `size` more bytes, and claim them: the file `taking` counts for what it will be."""
        limit = cache_limit() if self.limit_bytes is None else self.limit_bytes
        with _locked(self.folder / ".lock"):
            entries = sorted(_objects(self.folder), key=lambda entry: entry[2])
            used = sum(entry[1] for entry in entries)
            for path, bytes_, _ in entries:
                if used + size > limit and not path.name.startswith(".") and _remove_unused(path):
                    used -= bytes_
            if used + size > limit:
                raise StorageError(
                    f"the cache {self.folder} may hold {limit:,} bytes; {used:,} are in use by processes of this "
                    f"machine, and {wanted.name} needs {size:,} more: raise TRUNKLINE_CACHE_BYTES, or put "
                    "TRUNKLINE_CACHE on a larger disk"
                )
            os.ftruncate(taking, size)


def _objects(folder: Path) -> list[tuple[Path, int, int]]:
    """(path, bytes, time of last use) of every object, and of every download that somebody is at."""
    objects: dict[Path, tuple[Path, int, int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for inner in os.scandir(folder):
            for entry in os.scandir(inner) if inner.is_dir() else ():
                path, taking = Path(entry.path), entry.name.startswith(".taking-")
                if entry.name.startswith(".") and not taking:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if not taking or not _remove_unused(path):  # its process may have been killed
                        wanted = path.with_name(entry.name.removeprefix(".taking-"))  # there already: counted once
                        objects[wanted] = max(
                            objects.get(wanted, (path, 0, 0)),
                            (path, status.st_size, status.st_mtime_ns),
                            key=lambda e: e[1],
                        )
    return list(objects.values())


def _hold(path: Path, named: Path | None = None) -> HeldPath | None:
    """The path with its file held, or None when there is none; `named`, what the file is going to be called."""
    while True:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EMFILE or not _allow_more_files():
                raise
            continue
        fcntl.flock(handle, fcntl.LOCK_SH)
        if _is(handle, path):
            with contextlib.suppress(PermissionError):  # somebody else's file
                os.utime(handle)
            held_path = HeldPath(named or path)
            weakref.finalize(held_path, os.close, handle)
            return held_path
        os.close(handle)  # removed between the two calls


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody holds it; whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(handle, path):
            path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(path: Path, remove: bool = False) -> Iterator[int]:
    """Hold a lock file exclusively, waiting for it; `remove` it at the end."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is(handle, path):
                continue  # who held it before removed it
            try:
                yield handle
            finally:
                if remove:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _allow_more_files() -> bool:
    """Raise the process's soft limit of open files, of which each held path is one, to its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True
