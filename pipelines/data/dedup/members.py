"""What is known about the documents of components, brought together by component.

Enters: a place, and the labels of its documents. Leaves, for each place that has a labelled document, files in the
order of the labels' hashes (see `shuffle`):

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

from pipelines.data.dedup.components import LABEL
from pipelines.data.dedup.minhash import shingle_sets
from pipelines.data.dedup.places import Job, Nodes, Party, Placed, keys_of_rows, records_of
from pipelines.data.dedup.shuffle import (
    BLOCKS,
    blocks_of_hashes,
    blocks_of_nodes,
    concatenated,
    mixed,
    write_shuffled,
)
from pipelines.data.text.row_groups import take_rows

MEMBER = np.dtype(
    [
        ("label", "<i8"),
        ("node", "<i8"),
        ("digest", "<u8", 2),
        ("asked", "<u8", 2),
        ("position", "<u8"),
        ("bytes", "<i8"),
        ("party", "<u4"),
        ("quality", "u1"),
        ("held_out", "?"),
        ("keys", "<u4"),
        ("shingles", "<u4"),
    ]
)
_TEXTS = 20_000  # shingled at a time


@dataclass(frozen=True)
class MemberTask:
    """One place; `labels` are the files of all ranges of nodes, in order."""

    job: Job
    place: Placed
    labels: tuple[str, ...]


def gather_members(task: MemberTask) -> dict[str, Any]:
    """Publish the members of one place.

    Returns: statistics: members (how many), file, keys, shingles (file names, null where there is none),
        evidence_bytes.
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
    members["held_out"] = party.holds_out(facts["position"])
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
    """The labelled nodes of a place, ascending, and their labels. Args: files, of all ranges of nodes, in order."""
    if not place.documents:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ends = np.array([place.first, place.first + place.documents - 1], np.int64)
    first, last = (int(block) * len(files) // BLOCKS for block in blocks_of_nodes(ends, job.census().nodes))
    labels = records_of(job, place, files[first : last + 1], LABEL)
    return labels["node"], labels["label"]


def _keys_of(job: Job, place: Placed, rows: Nodes) -> tuple[npt.NDArray[np.uint64], Nodes]:
    """The keys of some rows, row after row, and how many each has."""
    keys = keys_of_rows(job.work.storage, place, rows)
    order = np.argsort(keys["row"], kind="stable")
    return keys["key"][order], np.bincount(keys["row"], minlength=len(rows))


def _shingles_of(job: Job, place: Placed, rows: Nodes) -> tuple[npt.NDArray[np.uint32], Nodes]:
    """The shingle sets of some rows, one after another, and their sizes."""
    texts = read_texts(job, place, rows)
    sets, sizes = [], []
    for start in range(0, len(rows), _TEXTS):
        some_texts = [texts[int(row)] for row in rows[start : start + _TEXTS]]
        some_sets, some_sizes = shingle_sets(some_texts, job.dedup.minhash.ngram)
        sets.append(some_sets)
        sizes.append(some_sizes)
    return concatenated(sets, np.uint32), concatenated(sizes, np.int64)


def read_texts(job: Job, place: Placed, rows: Nodes) -> Mapping[int, str]:
    """Texts of some rows of a place of documents, by row."""
    wanted = np.unique(rows)
    texts = take_rows(place.text_path(job.work.storage), wanted, ["text"]).column("text").to_pylist()
    return dict(zip(wanted.tolist(), texts, strict=True))
