"""A glance at the first records of a source's files: whether they are of the kind that the config states.

Enters: a source and its listing. Leaves: a sentence for each file that is of another kind, before anything is read; a
DataError where every file is. Of a few files the first records are read, at most a quarter of a megabyte each, since
chats that lie in a folder of documents would else be dropped one by one.

The names of a record's fields tell its kind. What cannot be read here is left to whoever reads the whole file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.conversations import ANSWERS, QUESTIONS
from pipelines.data.sources.files import parse_file
from pipelines.data.sources.listing import InputFile, Listing
from pipelines.data.sources.opened import marked
from pipelines.data.sources.paths import source_of
from pipelines.data.sources.readers import Stretch, open_stretch, wanted_fields
from pipelines.data.sources.records import RECORDS, holds
from pipelines.data.text.document import Dropped
from pipelines.errors import DataError, TrunklineError

_FILES, _RECORDS, _BYTES = 12, 20, 1 << 18
_SHOWN = 8  # fields in a sentence


@dataclass(frozen=True)
class _Seen:
    """The fields of a file's first records, and whether there is nothing behind them."""

    file: InputFile
    fields: tuple[frozenset[str], ...]
    is_all: bool


def of_another_kind(where: str, source: SourceConfig, listing: Listing) -> list[str]:
    """A sentence for each file that was glanced at and holds no record of the kind that is read.

    Args:
        where: the config key of the reader, e.g. `corpus.sources.mine.reader`.

    Raises: DataError where no file of the source holds any.
    """
    glanced = [file for file in listing.files if file.format in ("json", "jsonl", "parquet")]
    seen = [one for file in _spread(glanced) if (one := _glance(source_of(where), file, source)).fields]
    strange = [one for one in seen if not any(_fits(names, source) for names in one.fields)]
    if not strange:
        return []
    certain = all(one.is_all or _kind(one) for one in strange)
    alone = len(strange) == len(listing.files)
    told = [_sentence(where, one, source, alone) for one in strange]
    if alone and certain:
        raise DataError(f"{source_of(where)}: {told[0]}")
    return told


def _spread(files: list[InputFile]) -> list[InputFile]:
    """A few of them: of each folder the first, then evenly over all."""
    first = list({PurePosixPath(file.label).parent: file for file in reversed(files)}.values())[::-1]
    rest = [files[i * len(files) // _FILES] for i in range(_FILES)] if files else []
    return list(dict.fromkeys([*first, *rest]))[:_FILES]


def _glance(name: str, file: InputFile, source: SourceConfig) -> _Seen:
    try:
        with open_stretch(name, Stretch(file.path, file.label, min(file.size, _BYTES))) as stream:
            if file.format == "parquet":
                return _Seen(file, (frozenset(pq.read_schema(stream).names),), True)
            raw = stream.read(_BYTES if file.format == "jsonl" else 16 * _BYTES)
        if file.format == "jsonl" and (told := marked(raw)):
            raise DataError(
                f"{name}: {file.path} is {told}, and JSON Lines are UTF-8: iconv -f UTF-16 -t UTF-8 old.jsonl > "
                "new.jsonl (PowerShell: Out-File -Encoding utf8)"
            )
        records = parse_file(io.BytesIO(raw), file.path, file.format, wanted=wanted_fields(source.reader))
        fields = list(_fields(records))
        return _Seen(file, tuple(fields[:_RECORDS]), len(raw) >= file.size and len(fields) <= _RECORDS)
    except Exception as error:  # a damaged file, a network: who reads all of it says so
        if isinstance(error, (TrunklineError, MemoryError)):
            raise
        return _Seen(file, (), False)


def _fields(records: Iterator[tuple[str, Any]]) -> Iterator[frozenset[str]]:
    for count, (_, record) in enumerate(records):
        if count > _RECORDS:
            return
        if not isinstance(record, Dropped):
            yield frozenset(map(str, record)) if isinstance(record, Mapping) else frozenset()


def _fits(names: frozenset[str], source: SourceConfig) -> bool:
    """Whether a record with these fields can be of the kind that the config states."""
    reader = source.reader
    if reader.record == "instruction":
        return bool(names & set(QUESTIONS)) and bool(names & set(ANSWERS))
    if reader.record == "preference":
        return {"chosen", "rejected"} <= names
    if reader.record == "messages":
        return bool(names & {"messages", "conversations"})
    return bool(names & set(RECORDS[reader.record].fields or (reader.text_field,)))


def _kind(one: _Seen) -> str | None:
    """The record kind that most tells its first records, None where none does."""
    return next((kind for names in one.fields if (kind := holds(names))), None)


def _sentence(where: str, one: _Seen, source: SourceConfig, alone: bool) -> str:
    """What a file holds, and what to do. Args: alone, whether all files of the source are of another kind."""
    reader, label = source.reader, one.file.label
    there = sorted(frozenset[str]().union(*one.fields))
    names = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
    fields = f"its first records have {f'the fields {names}' if names else 'no fields'}"
    if kind := _kind(one):
        keys = f"kind: {RECORDS[kind].kind}", f"record: {kind}"
        told = f"{label} holds {RECORDS[kind].kind} ({fields}), not {source.kind} of record: {reader.record}"
        if alone:
            return f"{told}: set {where.removesuffix('.reader')}.{keys[0]} and {where}.{keys[1]}"
        return f"{told}, and is dropped: give it a source of its own with {keys[0]} and reader.{keys[1]}"
    if source.kind == "documents" and not RECORDS[reader.record].fields:
        return f"{label}: no field {reader.text_field}; {fields}: set {where}.text_field to the one that holds the text"
    fit = "a source of kind: documents reads texts" if source.kind != "documents" else f"correct {where}.record"
    return f"{label} holds no {source.kind} of record: {reader.record}; {fields}: {fit}"
