"""The main text of web pages: HTML files, and the records of a WARC file as crawlers leave them.

Enters: the bytes of a page, or a decompressed WARC stream. Leaves: the text a reader would read, without navigation and
boilerplate; a `Dropped` for a page without any (`read.no_main_text`), for what is no page (`read.not_html`: images,
style sheets, pages in an undecodable encoding) and for a damaged archive (`read.corrupt_warc`).

A WARC record is judged and decoded by datatrove's reader, its text is found by trafilatura through datatrove's
extractor (favouring precision, as FineWeb did: Penedo et al. 2024, arXiv 2406.17557). Two of datatrove's settings are
not taken, since with them the text would depend on who read what: trafilatura's deduplication remembers the paragraphs
of earlier pages of the same process, and a time limit drops more pages on a slower machine. A page over
`MAX_PAGE_BYTES` is dropped instead.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

from pipelines.data.text.document import RAW_EXCERPT, Dropped
from pipelines.errors import DataError, TrunklineError

MAX_PAGE_BYTES = 5_000_000  # a longer one is a table or a dump, and its tree takes a multiple of this in memory


def html_record(page: bytes | str, where: str) -> str | Dropped:
    """The main text of one page."""
    if len(page) > MAX_PAGE_BYTES:
        return Dropped("read.page_too_long", where, f"{len(page):,} bytes; at most {MAX_PAGE_BYTES:,} are read")
    try:
        text = _extractor().extract(page)
    except (TrunklineError, MemoryError):
        raise
    except Exception as error:  # of one page, whatever its markup makes the parser raise
        return Dropped(f"read.{type(error).__name__}", where, f"{error}: {page[:RAW_EXCERPT]!r}")
    return text if text and text.strip() else Dropped("read.no_main_text", where, repr(page[:RAW_EXCERPT]))


def warc_records(stream: Any, path: str) -> Iterator[tuple[str, Any]]:
    """("file:number", {"text", "id", "url", "date"} or Dropped) for each answer a WARC file holds.

    Args:
        stream: the decompressed file; its attribute `broken` says that it ended before its end.

    Raises: DataError when libmagic, which tells pages from other files, is not on this machine.
    """
    from warcio.archiveiterator import ArchiveIterator

    process = _process_record()
    number = 0
    try:
        for number, record in enumerate(ArchiveIterator(stream)):
            where = f"{path}:{number}"
            if record.format != "warc":  # warcio takes whatever is no WARC for its predecessor ARC
                yield path, Dropped("read.corrupt_warc", where, "a record that does not begin with WARC/")
                return
            if record.rec_type not in ("response", "conversion"):
                continue  # the crawl's own notes: what was asked, when, with which software
            kind, url = record.rec_type, record.rec_headers.get("WARC-Target-URI") or ""
            try:
                _say_type(record)
                page = process(record)
            except (TrunklineError, OSError, MemoryError):  # not what the archive holds
                raise
            except Exception as error:  # a header that every record must have is missing, a body that cannot be decoded
                yield where, Dropped("read.corrupt_warc", where, f"{url}: {error!r}")
                continue
            if stream.broken:  # within this record, which is not whole
                return
            if page is None:
                yield where, Dropped("read.not_html", where, url)
                continue
            text = page["text"] if kind == "conversion" else html_record(page["text"], where)
            yield where, text if isinstance(text, Dropped) else {**page, "text": text}
    except (TrunklineError, OSError, MemoryError):
        raise
    except Exception as error:  # warcio raises what its parser stumbles over
        yield path, Dropped("read.corrupt_warc", f"{path}:{number}", f"{type(error).__name__}: {error}"[:RAW_EXCERPT])


def _say_type(record: Any) -> None:
    """Where the crawler did not examine the payload its server's word counts: libmagic misses many pages."""
    told = record.http_headers and record.http_headers.get_header("Content-Type")
    if told and not record.rec_headers.get_header("WARC-Identified-Payload-Type"):
        record.rec_headers.add_header("WARC-Identified-Payload-Type", told.split(";")[0].strip().lower())


@functools.cache
def _extractor() -> Any:
    from datatrove.pipeline.extractors import Trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a page without text is counted here, not logged there
    return Trafilatura(deduplicate=False)


@functools.cache
def _process_record() -> Any:
    try:
        import magic  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"reading WARC needs the system library libmagic ({error}): install it (apt-get install libmagic1; brew "
            "install libmagic)"
        ) from error
    from datatrove.pipeline.readers.warc import process_record

    return process_record
