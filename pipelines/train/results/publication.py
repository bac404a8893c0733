"""A delivered model on its way to where others take it from: what goes there, what lies there, what is refused.

Enters: the files of an export, and `hf://org/name`, `s3://bucket/prefix` or a folder. Leaves: the same files there,
with `SHA256SUMS` for whoever takes them and `trunkline.json`, which says what they are.

A folder and a bucket get one file after the other. `trunkline.json` says `"finished": false` first, the licences and
the card come last, and then it says `true`: half a model is never taken for a whole one. The Hub gets all in one
commit (`hub.py`). A file that lies there with the same checksum is not sent again, so the same command goes on where
it was interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.display.progress import Progress, human
from pipelines.errors import ConfigError, StorageError
from pipelines.identity import fingerprint
from pipelines.store.opening import open_storage
from pipelines.store.sealed import sealed, unsealed
from pipelines.store.storage import FolderStorage, Storage, disk_errors

RECORD, SUMS, CARD, LICENCE = "trunkline.json", "SHA256SUMS", "README.md", "LICENSE.md"
_LAST = (SUMS, LICENCE, CARD)
_MOST_LISTED = 10_000  # files of a folder that somebody named by mistake, such as their home
_FORMS = "hf://org/name, s3://bucket/prefix, or a folder as /path, ./path or ~/path"


@dataclass(frozen=True)
class Outgoing:
    """One file that is sent. Attributes: name, at its destination; source, what gives its local path, compared with its
    checksum.
    """

    name: str
    size_bytes: int
    sha256: str
    source: Callable[[], Path | bytes]

    @classmethod
    def of(cls, name: str, content: bytes) -> Outgoing:
        """A small file that is in memory."""
        return cls(name, len(content), hashlib.sha256(content).hexdigest(), lambda: content)


@dataclass(frozen=True)
class Shipment:
    """Everything that is sent, in its order.

    Attributes: model, the artifact that it is, `export/demo`; files, but for the record; told, what the record says of
        the model beside its files.
    """

    model: str
    files: Sequence[Outgoing]
    told: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Of names and contents."""
        return fingerprint({file.name: file.sha256 for file in self.files})

    def record(self, finished: bool = True, replaced: Iterable[str] = ()) -> Outgoing:
        """`trunkline.json`. Args: replaced, files of another model that are still there, or may be."""
        files = {file.name: {"bytes": file.size_bytes, "sha256": file.sha256} for file in self.files}
        content = {"model": self.model, **self.told, "finished": finished, "files": files}
        if replaced := sorted(replaced):
            content["replaced"] = replaced
        return Outgoing.of(RECORD, sealed(content))


def shipment(model: str, files: Iterable[Outgoing], told: Mapping[str, Any]) -> Shipment:
    """Files in the order in which they are sent: large ones first, sums, licences and the card last."""
    others = [file for file in files if file.name not in (*_LAST, RECORD)]
    last = {file.name: file for file in files if file.name in (LICENCE, CARD)}
    ordered = [*sorted(others, key=lambda file: (-file.size_bytes, file.name)), *(last[n] for n in _LAST if n in last)]
    sums = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(ordered, key=lambda file: file.name))
    return Shipment(model, [*ordered[: len(others)], Outgoing.of(SUMS, sums.encode()), *ordered[len(others) :]], told)


class Sending:
    """The line that shows how far the sending is; parts of one file may be told by several threads."""

    def __init__(self, total_bytes: int):
        units = (("MB", 10**6), ("kB", 10**3), ("bytes", 1))
        unit, self._unit_bytes = next((name, size) for name, size in units if total_bytes >= 100 * size or size == 1)
        self._progress = Progress("send", -(-total_bytes // self._unit_bytes), unit)
        self._total_bytes, self._before, self._in_file, self._lock = total_bytes, 0, 0, threading.Lock()

    def part(self, file: Outgoing, count: int) -> None:
        """So many more bytes of this file went; of one that is tried again they count once."""
        with self._lock:
            self._in_file = min(self._in_file + count, file.size_bytes)
            self._progress.update((self._before + self._in_file - 1) // self._unit_bytes, **{"": file.name})

    def whole(self, file: Outgoing) -> None:
        """All of this file lies there."""
        with self._lock:
            self._before, self._in_file = self._before + file.size_bytes, 0
            last = self._before == self._total_bytes
            done = self._progress.total if last else (self._before - 1) // self._unit_bytes
            self._progress.update(done, **{"": file.name})


# ── Destinations ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Destination(Protocol):
    """Where a model is published."""

    uri: str  # as it is recorded; holds no secret

    def look(self) -> dict[str, int]:
        """Names and bytes of the files that lie there; none where there is nothing yet. Raises: StorageError when it
        cannot be reached, ConfigError when it is not as the config wants it.
        """

    def read(self, name: str) -> bytes | None:
        """A small file that lies there."""

    def holds(self, file: Outgoing) -> bool:
        """Whether that file lies there with the same checksum."""

    def deliver(self, plan: Plan, sending: Sending) -> str | None:
        """Send and remove what the plan says. Returns: the version that the place gives it, where it has versions.
        Raises: StorageError.
        """

    def told(self) -> dict[str, str]:
        """Lines for people, by their labels: where it lies, how to take it from there."""


def open_destination(to: str, private: bool) -> Destination:
    """What is behind `to=`. Raises: ConfigError for what names no place."""
    scheme = re.match(r"([\w+.-]*):/", to)
    if to.startswith("hf://"):
        from pipelines.train.results.hub import HubDestination

        return HubDestination(to, private)
    if to.startswith("s3://"):
        if not to.removeprefix("s3://").split("/")[0]:
            raise ConfigError(f"to={to} names no bucket; expected s3://bucket/prefix")
        return StoreDestination(open_storage(to))
    if scheme:
        raise ConfigError(f"to={to} is of an unknown kind; expected {_FORMS}")
    if not to.startswith(("/", "./", "../", "~/")) and to not in (".", "..", "~"):
        raise ConfigError(
            f"to={to!r} names no scheme, and is no path either; expected {_FORMS}: is it to={'hf://' + to} or "
            f"to={'./' + to}?"
            if to.strip()
            else f"to is empty; expected {_FORMS}"
        )
    return StoreDestination(open_storage(to))


class StoreDestination:
    """A folder, or a prefix in a bucket."""

    def __init__(self, storage: Storage):
        self.storage, self.uri = storage, storage.uri

    def look(self) -> dict[str, int]:
        if not isinstance(self.storage, FolderStorage):
            self.storage.check()
            keys = self.storage.keys()
            return {key: self.storage.size(key) or 0 for key in keys}
        root = self.storage.root
        with disk_errors("look at", root):
            return _files_in(root)

    def read(self, name: str) -> bytes | None:
        return self.storage.find(name)

    def holds(self, file: Outgoing) -> bool:
        return self.storage.digest(file.name) == file.sha256

    def deliver(self, plan: Plan, sending: Sending) -> None:
        if plan.finished and not plan.removed:
            return
        self._put(plan.shipment.record(finished=False, replaced=plan.removed))
        for name in (CARD, LICENCE):  # another model's card must not stand over these weights
            if name in plan.changed:
                self.storage.delete(name)
        for name in plan.removed:
            self.storage.delete(name)
        for file in plan.sent:
            content = file.source()
            if isinstance(content, bytes):
                self.storage.write(file.name, content)
            else:
                self.storage.send(content, file.name, functools.partial(sending.part, file))
            sending.whole(file)
        self._put(plan.shipment.record())
        self._sweep(plan.shipment)

    def told(self) -> dict[str, str]:
        if isinstance(self.storage, FolderStorage):
            return {"it lies in": self.uri}
        return {"it lies at": self.uri, "take it": f"aws s3 cp --recursive {self.uri} FOLDER"}

    def _put(self, file: Outgoing) -> None:
        content = file.source()
        assert isinstance(content, bytes)
        self.storage.write(file.name, content)

    def _sweep(self, shipment: Shipment) -> None:
        """Remove what killed commands left half-written of these files."""
        if isinstance(self.storage, FolderStorage):
            for file in (*shipment.files, shipment.record()):
                path = self.storage.root / file.name
                for left in path.parent.glob(f".partial-????????-{path.name}"):
                    left.unlink(missing_ok=True)


def _files_in(root: Path) -> dict[str, int]:
    """Names and bytes of the files below a folder that can be written. Raises: ConfigError, StorageError, OSError."""
    if root.exists() and not root.is_dir():
        raise ConfigError(f"to={root} is a file; expected a folder that is empty or not there yet")
    above = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(above, os.W_OK | os.X_OK | (os.R_OK if above == root else 0)) or not above.is_dir():
        raise StorageError(f"to={root} cannot be written: {above} is not yours to write to; name another folder")
    found: dict[str, int] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".partial-"):
                found[path.relative_to(root).as_posix()] = path.lstat().st_size
        if len(found) > _MOST_LISTED:
            break
    return found


# ── What is to be done ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Plan:
    """What sending a shipment does.

    Attributes: sent, the files that go; there, names that lie there already with the same checksum; changed, names that
        lie there with other contents; removed, files of another publication that this one has not; strange, files that
        no publication put there, which stay; other, the model that lies there, in words, None where it is this one or
        none; finished, whether all lies there.
    """

    shipment: Shipment
    sent: Sequence[Outgoing]
    there: frozenset[str]
    changed: frozenset[str]
    removed: Sequence[str]
    strange: Sequence[str]
    other: str | None
    finished: bool

    @property
    def sent_bytes(self) -> int:
        return sum(file.size_bytes for file in self.sent)

    @property
    def kept(self) -> int:
        """How many files need not be sent."""
        return len(self.shipment.files) - len(self.sent)

    def refusal(self, uri: str) -> str | None:
        """Why nothing is sent unless `replace=true` is given; None where nothing is in the way."""
        coming = f"{self.shipment.model} ({len(self.shipment.files)} files, {human(self.shipment.size_bytes, 'B')})"
        if self.other is not None:
            return f"{coming} would replace {self.other} in {uri}: name another place, or pass replace=true"
        if self.strange:
            return (
                f"{uri} holds {_some(self.strange)}, which no publication put there, and {coming} would lie beside "
                f"{'it' if len(self.strange) == 1 else 'them'}: name another place, or pass replace=true, which leaves "
                f"{'it' if len(self.strange) == 1 else 'them'} there"
            )
        return None


def plan_delivery(wanted: Shipment, destination: Destination) -> Plan:
    """Compare what is to lie there with what does. Raises: StorageError, ConfigError as `Destination.look`."""
    sizes = destination.look()
    record = _record(destination) if RECORD in sizes else None
    final = wanted.record()
    there = frozenset(
        file.name
        for file in (*wanted.files, final)
        if sizes.get(file.name) == file.size_bytes and destination.holds(file)
    )
    ours = {file.name for file in wanted.files}
    changed = frozenset((sizes.keys() & ours) - there)
    listed = {*record.get("files", ()), *record.get("replaced", ())} if record else set()
    removed = sorted((sizes.keys() & listed) - ours - {RECORD})
    strange = sorted(sizes.keys() - ours - listed - {RECORD})
    return Plan(
        wanted,
        [file for file in wanted.files if file.name not in there],
        there,
        changed,
        removed,
        strange,
        _other(wanted, record, changed, removed),
        finished=there >= {*ours, RECORD},
    )


def deliver(plan: Plan, destination: Destination) -> str | None:
    """Send what the plan says, and show how far it is. Returns, Raises: as `Destination.deliver`."""
    return destination.deliver(plan, Sending(plan.sent_bytes))


def _record(destination: Destination) -> dict[str, Any] | None:
    """What `trunkline.json` there says; None where it says nothing that can be read."""
    with contextlib.suppress(ValueError):
        return unsealed(destination.read(RECORD) or b"", None)
    return None


def _other(
    wanted: Shipment, record: Mapping[str, Any] | None, changed: Iterable[str], removed: Iterable[str]
) -> str | None:
    """The model that is in the way, in words."""
    names = sorted([*changed, *removed])
    if not names:
        return None
    if record is None:
        return f"what lies there and names no model of Trunkline (other contents: {_some(names)})"
    told = f"{record.get('model')}, fingerprint {record.get('fingerprint')}"
    own = json.loads(json.dumps({"model": wanted.model, **wanted.told}))
    if any(record.get(key) != value for key, value in own.items()):
        return f"{told}{'' if record.get('finished') else ', half sent'} (other contents: {_some(names)})"
    if not record.get("finished"):
        return f"what {record.get('model')}, half sent, was to replace ({_some(names)})"
    return f"{told} (changed there: {_some(names)})"


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
