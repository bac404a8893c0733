"""Markdown: the text as it stands, without the front matter, which says things about it.

Enters: a Markdown file. Leaves: its text, and as metadata the front matter: YAML between lines of `---` (the last may
be `...`), TOML between lines of `+++`. Code, tables and formulas stay as they are, and so does JSX in `.mdx`: nothing
is rendered.

What begins with `---` is no front matter where a blank line follows (Pandoc's rule: it is a line across the page), and
where no mapping comes before the next `---`. Front matter that cannot be read is no part of the text either: the
document names it under `unreadable`, as one of Parquet names a column, and the corpus counts it. Where its end is
missing, or may be a line across the page, all of it is text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

import yaml

from pipelines.data.sources.columns import UNREADABLE
from pipelines.data.sources.opened import Described, FileFormat, Opened, decoded
from pipelines.data.sources.texts import Lines, documents
from pipelines.data.text.document import CONTENT_KEYS

FRONT_MATTER = "front_matter"  # in the metadata: keys that mean something else there
_MOST_CHARACTERS, _MOST_VALUES, _MOST_LEVELS = 65_536, 5_000, 20  # of front matter
_BEGINS = re.compile(r"(?P<mark>---|\+\+\+)[ \t]*\r?\n(?![ \t]*\r?\n)")
_ENDS = {
    mark: re.compile(rf"^{end}[ \t]*\r?$\n?", re.MULTILINE)
    for mark, end in (("---", r"(?:---|\.\.\.)"), ("+++", r"\+\+\+"))
}
_FIRST_KEY = re.compile(r"\s*(#.*\n\s*)*[\"']?[\w-][\w .-]*[\"']?\s*[:=](\s|$)")
_BLANK_LINE = re.compile(r"^[ \t]*\r?\n", re.MULTILINE)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_OTHERS = {"text", "source", "language", "licence", UNREADABLE, FRONT_MATTER}.union(*CONTENT_KEYS.values())
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The text with its metadata, or the documents that one file becomes, each with them."""
    if opened.is_whole:
        raw = opened.plain.whole()
        if raw or opened.plain.broken:
            where, text = decoded(raw, opened.path, opened.encoding)
            yield where, _described(*parted(text)) if isinstance(text, str) else text
        return
    lines = Lines(opened)
    metadata = _taken(lines, opened.path)
    for where, text in documents(opened, lines, _Within()):
        yield where, _described(metadata, text) if isinstance(text, str) else text


def parted(text: str) -> tuple[dict[str, Any], str]:
    """(metadata, the text behind the front matter)."""
    begin = _BEGINS.match(text)
    if begin is None:
        return {}, text
    end = _ENDS[begin["mark"]].search(text[:_MOST_CHARACTERS], begin.end())
    if end is None:
        is_one = _FIRST_KEY.match(text, begin.end()) is not None
        return ({UNREADABLE: "front matter"} if is_one else {}), text
    inner, rest = text[begin.end() : end.start()], text[end.end() :]
    try:
        value = tomllib.loads(inner) if begin["mark"] == "+++" else yaml.load(inner, _Loader)
        if isinstance(value, Mapping):
            return _metadata(_plain(value, [_MOST_VALUES])), rest
    except Exception:  # a date that no calendar has, a tag, a bracket left open: the libraries raise many kinds
        if _FIRST_KEY.match(inner) is None:
            return {}, text
        # behind a blank line it may well be text, up to a line across the page
        return {UNREADABLE: "front matter"}, text if _BLANK_LINE.search(inner) else rest
    return ({}, rest) if value is None else ({}, text)


def _described(metadata: dict[str, Any], text: str) -> Described | str:
    return Described(text, metadata) if metadata else text


def _metadata(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with those apart whose names mean something else in a document's metadata."""
    own = {key: value for key, value in values.items() if key not in _OTHERS}
    apart = {key: value for key, value in values.items() if key in _OTHERS}
    return {**own, **({FRONT_MATTER: apart} if apart else {})}


def _plain(value: Any, left: list[int], level: int = 0) -> Any:
    """A value as JSON has it. Args: left, how many more values there may be: an alias can stand for any number.

    Raises: ValueError for too many.
    """
    left[0] -= 1
    if left[0] < 0 or level > _MOST_LEVELS:
        raise ValueError("too large")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, left, level + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [
            _plain(inner, left, level + 1) for inner in (sorted(value, key=str) if isinstance(value, set) else value)
        ]
    if isinstance(value, (date, time)):
        return value.isoformat()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return value if isinstance(value, float) and abs(value) < float("inf") else str(value)


def _taken(lines: Lines, path: str) -> dict[str, Any]:
    """The metadata of a file's front matter, which is taken from its lines; nothing is where there is none."""
    taken: list[tuple[int, bytes]] = []
    size, mark = 0, ""
    for offset, raw in lines:
        taken.append((offset, raw))
        size += len(raw)
        line = lines.roughly(raw).rstrip()
        if len(taken) > 1 and (line == mark or (line, mark) == ("...", "---")):
            break
        mark = mark or line
        if mark not in _ENDS or size > _MOST_CHARACTERS:
            break
    text = lines.decoded(b"".join(raw for _, raw in taken), path)[1]
    metadata, rest = parted(text) if isinstance(text, str) else ({}, text)
    if rest:
        lines.give_back(taken)
    return metadata


class _Within:
    """Whether a paragraph goes on behind a line: in fenced code, and between a heading and what it is over."""

    def __init__(self) -> None:
        self._fence, self._is_heading = "", False

    def __call__(self, line: str) -> bool:
        fence = _FENCE.match(line)
        if self._fence:
            if fence and fence[1].startswith(self._fence) and not line.strip().strip(self._fence[0]):
                self._fence = ""
        elif fence:
            self._fence, self._is_heading = fence[1], False
        elif line.strip():
            self._is_heading = re.match(r" {0,3}#{1,6}(\s|$)", line) is not None
        return bool(self._fence) or self._is_heading


FORMAT = FileFormat(
    read,
    (".md", ".markdown", ".mdx", ".qmd", ".rmd"),
    may_tell=("markdown", "text"),
    may_describe=True,
    called="Markdown",
    is_text=True,
    has_documents=True,
)
