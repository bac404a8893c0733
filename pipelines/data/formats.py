"""The records of one file: text, JSON, JSON Lines or Parquet, plain or compressed.

Enters: a file's bytes and its name. Leaves: records with the place they came from; in place of each that cannot be read a
`Dropped` with a reason: `read.not_utf8`, `read.not_json`, `read.truncated_gzip`, `read.corrupt_gzip`, `read.corrupt_parquet`.
What precedes the damage is always given.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.document import Dropped
from pipelines.errors import DataError

EXCERPT = 300
_FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".py": "text",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_SQUEEZED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def parse_file(stream: BinaryIO, path: str, form: str | None = None) -> Iterator[tuple[str, Any]]:
    """The records of one file.

    Args:
        stream: its bytes, still compressed. path: its name, which tells the format and the compression, and starts every
            `where`. form: "text", "json", "jsonl" or "parquet"; None: by the name.

    Yields: ("file:line", record), or ("file:line", Dropped) for what could not be read.

    Raises: DataError for a name that tells no format.
    """
    suffixes = PurePosixPath(path).suffixes
    squeezed = _SQUEEZED.get(suffixes[-1]) if suffixes else None
    if form is None:
        stem = suffixes[:-1] if squeezed else suffixes
        form = _FORMATS.get(stem[-1]) if stem else None
        if form is None:
            raise DataError(
                f"{path}: its name tells no format; accepted: {', '.join(_FORMATS)} (also .gz, .zst, .bz2): set reader.format"
            )
    if form == "parquet":
        yield from _parquet(stream, path)
        return
    lines = _Lines(stream, squeezed)
    if form == "jsonl":
        yield from _jsonl(lines, path)
    else:
        yield from _whole(lines, path, form)
    if lines.broken:
        yield path, Dropped(lines.broken, f"{path}:{lines.count + 1}", lines.error)


class _Lines:
    """Lines of a possibly compressed stream; what precedes a cut is given, the cut itself is remembered in `broken`."""

    def __init__(self, stream: BinaryIO, squeezed: str | None):
        self.count, self.broken, self.error = 0, "", ""
        self._name = squeezed or ""
        if squeezed == "gzip":
            self._stream: Any = gzip.GzipFile(fileobj=stream)
        elif squeezed:
            self._stream = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, "r"), squeezed))
        else:
            self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                line = self._stream.readline()
            except EOFError as error:
                self.broken, self.error = f"read.truncated_{self._name}", str(error)
                return
            except (gzip.BadGzipFile, zlib.error, OSError) as error:
                if not self._name:
                    raise
                kind = "truncated" if "runcated" in str(error) else "corrupt"
                self.broken, self.error = f"read.{kind}_{self._name}", str(error)
                return
            if not line:
                return
            self.count += 1
            yield line


def _jsonl(lines: _Lines, path: str) -> Iterator[tuple[str, Any]]:
    for number, raw in enumerate(lines, 1):
        where = f"{path}:{number}"
        if not raw.strip():
            continue
        try:
            yield where, json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield where, Dropped("read.not_utf8", where, f"{error.reason} at byte {error.start}: {raw[:EXCERPT]!r}")
        except (ValueError, RecursionError):
            yield where, Dropped("read.not_json", where, raw[:EXCERPT].decode("utf-8", "replace"))


def _whole(lines: _Lines, path: str, form: str) -> Iterator[tuple[str, Any]]:
    raw = b"".join(lines)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield (
            path,
            Dropped(
                "read.not_utf8", f"{path}:{raw.count(10, 0, error.start) + 1}", f"{error.reason} at byte {error.start}"
            ),
        )
        return
    if form == "text":
        yield path, text
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not lines.broken:
            yield path, Dropped("read.not_json", path, f"{error}: {text[:EXCERPT]}")
        return
    if isinstance(value, dict):
        yield from ((f"{path}:{key}", record) for key, record in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}:{i}", record) for i, record in enumerate(value))
    else:
        yield path, Dropped("read.not_json", path, f"a {type(value).__name__}, expected a list or an object of records")


def _parquet(stream: BinaryIO, path: str) -> Iterator[tuple[str, Any]]:
    row = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(1_000):
            for record in batch.to_pylist():
                yield f"{path}:{row}", record
                row += 1
    except (pa.ArrowInvalid, OSError) as error:
        yield path, Dropped("read.corrupt_parquet", f"{path}:{row}", str(error)[:EXCERPT])
