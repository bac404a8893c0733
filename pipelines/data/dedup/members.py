"""What is known about the documents of components, brought together by component.

Enters: a place, and the labels of its documents. Leaves, for each place that has a labelled document, files in the order of the
labels' hashes (see `shuffle`):

    members    a record for each labelled document
    evidence   with `verify`, of those whose source removes near-copies: their keys, and the shingles of their text

This is where text is read again: once, and only the documents that share a key with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipelines.data.dedup.census import Job, Party, Placed
from pipelines.data.dedup.components import LABEL, Nodes
from pipelines.data.dedup.facts import KEY
from pipelines.data.dedup.minhash import shingle_sets
from pipelines.data.dedup.shuffle import (
    BLOCKS,
    blocks_of_hashes,
    blocks_of_nodes,
    concatenated,
    mixed,
    read_all,
    read_shuffled,
    write_shuffled,
)

MEMBER = np.dtype(
    [
        ("label", "<i8"), ("node", "<i8"), ("digest", "<u8", 2), ("asked", "<u8", 2), ("position", "<u8"), ("bytes", "<i8"),
        ("party", "<u4"), ("quality", "u1"), ("held", "?"), ("keys", "<u4"), ("shingles", "<u4"),
    ]
)  # fmt: skip
_TEXTS = 20_000  # shingled at a time


@dataclass(frozen=True)
class MemberTask:
    """One place; `labels` are the files of all ranges of nodes, in order."""

    job: Job
    place: Placed
    labels: tuple[str, ...]


def gather_members(task: MemberTask) -> dict[str, Any]:
    """Publish the members of one place.

    Returns: statistics: members (how many), file, keys, shingles (file names, null where there is none), evidence_bytes.
    """
    return task.job.once(f"members/{task.place.first:012d}", lambda: _gather(task))


def _gather(task: MemberTask) -> tuple[dict[str, Path], dict[str, Any]]:
    job, place = task.job, task.place
    nodes, labels = labels_of(job, task.labels, place)
    if not len(nodes):
        return {}, {"members": 0, "file": None, "keys": None, "shingles": None, "evidence_bytes": 0}
    hashes = blocks_of_hashes(mixed(labels))
    order = np.argsort(hashes, kind="stable")
    nodes, labels, blocks = nodes[order], labels[order], hashes[order]
    rows, party = nodes - place.first, job.census().parties[place.party]
    facts = place.read_facts(job.work.storage)[rows]
    members = np.zeros(len(nodes), MEMBER)
    members["label"], members["node"], members["party"] = labels, nodes, place.party
    for column in ("digest", "asked", "position", "bytes", "quality"):
        members[column] = facts[column]
    members["held"] = party.held(facts["position"])
    stem = f"members/{place.first:012d}"
    files: dict[str, Path] = {}
    evidence_bytes = 0
    if job.dedup.verify and removes_near(party):
        keys, members["keys"] = _keys_of(job, place, rows)
        shingles, members["shingles"] = _shingles_of(job, place, rows)
        evidence_bytes = keys.nbytes + shingles.nbytes
        for name, values, counts in (("keys", keys, members["keys"]), ("shingles", shingles, members["shingles"])):
            files[job.file(f"{stem}.{name}")] = path = job.work.scratch(job.file(f"{stem}.{name}"))
            write_shuffled(path, values, np.repeat(blocks, counts))
    files[job.file(f"{stem}.bin")] = path = job.work.scratch(job.file(f"{stem}.bin"))
    write_shuffled(path, members, blocks)
    named = {name: next((file for file in files if file.endswith(name)), None) for name in ("keys", "shingles")}
    return files, {"members": len(members), "file": job.file(f"{stem}.bin"), **named, "evidence_bytes": evidence_bytes}


def removes_near(party: Party) -> bool:
    """Whether a source's documents are compared by their shingles."""
    return party.kind == "documents" and party.duplicates == "near"


def labels_of(job: Job, files: tuple[str, ...], place: Placed) -> tuple[Nodes, Nodes]:
    """The labelled nodes of a place, ascending, and their labels."""
    if not place.documents:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ends = np.array([place.first, place.first + place.documents - 1], np.int64)
    first, last = (int(block) for block in blocks_of_nodes(ends, job.census().nodes))
    parts = range(first * len(files) // BLOCKS, last * len(files) // BLOCKS + 1)
    found = concatenated(
        (read_shuffled(job.work.storage, f"{job.work.folder}/{files[part]}", LABEL, first, last + 1) for part in parts),
        LABEL,
    )
    found = found[(found["node"] >= ends[0]) & (found["node"] <= ends[1])]
    return found["node"], found["label"]


def _keys_of(job: Job, place: Placed, rows: Nodes) -> tuple[npt.NDArray[np.uint64], Nodes]:
    """The keys of some rows, row after row, and how many each has."""
    records = read_all(job.work.storage, place.keys, KEY)
    turn = np.full(place.documents, -1, np.int64)
    turn[rows] = np.arange(len(rows))
    records = records[records["row"] < place.documents]
    whose = turn[records["row"]]
    records, whose = records[whose >= 0], whose[whose >= 0]
    order = np.argsort(whose, kind="stable")
    return records["key"][order], np.bincount(whose, minlength=len(rows))


def _shingles_of(job: Job, place: Placed, rows: Nodes) -> tuple[npt.NDArray[np.uint32], Nodes]:
    """The shingle sets of some rows, one after another, and their sizes."""
    texts = read_texts(job, place, rows)
    sets, sizes = [], []
    for start in range(0, len(rows), _TEXTS):
        part = [texts[int(row)] for row in rows[start : start + _TEXTS]]
        found, counts = shingle_sets(part, job.dedup.minhash.ngram)
        sets.append(found)
        sizes.append(counts)
    return concatenated(sets, np.uint32), concatenated(sizes, np.int64)


def read_texts(job: Job, place: Placed, rows: Nodes) -> Mapping[int, str]:
    """Texts of some rows of a place of documents, by row; only the row groups that hold one are read."""
    file = pq.ParquetFile(place.text_path(job.work.storage))
    wanted = np.unique(rows)
    found: dict[int, str] = {}
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        here = wanted[(wanted >= start) & (wanted < stop)]
        if len(here):
            column = file.read_row_group(group, columns=["text"]).column("text").take(here - start)
            found.update(zip(here.tolist(), column.to_pylist(), strict=True))
        start = stop
    return found
