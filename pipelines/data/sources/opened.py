"""What the reader of a file format is given, and what a format is.

Enters: a file, or a stretch of one. Leaves: its bytes, decompressed where they were not, and which of its records are
wanted; of bytes that are a text, the text.

A text is UTF-8 unless it begins with the mark of UTF-16 or UTF-32. What is neither is read in the encoding that the
config states (`reader.encoding`). It is tried second, since other encodings hardly ever look like UTF-8, while UTF-8
looks like many of them.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import cchardet

from pipelines.data.sources.columns import Wanted
from pipelines.data.sources.compressed import Plain
from pipelines.data.text.document import Dropped

# the mark of UTF-32 begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ADVICE = "set reader.encoding to what it is in, e.g. cp1252 (Western Europe), gb18030 (Chinese)"
_SHOWN_BYTES = 400  # of what cannot be read
_NUL_SHARE = 0.2  # of the characters of ASCII in UTF-16 one in two is NUL, of a text none


@dataclass
class Opened:
    """A file to read.

    Attributes: raw, its bytes as they lie there. path, which starts every place. squeezed: gzip, zstd, bz2 or "".
        start, stop: the stretch, in bytes of a file that can be cut. wanted: the fields that are read.
        document, document_bytes: what one document of a text is, as `ReaderConfig` has it. encoding: of a text that is
        not UTF-8.
    """

    raw: BinaryIO
    path: str
    squeezed: str = ""
    start: int = 0
    stop: int | None = None
    document_bytes: int | None = None
    wanted: Wanted = field(default_factory=Wanted)
    document: str = "file"
    encoding: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether a text is one document."""
        return self.document == "file" and not self.document_bytes

    @functools.cached_property
    def plain(self) -> Plain:
        """Its bytes, decompressed."""
        return Plain(self.raw, self.squeezed)

    def damage(self) -> Iterator[tuple[str, Dropped]]:
        """Where the decompressed bytes ended before their end, if they were read and did."""
        plain = self.__dict__.get("plain")
        if plain is not None and plain.broken:
            yield self.path, Dropped(plain.broken, f"{self.path}@{plain.offset}", plain.error)


@dataclass(frozen=True)
class FileFormat:
    """A format of files.

    Attributes: read, which yields (place, record), or a `Dropped` for what cannot be read. suffixes, of the names that
        tell it. may_tell: where a config sets this format, which formats a name may tell. can_be_cut: whether tasks can
        share a file. has_records: whether texts beside such files are about the data. may_describe: whether such a file
        may be a README or the like. is_pages: whether personal data is masked in it. called: what a plan calls such
        files; "": as the row is named. is_text: whether its records are texts, and never objects with fields.
        has_documents: whether one file can be cut into documents, as `document` and `document_bytes` ask.
    """

    read: Callable[[Opened], Iterator[tuple[str, Any]]]
    suffixes: tuple[str, ...]
    may_tell: tuple[str, ...]
    can_be_cut: bool = False
    has_records: bool = False
    may_describe: bool = False
    is_pages: bool = False
    called: str = ""
    is_text: bool = False
    has_documents: bool = False


@dataclass(frozen=True)
class Described:
    """A text with what its file says about it."""

    text: str
    metadata: dict[str, Any] = field(hash=False)


def is_encoding(name: str) -> bool:
    """Whether Python knows a text encoding of this name."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False


def marked(raw: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning tells, other than UTF-8."""
    return next((name for mark, name in _MARKS if raw.startswith(mark)), None)


def decoded(raw: bytes, where: str, encoding: str | None = None) -> tuple[str, Any]:
    """(where, text), or why it is none. Args: encoding, of what is not UTF-8 and has no mark."""
    if told := marked(raw):
        try:
            return where, raw.decode(told).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            said = f"it begins as {told} does, and has {error.reason} at byte {error.start}"
            return where, Dropped("read.not_utf16", where, said)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        said, line = f"{error.reason} at byte {error.start}", raw.count(10, 0, error.start) + 1
        return where, _in_other_encoding(raw, f"{where}:{line}", encoding, said)
    nul = text.count("\0")
    if nul <= _NUL_SHARE * len(text):
        return where, text
    if encoding:
        return where, _in_other_encoding(raw, where, encoding, f"{nul:,} characters are NUL")
    advice = "UTF-16 without its mark (set reader.encoding: utf-16-le), or no text"
    return where, Dropped("read.not_text", where, f"{nul:,} of {len(text):,} characters are NUL: {advice}")


def line_of(raw: bytes, where: str, encoding: str | None) -> str | Dropped:
    """A line of its own, or why it is no text."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _in_other_encoding(raw, where, encoding, f"{error.reason} at byte {error.start}")


def _foreseen(raw: bytes) -> tuple[str, str | bytes]:
    """What to do about bytes that are not UTF-8, and the bytes; as text where their encoding can be told from them."""
    plain = raw.decode("utf-8", "replace")
    damaged = plain.count("\ufffd")
    if sum(sign > "\x7f" for sign in plain) >= 2 * damaged:  # most of it is UTF-8
        return "some of it is damaged: save it anew as UTF-8, or leave it out", raw
    told = cchardet.detect(raw)["encoding"] or ""
    if told in ("ASCII", "ISO-8859-1"):  # to which Windows adds quotation marks and dashes; browsers take it so as well
        told = "cp1252"
    if is_encoding(told) and not told.startswith("UTF"):
        name = codecs.lookup(told).name
        with contextlib.suppress(UnicodeDecodeError):
            return f"it looks like {name}: set reader.encoding: {name} if this reads right", raw.decode(name)
    return _ADVICE, raw


def _in_other_encoding(raw: bytes, where: str, encoding: str | None, said: str) -> str | Dropped:
    """The text in the encoding that the config states. Args: said, why it is not UTF-8."""
    if encoding is None:
        advice, shown = _foreseen(raw)
        return Dropped("read.not_utf8", where, f"{said}; {advice}: {shown[:_SHOWN_BYTES]!r}")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        other = f"nor is it {encoding}: {error.reason} at byte {error.start}"
        return Dropped("read.not_utf8", where, f"{said}; {other}: {raw[:_SHOWN_BYTES]!r}")
