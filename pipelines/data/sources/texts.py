"""The documents that one text file is cut into: its paragraphs, its lines, or parts of about the size that is asked.

Enters: a file of text. Leaves: strings, each with the byte offset where it begins, or a `Dropped` in its place.

The file is read line by line: no more of it is in memory than a document.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.data.sources.opened import Opened, decoded, marked
from pipelines.data.text.document import Dropped

_LONGEST_BYTES = 1_000_000  # of a paragraph: it ends at the next line end, so that memory stays small


class Lines:
    """The lines of a text as (offset, bytes), each with its end, whatever the width of a character.

    Attributes: encoding, for `decoded`.
    """

    def __init__(self, opened: Opened):
        lines = opened.plain.lines()
        first = next(lines, None)
        told = marked(first[1]) if first else None
        self.encoding = told or opened.encoding
        self._wide = told or (self.encoding if _is_wide(self.encoding) else None)
        whole = itertools.chain([] if first is None else [first], lines)
        self._lines = whole if self._wide is None else _wide_lines((raw for _, raw in whole), self._wide)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self._lines

    def give_back(self, taken: list[tuple[int, bytes]]) -> None:
        """Let these lines come once more, before the others."""
        self._lines = itertools.chain(taken, self._lines)

    def is_blank(self, raw: bytes) -> bool:
        """Whether a line holds no character to see."""
        return not (raw if self._wide is None else self.roughly(raw)).strip()

    def roughly(self, raw: bytes) -> str:
        """A line whose ASCII characters are right, for whoever looks for marks of layout."""
        return raw.decode(self._wide or "latin-1", "replace").removeprefix("\ufeff").removeprefix("\xef\xbb\xbf")

    def decoded(self, raw: bytes, where: str) -> tuple[str, Any]:
        """(where, text) of lines, or why they are none."""
        if self._wide is None:
            return decoded(raw, where, self.encoding)
        try:
            return where, raw.decode(self._wide).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            return where, Dropped("read.not_utf16", where, f"{self._wide}: {error.reason} at byte {error.start}")


def documents(
    opened: Opened, lines: Lines, within: Callable[[str], bool] = lambda line: False
) -> Iterator[tuple[str, Any]]:
    """("file@offset", text) of each document that the config asks to make of one file.

    Args:
        within: of a paragraph, whether it goes on behind this line though a blank one follows. It sees every line,
            in order; of characters beyond ASCII it does not see the right ones.
    """
    if opened.document_bytes:
        ends = _at_size(opened.document_bytes, lines)
    else:
        ends = _at_line if opened.document == "line" else _at_paragraph(lines, within)
    waiting: list[bytes] = []
    start = length = 0
    for offset, raw in lines:
        if not waiting:
            start, length = offset, 0
        waiting.append(raw)
        length += len(raw)
        if ends(raw, length):
            yield from _if_any(waiting, start, opened, lines)
            waiting = []
    yield from _if_any(waiting, start, opened, lines)


def _if_any(waiting: list[bytes], start: int, opened: Opened, lines: Lines) -> Iterator[tuple[str, Any]]:
    """The document of these lines; blank lines alone are none, unless the file is cut by size."""
    if opened.document_bytes and waiting:
        yield lines.decoded(b"".join(waiting), f"{opened.path}@{start}")
    elif not all(lines.is_blank(raw) for raw in waiting):
        where, text = lines.decoded(b"".join(waiting), f"{opened.path}@{start}")
        yield where, text.strip("\r\n") if isinstance(text, str) else text


def _at_size(size: int, lines: Lines) -> Callable[[bytes, int], bool]:
    """At the first blank line after `size` bytes, or the first line end after twice as many."""
    return lambda raw, length: length >= 2 * size or (length >= size and lines.is_blank(raw))


def _at_line(raw: bytes, length: int) -> bool:
    return True


def _at_paragraph(lines: Lines, within: Callable[[str], bool]) -> Callable[[bytes, int], bool]:
    return lambda raw, length: (not within(lines.roughly(raw)) and lines.is_blank(raw)) or length >= _LONGEST_BYTES


def _is_wide(encoding: str | None) -> bool:
    """Whether a line end is more than a byte."""
    return encoding is not None and len("\n".encode(encoding)) > 1


def _wide_lines(blocks: Iterator[bytes], encoding: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a text whose line ends are two or four bytes."""
    newline = "\n".encode(encoding)
    width, buffer, offset = len(newline), b"", 0
    for block in blocks:
        buffer += block
        begin = at = 0
        while (at := buffer.find(newline, at)) >= 0:
            if at % width:
                at += 1
                continue
            at += width
            yield offset + begin, buffer[begin:at]
            begin = at
        buffer, offset = buffer[begin:], offset + begin
    if buffer:
        yield offset, buffer
