"""Duplicates of the whole corpus, found by tasks that each hold a bounded part of it.

    census      a number for every document                        (driver; from sums, no document is looked at)
    pairs       documents that share a key, linked                 a task per range of the keys
    components  links followed                                     tasks per range of the documents, in rounds
    members     facts, keys and shingles of linked documents       a task per piece; text is read again here alone
    resolve     who stays, in each component                       a task per part of the components
    settle      every document's fate, and sums                    a task per piece

Enters: the facts and keys of the cleaned pieces, and of finished corpora that they are compared with. Leaves: fates,
piece by piece. How many ranges and parts there are follows from `dedup.task_memory`, after the step before has counted
what there is (`sizing`); the result is the same for any number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.cluster.cluster import ShardMap
from pipelines.data.dedup import sizing
from pipelines.data.dedup.components import label_components
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.dedup.members import MemberTask, gather_members
from pipelines.data.dedup.minhash import detection_curve
from pipelines.data.dedup.pairs import PairTask, pair_range
from pipelines.data.dedup.places import Census, Job, Placed, open_job
from pipelines.data.dedup.resolve import ResolveTask, members_key, resolve_part
from pipelines.data.dedup.settle import SettleTask, settle_piece
from pipelines.data.dedup.shuffle import parts_for
from pipelines.display.progress import tally
from pipelines.errors import DataError
from pipelines.store.draft import Draft


@dataclass(frozen=True)
class Settled:
    """What deduplication found."""

    job: Job
    pieces: list[tuple[Placed, dict[str, Any]]]  # each piece with the statistics of `settle_piece`
    clusters: list[str]  # files of clusters to show
    statistics: dict[str, Any]


def deduplicate(work: Draft, census: Census, dedup: DedupConfig, map_shards: ShardMap) -> Settled:
    """Run all steps.

    Raises: DataError when documents of a source share an id; ConfigError when `task_memory` is too small.
    """
    job = open_job(work, census, dedup)
    key_ranges = parts_of(sum(place.records for place in census.places), sizing.PAIR_BYTES, dedup, "the keys")
    paired = map_shards(
        pair_range,
        [PairTask(job, part, key_ranges) for part in range(key_ranges)],
        "near-duplicates",
        tally({"links": "links"}),
    )
    links = sum(done["links"] for done in paired)
    node_ranges = parts_of(links, sizing.LINK_BYTES, dedup, "the links between documents")
    labels, rounds = label_components(job, [done["file"] for done in paired], node_ranges, map_shards)
    gathered = map_shards(
        gather_members,
        [MemberTask(job, place, tuple(labels)) for place in census.places if place.documents],
        "compare: gather",
        tally({"members": "documents"}),
    )
    work.storage.write(members_key(job), json.dumps([done for done in gathered if done["members"]]).encode())
    count = sum(done["members"] for done in gathered)
    parts = parts_of(count, sizing.MEMBER_BYTES, dedup, "the documents that share a key with another")
    resolved = map_shards(
        resolve_part,
        [ResolveTask(job, part, parts) for part in range(parts)],
        "compare: decide",
        tally({"documents": "documents", "exact_copies": "exact copies", "near_pairs": "near-copies"}),
    )
    _refuse_same_ids(resolved)
    verdicts = tuple(done["file"] for done in resolved)
    own = census.own
    settled = map_shards(
        settle_piece, [SettleTask(job, place, verdicts) for place in own], "settle", tally({}, reasons="dropped")
    )
    total: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for done in resolved:
        total.update({k: done[k] for k in ("components", "near_pairs", "near_clusters", "exact_copies")})
        sizes.update(done["cluster_sizes"])
    statistics = {
        "detection_curve": detection_curve(dedup.minhash),
        "verified_at": dedup.threshold if dedup.verify else None,
        "candidate_pairs": sum(done["shared"] for done in paired),
        "linked_documents": count,
        **{name: total[name] for name in ("components", "near_pairs", "near_clusters", "exact_copies")},
        "largest_cluster": max((done["largest_cluster"] for done in resolved), default=0),
        "cluster_sizes": dict(sorted(sizes.items(), key=lambda item: int(item[0].split("-")[0]))),
        "tasks": {"key_ranges": key_ranges, "node_ranges": node_ranges, "rounds": rounds, "parts": parts},
    }
    return Settled(job, list(zip(own, settled, strict=True)), [done["clusters"] for done in resolved], statistics)


def parts_of(records: int, bytes_each: int, dedup: DedupConfig, records_name: str) -> int:
    """How many parts fit into a task's memory; of much, at least a few, so that workers share the work."""
    spread = max(1, min(_SPREAD_PARTS, records // _SPREAD_RECORDS))
    return max(parts_for(records * bytes_each, dedup.task_memory, records_name), 1 << (spread - 1).bit_length())


_SPREAD_RECORDS, _SPREAD_PARTS = 500_000, 16


def _refuse_same_ids(resolved: Sequence[Mapping[str, Any]]) -> None:
    repeated: Counter[str] = Counter()
    for done in resolved:
        repeated.update(done["repeated_ids"])
    for name, count in repeated.items():
        raise DataError(
            f"source {name}: {count} documents have the id of another; expected a different id for each: "
            f"correct corpus.sources.{name}.reader.id_field, or leave it out to name documents by file and place"
        )
