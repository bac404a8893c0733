"""The main text of web pages: HTML files, and the records of a WARC file as crawlers leave them.

Enters: the bytes of a page, or a decompressed WARC stream. Leaves: the text a reader would read, without navigation and
boilerplate, of a file with the page's title and language; a `Dropped` for a page without any (`read.no_main_text`), for
what is no page (`read.not_html`: images, style sheets, pages in an undecodable encoding) and for a damaged archive
(`read.corrupt_warc`).

A WARC record is judged and decoded by datatrove's reader, its text is found by trafilatura through datatrove's
extractor (favouring precision, as FineWeb did: Penedo et al. 2024, arXiv 2406.17557). Two of datatrove's settings are
not taken, since with them the text would depend on who read what: trafilatura's deduplication remembers the paragraphs
of earlier pages of the same process, and a time limit drops more pages on a slower machine. A page over
`MAX_PAGE_BYTES` is dropped instead.
"""

from __future__ import annotations

import functools
import html
import logging
import re
from collections.abc import Iterator
from typing import Any

from pipelines.data.sources.opened import Described, is_encoding, marked
from pipelines.data.text.document import RAW_EXCERPT, Dropped
from pipelines.errors import DataError, TrunklineError

MAX_PAGE_BYTES = 5_000_000  # a longer one is a table or a dump, and its tree takes a multiple of this in memory
_HEAD_BYTES = 4_096  # a page names its characters early; browsers look at 1,024 bytes
_BEYOND_ASCII = bytes(range(128, 256))
_WESTERN_SHARE = 0.05  # of the bytes of a page: French has 3 % accents in its text, Russian or Chinese 80 %
_ABOUT_BYTES = 65_536  # where a page's title stands
_CHARSET = re.compile(
    rb"<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9._:-]+)", re.IGNORECASE
)
_AS_BROWSERS = {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_TITLE = re.compile(r"<title\b[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_LANG = re.compile(r"<html\b[^>]*?\blang\s*=\s*[\"']?([A-Za-z0-9-]+)", re.IGNORECASE)


def page_record(raw: bytes, where: str, encoding: str | None = None) -> Described | str | Dropped:
    """The main text of a page that lies in a file, with its title and the language that it names.

    Its characters are told by a byte order mark, else by what is UTF-8, else by the page's own `charset` (the order of
    a browser, but that a wrong `charset` of a page in UTF-8 does no harm), else by `encoding`. What nothing tells is
    Western where few bytes are beyond ASCII, and else trafilatura guesses.
    """
    if len(raw) > MAX_PAGE_BYTES:
        return html_record(raw, where)
    page = _in_utf8(raw, encoding)
    text = html_record(page, where)
    metadata = {} if isinstance(text, Dropped) else _about(page)
    return Described(text, metadata) if metadata and isinstance(text, str) else text


def _in_utf8(raw: bytes, encoding: str | None) -> bytes:
    """The page in UTF-8, or as it was where nothing tells its characters."""
    declared = _CHARSET.search(raw[:_HEAD_BYTES])
    named = declared[1].decode("ascii").lower() if declared else ""
    beyond_ascii = len(raw) - len(raw.translate(None, _BEYOND_ASCII))
    western = "cp1252" if beyond_ascii < _WESTERN_SHARE * len(raw) else None
    for name in (marked(raw), "utf-8-sig", _AS_BROWSERS.get(named, named), encoding, western):
        if not name or not is_encoding(name):
            continue
        try:
            text = raw.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
        # an XML declaration may name what the page is in no longer
        return _DECLARATION.sub("", text, count=1).encode("utf-8", "replace")
    return raw


def _is_utf8(page: bytes) -> bool:
    try:
        page.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _about(page: bytes) -> dict[str, Any]:
    """Title and language of a page as its own markup states them."""
    text = page[:_ABOUT_BYTES].decode("utf-8", "ignore")
    if not _is_utf8(page):  # what it was guessed to be nobody says
        return {}
    metadata = {}
    for name, pattern in (("title", _TITLE), ("lang", _LANG)):
        if (stated := pattern.search(text)) and (value := " ".join(html.unescape(stated[1]).split())):
            metadata[name] = value
    return metadata


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
