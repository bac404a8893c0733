"""What the reader of a file format is given, and what a format is.

Enters: a file, or a stretch of one. Leaves: its bytes, decompressed where they were not, and which of its records are
wanted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipelines.data.sources.columns import Wanted
from pipelines.data.sources.compressed import Plain
from pipelines.data.text.document import Dropped


@dataclass
class Opened:
    """A file to read.

    Attributes: raw, its bytes as they lie there. path, which starts every place. squeezed: gzip, zstd, bz2 or "".
        start, stop: the stretch, in bytes of a file that can be cut. document_bytes: about so long are the documents
        that a text is cut into. wanted: the fields that are read.
    """

    raw: BinaryIO
    path: str
    squeezed: str = ""
    start: int = 0
    stop: int | None = None
    document_bytes: int | None = None
    wanted: Wanted = field(default_factory=Wanted)

    @functools.cached_property
    def plain(self) -> Plain:
        """Its bytes, decompressed."""
        return Plain(self.raw, self.squeezed)

    def damage(self) -> Iterator[tuple[str, Dropped]]:
        """Where the decompressed bytes ended before their end, if they were read and did."""
        plain = self.__dict__.get("plain")
        if plain is not None and plain.broken:
            yield self.path, Dropped(plain.broken, f"{self.path}@{plain.offset}", plain.error)


@dataclass(frozen=True)
class FileFormat:
    """A format of files.

    Attributes: read, which yields (place, record), or a `Dropped` for what cannot be read. suffixes, of the names that
        tell it. may_tell: where a config sets this format, which formats a name may tell. can_be_cut: whether tasks can
        share a file. has_records: whether texts beside such files are about the data. may_describe: whether such a file
        may be a README or the like. is_pages: whether personal data is masked in it.
    """

    read: Callable[[Opened], Iterator[tuple[str, Any]]]
    suffixes: tuple[str, ...]
    may_tell: tuple[str, ...]
    can_be_cut: bool = False
    has_records: bool = False
    may_describe: bool = False
    is_pages: bool = False


def decoded(raw: bytes, where: str) -> tuple[str, Any]:
    """(where, text), or why it is none."""
    try:
        return where, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(10, 0, error.start) + 1
        return where, Dropped("read.not_utf8", f"{where}:{line}", f"{error.reason} at byte {error.start}")
