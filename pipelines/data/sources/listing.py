"""The files under a path that are read, and those that are passed over, each under a named reason.

Enters: paths as a source names them, local or anything fsspec opens. Leaves: the files, in a fixed order, and what was passed over.

A name is taken before a pattern, one part of the path after the other: `part-[1].jsonl`, `dir [v2]/` and `a::b.jsonl` are files
and folders where they exist. A folder, named or matched, stands for all files below it. Links are followed, since the cache of a hub
holds nothing else; each folder is entered once, so that a loop of links ends.

A file that is named is read whatever it is called. Of a folder or a pattern only data files are read (Spark's and Hadoop's
rules for hidden files, and what hubs lay beside data):

| passed over as | what |
|---|---|
| hidden | a name that begins with `.` |
| unfinished or a lock | `.tmp`, `.swp`, `.lock`, `.incomplete`, `.part`, `~`; what lies in `_temporary` |
| bookkeeping | `_SUCCESS`, `_metadata`, `.crc`, `.md5`, `dataset_infos.json`; what lies in `_delta_log` |
| about the data | README, LICENSE, CITATION, CHANGELOG |
| text beside records | Markdown, Python and other text, unless `.txt`, in or above a folder of JSON, Parquet or WARC files; not where a pattern names its suffix |
| another format | what `reader.format` cannot be; without it, a name that tells no format |
| a link to nothing, a loop of links, the same file under another name, no regular file | |
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.utils import glob_translate  # type: ignore[import-untyped]

from pipelines.data.sources.formats import ACCEPTED_SUFFIXES, form_of, told_format, told_suffix
from pipelines.errors import DataError

_SHOWN = 5  # names of files in one line
_RECORDS = ("json", "jsonl", "parquet", "warc")
# by the format that the config sets, which formats a file's name may tell
_MAY_TELL = {
    "text": ("text", "html", "json", "jsonl"),
    "html": ("html", "text"),
    "json": ("json", "jsonl", "text"),
    "jsonl": ("json", "jsonl", "text"),
    "parquet": ("parquet",),
    "warc": ("warc",),
}
_UNFINISHED = re.compile(r"\.(tmp|temp|swp|swo|lock|incomplete|part|partial|crdownload|inprogress)$|~$", re.IGNORECASE)
_BOOKKEEPING = re.compile(
    r"_(success|metadata|common_metadata|committed_.*|started_.*)$|.*\.(crc|md5|sha1|sha256|sha512|asc|sig)$|"
    r"dataset_(info|infos|dict)\.json$",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(readme([._-][a-z]{2,3}([_-][a-z]{2,4})?)?|licen[cs]es?|copying|citation|changelog|contributing|code_of_conduct)(\.|$)",
    re.IGNORECASE,
)
_UNFINISHED_FOLDERS = {"_temporary"}
_BOOKKEEPING_FOLDERS = {"_delta_log", "_spark_metadata", "__macosx", "__pycache__"}


@dataclass(frozen=True)
class InputFile:
    """A file to read: its path, its label (the path without the folder it happens to lie in), its size in bytes."""

    path: str
    label: str
    size: int


@dataclass(frozen=True)
class Listing:
    """What a source's paths hold: the files by label, and the labels of what is passed over by reason."""

    files: tuple[InputFile, ...]
    passed_over: dict[str, list[str]]

    def in_words(self) -> str:
        """How many files are passed over, and which, in one line; "" for none."""
        count = sum(map(len, self.passed_over.values()))
        reasons = (f"{_names(labels)} ({reason})" for reason, labels in sorted(self.passed_over.items()))
        return f"{count:,} file{'s' if count > 1 else ''}: {'; '.join(reasons)}" if count else ""

    def counts(self) -> dict[str, dict[str, Any]]:
        """The same for the statistics: by reason the number of files and the first names."""
        return {
            reason: {"files": len(labels), "first": sorted(labels)[:_SHOWN]}
            for reason, labels in sorted(self.passed_over.items())
        }


@dataclass
class _Entry:
    """Something that a path stands for: a file, or what cannot be one, for the reason `problem`."""

    path: str
    size: int = 0
    problem: str = ""
    link: bool = False
    node: tuple[int, int] = (0, 0)


@dataclass
class _Match:
    """What one path of the config stands for."""

    base: str = ""  # the folder that labels begin below
    scheme: str = ""  # `s3://`, where the file system's own paths go without it
    named: bool = False  # a file that the path names outright
    wildcard: str = ""  # the part of the path that is a pattern
    entries: list[_Entry] = field(default_factory=list)


def list_files(where: str, paths: Iterable[str], form: str | None = None) -> Listing:
    """Every file that the paths stand for, by label, none twice.

    Args:
        where: the config key of the reader, e.g. `corpus.sources.mine.reader`. form: the format that the config sets; None: by name.

    Raises: DataError where nothing is left to read, for a path that cannot be listed, and for a named file whose name tells no format.
    """
    patterns = list(paths)
    files: dict[str, InputFile] = {}
    passed_over: dict[str, list[str]] = {}
    nodes: set[tuple[int, int]] = set()  # of the files of this machine
    for number, pattern in enumerate(patterns):
        match = _match(where, pattern)
        prefix = f"{number}/" if len(patterns) > 1 else ""
        for entry, reason in _judged(where, match, form):
            path, label = match.scheme + entry.path, prefix + entry.path.removeprefix(match.base)
            if not reason and entry.link and entry.node in nodes and path not in files:
                reason = "the same file under another name"
            if reason:
                passed_over.setdefault(reason, []).append(label)
            elif "://" not in path and not os.access(path, os.R_OK):
                raise DataError(
                    f"{_source(where)}: cannot read {path}: permission denied; change its mode or its owner"
                )
            else:
                nodes.add(entry.node)
                files.setdefault(path, InputFile(path, label, entry.size))
    listing = Listing(tuple(sorted(files.values(), key=lambda file: file.label)), passed_over)
    if not files:
        raise DataError(_nothing(where, patterns, listing, form))
    return listing


def _judged(where: str, match: _Match, form: str | None) -> Iterator[tuple[_Entry, str]]:
    """Each entry with the reason why it is passed over, "" for none; a file before the links to it.

    Raises: DataError for a named file that cannot be read.
    """
    if match.named:
        for entry in match.entries:
            _check_named(where, entry, form)
            yield entry, ""
        return
    beside = _folders_of_records((entry.path.removeprefix(match.base) for entry in match.entries), form)
    for entry in sorted(match.entries, key=lambda entry: (entry.link, entry.path)):
        label = entry.path.removeprefix(match.base)
        yield entry, entry.problem or _why_not(label, match, form, beside)


def _nothing(where: str, patterns: list[str], listing: Listing, form: str | None) -> str:
    there = f"; passed over: {listing.in_words()}" if listing.passed_over else ""
    accepted = (
        f"files that can be {form}"
        if form
        else f"names that end in {', '.join(ACCEPTED_SUFFIXES)} (also .gz, .zst, .bz2)"
    )
    return (
        f"{_source(where)}: nothing matches {', '.join(patterns)}{there}; accepted: {accepted}: "
        f"correct {where}.path, name a file itself, or set {where}.format"
    )


def _source(where: str) -> str:
    return f"source {where.split('.')[-2]}"


def _names(labels: list[str]) -> str:
    first = sorted(labels)
    more = f" and {len(first) - _SHOWN:,} more" if len(first) > _SHOWN else ""
    return ", ".join(first[:_SHOWN]) + more


def _check_named(where: str, entry: _Entry, form: str | None) -> None:
    if entry.problem:
        raise DataError(
            f"{_source(where)}: {entry.path} is {entry.problem}; expected a file or a folder: correct {where}.path"
        )
    form_of(entry.path, form)


def _folders_of_records(labels: Iterable[str], form: str | None) -> set[str]:
    """The folders that hold files of records, and all above them; none where the config says what the format is."""
    if form is not None:
        return set()
    records = (PurePosixPath(label) for label in labels if told_format(label) in _RECORDS and not _hidden(label))
    return {folder.as_posix() for path in records if not _by_name(path.as_posix()) for folder in path.parents}


def _why_not(label: str, match: _Match, form: str | None, beside: set[str]) -> str:
    """Why a file of a folder or a pattern is not read; "" when it is."""
    if _hidden(label) and not any(part.startswith(".") for part in match.wildcard.split("/")):
        return "hidden"
    if reason := _by_name(label):
        return reason
    told, suffix = told_format(label), told_suffix(label)
    if form is None and told is None:
        return "its name tells no format"
    if form is not None and told is not None and told not in _MAY_TELL[form]:
        return "another format"
    asked = bool(suffix) and suffix in match.wildcard.rsplit("/", 1)[-1].lower()
    among_records = form in ("json", "jsonl") or PurePosixPath(label).parent.as_posix() in beside
    if told == "text" and suffix != ".txt" and not asked and among_records:
        return "text beside records"
    return ""


def _hidden(label: str) -> bool:
    return any(part.startswith(".") for part in label.split("/"))


def _by_name(label: str) -> str:
    """The reason that a name alone tells."""
    *folders, name = label.split("/")
    above = {folder.lower() for folder in folders}
    if _UNFINISHED.search(name) or above & _UNFINISHED_FOLDERS:
        return "unfinished or a lock"
    if _BOOKKEEPING.match(name) or above & _BOOKKEEPING_FOLDERS:
        return "bookkeeping"
    return "about the data" if _ABOUT.match(name) and told_format(name) not in _RECORDS else ""


def _match(where: str, pattern: str) -> _Match:
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
        raise DataError(
            f"{_source(where)}: cannot read {pattern}: {error or type(error).__name__}; correct {where}.path{advice}"
        ) from error


def _home(path: str) -> str:
    return path if os.path.lexists(path) else os.path.expanduser(path)


def _expand(files: Any, path: str) -> _Match:
    """The entries of a path whose parts are names where they exist, and patterns where they do not."""
    head, *parts = path.split("/")
    base, rest = head, parts
    while rest and (not _is_pattern(rest[0]) or files.exists(f"{base}/{rest[0]}")):
        base, rest = f"{base}/{rest[0]}", rest[1:]
    if not rest:
        entry = files.entry(base)
        if entry is None:
            raise FileNotFoundError(f"{base} does not exist")
        if entry != "folder":
            return _Match(base[: base.rfind("/") + 1], named=True, entries=[entry])
        return _Match(base.rstrip("/") + "/", entries=list(files.below(base)))
    entries = {entry.path: entry for entry in _matching(files, base, rest)}
    return _Match(base.rstrip("/") + "/", wildcard="/".join(rest), entries=list(entries.values()))


def _matching(files: Any, base: str, parts: list[str]) -> Iterator[_Entry]:
    """What lies below `base` and matches the parts of a pattern; a folder that matches stands for what lies below it."""
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

    def entry(self, path: str) -> _Entry | str | None:
        """The file at the path, "folder" for a folder, None for nothing."""
        if not os.path.lexists(path or "/"):
            return None
        return _local_entry(path) if not os.path.isdir(path or "/") else "folder"

    def below(self, folder: str) -> Iterator[_Entry]:
        """Every file below; folders that links lead to come last, and each folder is entered once."""
        entered: set[tuple[int, int]] = set()
        waiting, linked = [folder], list[str]()
        while waiting or linked:
            path = waiting.pop() if waiting else linked.pop(0)
            facts = os.stat(path or "/")
            if (facts.st_dev, facts.st_ino) in entered:
                yield _Entry(path, problem="the same folder under another name")
                continue
            entered.add((facts.st_dev, facts.st_ino))
            for name in self.names(path):
                inner = f"{path.rstrip('/')}/{name}"
                if not os.path.isdir(inner):
                    yield _local_entry(inner)
                elif not os.path.islink(inner):
                    waiting.append(inner)
                elif _leads_above(inner):
                    yield _Entry(inner, problem="a loop of links")
                else:
                    linked.append(inner)


def _local_entry(path: str) -> _Entry:
    link = os.path.islink(path)
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return _Entry(path, problem="a link to nothing")
    except OSError as error:
        if not link:
            raise
        return _Entry(path, problem=f"a link that cannot be followed ({error.strerror})")  # to itself, most often
    if not stat.S_ISREG(facts.st_mode):
        return _Entry(path, problem="no regular file")
    return _Entry(path, facts.st_size, link=link, node=(facts.st_dev, facts.st_ino))


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

    def entry(self, path: str) -> _Entry | str | None:
        """The file at the path, "folder" for a folder, None for nothing."""
        try:
            facts = self._files.info(path)
        except FileNotFoundError:
            return None
        return _Entry(path, int(facts["size"] or 0)) if facts["type"] == "file" else "folder"

    def below(self, folder: str) -> Iterator[_Entry]:
        """Every file below; the empty object that stands for a folder is none."""
        for path, facts in sorted(self._files.find(folder, detail=True).items()):
            if facts["type"] == "file" and not path.endswith("/") and path != folder:
                yield _Entry(path, int(facts["size"] or 0))
