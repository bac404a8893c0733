"""The data card: what a corpus is made of and under which terms, as one HTML file kept in the artifact.

Enters: the config, the statistics, and what the draft has published for readers (samples of what was dropped, clusters
of copies, the deduplication's quality report). Leaves: `data_card.html`, which says, for whoever trains on or passes on
the corpus, where each text came from, which licences are not clear, how much there is in which language and length, and
what was dropped for which reason, with examples. It holds no time and no path, so equal corpora have equal cards.
"""

from __future__ import annotations

import html
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.data.cleaning import classifier
from pipelines.data.cleaning.excerpts import excerpt
from pipelines.data.corpus import browse, reasons
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup import duplicates
from pipelines.data.dedup import report as dedup_report
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.fetch import resolve
from pipelines.data.sources.readers import standard_library_name
from pipelines.display import markup
from pipelines.display.charts import columns
from pipelines.display.progress import human
from pipelines.identity import decisive
from pipelines.store.draft import Draft

FILE = "data_card.html"
_EXAMPLES = 10  # of each reason
_CLUSTERS = 20
_COPIES = 4  # shown of each cluster
_SCRIPT_NAMES = {"hans": "simplified characters", "hant": "traditional characters"}


def publish_card(draft: Draft, config: CorpusConfig, statistics: Mapping[str, Any]) -> None:
    """Write the card of a corpus whose other files are published."""
    dropped = {name: browse.read_rows(_read(draft, f"dropped/{name}.parquet") or b"") for name in config.chosen}
    clusters, quality = _read(draft, duplicates.FILE), _read(draft, dedup_report.FILE)
    path = draft.scratch(FILE)
    path.write_text(
        data_card(
            config,
            statistics,
            dropped,
            browse.read_clusters(clusters) if clusters else [],
            json.loads(quality) if quality else None,
        ),
        encoding="utf-8",
    )
    draft.publish("data_card", {FILE: path})


def data_card(
    config: CorpusConfig,
    statistics: Mapping[str, Any],
    dropped: Mapping[str, Sequence[Mapping[str, str]]],
    clusters: Sequence[browse.Cluster],
    quality: Mapping[str, Any] | None,
) -> str:
    """The page for `corpus/<name>`.

    Args:
        dropped: source -> rows of `dropped/<source>.parquet`.
        clusters: of near and exact copies, the largest first.
        quality: the content of `dedup_quality.json`; None when that was not asked for.
    """
    sources, figures = config.chosen, statistics["sources"]
    return markup.page(
        f"Corpus {config.name}",
        [
            f"<h1>Corpus {markup.text(config.name)}</h1>",
            '<nav><a href="#sources">sources</a><a href="#languages">languages</a><a href="#lengths">lengths</a>'
            '<a href="#dropped">dropped</a><a href="#copies">copies</a><a href="#made">how it was made</a></nav>',
            _summary(figures, statistics["dedup"]),
            *_terms(config, sources),
            *_sources(sources, figures),
            *_languages(figures),
            *_lengths(figures),
            *_drops(config, figures, dropped),
            *_not_read(statistics),
            *_masked(figures),
            *(_boilerplate(lines) if (lines := statistics["dedup"].get("boilerplate")) else ()),
            classifier.figures(statistics["quality_model"]) if "quality_model" in statistics else "",
            *_copies(config, statistics["dedup"], clusters, quality),
            *_made(config, sources),
        ],
    )


def origin(source: SourceConfig) -> str:
    """Where a source comes from, in a few words."""
    reader = source.reader
    if reader.type == "package":
        return f"{reader.package} {reader.version} ({reader.archive})"
    if reader.type == "standard_library":
        return standard_library_name()
    if reader.type == "generated":
        return f"made here: {reader.generator}, {reader.count:,} items, seed {reader.seed}"
    if reader.type == "huggingface":
        return f"{reader.dataset} ({', '.join(part for part in (reader.subset, reader.split) if part)})"
    return ", ".join(reader.paths)


def _summary(figures: Mapping[str, Any], dedup: Mapping[str, Any]) -> str:
    train = sum(own["train"]["documents"] for own in figures.values())
    held_out = sum(own["heldout"]["documents"] for own in figures.values())
    size = sum(own["train"]["bytes"] + own["heldout"]["bytes"] for own in figures.values())
    lost = sum(sum(own["dropped"].values()) for own in figures.values())
    read = train + held_out + lost
    return markup.tiles(
        [
            ("documents to train on", f"{train:,}"),
            ("held out", f"{held_out:,}"),
            ("of text", human(float(size), "B")),
            ("sources", f"{len(figures)}"),
            (f"of {read:,} records dropped", f"{lost / max(read, 1):.1%}"),
            ("clusters of near-copies", f"{dedup['near_clusters']:,}"),
        ]
    )


def _terms(config: CorpusConfig, sources: Mapping[str, SourceConfig]) -> Iterator[str]:
    unclear = [name for name, source in sources.items() if not source.permissive]
    left_out = [name for name in config.corpus.sources if name not in sources]
    if unclear:
        yield (
            f'<p class="warn"><b>Licence not clear, or not permissive: {markup.text(", ".join(unclear))}.</b> Use '
            "these for "
            "experiments of your own; do not publish them or a model trained on them before you have settled their "
            "terms. <code>sources=permissive</code> leaves them out.</p>"
        )
    if left_out:
        yield f"<p>Left out by <code>sources=permissive</code>: {markup.text(', '.join(left_out))}.</p>"


def _sources(sources: Mapping[str, SourceConfig], figures: Mapping[str, Any]) -> Iterator[str]:
    yield '<h2 id="sources">Sources</h2>'
    header = ["source", "kind", "language", "documents", "text", "held out", "licence", "from"]
    rows = []
    for name, source in sources.items():
        train, heldout = figures[name]["train"], figures[name]["heldout"]
        rows.append(
            [
                name,
                source.kind,
                source.language,
                train["documents"],
                human(float(train["bytes"]), "B"),
                heldout["documents"],
                ("" if source.permissive else "⚠ ") + source.licence,
                origin(source),
            ]
        )
    yield markup.table(header, rows, ("documents", "text", "held out"))
    notes = [
        f"<li><b>{markup.text(name)}</b>: {markup.text(source.note)}" for name, source in sources.items() if source.note
    ]
    if notes:
        yield f"<ul>{''.join(notes)}</ul>"


def _languages(figures: Mapping[str, Any]) -> Iterator[str]:
    languages, scripts = _sum(figures, "languages"), _sum(figures, "scripts")
    total = sum(languages.values()) or 1
    yield '<h2 id="languages">Languages</h2>'
    yield markup.bars(
        [
            (language, size, f"{human(float(size), 'B')} · {size / total:.1%}")
            for language, size in languages.most_common()
        ]
    )
    unruled = Counter[str]()
    for own in figures.values():
        unruled.update(own.get("without_rules", {}))
    if unruled:
        named = ", ".join(f"{language} {count:,}" for language, count in unruled.most_common())
        yield (
            f"<p>Kept without being judged, since no quality rules are for these languages: {markup.text(named)} "
            "documents before copies were removed (<code>corpus.quality.without_rules=drop</code> drops them).</p>"
        )
    if scripts:
        listed = ", ".join(f"{_SCRIPT_NAMES.get(name, name)} {count:,}" for name, count in scripts.most_common())
        yield f'<p class="soft">Chinese documents by script: {markup.text(listed)}.</p>'


def _lengths(figures: Mapping[str, Any]) -> Iterator[str]:
    yield '<h2 id="lengths">Lengths</h2>'
    yield (
        '<p class="soft">Documents by UTF-8 bytes, held-out ones among them; each column is twice as long as the one '
        "before. A Chinese character has 3 bytes.</p>"
    )
    drawn = []
    every = Counter({int(e): n for e, n in _sum(figures, "lengths").items()})
    low, high = min(every, default=0), max(every, default=0)
    labels = [_power(e) if (e - low) % 2 == 0 else "" for e in range(low, high + 1)]
    for name, own in figures.items():
        counts = Counter({int(e): n for e, n in _sum({name: own}, "lengths").items()})
        documents = sum(counts.values())
        size = own["train"]["bytes"] + own["heldout"]["bytes"]
        title = f"{documents:,} documents, {human(size / max(documents, 1), 'B')} in the mean"
        drawn.append(
            f"<figure><b>{markup.text(name)}</b> {columns([counts[e] for e in range(low, high + 1)], labels, name)}"
            f"<figcaption>{title}</figcaption></figure>"
        )
    yield f'<div class="grid">{"".join(drawn)}</div>'


def _drops(
    config: CorpusConfig, figures: Mapping[str, Any], dropped: Mapping[str, Sequence[Mapping[str, str]]]
) -> Iterator[str]:
    yield '<h2 id="dropped">What was dropped</h2>'
    counts: Counter[str] = Counter()
    for own in figures.values():
        counts.update(own["dropped"])
    if not counts:
        yield "<p>Nothing.</p>"
        return
    yield markup.bars([(reason, count, f"{count:,}") for reason, count in counts.most_common()])
    yield "<h3>By which key</h3>"
    yield (
        '<p class="soft">What to type is a first step, half of a minimum or twice a maximum: look at the examples '
        "first.</p>"
    )
    yield markup.table(
        reasons.HEADER,
        [[cell or " " for cell in row] for row in reasons.lines(figures, config, dropped)],
        reasons.HEADER[1:2],
    )
    yield "<h3>Examples</h3>"
    for reason, count in counts.most_common():
        by_source = ", ".join(
            f"{name} {own['dropped'][reason]:,}" for name, own in figures.items() if own["dropped"].get(reason)
        )
        turns = itertools.zip_longest(
            *([{"source": name, **row} for row in rows if row["reason"] == reason] for name, rows in dropped.items())
        )
        examples = itertools.islice((row for turn in turns for row in turn if row is not None), _EXAMPLES)
        quotes = (markup.quote(" · ".join(filter(None, (row["id"], row["where"]))), row["text"]) for row in examples)
        yield markup.unfold(reason, f"{count:,}", f'<p class="soft">{markup.text(by_source)}</p>{"".join(quotes)}')


def _not_read(statistics: Mapping[str, Any]) -> Iterator[str]:
    """What files were taken as what; those that are no data, and evaluation items that nothing was compared with."""
    if taken := statistics.get("files"):
        yield "<h2>Files that were read</h2>"
        yield markup.table(
            ["source", "as", "files", "size"],
            [
                [name, called, one["files"], human(float(one["bytes"]), "B")]
                for name, counts in taken.items()
                for called, one in counts.items()
            ],
            ["files", "size"],
        )
    if passed_over := statistics.get("passed over"):
        yield "<h2>Files that were passed over</h2>"
        yield markup.table(
            ["source", "as", "files", "such as"],
            [
                [name, reason, files["files"], ", ".join(files["first"])]
                for name, reasons in passed_over.items()
                for reason, files in reasons.items()
            ],
            ["files"],
        )
    if unread := statistics.get("unread evaluation items"):
        yield "<h2>Evaluation items that could not be read</h2><p>No document was compared with them.</p>"
        yield markup.table(
            ["set", "reason", "items"],
            [[name, reason, count] for name, counts in unread.items() for reason, count in counts.items()],
            ["items"],
        )


def _masked(figures: Mapping[str, Any]) -> Iterator[str]:
    masked = {name: own["masked"] for name, own in figures.items() if own.get("masked")}
    if masked:
        kinds = sorted({kind for counts in masked.values() for kind in counts})
        yield "<h2>Personal data that was masked</h2>"
        yield markup.table(
            ["source", *kinds],
            [[name, *(counts.get(kind, 0) for kind in kinds)] for name, counts in masked.items()],
            kinds,
        )


def _boilerplate(removed: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Lines that were removed as boilerplate</h2>"
    yield f"<p>{removed['removed']:,} lines of {removed['documents']:,} documents; the most frequent:</p>"
    yield markup.table(
        ["documents", "line"],
        [[one["documents"], excerpt(one["text"], 200)] for one in removed["examples"]],
        ["documents"],
    )


def _copies(
    config: CorpusConfig,
    dedup: Mapping[str, Any],
    clusters: Sequence[browse.Cluster],
    quality: Mapping[str, Any] | None,
) -> Iterator[str]:
    verified = (
        f"Candidates are compared exactly, and copies begin at a Jaccard similarity of {dedup['verified_at']}"
        if dedup["verified_at"]
        else "Candidates are not compared exactly"
    )
    yield '<h2 id="copies">Copies</h2>'
    yield (
        f"<p>Clusters of near-copies: {dedup['near_clusters']:,}; exact copies: {dedup['exact_copies']:,}; the "
        f"largest cluster has {dedup['largest_cluster']:,} documents. {markup.text(verified)}. {browse.RULE}.</p>"
    )
    yield dedup_report.figure(config.corpus.dedup.minhash, quality)
    if clusters:
        sizes = sorted(dedup["cluster_sizes"].items(), key=lambda item: int(item[0].split("-")[0]))
        yield f"<h3>Clusters by size</h3>{markup.bars([(f'{name} documents', n, f'{n:,}') for name, n in sizes])}"
        yield f"<h3>The largest</h3>{''.join(_cluster(cluster) for cluster in clusters[:_CLUSTERS])}"


def _cluster(cluster: browse.Cluster) -> str:
    stays, changed, equal = browse.parted(cluster)
    quotes = [markup.quote(f"{stays['role']} · {stays['id']}", stays["text"])]
    tags = {"=": "{}", "-": "<del>{}</del>", "+": "<ins>{}</ins>"}
    for row in changed[:_COPIES]:
        runs = browse.shortened(browse.differences(stays["text"], row["text"]))
        shown = "".join(tags[sign].format(html.escape(text)) for sign, text in runs)
        head = markup.text(f"{row['role']} · {row['id']} {browse.alike(row)}")
        quotes.append(f'<blockquote><span class="where">{head}</span>{shown}</blockquote>')
    if equal:
        quotes.append(f'<p class="soft">The same text: {markup.text(", ".join(row["id"] for row in equal))}</p>')
    return markup.unfold(f"{stays['size']:,} documents", browse.composition(cluster), "".join(quotes))


def _made(config: CorpusConfig, sources: Mapping[str, SourceConfig]) -> Iterator[str]:
    yield '<h2 id="made">How it was made</h2>'
    packages = dict.fromkeys(resolve(s.reader.archive_package) for s in sources.values() if s.reader.type == "package")
    if packages:
        yield markup.table(
            ["package", "version", "archive", "sha256"], [[p.name, p.version, p.archive, p.sha256] for p in packages]
        )
    settings = json.dumps(decisive(config), indent=1, ensure_ascii=False)
    yield (
        f"<details><summary>Every setting that decides the result</summary><pre>{html.escape(settings)}</pre></details>"
    )


def _power(exponent: int) -> str:
    """`512`, `2k`, `1M`: a power of two."""
    thousands = min(exponent // 10, 4)
    return f"{1 << (exponent - 10 * thousands)}{('', 'k', 'M', 'G', 'T')[thousands]}"


def _sum(figures: Mapping[str, Any], part: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for own in figures.values():
        for split in ("train", "heldout"):
            total.update(own[split][part])
    return total


def _read(draft: Draft, file: str) -> bytes | None:
    key = f"{draft.folder}/{file}"
    return draft.storage.read(key) if draft.storage.exists(key) else None
