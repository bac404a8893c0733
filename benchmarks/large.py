"""The steps of the large corpus that are no configuration: HTML packages as WARC, the text multiplied, memory watched,
answers checked.

python -m benchmarks.large warc                      documentation packages → WARC files, as a crawler would have left
                                                     them
python -m benchmarks.large multiply --megabytes 3000 corpus/large → JSON Lines with planted near-copies, and their
answers
python -m benchmarks.large watch ARGUMENTS…          python -m workflows.corpus ARGUMENTS…, and the peak memory of each
                                                     of its processes
python -m benchmarks.large check --name copies-300   recall and precision of corpus/NAME against the answers and the
                                                     detection curve

`make corpus-large` runs all of them. Files lie in `<store>/raw/`; nothing of them is kept in the repository.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.dedup.config import DedupConfig
from pipelines.data.dedup.minhash import jaccard, shingles
from pipelines.data.sources.fetch import Package, contents, fetch, members

# A WARC file of each: the packages it is made of and their pages. Licences are stated beside the sources in
# conf/corpus/large.yaml.
CRAWLS: dict[str, list[tuple[str, list[str]]]] = {
    "python": [("python3.11-doc", ["*/python3.11/html/*.html"])],
    "postgresql": [("postgresql-doc-15", ["*.html"])],
    "sqlite": [("sqlite3-doc", ["*.html"])],
    "django": [("python-django-doc", ["*.html"])],
    "rust": [
        (
            "rust-doc",
            [
                f"*/html/{part}/*.html"
                for part in (
                    "book",
                    "cargo",
                    "reference",
                    "nomicon",
                    "rust-by-example",
                    "rustc",
                    "rustdoc",
                    "edition-guide",
                    "embedded-book",
                )
            ],
        )
    ],
    "libreoffice-en": [("libreoffice-help-en-us", ["*/text/*.html"])],
    "libreoffice-zh": [("libreoffice-help-zh-cn", ["*/text/*.html"])],
    "debian": [
        ("debian-handbook", ["*/en-US/*.html", "*/zh-CN/*.html", "*/zh-TW/*.html"]),
        ("debian-reference-en", ["*.html"]),
        ("debian-reference-zh-cn", ["*.html"]),
        ("debian-faq-zh-cn", ["*.html"]),
        ("maint-guide-zh-cn", ["*.html"]),
    ],
}
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


@dataclass(frozen=True)
class Pair:
    """A planted near-copy."""

    original: str  # ids
    copy: str
    percent: int  # of its words that were replaced
    jaccard: float


def multiply(corpus: Path, folder: Path, megabytes: float, every: int = 16, seed: int = 0) -> None:
    """Text of a finished corpus over and over until there are `megabytes`, with planted near-copies; and the answers
    beside it.

    Round k writes every document in another alphabet: each letter, digit and Chinese character moved on by k within its
    own kind.
    So a round has the lengths, repetitions and vocabulary growth of real text and shares no shingle with another round.
    Every `every`-th document gets a near-copy of which 0, 1, 2, 5 or 10 % of the words are another word of the same
    document.
    """
    if (folder / "answers.parquet").exists():
        print(f"{folder} is there already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    pairs: list[Pair] = []
    written = number = 0
    out = _Parts(folder)
    for turn in range(ROUNDS):
        moved = _alphabet(turn)
        for text in _texts(corpus):
            shifted = moved[np.frombuffer(text.encode("utf-32-le"), np.uint32)].tobytes().decode("utf-32-le")
            original = f"{turn}-{number}"
            written += out.write(original, shifted)
            if number % every == 0:
                percent = EDITS[number // every % len(EDITS)]
                copy = _edited(shifted, percent, rng)
                written += out.write(f"{original}-copy", copy)
                alike = jaccard(shingles(shifted), shingles(copy))
                pairs.append(Pair(original, f"{original}-copy", percent, alike))
            number += 1
            if written > megabytes * 1e6:
                break
        print(f"round {turn}: {number:,} documents, {len(pairs):,} copies, {written / 1e6:,.0f} MB", flush=True)
        if written > megabytes * 1e6:
            break
    out.close()
    pq.write_table(pa.Table.from_pylist([asdict(pair) for pair in pairs]), folder / "answers.parquet")


ROUNDS = 25  # so many other alphabets there are; digits repeat after ten
EDITS = (0, 1, 2, 5, 10)
_PART_BYTES = 64_000_000
_CHINESE = (0x4E00, 0x9FA6)


def _alphabet(turn: int) -> npt.NDArray[np.uint32]:
    """What each code point becomes in this round."""
    table = np.arange(0x110000, dtype=np.uint32)
    for first, stop, step in ((97, 123, 1), (65, 91, 1), (48, 58, 1), (*_CHINESE, 1_999)):
        points = np.arange(first, stop)
        table[points] = first + (points - first + turn * step) % (stop - first)
    return table


def _texts(corpus: Path) -> Iterator[str]:
    """The documents of all sources whose near-copies are gone; others would bring copies of their own."""
    sources = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))["config"]["corpus"]["sources"]
    near = [name for name, source in sources.items() if source["duplicates"] == "near"]
    for file in sorted(file for name in near for file in corpus.glob(f"train/{name}/*.parquet")):
        with pq.ParquetFile(file) as opened:
            if "text" in opened.schema_arrow.names:
                for batch in opened.iter_batches(2_000, columns=["text"]):
                    yield from batch.column(0).to_pylist()


def _edited(text: str, percent: int, rng: random.Random) -> str:
    words = list(_WORD.finditer(text))
    changed = sorted(rng.sample(words, len(words) * percent // 100), key=lambda word: word.start())
    parts, end = [], 0
    for word in changed:
        parts += [text[end : word.start()], rng.choice(words)[0]]
        end = word.end()
    return "".join([*parts, text[end:]])


_WORD = re.compile(r"[A-Za-z0-9_]+|[一-龥]")


class _Parts:
    """JSON Lines files of some 64 MB."""

    def __init__(self, folder: Path):
        self._folder, self._count, self._size = folder, 0, 0
        self._out: BinaryIO | None = None

    def write(self, name: str, text: str) -> int:
        """Returns: bytes of text written."""
        if self._out is None or self._size > _PART_BYTES:
            self.close()
            self._out = (self._folder / f"part-{self._count:05d}.jsonl").open("wb")
            self._count, self._size = self._count + 1, 0
        line = json.dumps({"id": name, "text": text}, ensure_ascii=False).encode() + b"\n"
        self._out.write(line)
        self._size += len(line)
        return len(line) - len(name) - 22

    def close(self) -> None:
        if self._out is not None:
            self._out.close()


def watch(arguments: list[str]) -> int:
    """Run the workflow; print the most memory any one process of each kind took, a Ray worker under the name of its
    task.
    """
    started = time.monotonic()
    running = psutil.Popen([sys.executable, "-m", "workflows.corpus", *arguments])
    peak: dict[str, tuple[int, int]] = {}
    while running.poll() is None:
        for process in [running, *_children(running)]:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                title = " ".join(process.cmdline()).strip()
            except (OSError, psutil.Error):
                continue
            kind = title if title.startswith("ray::") else "driver" if process.pid == running.pid else ""
            if kind:
                found = {
                    line.split(":")[0]: int(line.split()[1])
                    for line in status.splitlines()
                    if line.startswith(("Rss", "VmRSS"))
                }
                held = peak.get(kind, (0, 0))
                peak[kind] = (max(held[0], found.get("RssAnon", 0)), max(held[1], found.get("VmRSS", 0)))
        time.sleep(0.3)
    print(
        f"\n{time.monotonic() - started:.0f} s; peak memory of one process, MB: its own (anonymous), and with mapped "
        "files"
    )
    for kind, (own, everything) in sorted(peak.items()):
        print(f"   {kind:32} {own / 1e3:8,.0f} {everything / 1e3:8,.0f}")
    return int(running.returncode)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def check(corpus: Path, folder: Path, rows: int, bands: int, threshold: float) -> None:
    """Print recall by edit rate against the detection curve, and what was removed that was not planted."""
    stayed = {
        name.removeprefix("copies/")
        for file in corpus.glob("*/copies/*.parquet")
        for name in pq.read_table(file, columns=["id"]).column(0).to_pylist()
    }
    pairs = [Pair(**row) for row in pq.read_table(folder / "answers.parquet").to_pylist()]
    dropped = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))["statistics"]["sources"]["copies"][
        "dropped"
    ]
    print(f"{len(stayed):,} documents stayed; dropped: {dropped}")
    print("percent of words edited |  pairs | mean Jaccard | recall | predicted by the curve")
    for percent in EDITS:
        mine = [pair for pair in pairs if pair.percent == percent]
        found = sum(not (pair.original in stayed and pair.copy in stayed) for pair in mine)
        curve = sum(1 - (1 - pair.jaccard**rows) ** bands for pair in mine if pair.jaccard >= threshold)
        mean = sum(pair.jaccard for pair in mine) / len(mine)
        print(f"{percent:23} | {len(mine):6,} | {mean:12.3f} | {found / len(mine):6.4f} | {curve / len(mine):.4f}")
    planted = sum(not (pair.original in stayed and pair.copy in stayed) for pair in pairs)
    removed = sum(count for reason, count in dropped.items() if reason.startswith("dedup."))
    print(f"deduplication removed {removed:,} documents; of {planted:,} planted pairs one is gone (a few to rules)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("TRUNKLINE_STORE", "store")))
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("warc")
    multiplied = commands.add_parser("multiply")
    multiplied.add_argument("--megabytes", type=float, default=3_000)
    multiplied.add_argument("--name", default="copies-3000")
    watched = commands.add_parser("watch")
    watched.add_argument("arguments", nargs=argparse.REMAINDER)
    checked = commands.add_parser("check")
    checked.add_argument("--name", default="copies-3000")
    arguments = parser.parse_args()
    if arguments.command == "warc":
        warc(arguments.store / "raw" / "crawls")
    elif arguments.command == "multiply":
        multiply(arguments.store / "corpus" / "large", arguments.store / "raw" / arguments.name, arguments.megabytes)
    elif arguments.command == "watch":
        raise SystemExit(watch([*arguments.arguments, f"store={arguments.store}"]))
    else:
        dedup = DedupConfig()
        check(
            arguments.store / "corpus" / arguments.name,
            arguments.store / "raw" / arguments.name,
            dedup.minhash.rows,
            dedup.minhash.bands,
            dedup.threshold,
        )


if __name__ == "__main__":
    main()
