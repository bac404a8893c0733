"""JSON: a list or an object of records, one record, or a value on each line as hubs often have it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.compressed import Plain
from pipelines.data.sources.formats import json_lines
from pipelines.data.sources.opened import FileFormat, Opened, decoded
from pipelines.data.text.document import RAW_EXCERPT, Dropped


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The records of the file."""
    raw, path = opened.plain.whole(), opened.path
    text = decoded(raw, path, opened.encoding)[1]
    if isinstance(text, Dropped):
        yield path, text
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _holds_lines(text, error):
            yield from json_lines.records(Plain(io.BytesIO(raw), "").lines(), path, None, opened.encoding)
        elif not opened.plain.broken:
            yield path, Dropped("read.not_json", path, f"{error}: {text[:RAW_EXCERPT]}")
        return
    if isinstance(value, dict) and any(name in value for name in opened.wanted.fields):
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


def _holds_lines(text: str, error: Exception) -> bool:
    """Whether a .json file holds a value on each line, as hubs often have it."""
    if not (isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"):
        return False
    try:
        json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return True


FORMAT = FileFormat(read, (".json",), may_tell=("json", "jsonl", "text", "markdown"), called="JSON")
