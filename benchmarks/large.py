"""The steps of the large corpus that are no configuration: HTML packages as WARC, the text multiplied, memory watched, answers checked.

python -m benchmarks.large warc                      documentation packages → WARC files, as a crawler would have left them
python -m benchmarks.large multiply --megabytes 3000 corpus/large → JSON Lines with planted near-copies, and their answers
python -m benchmarks.large watch ARGUMENTS…          python -m workflows.corpus ARGUMENTS…, and the peak memory of each of its processes
python -m benchmarks.large check --name copies       recall and precision of corpus/NAME against the answers and the detection curve

`make corpus-large` runs all of them. Files lie in `<store>/raw/`; nothing of them is kept in the repository.
"""

from __future__ import annotations

import argparse
import io
import uuid
from pathlib import Path

from pipelines.data.fetch import Package, contents, fetch, members

# A WARC file of each: the packages it is made of and their pages. Licences are stated beside the sources in conf/corpus/large.yaml.
CRAWLS: dict[str, list[tuple[str, list[str]]]] = {
    "python": [("python3.11-doc", ["*/python3.11/html/*.html"])],
    "postgresql": [("postgresql-doc-15", ["*.html"])],
    "sqlite": [("sqlite3-doc", ["*.html"])],
    "django": [("python-django-doc", ["*.html"])],
    "rust": [("rust-doc", [f"*/html/{part}/*.html" for part in ("book", "cargo", "reference", "nomicon", "rust-by-example", "rustc", "rustdoc", "edition-guide", "embedded-book")])],
    "libreoffice-en": [("libreoffice-help-en-us", ["*/text/*.html"])],
    "libreoffice-zh": [("libreoffice-help-zh-cn", ["*/text/*.html"])],
    "debian": [
        ("debian-handbook", ["*/en-US/*.html", "*/zh-CN/*.html", "*/zh-TW/*.html"]),
        ("debian-reference-en", ["*.html"]),
        ("debian-reference-zh-cn", ["*.html"]),
        ("debian-faq-zh-cn", ["*.html"]),
        ("maint-guide-zh-cn", ["*.html"]),
    ],
}  # fmt: skip
_CRAWLED = "2026-01-01T00:00:00Z"  # of every page: the same packages give the same bytes


def warc(folder: Path) -> None:
    """`<folder>/<name>.warc.gz` for each of `CRAWLS`; one that is there stays."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    folder.mkdir(parents=True, exist_ok=True)
    for name, packages in CRAWLS.items():
        target = folder / f"{name}.warc.gz"
        if target.exists():
            continue
        partial = target.with_suffix(".partial")
        pages = size = 0
        with partial.open("wb") as out:
            writer = WARCWriter(out, gzip=True)
            for package, patterns in packages:
                archive = fetch(Package(package, "", "", "deb"))
                names = [path for path, _ in members(archive, patterns)]
                for path, page in contents(archive, names):
                    url = f"http://localhost/{path}"  # as a crawl of this machine's own documentation would name it
                    named = {
                        "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>",
                        "WARC-Date": _CRAWLED,
                    }
                    headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                    record = writer.create_warc_record(
                        url, "response", payload=io.BytesIO(page), http_headers=headers, warc_headers_dict=named
                    )
                    writer.write_record(record)
                    pages, size = pages + 1, size + len(page)
        partial.rename(target)
        print(f"{target.name}: {pages:,} pages, {size / 1e6:.1f} MB of HTML", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("store"))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("warc")
    arguments = parser.parse_args()
    if arguments.command == "warc":
        warc(arguments.store / "raw" / "crawls")


if __name__ == "__main__":
    main()
