"""The files under a path that are read, and those that are passed over, each under a named reason.

Enters: paths as a source names them, local or anything fsspec opens. Leaves: the files, in a fixed order, and what was
passed over.

What a path stands for says `paths`. A file that is named is read whatever it is called. Of a folder or a pattern only
data files are read (Spark's and Hadoop's rules for hidden files, and what hubs lay beside data):

| passed over as | what |
|---|---|
| hidden | a name that begins with `.` |
| unfinished or a lock | `.tmp`, `.swp`, `.lock`, `.incomplete`, `.part`, `~`; what lies in `_temporary` |
| bookkeeping | `_SUCCESS`, `_metadata`, `.crc`, `.md5`, `dataset_infos.json`; what lies in `_delta_log` |
| | `blobs` and `refs` of a Hub cache, whose `snapshots` name the files |
| about the data | README, LICENSE, CITATION, CHANGELOG |
| text beside records | Markdown and `.rst` in or above a folder of JSON Lines, Parquet or WARC files, `.py` in one |
| | (they are read where a pattern names the suffix, and where they are more than three and more than those files) |
| a text, where records are read | what has no fields, of a source of conversations or preference pairs |
| not read: … | `.docx`, `.epub`, `.pdf`, `.csv`, archives and the like: how to make of them what is read |
| another format | what `reader.format` cannot be; without it, a name that tells no format |
| a link to nothing, a loop of links, the same file under another name, no regular file | |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.data.sources.files import ACCEPTED_SUFFIXES, form_of, told_format, told_suffix
from pipelines.data.sources.formats import FORMATS
from pipelines.data.sources.paths import Entry, Match, match, source_of
from pipelines.data.text.document import utf8
from pipelines.display.progress import human
from pipelines.errors import DataError

_FEW_TEXTS = 3  # so many beside records are about them
_SHOWN = 5  # names of files in one line
_UNFINISHED = re.compile(r"\.(tmp|temp|swp|swo|lock|incomplete|part|partial|crdownload|inprogress)$|~$", re.IGNORECASE)
_BOOKKEEPING = re.compile(
    r"_(success|metadata|common_metadata|committed_.*|started_.*)$|.*\.(crc|md5|sha1|sha256|sha512|asc|sig)$|"
    r"dataset_(info|infos|dict)\.json$",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(readme([._-][a-z]{2,3}([_-][a-z]{2,4})?)?|licen[cs]es?|copying|"
    r"citation|changelog|contributing|code_of_conduct)(\.|$)",
    re.IGNORECASE,
)
_UNFINISHED_FOLDERS = {"_temporary"}
_BLOB = re.compile(r"(?P<cache>.*/|)blobs/[0-9a-f]{40}([0-9a-f]{24})?")  # of the Hub's cache
_NO_OBJECTS = "a text, where records are read"
_MARKDOWN = "not read: make Markdown of it, as pandoc a.docx -o a.md does"
_PLAIN_TEXT = "not read: make text of it, as pdftotext a.pdf a.txt does"
_EXPORTED = "not read: save it as .txt, .html or .docx, and of that make Markdown with pandoc"
_ROWS = "not read: write its rows as JSON Lines or Parquet"
_UNPACKED = "not read: unpack it"
_BINARY = {
    **dict.fromkeys((".docx", ".odt", ".epub", ".rtf", ".fb2", ".ipynb"), _MARKDOWN),
    **dict.fromkeys((".pdf", ".ps", ".djvu"), _PLAIN_TEXT),
    **dict.fromkeys((".doc", ".ppt", ".pptx", ".odp", ".pages", ".mobi", ".azw3"), _EXPORTED),
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".arrow", ".feather", ".db", ".sqlite"), _ROWS),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".xz"), _UNPACKED),
}
_UNREAD = {**_BINARY, ".csv": _ROWS, ".tsv": _ROWS}
_REMEDIES = {"text beside records": ": name the file, or a pattern such as **/*.md, to have it read"}
_BOOKKEEPING_FOLDERS = {"_delta_log", "_spark_metadata", "__macosx", "__pycache__"}


@dataclass(frozen=True)
class InputFile:
    """A file to read: its path, its label (the path without the folder it happens to lie in), its size in bytes.

    Its format is a name of `FORMATS`.
    """

    path: str
    label: str
    size: int
    format: str


@dataclass(frozen=True)
class Listing:
    """What a source's paths hold: the files by label, and the labels of what is passed over by reason.

    The labels begin below `folders`.
    """

    files: tuple[InputFile, ...]
    passed_over: dict[str, list[str]]
    folders: tuple[str, ...] = ()

    def by_format(self) -> dict[str, dict[str, int]]:
        """How many files are taken as what, and their bytes, the most first; for the plan and the statistics."""
        counts: dict[str, dict[str, int]] = {}
        for file in self.files:
            one = counts.setdefault(FORMATS[file.format].called or file.format, {"files": 0, "bytes": 0})
            one["files"] += 1
            one["bytes"] += file.size
        return dict(sorted(counts.items(), key=lambda item: (-item[1]["files"], item[0])))

    def taken_in_words(self) -> str:
        """The same in one line: `41 files, 1.2 MB: 30 Markdown, 8 text, 3 HTML`, and where they lie."""
        counts, files = self.by_format(), len(self.files)
        size = human(float(sum(file.size for file in self.files)), "B")
        below = utf8(f"below {', '.join(self.folders[:2])}{' and others' if len(self.folders) > 2 else ''}")
        if len(counts) == 1:
            return f"{files:,} {next(iter(counts))} file{'s' if files > 1 else ''}, {size}, {below}"
        kinds = ", ".join(f"{one['files']:,} {called}" for called, one in counts.items())
        return f"{files:,} files, {size}, {below}: {kinds}"

    def in_words(self) -> str:
        """How many files are passed over, and which, in one line; "" for none."""
        count = sum(map(len, self.passed_over.values()))
        reasons = (
            f"{_names(labels)} ({reason}{_REMEDIES.get(reason, '')})"
            for reason, labels in sorted(self.passed_over.items())
        )
        return f"{count:,} file{'s' if count > 1 else ''}: {'; '.join(reasons)}" if count else ""

    def counts(self) -> dict[str, dict[str, Any]]:
        """The same for the statistics: by reason the number of files and the first names."""
        return {
            reason: {"files": len(labels), "first": [utf8(label) for label in sorted(labels)[:_SHOWN]]}
            for reason, labels in sorted(self.passed_over.items())
        }


def list_files(where: str, paths: Iterable[str], form: str | None = None, objects: bool = False) -> Listing:
    """Every file that the paths stand for, by label, none twice.

    Args:
        where: the config key of the reader, e.g. `corpus.sources.mine.reader`. form: the format that the config sets;
            None: by name. objects: whether only records with fields are of use, as for conversations.

    Raises: DataError where nothing is left to read, for a path that cannot be listed, and for a named file whose name
        tells no format.
    """
    patterns = list(paths)
    files: dict[str, InputFile] = {}
    passed_over: dict[str, list[str]] = {}
    nodes: dict[tuple[int, int], list[str]] = {}  # of the files of this machine, their names
    folders: dict[str, None] = {}
    for number, pattern in enumerate(patterns):
        matched = match(where, pattern)
        folders[matched.scheme + (matched.base.rstrip("/") or "/")] = None
        prefix = f"{number}/" if len(patterns) > 1 else ""
        for entry, reason in _judged(where, matched, form, objects):
            path, label = matched.scheme + entry.path, prefix + entry.path.removeprefix(matched.base)
            if not reason and path not in files and _listed(entry, nodes):
                reason = "the same file under another name"
            if reason:
                passed_over.setdefault(reason, []).append(label)
            elif "://" not in path and not os.access(path, os.R_OK):
                raise DataError(
                    f"{source_of(where)}: cannot read {path}: permission denied; change its mode or its owner"
                )
            else:
                if entry.node != (0, 0):
                    nodes.setdefault(entry.node, []).append(entry.path)
                files.setdefault(path, InputFile(path, label, entry.size, form_of(path, form)[0]))
    listing = Listing(tuple(sorted(files.values(), key=lambda file: file.label)), passed_over, tuple(folders))
    if not files:
        raise DataError(_nothing(where, patterns, listing, form, objects))
    return listing


def _listed(entry: Entry, nodes: Mapping[tuple[int, int], list[str]]) -> bool:
    """Whether the file is listed: by a link to it or to a folder above it, or by a name that tells no format.

    A hard link whose name tells a format is a file of its own.
    """
    if entry.node not in nodes:
        return False
    if entry.link or told_format(entry.path) is None:
        return True
    return os.path.realpath(entry.path) in map(os.path.realpath, nodes[entry.node])


def _judged(where: str, matched: Match, form: str | None, objects: bool) -> Iterator[tuple[Entry, str]]:
    """Each entry with the reason why it is passed over, "" for none.

    Of one file's names first comes what tells a format, then what is no link.

    Raises: DataError for a named file that cannot be read.
    """
    if matched.named:
        for entry in matched.entries:
            _check_named(where, entry, form, objects)
            yield entry, ""
        return
    labels = [entry.path.removeprefix(matched.base) for entry in matched.entries]
    beside, caches = _folders_of_records(labels, form), _hub_caches(labels)
    for entry in sorted(matched.entries, key=lambda entry: (told_format(entry.path) is None, entry.link, entry.path)):
        label = entry.path.removeprefix(matched.base)
        kept_there = "bookkeeping" if label.startswith(caches) else ""
        yield entry, entry.problem or kept_there or _why_not(label, matched, form, beside, objects)


def _nothing(where: str, patterns: list[str], listing: Listing, form: str | None, objects: bool) -> str:
    there = f"; passed over: {listing.in_words()}" if listing.passed_over else ""
    suffixes = [suffix for suffix in ACCEPTED_SUFFIXES if not (objects and FORMATS[_told(suffix)].is_text)]
    accepted = (
        f"files that can be {form}" if form else f"names that end in {', '.join(suffixes)} (also .gz, .zst, .bz2)"
    )
    return (
        f"{source_of(where)}: nothing matches {', '.join(patterns)}{there}; accepted: {accepted}: "
        f"correct {where}.path, name a file itself, or set {where}.format"
    )


def _names(labels: list[str]) -> str:
    first = sorted(labels)
    more = f" and {len(first) - _SHOWN:,} more" if len(first) > _SHOWN else ""
    return ", ".join(map(utf8, first[:_SHOWN])) + more


def _told(suffix: str) -> str:
    return told_format(f"a{suffix}") or ""


def _check_named(where: str, entry: Entry, form: str | None, objects: bool) -> None:
    if entry.problem:
        raise DataError(
            f"{source_of(where)}: {entry.path} is {entry.problem}; expected a file or a folder: correct {where}.path"
        )
    if form is None and (advice := _UNREAD.get(told_suffix(entry.path))):
        raise DataError(f"{source_of(where)}: {entry.path} is {advice}: then correct {where}.path")
    told = form_of(entry.path, form)[0]
    if objects and FORMATS[told].is_text:
        raise DataError(
            f"{source_of(where)}: {entry.path} is {FORMATS[told].called or told}; expected records with fields, as "
            f"JSON Lines and Parquet have: correct {where}.path, or set {where}.format to what the file holds"
        )


def _folders_of_records(labels: Sequence[str], form: str | None) -> dict[str, set[str]]:
    """By suffix of a text, the folders where it stands beside records; none where the config says what the format is.

    A `.json` is none of them: trees of code and of documentation hold such files too.
    """
    if form is not None:
        return {}
    data = [label for label in labels if _holds_records(told_format(label))]
    paths = [PurePosixPath(label) for label in data if not _hidden(label) and not _by_name(label)]
    above = {folder.as_posix() for path in paths for folder in path.parents}
    prose = (*FORMATS["markdown"].suffixes, ".rst")
    texts = [label for label in labels if told_suffix(label) in prose and not _hidden(label) and not _by_name(label)]
    if len(texts) > max(_FEW_TEXTS, len(paths)):
        above = set()  # they are the data, and chats or tables lie among them
    return {**dict.fromkeys(prose, above), ".py": {path.parent.as_posix() for path in paths}}


def _hub_caches(labels: Iterable[str]) -> tuple[str, ...]:
    """How the labels begin of what a Hub cache holds beside its snapshots."""
    names = list(labels)
    caches = {blob["cache"] for label in names if (blob := _BLOB.fullmatch(label))}
    caches &= {before for before, separator, _ in (label.partition("snapshots/") for label in names) if separator}
    above = {cache[: cache.rfind("/", 0, -1) + 1] for cache in caches if cache}
    inside = (f"{cache}{folder}/" for cache in caches for folder in ("blobs", "refs"))
    return (*sorted(inside), *sorted(f"{folder}version.txt" for folder in above))


def _why_not(label: str, matched: Match, form: str | None, beside: Mapping[str, set[str]], objects: bool) -> str:
    """Why a file of a folder or a pattern is not read; "" when it is."""
    if _hidden(label) and not any(part.startswith(".") for part in matched.wildcard.split("/")):
        return "hidden"
    if reason := _by_name(label):
        return reason
    told, suffix = told_format(label), told_suffix(label)
    unread = _UNREAD if form is None else _BINARY
    if told is None and suffix in unread:
        return unread[suffix]
    if form is None and told is None:
        return "its name tells no format"
    if form is not None and told is not None and told not in FORMATS[form].may_tell:
        return "another format"
    asked = bool(suffix) and suffix in matched.wildcard.rsplit("/", 1)[-1].lower()
    among_records = form in ("json", "jsonl") and suffix != ".txt"
    if (
        told in ("text", "markdown")
        and not asked
        and (among_records or PurePosixPath(label).parent.as_posix() in beside.get(suffix, ()))
    ):
        return "text beside records"
    return _NO_OBJECTS if objects and FORMATS[form or told or ""].is_text else ""


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
    return "about the data" if _ABOUT.match(name) and _may_describe(told_format(name)) else ""


def _holds_records(told: str | None) -> bool:
    return told is not None and FORMATS[told].has_records


def _may_describe(told: str | None) -> bool:
    return told is None or FORMATS[told].may_describe
