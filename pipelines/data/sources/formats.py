"""The records of one file, or of a stretch of one: text, JSON, JSON Lines, Parquet, HTML or WARC, plain or compressed.

Enters: a file's bytes and its name. Leaves: records with the place they came from; in place of each that cannot be read
a `Dropped` with a reason: `read.not_utf8`, `read.not_json`, `read.truncated_gzip`, `read.corrupt_gzip`,
`read.corrupt_parquet`, `read.no_column`, `read.bad_value`, `read.empty_file`, `read.not_html`, `read.no_main_text`,
`read.corrupt_warc`. What precedes the damage is always given, and so is what stands between a changed byte and the
checksum that tells of it. Whatever else a file makes a reader raise ends that file, dropped under the name of the
exception: `read.RuntimeError`.

A large file is read in stretches, by whoever has time: JSON Lines by the line ends next to two byte offsets, Parquet by
the row groups that begin between them. Nobody has to read the file to cut it. So a place is named by what every stretch
knows: the byte offset of a line (`a.jsonl@1234`: `tail -c +1235 a.jsonl | head -1` shows it; of the decompressed bytes,
where there are such), the number of a row in a Parquet file. Neither depends on where the file was cut.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from pipelines.data.sources.columns import Wanted, parquet_records
from pipelines.data.sources.web import html_record, warc_records
from pipelines.data.text.document import RAW_EXCERPT, Dropped
from pipelines.errors import DataError, TrunklineError

_FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".py": "text",
    ".pod": "text",
    ".roff": "text",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".warc": "warc",
}
_MANUAL_PAGE = re.compile(r"\.(?!7z$|3gp|3ds$|2bit$)[1-9][a-z]*")  # ls.1, printf.3perl; no archive, film or model
_SQUEEZED = {".gz": "gzip", ".dz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_SQUEEZED_BYTES = 1 << 16  # read at once, also by Arrow
_DAMAGED = (EOFError, OSError, pa.ArrowException)
_CUTTABLE = ("jsonl", "parquet")


ACCEPTED_SUFFIXES = tuple(_FORMATS)


def told_suffix(path: str) -> str:
    """What a file's name says of its format, in lower case, compression left out: `.jsonl` of `A.JSONL.gz`."""
    return _suffixes(path)[0]


def told_format(path: str) -> str | None:
    """The format that a file's name tells, or None."""
    suffix = told_suffix(path)
    return _FORMATS.get(suffix) or ("text" if _MANUAL_PAGE.fullmatch(suffix) else None)


def form_of(path: str, form: str | None = None) -> tuple[str, str]:
    """(format, compression or "") of a file by its name; `form` overrides what the name tells of the format.

    Raises: DataError for a name that tells no format.
    """
    form = form or told_format(path)
    if form is None:
        raise DataError(
            f"{path}: its name tells no format; accepted: {', '.join(_FORMATS)} (also .gz, .zst, .bz2): set "
            "reader.format"
        )
    return form, _suffixes(path)[1]


def _suffixes(path: str) -> tuple[str, str]:
    """(the suffix that tells the format, the compression), each "" where there is none."""
    parts = path.rsplit("/", 1)[-1].lower().split(".")[1:]
    squeezed = _SQUEEZED.get(f".{parts[-1]}", "") if parts else ""
    parts = parts[:-1] if squeezed else parts
    return (f".{parts[-1]}" if parts else ""), squeezed


def can_be_cut(path: str, form: str | None = None) -> bool:
    """Whether several tasks can share the file: JSON Lines and Parquet, unless compressed from outside."""
    told, squeezed = form_of(path, form)
    return told in _CUTTABLE and not squeezed


def parse_file(
    stream: BinaryIO,
    path: str,
    form: str | None = None,
    start: int = 0,
    stop: int | None = None,
    document_bytes: int | None = None,
    wanted: Wanted | None = None,
) -> Iterator[tuple[str, Any]]:
    """The records of one file.

    Args:
        stream: its bytes, still compressed. path: its name, which tells the format and the compression, and starts
            every `where`. form: "text", "json", "jsonl", "parquet", "html" or "warc"; None: by the name. start, stop:
            the stretch, in bytes of a file that can be cut: the lines or row groups that begin in it. document_bytes: a
            text file is cut into documents of about this size, at blank lines. wanted: the fields that are read; None:
            all plain ones.

    Yields: ("file" or "file@offset" or "file:number", record), or (the same, Dropped) for what could not be read.

    Raises: DataError for a name that tells no format; OSError and StorageError when the file cannot be read from its
        disk or server.
    """
    form, squeezed = form_of(path, form)
    empty = not start and stop is None
    try:
        for item in _parsed(stream, path, form, squeezed, (start, stop), document_bytes, wanted or Wanted()):
            empty = False
            yield item
        if empty:
            yield path, Dropped("read.empty_file", path, "no record in it")
    except (TrunklineError, OSError, MemoryError):  # not what the file holds
        raise
    except Exception as error:
        yield path, Dropped(f"read.{type(error).__name__}", path, f"reading ended here: {error}"[:RAW_EXCERPT])


def _parsed(
    stream: BinaryIO,
    path: str,
    form: str,
    squeezed: str,
    stretch: tuple[int, int | None],
    document_bytes: int | None,
    wanted: Wanted,
) -> Iterator[tuple[str, Any]]:
    start, stop = stretch
    if form == "parquet":
        yield from parquet_records(stream, path, start, stop, wanted)
        return
    plain = _Plain(stream, squeezed)
    if form == "jsonl":
        yield from _jsonl(plain.lines(start), path, stop)
    elif form == "warc":
        yield from warc_records(plain, path)
    elif form == "text" and document_bytes:
        yield from _passages(plain.lines(), path, document_bytes)
    else:
        yield from _whole(plain, path, form, wanted)
    if plain.broken:
        yield path, Dropped(plain.broken, f"{path}@{plain.offset}", plain.error)


class _Squeezed(io.RawIOBase):
    """What Zstandard or bzip2 data hold, stream behind stream, up to the very byte where damage begins.

    A decompressor that meets damage keeps what it had in its hands, of Zstandard up to a megabyte. So the data are then
    read once more: those already given at once, and the rest byte by byte, until the damage is met again.
    """

    def __init__(self, stream: BinaryIO, squeezed: str):
        self._raw, self._squeezed = stream, squeezed
        self._given = 0
        self._is_slow = False
        self._damage: Exception | None = None
        self._opened: list[Any] = []  # kept, since Arrow closes the file of a stream that is forgotten
        self._open(stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._is_slow:
            try:
                data = self._opened[-1].read(len(buffer))
            except _DAMAGED:
                self._begin_again()
        if self._is_slow:
            data = self._byte_by_byte(len(buffer))
        self._given += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _open(self, stream: Any) -> None:
        arrow = self._squeezed == "zstd"
        self._opened.append(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd") if arrow else _Bz2(stream))

    def _begin_again(self) -> None:
        """Read once more up to what was given last."""
        last = max(0, self._raw.tell() - _SQUEEZED_BYTES)
        self._raw.seek(0)
        self._open(_Dripping(self._raw, last))
        self._is_slow = True
        left = self._given
        while left and (again := self._opened[-1].read(min(left, _SQUEEZED_BYTES))):
            left -= len(again)

    def _byte_by_byte(self, most: int) -> bytes:
        data = bytearray()
        try:
            while len(data) < most and self._damage is None and (byte := self._opened[-1].read(1)):
                data += byte
        except _DAMAGED as error:
            self._damage = error
        if self._damage is not None and not data:
            raise self._damage
        return bytes(data)


class _Dripping(io.RawIOBase):
    """A stream that gives one byte at a time from `place` on: a decompressor gives all it can before the next."""

    def __init__(self, stream: BinaryIO, place: int):
        self._raw, self._place = stream, place

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._raw.read(size if self._raw.tell() + size <= self._place else min(size, 1))


class _Bz2:
    """A file of bzip2 streams; unlike `bz2.BZ2File` it does not pass over what lies behind them in silence."""

    def __init__(self, stream: BinaryIO):
        self._raw, self._decompressor, self._waiting, self._begun = stream, bz2.BZ2Decompressor(), b"", False

    def read(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:
                self._waiting, self._begun = self._decompressor.unused_data, False
                self._decompressor = bz2.BZ2Decompressor()
            if self._decompressor.needs_input and not self._waiting:
                self._waiting = self._raw.read(_SQUEEZED_BYTES)
                if not self._waiting:
                    if self._begun:
                        raise EOFError("the file ends in the middle of a bzip2 stream")
                    return b""
            given, self._waiting, self._begun = self._waiting, b"", True
            if data := self._decompressor.decompress(given, size):
                return data


class _Plain(io.RawIOBase):
    """A possibly compressed stream, decompressed.

    Damage ends it as a file ends: what precedes is given, and `broken` says why.
    """

    def __init__(self, stream: BinaryIO, squeezed: str):
        self.offset, self.broken, self.error = 0, "", ""
        self._squeezed = squeezed
        if squeezed == "gzip":
            self._stream: Any = gzip.GzipFile(fileobj=stream)
        elif squeezed:
            self._stream = io.BufferedReader(_Squeezed(stream, squeezed), _SQUEEZED_BYTES)
        else:
            self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._guarded(self._stream.read1, size)  # what there is: read() would lose it at a cut

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """(offset, line) of every line that begins at `start` or later; only an uncompressed stream begins past 0."""
        if start:
            self._stream.seek(start - 1)
            self.offset = (
                start - 1 + len(self._stream.readline())
            )  # the line that another stretch holds, or its end alone
        while line := self._guarded(self._stream.readline):
            yield self.offset - len(line), line

    def _guarded(self, read: Any, *size: int) -> bytes:
        if self.broken:
            return b""
        try:
            data: bytes = read(*size)
        except EOFError as error:
            self.broken, self.error = f"read.truncated_{self._squeezed}", str(error)
            return b""
        except (gzip.BadGzipFile, zlib.error, OSError, pa.ArrowException) as error:
            if not self._squeezed:
                raise
            kind = "truncated" if "runcated" in str(error) else "corrupt"
            self.broken, self.error = f"read.{kind}_{self._squeezed}", str(error)
            return b""
        self.offset += len(data)
        return data


def _jsonl(lines: Iterator[tuple[int, bytes]], path: str, stop: int | None) -> Iterator[tuple[str, Any]]:
    for offset, raw in lines:
        if stop is not None and offset >= stop:
            return
        if not raw.strip():
            continue
        where = f"{path}@{offset}"
        try:
            yield where, json.loads(raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            yield where, Dropped("read.not_utf8", where, f"{error.reason} at byte {error.start}: {raw[:RAW_EXCERPT]!r}")
        except (ValueError, RecursionError) as error:
            # a ValueError of another kind is an integer of over 4,300 digits, which Python does not take
            is_bad_json = isinstance(error, (json.JSONDecodeError, RecursionError))
            reason = "read.not_json" if is_bad_json else "read.bad_value"
            yield where, Dropped(reason, where, raw[:RAW_EXCERPT].decode("utf-8", "replace"))


def _passages(lines: Iterator[tuple[int, bytes]], path: str, size: int) -> Iterator[tuple[str, Any]]:
    """A long text as documents.

    Each ends at the first blank line after `size` bytes, or the first line end after twice as many.
    """
    waiting: list[bytes] = []
    start = length = 0
    for offset, raw in lines:
        waiting.append(raw)
        length += len(raw)
        if length >= 2 * size or (length >= size and not raw.strip()):
            yield _decoded(b"".join(waiting), f"{path}@{start}")
            waiting, start, length = [], offset + len(raw), 0
    if waiting:
        yield _decoded(b"".join(waiting), f"{path}@{start}")


def _decoded(raw: bytes, where: str) -> tuple[str, Any]:
    try:
        return where, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(10, 0, error.start) + 1
        return where, Dropped("read.not_utf8", f"{where}:{line}", f"{error.reason} at byte {error.start}")


def _holds_lines(text: str, error: Exception) -> bool:
    """Whether a .json file holds a value on each line, as hubs often have it."""
    if not (isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"):
        return False
    try:
        json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return True


def _whole(plain: _Plain, path: str, form: str, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    raw = b"".join(iter(lambda: plain.read(1 << 20), b""))
    if form == "html":
        yield path, html_record(raw, path)
        return
    text = _decoded(raw, path)[1]
    if isinstance(text, Dropped) or form == "text":
        yield path, text
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _holds_lines(text, error):
            yield from _jsonl(_Plain(io.BytesIO(raw), "").lines(), path, None)
        elif not plain.broken:
            yield path, Dropped("read.not_json", path, f"{error}: {text[:RAW_EXCERPT]}")
        return
    if isinstance(value, dict) and any(name in value for name in wanted.fields):
        yield path, value  # one record, not a mapping of names to records
    elif isinstance(value, dict):
        yield from ((f"{path}:{key}", record) for key, record in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}:{i}", record) for i, record in enumerate(value))
    else:
        yield (
            path,
            Dropped("read.not_json", path, f"one {type(value).__name__}, expected a list or an object of records"),
        )
