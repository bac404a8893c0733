"""The records of one file, or of a stretch of one: text, Markdown, JSON, Parquet, HTML and others, plain or squeezed.

Enters: a file's bytes and its name. Leaves: records with the place they came from; in place of each that cannot be read
a `Dropped` with a reason: `read.not_utf8`, `read.not_utf16`, `read.not_text`, `read.not_json`, `read.truncated_gzip`,
`read.corrupt_gzip`, `read.corrupt_parquet`, `read.no_column`, `read.bad_value`, `read.empty_file`, `read.not_html`,
`read.no_main_text`, `read.corrupt_warc`. What precedes the damage is always given, and so is what stands between a
changed byte and the checksum that tells of it. Whatever else a file makes a reader raise ends that file, dropped under
the name of the exception: `read.RuntimeError`.

A large file is read in stretches, by whoever has time: JSON Lines by the line ends next to two byte offsets, Parquet by
the row groups that begin between them. Nobody has to read the file to cut it. So a place is named by what every stretch
knows: the byte offset of a line (`a.jsonl@1234`: `tail -c +1235 a.jsonl | head -1` shows it; of the decompressed bytes,
where there are such), the number of a row in a Parquet file. Neither depends on where the file was cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipelines.data.sources.columns import Wanted
from pipelines.data.sources.formats import FORMATS
from pipelines.data.sources.opened import Opened
from pipelines.data.text.document import RAW_EXCERPT, Dropped
from pipelines.errors import DataError, TrunklineError

_TOLD = {suffix: name for name, row in FORMATS.items() for suffix in row.suffixes}
_MANUAL_PAGE = re.compile(r"\.(?!7z$|3gp|3ds$|2bit$)[1-9][a-z]*")  # ls.1, printf.3perl; no archive, film or model
_SQUEEZED = {".gz": "gzip", ".dz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
ACCEPTED_SUFFIXES = tuple(_TOLD)


def told_suffix(path: str) -> str:
    """What a file's name says of its format, in lower case, compression left out: `.jsonl` of `A.JSONL.gz`."""
    return _suffixes(path)[0]


def told_format(path: str) -> str | None:
    """The format that a file's name tells, or None."""
    suffix = told_suffix(path)
    return _TOLD.get(suffix) or ("text" if _MANUAL_PAGE.fullmatch(suffix) else None)


def form_of(path: str, form: str | None = None) -> tuple[str, str]:
    """(format, compression or "") of a file by its name; `form` overrides what the name tells of the format.

    Raises: DataError for a name that tells no format.
    """
    form = form or told_format(path)
    if form is None:
        raise DataError(
            f"{path}: its name tells no format; accepted: {', '.join(_TOLD)} (also .gz, .zst, .bz2): set reader.format"
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
    return FORMATS[told].can_be_cut and not squeezed


def parse_file(
    stream: BinaryIO,
    path: str,
    form: str | None = None,
    start: int = 0,
    stop: int | None = None,
    document_bytes: int | None = None,
    wanted: Wanted | None = None,
    *,
    document: str = "file",
    encoding: str | None = None,
) -> Iterator[tuple[str, Any]]:
    """The records of one file.

    Args:
        stream: its bytes, still compressed. path: its name, which tells the format and the compression, and starts
            every `where`. form: a name of `FORMATS`; None: by its own. start, stop:
            the stretch, in bytes of a file that can be cut: the lines or row groups that begin in it. document_bytes: a
            text file is cut into documents of about this size, at blank lines. wanted: the fields that are read; None:
            all plain ones. document, encoding: of a text, as `ReaderConfig` has them.

    Yields: ("file" or "file@offset" or "file:number", record), or (the same, Dropped) for what could not be read.

    Raises: DataError for a name that tells no format; OSError and StorageError when the file cannot be read from its
        disk or server.
    """
    form, squeezed = form_of(path, form)
    empty = not start and stop is None
    try:
        opened = Opened(stream, path, squeezed, start, stop, document_bytes, wanted or Wanted(), document, encoding)
        for item in _read(opened, form):
            empty = False
            yield item
        if empty:
            yield path, Dropped("read.empty_file", path, "no record in it")
    except (TrunklineError, OSError, MemoryError):  # not what the file holds
        raise
    except Exception as error:
        yield path, Dropped(f"read.{type(error).__name__}", path, f"reading ended here: {error}"[:RAW_EXCERPT])


def _read(opened: Opened, form: str) -> Iterator[tuple[str, Any]]:
    yield from FORMATS[form].read(opened)
    yield from opened.damage()
