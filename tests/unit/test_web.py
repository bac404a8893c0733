"""Web pages: the main text of HTML files and of the records of a WARC file; what is no page is dropped under a name."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.data.sources import web
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.files import parse_file
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.data.text.document import Document, Dropped

CHINESE = "图书馆在每天早上八点开门，读者可以带着自己的书进来，也可以在书架上挑选想看的书，看完以后放回原来的地方。"


def page(title: str, paragraphs: list[str], charset: str = "utf-8") -> bytes:
    """A page with navigation and a footer around its text."""
    menu = "".join(f'<li><a href="/{i}">Menu entry {i}</a></li>' for i in range(8))
    body = "".join(f"<p>{text}</p>" for text in paragraphs)
    return (
        f'<!DOCTYPE html><html><head><meta charset="{charset}"><title>{title}</title></head><body>'
        f"<nav><ul>{menu}</ul></nav><main><article><h1>{title}</h1>{body}</article></main>"
        "<footer>All rights reserved. Cookie settings.</footer></body></html>"
    ).encode(charset)


def paragraphs(topic: str) -> list[str]:
    return [
        f"The history of {topic} begins, as far as anybody knows, in a small town where part {i} of it was written "
        "down by hand, and the people who kept the records did not think that they would be read again."
        for i in range(4)
    ]


def archive(records: list[tuple[str, str, bytes]], gzipped: bool = True) -> bytes:
    """A WARC file as crawlers write them: (record type, content type, payload) of each."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=gzipped)
    writer.write_record(writer.create_warcinfo_record("crawl.warc.gz", {"software": "a test"}))
    for i, (kind, mime, payload) in enumerate(records):
        url = f"http://example.org/{i}"
        headers = (
            StatusAndHeaders("200 OK", [("Content-Type", mime)], protocol="HTTP/1.1") if kind == "response" else None
        )
        named = {"WARC-Record-ID": f"<urn:uuid:{i:032x}>", "WARC-Date": "2026-01-01T00:00:00Z"}
        writer.write_record(
            writer.create_warc_record(
                url, kind, payload=io.BytesIO(payload), http_headers=headers, warc_headers_dict=named
            )
        )
    return out.getvalue()


def read(path: Path, **changes: Any) -> tuple[list[Document], list[Dropped]]:
    config = SourceConfig(licence="MIT", reader=ReaderConfig(type="files", path=str(path), **changes))
    items = [item for piece in plan_pieces("web", config, 1 << 20) for item in read_piece(piece, config)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Dropped)]


RECORDS = [
    ("response", "text/html; charset=UTF-8", b"<!-- by hand -->\n" + page("Clocks", paragraphs("clocks"))),
    ("request", "", b"GET / HTTP/1.1"),
    ("response", "image/png", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ("response", "text/html", page("图书馆", [CHINESE * 3, CHINESE * 2], "gb18030")),
    ("response", "text/html", b"<html><head><title>Empty</title></head><body><script>x = 1</script></body></html>"),
    ("conversion", "text/plain", b"Text that a crawler has already extracted from its page."),
]


@pytest.mark.parametrize(("name", "gzipped"), [("crawl.warc.gz", True), ("crawl.warc", False)])
def test_a_warc_gives_the_main_text_of_its_pages(tmp_path: Path, name: str, gzipped: bool) -> None:
    (tmp_path / name).write_bytes(archive(RECORDS, gzipped))
    documents, dropped = read(tmp_path / name)
    clocks, library, plain = (document.text for document in documents)
    assert all(text in clocks for text in paragraphs("clocks"))
    assert "Menu entry" not in clocks
    assert "Cookie" not in clocks
    assert library.count(CHINESE) == 5
    assert plain == "Text that a crawler has already extracted from its page."
    assert [d.metadata["url"] for d in documents] == [f"http://example.org/{i}" for i in (0, 3, 5)]
    assert [d.id for d in documents] == [f"web/{name}:{number}" for number in (1, 4, 6)]
    assert [(d.reason, d.where.split(":")[-1]) for d in dropped] == [("read.not_html", "3"), ("read.no_main_text", "5")]


def test_a_truncated_warc_keeps_what_precedes_the_cut(tmp_path: Path) -> None:
    whole = archive([("response", "text/html", page(f"Topic {i}", paragraphs(f"topic {i}"))) for i in range(20)])
    (tmp_path / "a.warc.gz").write_bytes(whole[: len(whole) // 2])
    documents, dropped = read(tmp_path / "a.warc.gz")
    assert 8 <= len(documents) <= 10
    assert [d.reason for d in dropped] == ["read.truncated_gzip"]
    assert all(f"topic {i}" in d.text for i, d in enumerate(documents))


def test_what_is_no_warc_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(b"this is no archive at all\n" * 50))
    documents, dropped = read(tmp_path / "a.warc.gz")
    assert not documents
    assert [d.reason for d in dropped] == ["read.corrupt_warc"]


def test_html_files_plain_and_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(page("Clocks", paragraphs("clocks")))
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(page("图书馆", [CHINESE * 4], "gb18030")))
    (tmp_path / "c.xhtml").write_bytes(b"")
    documents, dropped = read(tmp_path)
    assert [d.id for d in documents] == ["web/a.html", "web/b.htm.gz"]
    assert "Menu entry" not in documents[0].text
    assert documents[1].text.count(CHINESE) == 4
    assert [d.reason for d in dropped] == ["read.no_main_text"]


def test_text_does_not_depend_on_the_pages_read_before(tmp_path: Path) -> None:
    data = page("Clocks", paragraphs("clocks"))
    texts = [next(parse_file(io.BytesIO(data), "a.html"))[1] for _ in range(6)]
    assert set(texts) == {texts[0]}


def test_a_page_too_long_to_parse_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_PAGE_BYTES", 1_000)
    found = web.html_record(page("Clocks", paragraphs("clocks")), "a.html")
    assert isinstance(found, Dropped)
    assert found.reason == "read.page_too_long"


def test_a_page_that_the_parser_dies_of_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.html").write_bytes(page("Clocks", paragraphs("clocks")))
    (tmp_path / "b.html").write_bytes(page("Rivers", paragraphs("rivers")))
    extractor = web._extractor()
    real = extractor.extract

    def extract(text: bytes) -> str:
        if b"Clocks" in text:
            raise RecursionError("too deep")
        return str(real(text))

    monkeypatch.setattr(extractor, "extract", extract)
    documents, dropped = read(tmp_path)
    assert [d.id for d in documents] == ["web/b.html"]
    assert [d.reason for d in dropped] == ["read.RecursionError"]


def test_a_record_without_an_address_is_named(tmp_path: Path) -> None:
    whole = archive([("response", "text/html", page("Clocks", paragraphs("clocks")))] * 2, gzipped=False)
    at = whole.rindex(b"WARC-Target-URI")
    (tmp_path / "a.warc").write_bytes(whole[:at] + b"WARC-Target-IRI" + whole[at + 15 :])
    documents, dropped = read(tmp_path / "a.warc")
    assert [d.reason for d in dropped] == ["read.corrupt_warc"]
    assert len(documents) == 1


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "windows-1252", "koi8-r", "gb2312", "shift_jis"])
@pytest.mark.parametrize(
    "declaration", ["<meta charset='{}'>", '<META http-equiv="Content-Type" content="text/html; charset={}">']
)
def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path: Path, charset: str, declaration: str) -> None:
    title = {"koi8-r": "Старый город", "gb2312": "图书馆", "shift_jis": "図書館"}.get(
        charset, "Café – über" if charset[0] != "i" else "Café über"
    )
    (tmp_path / "a.html").write_bytes(_saved(title, declaration.format(charset), "xx").encode(charset))
    (document,), _ = read(tmp_path)
    assert document.metadata["title"] == title
    assert document.metadata["lang"] == "xx"
    assert f"{title} {title}" in document.text


def test_a_page_that_names_no_encoding(tmp_path: Path) -> None:
    (tmp_path / "bom.html").write_bytes(_saved("Café", "").encode("utf-16"))
    (tmp_path / "unnamed.html").write_bytes(_saved("Café – über", "").encode("cp1252"))
    (tmp_path / "wrong.html").write_bytes(_saved("Café", "<meta charset=iso-8859-1>").encode())
    (tmp_path / "xml.xhtml").write_bytes(
        b'<?xml version="1.0" encoding="iso-8859-1"?>\n' + _saved("Café", "").encode("latin-1")
    )
    (tmp_path / "nonsense.html").write_bytes(_saved("Café", "<meta charset=klingon>").encode())
    documents, dropped = read(tmp_path)
    assert [d.metadata["title"] for d in documents] == ["Café", "Café", "Café – über", "Café", "Café"]
    assert all(f"{d.metadata['title']} {d.metadata['title']}" in d.text for d in documents)
    assert not dropped
    (tmp_path / "unnamed.html").write_bytes(_saved("Старый город", "").encode("koi8-r"))
    (document,), _ = read(tmp_path / "unnamed.html", encoding="koi8-r")
    assert document.metadata["title"] == "Старый город"


def test_an_empty_page_is_counted_and_a_title_is_no_markup(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><title>T</title><body></body></html>")
    (tmp_path / "b.html").write_text(_saved("Salt &amp;\n pepper", ""))
    documents, dropped = read(tmp_path)
    assert [d.metadata["title"] for d in documents] == ["Salt & pepper"]
    assert [d.reason for d in dropped] == ["read.no_main_text"]


def _saved(title: str, declaration: str, lang: str = "") -> str:
    body = "".join(f"<p>{title} {title} " + " ".join(paragraphs("clocks")) + "</p>" for _ in range(2))
    head = f"<html lang={lang}>" if lang else "<html>"
    return f"{head}<head>{declaration}<title>{title}</title></head><body><article>{body}</article></body></html>"
