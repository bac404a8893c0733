"""WARC: the main texts of the pages that a crawler has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened
from pipelines.data.sources.web import warc_records


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """A record for each answer in the file."""
    yield from warc_records(opened.plain, opened.path)


FORMAT = FileFormat(read, (".warc",), may_tell=("warc",), has_records=True, is_pages=True, called="WARC")
