"""A disk that takes no more, told as that: which folder, how much is free there, what to do.

Enters: any exception of any library. Leaves: a `StorageError` where its cause is a disk (full, over quota, read-only,
not ours), else nothing. Libraries say it in many ways: pyarrow and json by errno, numpy by "500 requested and 131
written", SQLite by "database or disk is full", Rust by "(os error 28)", torch by the position in its file. So it is
asked where an exception ends a shard (`Cluster.map_shards`) or the command (`workflows.entry`), and not in every
writer.

Few of them say which file it was. So `writes_in` notes where this process writes, and the fullest of these folders is
named.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import StorageError, TrunklineError
from pipelines.store.cache import cache_folder

R = TypeVar("R")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE}
_FULL_WORDS = re.compile(
    r"no space left on device|quota exceeded|file too large|disk is full|out of disk|\d+ requested and \d+ written"
    r"|unexpected pos \d+ vs \d+|failed writing file|file write failed|no usable temporary directory",
    re.IGNORECASE,
)
_SPARE_BYTES = (
    64 << 20
)  # with less, a disk counts as full; with more, what was half written may have been removed since
_written: dict[Path, None] = {}  # folders in which this process writes, in the order of their first use


def writes_in(folder: Path) -> None:
    """Note that this process writes in `folder`."""
    _written[folder] = None


def disk_error(error: BaseException) -> StorageError | None:
    """The exception as what a disk did; None when no disk caused it."""
    for cause in _causes(error):
        if isinstance(cause, TrunklineError):
            return None  # it says what it is
        number = cause.errno if isinstance(cause, OSError) else None
        if number in _FULL or _FULL_WORDS.search(str(cause)):
            return _full(cause)
        file = _file(cause)
        if number in _BARRED and file is not None:
            return StorageError(
                f"cannot use {file}: {os.strerror(number or 0)}; what was committed is kept: check the path, its "
                f"owner and permissions, and whether its disk is mounted for writing{_advice(_existing(file))}"
            )
    return None


def naming_disk_errors(function: Callable[[Any], R]) -> Callable[[Any], R]:
    """The shard function, with what a disk did named on the machine where it happened."""

    @functools.wraps(function)
    def named(shard: Any) -> R:
        try:
            return function(shard)
        except Exception as error:
            if (told := disk_error(error)) is not None:
                raise told from error
            raise

    return named


def room(folder: Path) -> str:
    """`0 B of 1.05 MB free` on the disk of a folder, which need not exist yet."""
    from pipelines.display.progress import human

    usage = shutil.disk_usage(_existing(folder))
    return f"{human(usage.free, 'B')} of {human(usage.total, 'B')} free"


def _full(cause: BaseException) -> StorageError:
    number = cause.errno if isinstance(cause, OSError) else None
    reason = os.strerror(number if number in _FULL else errno.ENOSPC)
    file = _file(cause)
    folders = [_existing(file)] if file is not None else _fullest()
    places = " or ".join(f"{folder} ({room(folder)})" for folder in folders)
    limit = "; it is a limit on the size of files (`ulimit -f`)" if number == errno.EFBIG else ""
    return StorageError(
        f"cannot write to {places}: {reason}{limit}; what was committed is kept: free some space there"
        f"{''.join(dict.fromkeys(map(_advice, folders)))}, and run the same command again"
    )


def _fullest() -> list[Path]:
    """Where it must have been: the folder on the fullest disk, or one of each disk where none is full any more."""
    disks: dict[int, Path] = {}
    for folder in (*reversed(_written), temporary_folder(), cache_folder()):
        place = _existing(folder)
        disks.setdefault(place.stat().st_dev, place)
    places = sorted(disks.values(), key=lambda place: shutil.disk_usage(place).free)
    return places[:1] if shutil.disk_usage(places[0]).free < _SPARE_BYTES else places


def temporary_folder() -> Path:
    """Where temporary files go; also when nothing can be written there."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # what it says of a full disk
        return Path(os.environ.get("TMPDIR") or "/tmp")


def _advice(place: Path) -> str:
    """Which settings put what is written in `place` elsewhere: `, or set TMPDIR=/larger/disk`; empty where there is
    none.
    """
    if _inside(place, cache_folder()):
        return ", or set TRUNKLINE_CACHE=/larger/disk"
    temporary = _inside(place, temporary_folder())
    stored = any(_inside(place, folder) for folder in _written)
    return (", or give a store= on a larger disk" if stored else "") + (
        ", or set TMPDIR=/larger/disk" if temporary else ""
    )


def _inside(place: Path, folder: Path) -> bool:
    return _existing(folder) == _existing(place) or _existing(folder) in _existing(place).parents


def _existing(path: Path) -> Path:
    """The nearest folder of a path that is there."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _file(cause: BaseException) -> Path | None:
    """The file that an OSError names; of a copy, the one that was written."""
    name = (
        (getattr(cause, "filename2", None) or getattr(cause, "filename", None)) if isinstance(cause, OSError) else None
    )
    return Path(os.fsdecode(name)) if isinstance(name, (str, bytes, os.PathLike)) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from, through Ray's wrapping too."""
    queue, seen = [error], set()
    while queue:
        cause = queue.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        following = [getattr(cause, "cause", None), cause.__cause__, *getattr(cause, "exceptions", ())]
        queue += [other for other in following if isinstance(other, BaseException)]
