"""One command at a time on one name: a lease beside the artifacts, kept fresh while the command lives.

Enters: a storage and an artifact's folder. Leaves: `.leases/<kind>/<name>.json` for as long as a command works on it,
naming host, process and start.

A command that was killed must not keep its own rerun waiting. On the same machine its process is looked for, so a lease
whose process is gone is taken over at once. From elsewhere a living owner is known by its heartbeat: the second command
listens until the lease changes (refused) or has been silent for a while (taken over). No two clocks are compared.

Two commands that get past this all the same, e.g. after a long suspension, do the work twice with equal results.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from pipelines.display.progress import say
from pipelines.errors import ArtifactError, StorageError
from pipelines.store.storage import Storage

BEAT_SECONDS = 20.0
SILENT_SECONDS = 90.0  # more than four beats


def in_work(storage: Storage, folder: str) -> bool:
    """Whether a command may be working on `folder` now: one that lives on this machine, or any of another one."""
    try:
        lease = json.loads(storage.find(f".leases/{folder}.json") or b"{}")
        here = lease and lease["machine"] == _machine() != ""
        return bool(lease) and not (here and _started(lease["pid"]) != lease["started"])
    except (ValueError, KeyError, TypeError):  # damaged: nobody knows
        return True


def check_free(storage: Storage, folder: str) -> None:
    """Refuse a name on which a command of this machine works now; of one elsewhere nobody can tell without waiting.

    Raises: ArtifactError, as `Lease` does.
    """
    lease = _read(storage, f".leases/{folder}.json")
    if lease and lease["machine"] == _machine() != "" and _started(lease["pid"]) == lease["started"]:
        raise _taken(storage, folder, lease)


class Lease:
    """The right to make `folder` (`kind/name`), until `release`.

    Raises: ArtifactError when a living command holds it.
    """

    def __init__(
        self, storage: Storage, folder: str, beat_seconds: float = BEAT_SECONDS, silent_seconds: float = SILENT_SECONDS
    ):
        self.storage, self.folder, self.key = storage, folder, f".leases/{folder}.json"
        self._lease: dict[str, Any] = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
            "nonce": uuid.uuid4().hex,
            "beats": 0,
        }
        self._over = threading.Event()
        while not (storage.create(self.key, self._data()) or self._is_mine()):
            self._wait_for_its_end(beat_seconds, silent_seconds)
            storage.delete(self.key)
        self._thread = threading.Thread(target=self._beat, args=(beat_seconds,), daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the name back. A store that is lost by now is no reason to fail: the lease falls silent."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(StorageError):
            if self._is_mine():
                self.storage.delete(self.key)

    def _wait_for_its_end(self, beat_seconds: float, silent_seconds: float) -> None:
        """Return once the holder is known to be dead. Raises: ArtifactError as soon as it is known to live."""
        first = _read(self.storage, self.key)
        if first is None:
            return
        if not first:
            raise ArtifactError(
                f"{self.storage.uri}/{self.key} is damaged, so it is not known which command makes {self.folder}: "
                "when none does, delete it"
            )
        here = first["machine"] == self._lease["machine"] != ""
        if here and _started(first["pid"]) != first["started"]:
            return
        if not here:
            say(
                f"   {self.folder} was left by or belongs to {_holder(first)}: listening {silent_seconds:.0f} s for a "
                "sign of life"
            )
            end = time.monotonic() + silent_seconds
            while (now := _read(self.storage, self.key)) == first and time.monotonic() < end:
                time.sleep(beat_seconds / 4)
            if now in (first, None):
                return
        raise _taken(self.storage, self.folder, first)

    def _data(self) -> bytes:
        return json.dumps(self._lease).encode()

    def _is_mine(self) -> bool:
        lease = _read(self.storage, self.key)
        return lease is not None and lease.get("nonce") == self._lease["nonce"]

    def _beat(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            try:
                if not self._is_mine():  # taken over while this machine slept
                    return
                self._lease["beats"] += 1
                self.storage.write(self.key, self._data())
            except StorageError:  # it may come back before anybody has waited long enough
                continue


def _read(storage: Storage, key: str) -> dict[str, Any] | None:
    """A lease, {} of one that is damaged, None where there is none."""
    text = storage.find(key)
    if not text:  # empty: a folder's file, just being written
        return None
    try:
        lease = json.loads(text)
    except ValueError:
        return {}
    return lease if isinstance(lease, dict) and {"machine", "pid", "started", "host", "since"} <= set(lease) else {}


def _holder(lease: dict[str, Any]) -> str:
    return f"process {lease['pid']} on {lease['host']}, since {lease['since']}"


def _taken(storage: Storage, folder: str, lease: dict[str, Any]) -> ArtifactError:
    return ArtifactError(
        f"{folder} in {storage.uri} is being made by another command: {_holder(lease)}; "
        "wait until it has ended, or end it, or choose another name=..."
    )


def _machine() -> str:
    """What process numbers are unique in: this boot, this container; empty where neither can be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip() + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        return ""


def _started(pid: int) -> int:
    """When a process started, in clock ticks since the boot; 0 when it has ended (its parent may not know yet)."""
    try:
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return 0
    return 0 if state in "ZX" else int(fields[18])
