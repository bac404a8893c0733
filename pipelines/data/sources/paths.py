"""What a path stands for: a file, a folder, or what its pattern matches; local, or anything fsspec opens.

Enters: a path of a config. Leaves: entries, each a file or the reason why it can be none.

A name is taken before a pattern, one part of the path after the other: `part-[1].jsonl`, `dir [v2]/` and `a::b.jsonl`
are files and folders where they exist. A folder, named or matched, stands for all files below it. Links are followed,
since the cache of a hub holds nothing else; each folder is entered once, so that a loop of links ends.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.utils import glob_translate  # type: ignore[import-untyped]

from pipelines.errors import DataError


@dataclass
class Entry:
    """Something that a path stands for: a file, or what cannot be one, for the reason `problem`."""

    path: str
    size: int = 0
    problem: str = ""
    link: bool = False
    node: tuple[int, int] = (0, 0)


@dataclass
class Match:
    """What one path of the config stands for."""

    base: str = ""  # the folder that labels begin below
    scheme: str = ""  # `s3://`, where the file system's own paths go without it
    named: bool = False  # a file that the path names outright
    wildcard: str = ""  # the part of the path that is a pattern
    entries: list[Entry] = field(default_factory=list)


def source_of(where: str) -> str:
    """The source that a config key such as `corpus.sources.mine.reader` belongs to, for messages."""
    return f"source {where.split('.')[-2]}"


def match(where: str, pattern: str) -> Match:
    """What a path stands for: a file, a folder, or what its pattern matches.

    Raises: DataError when it cannot be listed.
    """
    if not pattern.strip():
        raise DataError(f"{where}.path is empty; expected a file, a folder or a pattern: correct {where}.path")
    scheme, tail = pattern.split("://", 1) if "://" in pattern and not os.path.lexists(pattern) else ("", pattern)
    try:
        if scheme in ("", "file", "local"):
            return _expand(_Local(), os.path.abspath(_home(tail)))
        remote = _Remote(scheme)
        root = remote.root(pattern)
        return replace(_expand(remote, root), scheme="" if root.startswith(f"{scheme}://") else f"{scheme}://")
    except Exception as error:  # every file system behind fsspec raises its own kind
        advice = (
            " and check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL"
            if pattern.startswith("s3://")
            else ""
        )
        is_relative = scheme in ("", "file", "local") and not os.path.isabs(_home(tail))
        begins = f" (a relative path begins in {os.getcwd()}, where the command was started)" if is_relative else ""
        raise DataError(
            f"{source_of(where)}: cannot read {pattern}: {error or type(error).__name__}; correct "
            f"{where}.path{advice}{begins}"
        ) from error


def _home(path: str) -> str:
    return path if os.path.lexists(path) else os.path.expanduser(path)


def _expand(files: Any, path: str) -> Match:
    """The entries of a path whose parts are names where they exist, and patterns where they do not."""
    head, *parts = path.split("/")
    base, rest = head, parts
    while rest and (not _is_pattern(rest[0]) or files.exists(f"{base}/{rest[0]}")):
        base, rest = f"{base}/{rest[0]}", rest[1:]
    if not rest:
        entry = files.entry(base)
        if entry is None:
            raise FileNotFoundError(f"{base} does not exist{_written_otherwise(files, base)}")
        if entry != "folder":
            return Match(base[: base.rfind("/") + 1], named=True, entries=[entry])
        return Match(base.rstrip("/") + "/", entries=list(files.below(base)))
    entries = {entry.path: entry for entry in _matching(files, base, rest)}
    return Match(base.rstrip("/") + "/", wildcard="/".join(rest), entries=list(entries.values()))


def _written_otherwise(files: Any, path: str) -> str:
    """For an error: that a name only looks the same, its accents being marks of their own or not."""
    folder, _, name = path.rpartition("/")
    same = unicodedata.normalize("NFC", name)
    alike = [other for other in files.names(folder) if unicodedata.normalize("NFC", other) == same]
    return f"; {alike[0]!a} does, which looks the same in other characters" if alike else ""


def _matching(files: Any, base: str, parts: list[str]) -> Iterator[Entry]:
    """What lies below `base` and matches the parts of a pattern; a folder stands for what lies below it."""
    if not parts:
        entry = files.entry(base)
        if entry == "folder":
            yield from files.below(base)
        elif entry is not None:
            yield entry
        return
    part, *rest = parts
    if part == "**":
        pattern, tail = re.compile(glob_translate("/".join(parts))), "/" + "/".join(rest)
        above = base.rstrip("/") + "/"
        for entry in files.below(base):
            pieces = entry.path.removeprefix(above).split("/")
            # the file, or a folder above it, is what the pattern matches
            names = ("/".join(pieces[: n + 1]) for n in range(len(pieces)))
            if any(pattern.match(name) or f"/{name}".endswith(tail) for name in names):
                yield entry
    elif _is_pattern(part) and not files.exists(f"{base}/{part}"):
        named = re.compile(fnmatch.translate(part))
        for name in files.names(base):
            if named.match(name):
                yield from _matching(files, f"{base}/{name}", rest)
    elif files.exists(f"{base}/{part}"):
        yield from _matching(files, f"{base}/{part}", rest)


def _is_pattern(part: str) -> bool:
    return any(sign in part for sign in "*?[")


class _Local:
    """Folders of this machine; links are followed."""

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(folder or "/")) if os.path.isdir(folder or "/") else []

    def entry(self, path: str) -> Entry | str | None:
        """The file at the path, "folder" for a folder, None for nothing."""
        if not os.path.lexists(path or "/"):
            return None
        return _local_entry(path) if not os.path.isdir(path or "/") else "folder"

    def below(self, folder: str) -> Iterator[Entry]:
        """Every file below; folders that links lead to come last, and each folder is entered once."""
        entered: set[tuple[int, int]] = set()
        waiting, linked = [folder], list[str]()
        while waiting or linked:
            path = waiting.pop() if waiting else linked.pop(0)
            status = os.stat(path or "/")
            if (status.st_dev, status.st_ino) in entered:
                yield Entry(path, problem="the same folder under another name")
                continue
            entered.add((status.st_dev, status.st_ino))
            for name in self.names(path):
                inner = f"{path.rstrip('/')}/{name}"
                if not os.path.isdir(inner):
                    yield _local_entry(inner)
                elif not os.path.islink(inner):
                    waiting.append(inner)
                elif _leads_above(inner):
                    yield Entry(inner, problem="a loop of links")
                else:
                    linked.append(inner)


def _local_entry(path: str) -> Entry:
    link = os.path.islink(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return Entry(path, problem="a link to nothing")
    except OSError as error:
        if not link:
            raise
        return Entry(path, problem=f"a link that cannot be followed ({error.strerror})")  # to itself, most often
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, problem="no regular file")
    return Entry(path, status.st_size, link=link, node=(status.st_dev, status.st_ino))


def _leads_above(link: str) -> bool:
    """Whether a link leads to a folder that it lies in."""
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return here == target or here.startswith(target.rstrip("/") + "/")


class _Remote:
    """Any file system that fsspec opens; its own paths go without their scheme."""

    def __init__(self, scheme: str):
        # a fresh file system: a cached one would hold old listings, and the credentials it was made with
        self._files = fsspec.filesystem(scheme, skip_instance_cache=True)

    def root(self, path: str) -> str:
        return str(self._files._strip_protocol(path))

    def exists(self, path: str) -> bool:
        return bool(self._files.exists(path))

    def names(self, folder: str) -> list[str]:
        if not self._files.isdir(folder):
            return []
        entries = self._files.ls(folder, detail=False)
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in entries if str(path).rstrip("/") != folder})

    def entry(self, path: str) -> Entry | str | None:
        """The file at the path, "folder" for a folder, None for nothing."""
        try:
            details = self._files.info(path)
        except FileNotFoundError:
            return None
        return Entry(path, int(details["size"] or 0)) if details["type"] == "file" else "folder"

    def below(self, folder: str) -> Iterator[Entry]:
        """Every file below; the empty object that stands for a folder is none."""
        for path, details in sorted(self._files.find(folder, detail=True).items()):
            if details["type"] == "file" and not path.endswith("/") and path != folder:
                yield Entry(path, int(details["size"] or 0))
