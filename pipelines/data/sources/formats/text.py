"""Texts: a document a file, or a long one as many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened, decoded


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The text, or its passages where `document_bytes` is set."""
    if opened.document_bytes:
        yield from _passages(opened.plain.lines(), opened.path, opened.document_bytes)
    else:
        yield decoded(opened.plain.whole(), opened.path)


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
            yield decoded(b"".join(waiting), f"{path}@{start}")
            waiting, start, length = [], offset + len(raw), 0
    if waiting:
        yield decoded(b"".join(waiting), f"{path}@{start}")


FORMAT = FileFormat(
    read, (".txt", ".md", ".rst", ".py", ".pod", ".roff"), may_tell=("text", "html", "json", "jsonl"), may_describe=True
)
