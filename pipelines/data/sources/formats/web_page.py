"""HTML: the main text of one page, its title and language beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened
from pipelines.data.sources.web import page_record


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The page."""
    yield opened.path, page_record(opened.plain.whole(), opened.path, opened.encoding)


FORMAT = FileFormat(
    read,
    (".html", ".htm", ".xhtml"),
    may_tell=("html", "text", "markdown"),
    may_describe=True,
    is_pages=True,
    called="HTML",
    is_text=True,
)
