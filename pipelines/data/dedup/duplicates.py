"""What was taken for a copy of what, for people: samples, and `duplicates/clusters.parquet`.

The file holds up to 1,000 clusters: the 50 largest and a sample that depends on the documents alone; of each, the
document that stayed first and then at most 19 of those that were dropped for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cluster.cluster import ShardMap
from pipelines.data.cleaning.excerpts import excerpt, name_shown
from pipelines.data.dedup.places import Job, Placed
from pipelines.data.dedup.resolve import CLUSTER, LARGEST, REASONS, SAMPLED
from pipelines.data.dedup.shuffle import mixed
from pipelines.data.text.document import text_of_row
from pipelines.data.text.row_groups import take_rows
from pipelines.store.draft import Draft

FILE = "duplicates/clusters.parquet"
CLUSTERS = pa.schema(
    [
        ("cluster", pa.int64()),  # 0 is the largest; clusters by size, then in the corpus's order
        ("size", pa.int64()),  # documents in it, the one that stayed among them
        (
            "role",
            pa.string(),
        ),  # "kept" or "known" (it stays), "exact", "near", "near_heldout", "known_exact", "known_near"
        ("id", pa.string()),
        ("source", pa.string()),
        ("similarity", pa.float32()),  # exact Jaccard to the one that stays; null where it was not computed
        ("text", pa.string()),  # the first 400 characters, without personal data
    ]
)


@dataclass(frozen=True)
class ExcerptTask:
    """Some rows of one place."""

    job: Job
    place: Placed
    rows: tuple[int, ...]


def read_excerpts(task: ExcerptTask) -> list[tuple[int, str, str]]:
    """(node, id, beginning of the text) of each row."""
    table = take_rows(task.place.text_path(task.job.work.storage), np.array(task.rows))
    return [
        (task.place.first + row, name_shown(record["id"]), excerpt(text_of_row(record)))
        for row, record in zip(task.rows, table.to_pylist(), strict=True)
    ]


def excerpts(job: Job, nodes: Iterable[int], map_shards: ShardMap) -> dict[int, tuple[str, str]]:
    """(id, beginning of the text) of some documents."""
    wanted = np.unique(np.fromiter(nodes, np.int64))
    tasks = [ExcerptTask(job, place, tuple(rows.tolist())) for place, rows in job.census().places_of(wanted)]
    read = map_shards(read_excerpts, tasks, "samples") if tasks else []
    return {node: (name, text) for place_excerpts in read for node, name, text in place_excerpts}


def choose_clusters(job: Job, files: Sequence[str]) -> npt.NDArray[Any]:
    """The clusters to show, from what every part proposes: the largest first.

    Returns: (rows,) of `resolve.CLUSTER`, the rows of a cluster together, the document that stays first.
    """
    chosen = np.empty(0, CLUSTER)
    for file in files:  # one at a time: what is kept stays bounded
        chosen = np.concatenate([chosen, np.load(job.work.storage.fetch(f"{job.work.folder}/{file}"))])
        leaders, first = np.unique(chosen["leader"], return_index=True)
        by_size = np.lexsort((leaders, -chosen["size"][first]))[:LARGEST]
        sample = np.setdiff1d(np.argsort(mixed(leaders), kind="stable")[:SAMPLED], by_size)
        sample = sample[np.argsort(mixed(leaders[sample]), kind="stable")][: SAMPLED - len(by_size)]
        chosen = chosen[np.isin(chosen["leader"], leaders[np.concatenate([by_size, sample])])]
    order = np.lexsort((chosen["node"] != chosen["leader"], chosen["leader"], -chosen["size"]))
    return chosen[order]


def publish_clusters(draft: Draft, job: Job, chosen: npt.NDArray[Any], excerpt_of: dict[int, tuple[str, str]]) -> None:
    """Write `duplicates/clusters.parquet`."""
    census = job.census()
    party = {}
    for place, rows in census.places_of(np.unique(chosen["node"])):
        party.update(dict.fromkeys((rows + place.first).tolist(), census.parties[place.party]))
    number = np.cumsum(np.diff(chosen["leader"], prepend=-1) != 0) - 1
    shown = []
    for cluster, (leader, size, node, similarity, fate) in zip(number.tolist(), chosen.tolist(), strict=True):
        alike = None if np.isnan(similarity) else similarity
        stays = "known" if party[node].known else "kept"
        role = stays if node == leader else REASONS[fate].removeprefix("dedup.")
        values = (cluster, size, role, excerpt_of[node][0], party[node].name, alike, excerpt_of[node][1])
        shown.append(dict(zip(CLUSTERS.names, values, strict=True)))
    path = draft.scratch(FILE)
    pq.write_table(pa.Table.from_pylist(shown, schema=CLUSTERS), path, compression="zstd")
    draft.publish("duplicates", {FILE: path})
