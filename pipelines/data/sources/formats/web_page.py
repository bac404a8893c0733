"""HTML: the main text of one page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened
from pipelines.data.sources.web import html_record


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The page."""
    yield opened.path, html_record(opened.plain.whole(), opened.path)


FORMAT = FileFormat(read, (".html", ".htm", ".xhtml"), may_tell=("html", "text"), may_describe=True, is_pages=True)
