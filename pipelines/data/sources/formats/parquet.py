"""Parquet: a record a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.columns import parquet_records
from pipelines.data.sources.opened import FileFormat, Opened


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The rows of the row groups that begin in the stretch."""
    yield from parquet_records(opened.raw, opened.path, opened.start, opened.stop, opened.wanted)


FORMAT = FileFormat(read, (".parquet",), may_tell=("parquet",), can_be_cut=True, has_records=True, called="Parquet")
