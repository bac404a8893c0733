"""CSV: a record a row, named by the first line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import FileFormat, Opened, decoded
from pipelines.data.text.document import Dropped


def read(opened: Opened) -> Iterator[tuple[str, Any]]:
    """The rows of the file."""
    where, text = decoded(opened.plain.whole(), opened.path)
    if isinstance(text, Dropped):
        yield where, text
        return
    for number, row in enumerate(csv.DictReader(io.StringIO(text))):
        yield f"{opened.path}:{number}", row


FORMAT = FileFormat(read, (".csv",), may_tell=("csv",), has_records=True)
