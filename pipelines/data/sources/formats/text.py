"""Texts: a document a file, or of one file many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened, decoded
from pipelines.data.sources.texts import Lines, documents


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The text, or what `document` and `document_bytes` make of it; nothing of an empty file."""
    if not opened.is_whole:
        yield from documents(opened, Lines(opened))
    elif (raw := opened.plain.whole()) or opened.plain.broken:
        yield decoded(raw, opened.path, opened.encoding)


FORMAT = FileFormat(
    read,
    (".txt", ".text", ".rst", ".py", ".pod", ".roff"),
    may_tell=("text", "markdown", "html", "json", "jsonl"),
    may_describe=True,
    is_text=True,
    has_documents=True,
)
