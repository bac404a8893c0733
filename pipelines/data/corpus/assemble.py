"""A corpus, from its recipe to its manifest: the order of the passes, and the facts each leaves.

    fetch    packages, in parallel threads                         (driver)
    aids     n-grams of evaluation sets, the quality model         (driver; a task)
    plan     sources to pieces                                     (driver)
    clean    normalise, language, quality, digests, keys           a task per piece
    lines    boilerplate, where `dedup.lines` asks for it          tasks per piece and per range of lines
    dedup    caps, held-out, exact and near copies                 tasks over ranges of keys, documents, clusters
    write    Parquet files by split and source                     a task per file
    commit   samples of what was dropped, data card, manifest      (driver)

Enters: a checked config and the draft of `corpus/<name>`. Leaves: the committed artifact. What passes between the steps
lies in the draft's `work` folder, which is deleted after the commit; a rerun goes on from whatever is there.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cluster.cluster import ShardMap
from pipelines.data.cleaning.aids import model_report, prepare, unread_items
from pipelines.data.cleaning.classifier import publish_model
from pipelines.data.cleaning.decontaminate import publish_hits
from pipelines.data.cleaning.excerpts import SAMPLES
from pipelines.data.corpus import reasons
from pipelines.data.corpus.data_card import publish_card
from pipelines.data.corpus.pieces import CleanTask, clean_piece
from pipelines.data.corpus.profile import merged
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.corpus.writing import plan_files, write_file
from pipelines.data.dedup.boilerplate import remove_boilerplate
from pipelines.data.dedup.census import KnownIndex, compare_index, take_census
from pipelines.data.dedup.deduplicate import Settled, deduplicate
from pipelines.data.dedup.duplicates import choose_clusters, excerpts, publish_clusters
from pipelines.data.dedup.places import Census, open_job
from pipelines.data.dedup.report import publish_report
from pipelines.data.dedup.settle import SPLITS
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.fetch import fetch_all
from pipelines.data.sources.readers import Piece, as_found, plan_pieces
from pipelines.display.progress import tally
from pipelines.errors import DataError
from pipelines.identity import decisive
from pipelines.store.artifact import Artifact
from pipelines.store.draft import Draft

_DROPPED = pa.schema([(name, pa.string()) for name in ("id", "reason", "text", "where")])


def build(
    config: CorpusConfig,
    draft: Draft,
    map_shards: ShardMap,
    known: Sequence[Artifact] = (),
    pieces_of: Callable[[str, SourceConfig, int], Sequence[Piece]] = plan_pieces,
    passed_over: Mapping[str, Any] | None = None,
    taken: Mapping[str, Any] | None = None,
) -> Artifact:
    """Make and commit the corpus.

    Args:
        known: finished corpora: no document of the new one is a copy of theirs.
        pieces_of: the pieces of a source, from its name, itself and the bytes of a piece; a trial reads only some.
        passed_over: by source, the files that are no data, as `Listing.counts` gives them; the data card names them.
        taken: by source, how many files are read as what, as `Listing.by_format` gives them; for the data card too.

    Raises: DataError for a source that leaves no document, or that cannot be read or fetched.
    """
    recipe, sources = config.corpus, config.chosen
    work = dataclasses.replace(draft, folder=f"{draft.folder}/work")
    fetch_all(s.reader.archive_package for s in sources.values() if s.reader.type == "package")
    aids = prepare(recipe, sources, recipe.example_sources, work, map_shards)
    planned = {name: pieces_of(name, source, recipe.piece_bytes) for name, source in sources.items()}
    tasks = [
        CleanTask(work, piece, source, recipe, aids)
        for name, pieces in planned.items()
        for source in [as_found(sources[name], pieces)]
        for piece in pieces
    ]
    counts = tally({"records": "read", "documents": "kept"}, rate="raw_bytes", reasons="dropped")
    cleaned = map_shards(clean_piece, tasks, "clean", counts)
    keyed: list[tuple[str, Mapping[str, Any]]] = [(t.key, done) for t, done in zip(tasks, cleaned, strict=True)]
    _refuse_empty(config, work, keyed)
    census, lines = take_census(work, keyed, sources), None
    capped = census.capped
    if recipe.dedup.lines.max_documents is not None:
        job = open_job(work, census, recipe.dedup)
        keyed, lines = remove_boilerplate(job, keyed, sources, recipe, aids, map_shards)
        cleaned = [dict(done) for _, done in keyed]
        _refuse_empty(config, work, keyed)
    census = dataclasses.replace(take_census(work, keyed, sources, known), capped=capped)
    dropped = _dropped_by_source(sources, (done for _, done in keyed))
    if known:  # once, and not by every task that reads a range of them
        indexes = [KnownIndex(work.storage, place) for place in census.places if place.sums]
        map_shards(compare_index, indexes, "compare checksums of known corpora")
    settled = deduplicate(work, census, recipe.dedup, map_shards)
    for place, done in settled.pieces:
        dropped[census.parties[place.party].name].update(done["dropped"])

    files = plan_files(draft, settled.job, settled.pieces, sources, recipe.file_bytes)
    _forget_other_files(draft, {task.piece for task in files})
    written = map_shards(write_file, files, "write", tally({"documents": "documents"}, rate="bytes"))
    written = [done for done in written if done["file"]]
    statistics = {
        "sources": {
            name: {
                **_source_figures(name, source, written, dropped, census),
                "without_rules": _counted("without_rules", name, (done for _, done in keyed)),
                "unreadable": _counted("unreadable", name, (done for _, done in keyed)),
            }
            for name, source in sources.items()
        },
        "dedup": {
            **settled.statistics,
            "known": [corpus.folder for corpus in known],
            "boilerplate": lines,
            "index": {done["file"]: done["documents"] for done in written},
        },
    }
    if recipe.decontaminate.sets:
        statistics["contamination"] = publish_hits(draft, cleaned)
        statistics["unread evaluation items"] = unread_items(work)
    if recipe.quality.model is not None:
        statistics["quality_model"] = publish_model(draft, model_report(work), recipe.quality.model.threshold, cleaned)
    _publish_samples(draft, settled, keyed, map_shards)
    if taken:
        statistics["files"] = dict(taken)
    if passed_over:
        statistics["passed over"] = dict(passed_over)
    if config.quality_report:
        publish_report(draft, settled, map_shards)
    publish_card(draft, config, statistics)
    artifact = draft.commit(decisive(config), statistics, {name: s.licence for name, s in sources.items()})
    draft.storage.delete(work.folder)
    return artifact


def dropped_examples(corpus: Artifact, reason: str, limit: int = 10) -> tuple[list[dict[str, str]], Counter[str]]:
    """Up to `limit` documents that were dropped for `reason`, from the sources in turn; the count of every reason."""
    counts: Counter[str] = Counter()
    rows_by_source: list[list[dict[str, str]]] = []
    for name, figures in corpus.statistics["sources"].items():
        counts.update(figures["dropped"])
        if reason in figures["dropped"]:
            rows = pq.read_table(corpus.path(f"dropped/{name}.parquet")).to_pylist()
            rows_by_source.append([{"source": name, **row} for row in rows if row["reason"] == reason])
    turns = (row for turn in itertools.zip_longest(*rows_by_source) for row in turn if row is not None)
    return list(itertools.islice(turns, limit)), counts


def _dropped_by_source(sources: Iterable[str], cleaned: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    dropped: dict[str, Counter[str]] = {name: Counter() for name in sources}
    for done in cleaned:
        dropped[done["source"]].update(done["dropped"])
    return dropped


def _refuse_empty(config: CorpusConfig, work: Draft, keyed: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    dropped = _dropped_by_source(config.chosen, (done for _, done in keyed))
    kept: Counter[str] = Counter()
    for _, done in keyed:
        kept[done["source"]] += done["documents"]
    for name in config.chosen:
        if not kept[name]:
            why = ", ".join(f"{reason} {n}" for reason, n in dropped[name].most_common()) or "it holds no record at all"
            most = next((reason for reason, _ in dropped[name].most_common(1)), "read")
            keys = [key for key, done in keyed if done["source"] == name]
            samples = [
                row for key in keys for row in json.loads(work.storage.read(f"{work.folder}/samples/{key}.json"))
            ]
            governed = reasons.governs(
                most, name, config, reasons.seen_in(most, name, {"dropped": dropped[name]}, config, {name: samples})
            )
            told = f"; {governed.advice}" if dropped[name] else ""
            check = (
                f"check corpus.sources.{name}.reader (path, format, record, text_field){told}"
                if most.startswith(("read", "records"))
                else governed.first
            )
            raise DataError(
                f"source {name} leaves no document ({why}); expected at least one: {check}, or leave it out with "
                f"~corpus.sources.{name}"
            )


def _source_figures(
    name: str,
    source: SourceConfig,
    written: Iterable[Mapping[str, Any]],
    dropped: Mapping[str, Counter[str]],
    census: Census,
) -> dict[str, Any]:
    figures: dict[str, Any] = {"kind": source.kind, "language": source.language, "licence": source.licence}
    for split in SPLITS:
        mine = [done for done in written if done["source"] == name and done["split"] == split]
        figures[split] = {
            "documents": sum(done["documents"] for done in mine),
            "bytes": sum(done["bytes"] for done in mine),
            "files": [done["file"] for done in mine],
            **merged(mine),
        }
    figures["masked"] = dict(sum((Counter(figures[split]["masked"]) for split in SPLITS), Counter[str]()))
    return {**figures, "dropped": dict(sorted(dropped[name].items())), "capped": name in census.capped}


def _counted(key: str, name: str, cleaned: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """A count of all pieces of a source, copies among them.

    `without_rules`: by language, the documents that passed because it has no quality rules. `unreadable`: by what could
    not be read beside the text, those that were kept without it.
    """
    counts: Counter[str] = Counter()
    for done in cleaned:
        if done["source"] == name:
            counts.update(done.get(key, {}))
    return dict(sorted(counts.items()))


def _forget_other_files(draft: Draft, planned: set[str]) -> None:
    """Receipts of an interrupted run over other input (the user's files changed since) must not reach the manifest."""
    for key in draft.storage.keys(f"{draft.folder}/receipts"):
        if Path(key).stem not in planned:
            draft.storage.delete(key)


def _publish_samples(
    draft: Draft, settled: Settled, cleaned: Iterable[tuple[str, Mapping[str, Any]]], map_shards: ShardMap
) -> None:
    """`dropped/<source>.parquet`: up to ten documents for each reason; `duplicates/clusters.parquet`."""
    job, census = settled.job, settled.job.census()
    shown: dict[str, dict[str, list[list[int]]]] = {party.name: {} for party in census.parties if not party.known}
    for place, fates in settled.pieces:
        for reason, pairs in fates["samples"].items():
            chosen = shown[census.parties[place.party].name].setdefault(reason, [])
            chosen.extend(pairs[: SAMPLES - len(chosen)])
    clusters = choose_clusters(job, settled.clusters)
    nodes = {node for reasons in shown.values() for pairs in reasons.values() for pair in pairs for node in pair}
    texts = excerpts(job, nodes | set(clusters["node"].tolist()), map_shards)
    publish_clusters(draft, job, clusters, texts)
    for name, by_reason in shown.items():
        rows: list[dict[str, str]] = []
        seen: Counter[str] = Counter()
        for key, done in cleaned:
            if done["source"] != name or all(seen[reason] >= SAMPLES for reason in done["dropped"]):
                continue
            for sample in json.loads(job.work.storage.read(f"{job.work.folder}/samples/{key}.json")):
                seen[sample["reason"]] += 1
                if seen[sample["reason"]] <= SAMPLES:
                    rows.append({"id": "", **sample})
        for reason, pairs in sorted(by_reason.items()):
            for node, survivor in pairs:
                where = f"copy of {texts[survivor][0]}"
                rows.append({"id": texts[node][0], "reason": reason, "text": texts[node][1], "where": where})
        path = draft.scratch(f"dropped/{name}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=_DROPPED), path, compression="zstd")
        draft.publish(f"dropped-{name}", {f"dropped/{name}.parquet": path})
