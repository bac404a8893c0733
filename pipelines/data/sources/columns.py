"""The rows of a Parquet file or an Arrow table: the columns that are needed, and one bad value costs its own row.

Enters: a file, and the fields that are wanted of a record. Leaves: records with their row's number; in place of each
that cannot be read a `Dropped`: `read.no_column` (the file has none of the fields), `read.not_utf8` and
`read.bad_value` (a needed value that Python cannot take: a date beyond year 9999, say), `read.corrupt_parquet` (damage:
the rest of its row group).

Columns that nobody reads are not read, so nothing in them can do harm: nested ones, dates, decimals and binary ones,
which no document keeps. Rows are turned into Python a batch at a time; only a batch in which that fails is taken row by
row. A value beside the needed ones that cannot be read costs no text: it is left out, and its column is named in the
record's `unreadable`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.text.document import RAW_EXCERPT, Dropped
from pipelines.errors import TrunklineError

UNREADABLE = "unreadable"  # names the columns of a row whose values were left out
_ROWS = 1_000  # turned into Python at once


@dataclass(frozen=True)
class Wanted:
    """Which fields of a record are read."""

    fields: tuple[str, ...] = ()  # what a document is made of
    plain_beside: bool = True  # and every other one of text, numbers or truth values, which its metadata keep

    def columns(self, schema: pa.Schema) -> list[str]:
        """Those of a file's columns that are read, in the file's order."""
        return [
            column.name
            for column in schema
            if column.name in self.fields or (self.plain_beside and _is_plain(column.type))
        ]


def parquet_records(
    stream: BinaryIO, path: str, start: int, stop: int | None, wanted: Wanted
) -> Iterator[tuple[str, Any]]:
    """The rows of the row groups that begin in the stretch; damage costs the rest of its row group."""
    try:
        file = pq.ParquetFile(stream)
        columns = wanted.columns(file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as error:
        if not start:  # said once, by the stretch that begins the file
            yield path, Dropped("read.corrupt_parquet", f"{path}:0", str(error)[:RAW_EXCERPT])
        return
    lacking = wanted.fields and not set(columns) & set(wanted.fields)
    first = 0
    for group, begin in enumerate(_begins(file, stream.seek(0, io.SEEK_END))):
        rows = file.metadata.row_group(group).num_rows
        if begin >= start and (stop is None or begin < stop):
            if lacking or not columns:
                yield from _without_column(file, path, first, rows, wanted)
            else:
                yield from _group(stream, file, group, path, first, columns, wanted)
        first += rows


def table_records(batch: Any, wanted: Wanted) -> Iterator[Any]:
    """A record, or a `Dropped` without its place, for each row of an Arrow table or record batch."""
    decoders = {column.name: decode for column in batch.schema if (decode := _json_decoder(column.type))}
    try:
        records = batch.to_pylist()
        for name, decode in decoders.items():
            for record in records:
                record[name] = decode(record[name])
    except (MemoryError, TrunklineError):
        raise
    except Exception:  # Arrow raises as many kinds as there are types
        records = [_row(batch, row, wanted, decoders) for row in range(batch.num_rows)]
    yield from records


def _group(
    stream: BinaryIO, file: pq.ParquetFile, group: int, path: str, first: int, columns: list[str], wanted: Wanted
) -> Iterator[tuple[str, Any]]:
    """The rows of one group.

    What cannot be read is tried again, from the row that it ended at: without the columns beside the needed ones, then
    without the types that Arrow noted (it refuses a whole dictionary for one entry that is not UTF-8).
    """
    needed = [name for name in columns if name in wanted.fields]
    left_out = {UNREADABLE: ", ".join(name for name in columns if name not in needed)}
    row, error = first, ""
    tries = [(columns, False), (needed, False), (needed, True)]
    for chosen, plainly in tries if needed not in ([], columns) else [tries[0], (columns, True)]:
        try:
            opened = pq.ParquetFile(stream, metadata=_plain_metadata(stream)) if plainly else file
            for at, record in enumerate(_records(opened, group, chosen, wanted), first):
                if at < row:
                    continue
                row, where = at + 1, f"{path}:{at}"
                if isinstance(record, Dropped):
                    yield where, Dropped(record.reason, where, record.text)
                else:
                    yield where, record if len(chosen) == len(columns) else {**record, **left_out}
            return
        except (pa.ArrowException, OSError, ValueError) as raised:
            if isinstance(raised, MemoryError):
                raise
            error = error or str(raised)
    yield path, Dropped("read.corrupt_parquet", f"{path}:{row}", error[:RAW_EXCERPT])


def _records(file: pq.ParquetFile, group: int, columns: list[str], wanted: Wanted) -> Iterator[Any]:
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
        yield from table_records(batch, wanted)


def _plain_metadata(stream: BinaryIO) -> pq.FileMetaData:
    """The file's metadata without the Arrow types beside Parquet's own."""
    stream.seek(-8, io.SEEK_END)
    tail = stream.read(8)
    stream.seek(-8 - int.from_bytes(tail[:4], "little"), io.SEEK_END)
    footer = stream.read(int.from_bytes(tail[:4], "little")).replace(b"ARROW:schema", b"ARROW:unused")
    return pq.read_metadata(io.BytesIO(b"PAR1" + footer + tail))


def _without_column(
    file: pq.ParquetFile, path: str, first: int, rows: int, wanted: Wanted
) -> Iterator[tuple[str, Dropped]]:
    there = ", ".join(file.schema_arrow.names) or "none"
    text = f"expected a column {' or '.join(wanted.fields)}; the file's columns: {there}"
    for row in range(first, first + rows):
        yield f"{path}:{row}", Dropped("read.no_column", f"{path}:{row}", text)


def _json_decoder(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What turns a value of this type into what it means where JSON is within it; None where there is none.

    `datasets` writes values that differ in type from row to row as JSON.
    """
    if isinstance(kind, pa.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _json_decoder(kind.value_type)
        return inner and (lambda value: value and [inner(item) for item in value])
    if pa.types.is_struct(kind):
        fields = {field.name: decode for field in kind if (decode := _json_decoder(field.type))}
        return (lambda value: value and {k: fields.get(k, _same)(v) for k, v in value.items()}) if fields else None
    return None


def _same(value: Any) -> Any:
    return value


def _row(batch: Any, row: int, wanted: Wanted, decoders: Mapping[str, Callable[[Any], Any]]) -> Any:
    record: dict[str, Any] = {}
    unreadable: list[str] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[name] = decoders.get(name, _same)(column[row].as_py())
        except (MemoryError, TrunklineError):
            raise
        except Exception as error:
            if name in wanted.fields:
                reason = "read.not_utf8" if isinstance(error, UnicodeDecodeError) else "read.bad_value"
                return Dropped(reason, "", f"column {name}: {error}"[:RAW_EXCERPT])
            unreadable.append(name)
    return {**record, UNREADABLE: ", ".join(unreadable)} if unreadable else record


def _begins(file: pq.ParquetFile, size: int) -> Iterator[int]:
    """Where each row group of a file of `size` bytes is taken to begin: as far in as its first row is among the rows.

    What the footer says of columns is not asked: where a damaged one contradicts itself, Arrow aborts the process.
    """
    rows = [max(0, file.metadata.row_group(group).num_rows) for group in range(file.num_row_groups)]
    first, total = 0, max(1, sum(rows))
    for count in rows:
        yield min(size * first // total, size - 1)
        first += count


_PLAIN = ("string", "large_string", "string_view", "null", "integer", "floating", "boolean")


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values are text, numbers or truth values, as a document's metadata keep them."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return isinstance(kind, pa.JsonType) or any(getattr(pa.types, f"is_{name}")(kind) for name in _PLAIN)
