"""A corpus, from its recipe to its manifest: the order of the passes, and the facts each leaves.

    fetch    packages, in parallel threads                         (driver)
    plan     sources to pieces                                     (driver)
    clean    normalise, language, quality, digests, band keys      a task per piece
    pairs    candidates grouped, compared                          a task per partition of the band keys
    verdict  caps, held-out, exact and near copies                 (driver)
    write    Parquet files by split and source                     a task per file
    commit   samples of what was dropped, data card, manifest      (driver)

Enters: a checked config and the draft of `corpus/<name>`. Leaves: the committed artifact. What passes between the steps lies in
the draft's `work` folder, which is deleted after the commit; a rerun goes on from whatever is there.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import Artifact, Draft
from pipelines.cluster import ShardMap
from pipelines.data.cleaning import EXCERPT, SAMPLES, CleanTask, clean_piece
from pipelines.data.corpus import CorpusConfig, SourceConfig
from pipelines.data.data_card import data_card
from pipelines.data.fetch import fetch_all
from pipelines.data.minhash import detection_curve
from pipelines.data.near import PairTask, pair_partition, read_pairs
from pipelines.data.readers import plan_pieces
from pipelines.data.verdict import REASONS, Census, Verdict, decide, take_census
from pipelines.data.writing import SPLITS, plan_files, rows_by_piece, write_file
from pipelines.errors import DataError
from pipelines.progress import human

_DROPPED = pa.schema([(name, pa.string()) for name in ("id", "reason", "text", "where")])


def build(config: CorpusConfig, draft: Draft, map_shards: ShardMap) -> Artifact:
    """Make and commit the corpus.

    Raises: DataError for a source that leaves no document, or that cannot be read or fetched.
    """
    recipe, sources = config.corpus, config.chosen
    work = dataclasses.replace(draft, folder=f"{draft.folder}/work")
    fetch_all(s.reader.archive_package for s in sources.values() if s.reader.type == "package")
    tasks = [
        CleanTask(work, piece, source, recipe)
        for name, source in sources.items()
        for piece in plan_pieces(name, source, recipe.piece_bytes)
    ]
    cleaned = map_shards(clean_piece, tasks, "clean", _clean_progress())
    dropped = _dropped_by_source(sources, cleaned)
    _refuse_empty(sources, cleaned, dropped)

    keys = {name: [task.key for task in tasks if task.piece.source == name] for name in sources}
    census = take_census(work, keys, sources)
    partitions = range(recipe.dedup.partitions)
    pairs_tasks = [PairTask(work, p, census.near_pieces(sources), recipe.dedup) for p in partitions]
    paired = map_shards(pair_partition, pairs_tasks, "near-duplicates", lambda found: {"pairs": found["pairs"]})
    verdict = decide(census, read_pairs(work, [found["file"] for found in paired]), sources)
    for fate, reason in REASONS.items():
        for index, count in enumerate(np.bincount(census.source[verdict.fate == fate], minlength=len(sources))):
            if count:
                dropped[census.names[index]][reason] += int(count)

    files = plan_files(draft, work, census, verdict, sources, recipe.file_bytes)
    _forget_other_files(draft, {f"{task.split}-{task.source}-{task.number:05d}" for task in files})
    written = map_shards(
        write_file, files, "write", lambda done: {"file": done["file"], "documents": done["documents"]}
    )
    statistics = {
        "sources": {name: _source_facts(name, source, written, dropped, census) for name, source in sources.items()},
        "dedup": {
            "detection_curve": detection_curve(recipe.dedup.minhash),
            "verified_at": recipe.dedup.threshold if recipe.dedup.verify else None,
            "candidate_pairs": sum(found["candidates"] for found in paired),
            **verdict.statistics,
        },
    }
    _publish_samples(draft, work, keys, census, verdict)
    card = draft.scratch("data_card.md")
    card.write_text(data_card(config, statistics), encoding="utf-8")
    draft.publish("data_card", {"data_card.md": card})
    artifact = draft.commit(
        draft.claim["identity"]["config"], statistics, {name: s.licence for name, s in sources.items()}
    )
    draft.storage.delete(work.folder)
    return artifact


def dropped_examples(corpus: Artifact, reason: str, limit: int = 10) -> tuple[list[dict[str, str]], Counter[str]]:
    """Up to `limit` documents that were dropped for `reason`, taken from the sources in turn, and the count of every reason."""
    counts: Counter[str] = Counter()
    found: list[list[dict[str, str]]] = []
    for name, facts in corpus.statistics["sources"].items():
        counts.update(facts["dropped"])
        if reason in facts["dropped"]:
            rows = pq.read_table(corpus.path(f"dropped/{name}.parquet")).to_pylist()
            found.append([{"source": name, **row} for row in rows if row["reason"] == reason])
    turns = (row for turn in itertools.zip_longest(*found) for row in turn if row is not None)
    return list(itertools.islice(turns, limit)), counts


def _clean_progress() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    kept, lost = Counter[str](), Counter[str]()

    def describe(done: Mapping[str, Any]) -> dict[str, Any]:
        kept.update(documents=done["documents"], bytes=done["bytes"])
        lost.update(done["dropped"])
        shown = " ".join(f"{reason} {count:,}" for reason, count in lost.most_common(3)) or "none"
        return {"kept": f"{kept['documents']:,} ({human(float(kept['bytes']), 'B')})", "dropped": shown}

    return describe


def _dropped_by_source(sources: Iterable[str], cleaned: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    dropped: dict[str, Counter[str]] = {name: Counter() for name in sources}
    for done in cleaned:
        dropped[done["source"]].update(done["dropped"])
    return dropped


def _refuse_empty(
    sources: Iterable[str], cleaned: Iterable[Mapping[str, Any]], dropped: Mapping[str, Counter[str]]
) -> None:
    kept: Counter[str] = Counter()
    for done in cleaned:
        kept[done["source"]] += done["documents"]
    for name in sources:
        if not kept[name]:
            why = ", ".join(f"{reason} {n}" for reason, n in dropped[name].most_common()) or "it holds no record at all"
            most = next((reason for reason, _ in dropped[name].most_common(1)), "read")
            check = (
                f"check corpus.sources.{name}.reader (path, format, record, text_field)"
                if most.startswith("read")
                else f"check its content and language, and the thresholds of {most} in conf/corpus/rules"
            )
            raise DataError(
                f"source {name} leaves no document ({why}); expected at least one: {check}, or leave it out with ~corpus.sources.{name}"
            )


def _source_facts(
    name: str,
    source: SourceConfig,
    written: Iterable[Mapping[str, Any]],
    dropped: Mapping[str, Counter[str]],
    census: Census,
) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": source.kind, "language": source.language, "licence": source.licence}
    for split in SPLITS:
        mine = [done for done in written if done["source"] == name and done["split"] == split]
        facts[split] = {
            "documents": sum(done["documents"] for done in mine),
            "bytes": sum(done["bytes"] for done in mine),
            "files": [done["file"] for done in mine],
        }
    return {**facts, "dropped": dict(sorted(dropped[name].items())), "capped": name in census.capped}


def _forget_other_files(draft: Draft, planned: set[str]) -> None:
    """Receipts of an interrupted run over other input (the user's files changed since) must not reach the manifest."""
    for key in draft.storage.keys(f"{draft.folder}/receipts"):
        if Path(key).stem not in planned:
            draft.storage.delete(key)


def _publish_samples(
    draft: Draft, work: Draft, keys: Mapping[str, list[str]], census: Census, verdict: Verdict
) -> None:
    """`dropped/<source>.parquet`: up to ten documents for each reason."""
    for index, name in enumerate(census.names):
        rows: list[dict[str, str]] = []
        seen: Counter[str] = Counter()
        for key in keys[name]:
            for sample in json.loads(work.storage.read(f"{work.folder}/samples/{key}.json")):
                seen[sample["reason"]] += 1
                if seen[sample["reason"]] <= SAMPLES:
                    rows.append({"id": "", **sample})
        for fate, reason in REASONS.items():
            nodes = np.flatnonzero((census.source == index) & (verdict.fate == fate))[:SAMPLES]
            texts, originals = (
                _read_nodes(work, census, nodes),
                _read_nodes(work, census, np.unique(verdict.survivor[nodes])),
            )
            for node in nodes:
                document_id, text = texts[int(node)]
                original = originals[int(verdict.survivor[node])][0]
                rows.append({"id": document_id, "reason": reason, "text": text, "where": f"copy of {original}"})
        path = draft.scratch(f"dropped/{name}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=_DROPPED), path, compression="zstd")
        draft.publish(f"dropped-{name}", {f"dropped/{name}.parquet": path})


def _read_nodes(work: Draft, census: Census, nodes: Any) -> dict[int, tuple[str, str]]:
    """(id, excerpt) of some ascending nodes."""
    found = {}
    for pieces in census.pieces.values():
        first = {piece.key: piece.first for piece in pieces}
        for key, rows in rows_by_piece(pieces, nodes):
            table = pq.read_table(work.storage.fetch(f"{work.folder}/clean/{key}.parquet")).take(rows)
            for row, record in zip(rows, table.to_pylist(), strict=True):
                text = record.get("text") or "\n".join(
                    turn["content"] for turn in record.get("messages") or record["prompt"]
                )
                found[first[key] + int(row)] = (record["id"], text[:EXCERPT])
    return found
