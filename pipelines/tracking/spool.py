"""What is on its way to a tracking server: lines on local disk until they are delivered, so that logging never waits.

Enters: JSON-able items of one run. Leaves: the same items, in order, to whoever delivers them: this process while it
lives, any later command on this machine after it was killed, and any command with the same store after `keep`.

    $TRUNKLINE_CACHE/spool/<name>.jsonl    a header, then an item per line; its owner holds a lock on it while it lives
    <store>/.spool/<name>.jsonl            what a machine that may vanish had not delivered yet

Items may reach the server more than once, so they must say the same twice: a metric carries the time at which it was
logged.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.store.cache import cache_folder
from pipelines.store.storage import Storage
from pipelines.tracking.place import header_here

_KEPT = ".spool"


class Spool:
    """The items of one run from one process; safe to use from several threads."""

    def __init__(self, header: Mapping[str, Any]):
        """Args: header, what delivering needs to know: `uri` of the server and whatever else."""
        self.header = {**header, "at": time.time()}
        _folder().mkdir(parents=True, exist_ok=True)
        self.path = _folder() / f"{uuid.uuid4().hex}.jsonl"
        self._lock = threading.Lock()
        self._file = self.path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # ends with this process, however that ends
        self._write(self.header)
        self._delivered = self._end = self._file.tell()
        self._kept_to = self._delivered
        self._kept: Storage | None = None

    def put(self, item: Mapping[str, Any]) -> None:
        """Add an item. Raises: OSError where the disk takes no more."""
        with self._lock:
            self._write(item)
            self._end = self._file.tell()

    def waiting(self) -> tuple[list[dict[str, Any]], int]:
        """The items not delivered yet, and the place behind them for `delivered`."""
        with self._lock:
            start, end = self._delivered, self._end
        if start >= end:  # an empty spool goes when it is closed
            return [], end
        return [json.loads(line) for line in self._read(start, end).splitlines()], end

    @property
    def is_delivered(self) -> bool:
        """Whether nothing is waiting; once it is closed, another command may have taken what was, file and all."""
        with self._lock:
            return self._delivered >= self._end

    def delivered(self, place: int) -> None:
        """Note that all items up to `place` have reached the server."""
        with self._lock:
            self._delivered = place
            kept, self._kept = (self._kept, None) if place >= self._kept_to else (None, self._kept)
        if kept is not None:
            kept.delete(f"{_KEPT}/{self.path.name}")

    def keep(self, storage: Storage) -> None:
        """Have what is not delivered yet in the store as well: this machine may be gone before it is. Raises:
        StorageError.
        """
        with self._lock:
            start, end = self._delivered, self._end
        if start < end and end > self._kept_to:
            storage.write(
                f"{_KEPT}/{self.path.name}", json.dumps(self.header).encode() + b"\n" + self._read(start, end)
            )
            with self._lock:
                self._kept, self._kept_to = storage, end

    def close(self) -> None:
        """Leave what is not delivered to later commands; an empty spool goes."""
        if self._delivered >= self._end:
            self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of a full disk: what is buffered cannot be written
            self._file.close()

    def _write(self, item: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(item).encode() + b"\n")
        self._file.flush()

    def _read(self, start: int, end: int) -> bytes:
        with self.path.open("rb") as handle:
            handle.seek(start)
            return handle.read(end - start)


@dataclass(frozen=True)
class Leftover:
    """What a process left undelivered; `drop` it once it is."""

    header: dict[str, Any]
    items: list[dict[str, Any]]
    where: str  # for people
    drop: Callable[[], None]


def leftovers(uri: str, storage: Storage | None) -> Iterator[Leftover]:
    """What dead processes left for the server at `uri`, those that began first first.

    Args: storage, a store to look in as well; None: on this machine's disk only.
    """
    spools = [
        (header, path) for path in _folder().glob("*.jsonl") if (header := _header(path)) and header["uri"] == uri
    ]
    here = {path.name for _, path in spools}
    for header, path in sorted(spools, key=lambda pair: float(pair[0]["at"])):
        try:
            handle = path.open("rb")
        except FileNotFoundError:
            continue
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # its owner lives, or somebody else delivers it
                continue
            if os.fstat(handle.fileno()).st_nlink:

                def drop(path: Path = path) -> None:
                    path.unlink(missing_ok=True)
                    if storage is not None:  # the store's copy holds nothing else
                        storage.delete(f"{_KEPT}/{path.name}")

                yield Leftover(header, _parse(handle.read())[1:], str(path), drop)
    if storage is None:
        return
    kept = [(key, _parse(storage.find(key) or b"")) for key in storage.keys(_KEPT) if key.split("/")[-1] not in here]
    ours = [
        (key, here_now, lines) for key, lines in kept if lines and (here_now := header_here(lines[0], uri, storage))
    ]
    for key, header, lines in sorted(ours, key=lambda entry: float(entry[1]["at"])):
        yield Leftover(header, lines[1:], f"{storage.uri}/{key}", partial(storage.delete, key))


def _folder() -> Path:
    return cache_folder() / "spool"


def _header(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as handle:
            lines = _parse(handle.readline())
    except FileNotFoundError:
        return None
    return lines[0] if lines and {"uri", "at"} <= set(lines[0]) else None


def _parse(text: bytes) -> list[dict[str, Any]]:
    """Whole lines; a killed process may have left half of one."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
