"""JSON Lines: a record a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened, line_of
from pipelines.data.text.document import RAW_EXCERPT, Dropped


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The records of the lines that begin in the stretch."""
    yield from records(opened.plain.lines(opened.start), opened.path, opened.stop, opened.encoding)


def records(
    lines: Iterator[tuple[int, bytes]], path: str, stop: int | None, encoding: str | None = None
) -> Iterator[tuple[str, Any]]:
    """The records of some lines, up to the offset `stop`."""
    for offset, raw in lines:
        if stop is not None and offset >= stop:
            return
        if not raw.strip():
            continue
        where = f"{path}@{offset}"
        text = line_of(raw, where, encoding)
        if isinstance(text, Dropped):
            yield where, text
            continue
        try:
            yield where, json.loads(text)
        except (ValueError, RecursionError) as error:
            # a ValueError of another kind is an integer of over 4,300 digits, which Python does not take
            is_bad_json = isinstance(error, (json.JSONDecodeError, RecursionError))
            reason = "read.not_json" if is_bad_json else "read.bad_value"
            yield where, Dropped(reason, where, raw[:RAW_EXCERPT].decode("utf-8", "replace"))


FORMAT = FileFormat(
    read,
    (".jsonl", ".ndjson"),
    may_tell=("json", "jsonl", "text", "markdown"),
    can_be_cut=True,
    has_records=True,
    called="JSON Lines",
)
