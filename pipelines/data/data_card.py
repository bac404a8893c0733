"""The data card: what a corpus is made of and under which terms, in Markdown, kept in the artifact.

Enters: the config and the statistics. Leaves: a page that says, for whoever trains on or passes on the corpus, where each text
came from, which licences are not clear, how much there is, and what was dropped for which reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.data.corpus import CorpusConfig, SourceConfig
from pipelines.data.fetch import resolve
from pipelines.data.readers import standard_library_name
from pipelines.progress import human


def data_card(config: CorpusConfig, statistics: Mapping[str, Any]) -> str:
    """The page for `corpus/<name>`."""
    sources, facts = config.chosen, statistics["sources"]
    unclear = [name for name, source in sources.items() if not source.permissive]
    left_out = [name for name in config.corpus.sources if name not in sources]
    lines = [f"# Corpus {config.name}", "", _sizes(facts), ""]
    if unclear:
        lines += [
            f"**Licence not clear, or not permissive: {', '.join(unclear)}.** Use these for experiments of your own; do not publish "
            "them or a model trained on them before you have settled their terms. `sources=permissive` leaves them out.",
            "",
        ]
    if left_out:
        lines += [f"Left out by `sources=permissive`: {', '.join(left_out)}.", ""]
    lines += [
        "## Sources",
        "",
        "| source | kind | language | licence | from | documents | text | held out |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for name, source in sources.items():
        train, held = facts[name]["train"], facts[name]["heldout"]
        cells = [
            name,
            source.kind,
            source.language,
            source.licence,
            origin(source),
            f"{train['documents']:,}",
            human(float(train["bytes"]), "B"),
            f"{held['documents']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- **{name}**: {source.note}" for name, source in sources.items() if source.note]
    lines += ["", *notes, "", "## Checksums", ""]
    packages = dict.fromkeys(resolve(s.reader.archive_package) for s in sources.values() if s.reader.type == "package")
    lines += [f"- {p.name} {p.version} ({p.archive}): sha256 `{p.sha256}`" for p in packages]
    lines += ["", "## What was dropped", "", "| source | reason | documents |", "|---|---|---:|"]
    lines += [
        f"| {name} | `{reason}` | {n:,} |" for name, held in facts.items() for reason, n in held["dropped"].items()
    ]
    dedup = statistics["dedup"]
    curve = ", ".join(f"{s}: {p:.3f}" for s, p in dedup["detection_curve"].items())
    verified = (
        f"candidates are compared exactly, copies from Jaccard {dedup['verified_at']}"
        if dedup["verified_at"]
        else "candidates are not compared exactly"
    )
    lines += [
        "", "## Near-copies", "",
        f"{dedup['near_pairs']:,} pairs in {dedup['near_clusters']:,} clusters, the largest of {dedup['largest_cluster']:,}; {verified}. "
        f"Probability that a pair becomes a candidate, by Jaccard similarity: {curve}.",
        "", "Of each cluster one document stays: a held-out one first, then the longest, then the smallest hash of its id.", "",
    ]  # fmt: skip
    return "\n".join(lines)


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


def _sizes(facts: Mapping[str, Any]) -> str:
    languages: Counter[str] = Counter()
    documents = 0
    for held in facts.values():
        for split in ("train", "heldout"):
            languages[held["language"]] += held[split]["bytes"]
            documents += held[split]["documents"]
    shares = ", ".join(f"{language} {human(float(size), 'B')}" for language, size in languages.most_common())
    return f"{documents:,} documents, conversations and preference pairs; text by declared language: {shares}."
