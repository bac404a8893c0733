"""The formats of files, by name. To add one: a file in this folder with its `FORMAT`, and a row here.

What a row says of names and of cutting, `files`, `listing` and `readers` follow. A change to a row's file makes those
corpora stale that read such files.
"""

from __future__ import annotations

from pipelines.data.sources.formats import json_lines, json_values, markdown, parquet, text, web_archive, web_page
from pipelines.data.sources.opened import FileFormat

FORMATS: dict[str, FileFormat] = {
    "text": text.FORMAT,
    "markdown": markdown.FORMAT,
    "json": json_values.FORMAT,
    "jsonl": json_lines.FORMAT,
    "parquet": parquet.FORMAT,
    "html": web_page.FORMAT,
    "warc": web_archive.FORMAT,
}
