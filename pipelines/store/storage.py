"""One small interface over a folder and an S3 bucket.

Enters: a store URI (`./store`, `/data/store`, `s3://bucket/prefix`) and keys relative to it. Leaves: whole objects. A
key either holds all of what was put there or does not exist: a folder gets a file by write, fsync and rename, S3 as
`pipelines/store/s3.py` says.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines.errors import StorageError
from pipelines.store.cache import HeldPath
from pipelines.store.disk import room, writes_in

REQUESTS_AT_ONCE = 32  # an S3 request takes some 20 ms to answer, however little it asks for
_CHUNK_BYTES = 1 << 20


class Storage(ABC):
    """Objects under one root. Instances are small and picklable: they travel to Ray workers."""

    uri: str
    moves = False  # whether folders can be given another name at once

    @abstractmethod
    def check(self) -> None:
        """Find out now, before any work, whether the store answers. Raises: StorageError when it does not."""

    def check_writable(self) -> None:
        """Find out, without writing, whether it can be written to; a server is only asked whether it answers.

        Raises: StorageError.
        """
        self.check()

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises: StorageError when it is not there."""

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when it is not there."""
        return self.read(key) if self.exists(key) else None

    def read_all(self, keys: Sequence[str]) -> list[bytes]:
        """Whole objects in the order of `keys`, many requests at a time."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(self.read, keys))

    def find_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """`read_all`, with None for an object that is not there."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(self.find, keys))

    @abstractmethod
    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive) of an object, without fetching the rest of it.

        No server keeps checksums of ranges. TLS guards them; from an endpoint without TLS they are read twice.

        Raises: StorageError when the object is not there or ends before `stop`.
        """

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Put a small object, atomically."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put a small object unless it is there; whether it was put. Of several at once, one succeeds."""

    @abstractmethod
    def scratch(self, key: str) -> Path:
        """A fresh local path to write a file to before `put`; never readable as `key`."""

    @abstractmethod
    def put(self, source: Path, key: str) -> None:
        """Publish a finished local file as `key`, atomically; `source` is consumed."""

    @abstractmethod
    def send(self, source: Path, key: str, sent: Callable[[int], None] = lambda count: None) -> None:
        """Publish a copy of a local file as `key`, atomically; `source` stays. Args: sent, told of bytes as they go."""

    @abstractmethod
    def digest(self, key: str) -> str | None:
        """SHA-256 of the object, as far as it is known without downloading it; None where it is not, or not there."""

    @abstractmethod
    def fetch(self, key: str) -> Path:
        """A local path holding the object; downloaded when remote, and in the cache at least as long as the path is
        held.
        """

    def forget(self, path: Path) -> bool:
        """Remove a copy that `fetch` made, so that the next one downloads again; whether `path` was such a copy."""
        return False

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes of the object, or None when it is not there."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether the object is there; a folder is none."""

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """Every key that begins with the folder `prefix`, sorted; scratch files are not listed."""

    @abstractmethod
    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly in the folder `prefix`, sorted; what is in them is not asked."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove the object or folder `prefix`; removing nothing is no error."""

    def movable(self, prefix: str) -> bool:
        """Whether `move` can give the folder `prefix` another name."""
        return False

    def move(self, prefix: str, target: str) -> bool:
        """Give the folder `prefix` another name, at once; whether that was possible. An object of S3 can only be
        copied.
        """
        return False

    @abstractmethod
    def sweep(self, prefix: str) -> None:
        """Remove what killed writers left unfinished below the folder `prefix`."""


class FolderStorage(Storage):
    """A folder on a local or shared file system."""

    moves = True

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().resolve()
        self.uri = str(self.root)

    def check(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise StorageError(f"store {self.root} is a file; expected a folder: give another store=")
        if not (above := self._nearest()).is_dir():
            raise StorageError(f"store {self.root} cannot be made: {above} is a file: give another store=")

    def check_writable(self) -> None:
        above = self._nearest()
        if not os.access(above, os.W_OK | os.X_OK):
            done = "written to" if above == self.root else "made"
            raise StorageError(
                f"store {self.root} cannot be {done}: no permission to write in {above}: change its permissions, or "
                "give another store="
            )

    def _nearest(self) -> Path:
        """The store's folder, or the nearest one above it that is there."""
        return next(path for path in (self.root, *self.root.parents) if path.exists())

    def read(self, key: str) -> bytes:
        with disk_errors("read", self.root / key):
            return (self.root / key).read_bytes()

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        with disk_errors("read", self.root / key), (self.root / key).open("rb") as handle:
            handle.seek(start)
            return whole_range(handle.read(stop - start), self.root / key, start, stop)

    def write(self, key: str, data: bytes) -> None:
        path = self.scratch(key)
        with disk_errors("write", self.root / key, leftover=path):
            path.write_bytes(data)
            self.put(path, key)

    def create(self, key: str, data: bytes) -> bool:
        path = self.root / key
        beside = self.scratch(key)
        with disk_errors("write", path, leftover=beside):
            with beside.open("xb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            try:
                os.link(beside, path)  # whole or not at all, and never over another
            except FileExistsError:
                return False
            except (
                OSError
            ) as error:  # a file system without hard links: of two at the very same moment, the last succeeds
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                    raise
                if path.exists():
                    return False
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        return True

    def scratch(self, key: str) -> Path:
        target = self.root / key
        with disk_errors("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
        writes_in(target.parent)
        return target.with_name(f".partial-{uuid.uuid4().hex[:8]}-{target.name}")

    def put(self, source: Path, key: str) -> None:
        target = self.root / key
        with disk_errors("write", target, leftover=source):
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as handle:
                os.fsync(handle.fileno())
            try:
                source.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                beside = self.scratch(key)  # another file system: copy beside the target, then rename
                shutil.copy2(source, beside)
                self.put(beside, key)
                source.unlink()
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def send(self, source: Path, key: str, sent: Callable[[int], None] = lambda count: None) -> None:
        beside = self.scratch(key)
        errors = disk_errors("write", self.root / key, leftover=beside)
        with errors, source.open("rb") as whole, beside.open("wb") as copy:
            while piece := whole.read(_CHUNK_BYTES):
                copy.write(piece)
                sent(len(piece))
        self.put(beside, key)

    def digest(self, key: str) -> str | None:
        path = self.root / key
        with disk_errors("read", path):
            return sha256(path) if path.is_file() else None

    def fetch(self, key: str) -> Path:
        path = self.root / key
        if not path.exists():
            raise StorageError(f"{path} does not exist")
        return path

    def size(self, key: str) -> int | None:
        path = self.root / key
        with disk_errors("read", path):
            return path.stat().st_size if path.is_file() else None

    def exists(self, key: str) -> bool:
        return (self.root / key).exists()

    def keys(self, prefix: str = "") -> list[str]:
        base = self.root / prefix
        if base.is_file():
            return [prefix]
        files = (path.relative_to(self.root) for path in base.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in files if not any(part.startswith(".partial-") for part in path.parts))

    def folders(self, prefix: str = "") -> list[str]:
        with disk_errors("read", self.root / prefix):
            try:
                inside = [entry.name for entry in os.scandir(self.root / prefix) if entry.is_dir()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name for name in inside if not name.startswith(".partial-"))

    def delete(self, prefix: str) -> None:
        path = self.root / prefix
        with disk_errors("delete", path):
            if path.is_file():
                path.unlink(missing_ok=True)
                return
            with contextlib.suppress(FileNotFoundError):  # there is none, or somebody else deletes it too
                path.replace(path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}"))  # at once, whoever writes
            # eight signs, or what is left of `b-a` would be taken for what is left of `a`
            for gone in path.parent.glob(f".partial-????????-{glob.escape(path.name)}"):
                if gone.is_symlink() or gone.is_dir():  # also what a deletion of this folder that was killed has left
                    _remove(gone)

    def movable(self, prefix: str) -> bool:
        path = self.root / prefix
        if not self.moves or path.is_symlink():  # a link that somebody made to another disk stays where it is
            return False
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_dev == self.root.stat().st_dev
        return True

    def move(self, prefix: str, target: str) -> bool:
        path = self.root / target
        if not self.movable(prefix):
            return False
        with disk_errors("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                (self.root / prefix).rename(path)
            except OSError as error:
                # another file system, where that would be a copy, or a folder on which one is mounted
                if error.errno not in (errno.EXDEV, errno.EBUSY):
                    raise
                return False
        return True

    def sweep(self, prefix: str) -> None:
        for path in (self.root / prefix).rglob(".partial-*"):
            with disk_errors("delete", path):
                _remove(path) if path.is_dir() else path.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Delete a folder, whoever else deletes it at the same time; of a link to one, the link."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return

    def pass_over(function: object, path: str, raised: Any) -> None:
        if not isinstance(raised[1], FileNotFoundError):
            raise raised[1]

    shutil.rmtree(folder, onerror=pass_over)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


_REMEMBERED: dict[str, tuple[tuple[int, ...], str]] = {}  # path -> what its file was like when it was hashed, SHA-256
_SETTLED_NS = 2_000_000_000  # a file that changed less than this ago may change again within one tick of its clock


def remembered_sha256(path: Path) -> str:
    """`sha256`, worked out once in this process for a file that stays as it is: inode, size and both times of change.

    The times of a copy in the cache say when it was used; nobody but the cache writes there, so they do not count.
    """
    status = path.stat()
    times = (0, 0) if isinstance(path, HeldPath) else (status.st_mtime_ns, status.st_ctime_ns)
    state = (status.st_dev, status.st_ino, status.st_size, *times)
    remembered = _REMEMBERED.get(str(path))
    if remembered is not None and remembered[0] == state:
        return remembered[1]
    settled = time.time_ns() - max(times) > _SETTLED_NS
    digest = sha256(path)
    if settled:
        _REMEMBERED[str(path)] = (state, digest)
    return digest


def whole_range(data: bytes, where: Path | str, start: int, stop: int) -> bytes:
    """The data, if it is all of the range that was asked for. Raises: StorageError otherwise."""
    if len(data) != stop - start:
        raise StorageError(f"{where} ends at byte {start + len(data)}; bytes {start} to {stop} were expected of it")
    return data


@contextlib.contextmanager
def disk_errors(verb: str, path: Path, leftover: Path | None = None) -> Iterator[None]:
    """An OSError in the block as a StorageError that names the path; the unfinished file `leftover` goes."""
    try:
        yield
    except OSError as error:
        if leftover is not None:
            leftover.unlink(missing_ok=True)
        advice = "check the path and its permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = f"there is {room(path)}; free some space and run the same command again"
        raise StorageError(
            f"cannot {verb} {path}: {error.strerror or error}; nothing was committed: {advice}"
        ) from error
