"""What becomes of the documents of each component.

Enters: the members of the components of one part of all labels, from every place. Leaves: a verdict on each document
that is dropped, with the document that stays in its stead.

    order     best first: of a finished corpus, held out, quality, length, smallest hash of the id, place in the corpus
    exact     of equal texts (full 128-bit digest, within a kind of source) the best stays
    near      of the rest, best first: a document joins the first *leader* whose exact Jaccard similarity reaches the
              threshold, and becomes a leader when there is none. So whatever is dropped was compared with the very
              document that stays. Only leaders that share a key with it are tried, at most 32 of a bucket, which bounds
              the work on boilerplate. With `verify: false` the component is the cluster, and its best stays.
    asked     no conversation or pair is trained on that asks what a held-out one asks, whatever its answers

All of it is decided within a component, so the result is the same for any number of parts. Shingles and keys are not
loaded: they are spooled to local disk and mapped, so memory holds some 200 bytes for each document and the largest
component's keys.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.dedup.facts import KINDS
from pipelines.data.dedup.leaders import join_leaders
from pipelines.data.dedup.members import MEMBER, removes_near
from pipelines.data.dedup.places import Census, Job
from pipelines.data.dedup.shuffle import blocks_of_nodes, concatenated, mixed, read_many, span, starts, write_shuffled

TRAIN, HELDOUT, EXACT, NEAR, NEAR_HELDOUT, ASKED, KNOWN_EXACT, KNOWN_NEAR = range(8)
REASONS = {
    EXACT: "dedup.exact",
    NEAR: "dedup.near",
    NEAR_HELDOUT: "dedup.near_heldout",
    ASKED: "dedup.heldout_question",
    KNOWN_EXACT: "dedup.known_exact",
    KNOWN_NEAR: "dedup.known_near",
}
VERDICT = np.dtype([("node", "<i8"), ("survivor", "<i8"), ("similarity", "<f4"), ("fate", "u1")])
CLUSTER = np.dtype([("leader", "<i8"), ("size", "<i8"), ("node", "<i8"), ("similarity", "<f4"), ("fate", "u1")])
LARGEST, SAMPLED, ROWS = 50, 1_000, 20  # clusters to show: the largest, all of them, rows of each
_MAX_LEADERS = 32  # of one bucket
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ResolveTask:
    """One part of the labels.

    What `gather_members` said of each place lies at `members_key`, since it grows with the places.
    """

    job: Job
    part: int
    parts: int


def members_key(job: Job) -> str:
    """Where the driver leaves the statistics of `gather_members`, a JSON list."""
    return job.key("members.json")


def resolve_part(task: ResolveTask) -> dict[str, Any]:
    """Decide one part.

    Returns: statistics: file (of verdicts), clusters (file), documents, components, repeated_ids by source, near_pairs,
        near_clusters, largest_cluster, exact_copies, cluster_sizes (how many clusters by size: "2", "3-4", "5-8", ...).
    """
    return task.job.once(f"verdicts-of-{task.parts:04d}/{task.part:04d}", lambda: _resolve(task))


def _resolve(task: ResolveTask) -> tuple[dict[str, Path], dict[str, Any]]:
    job, census = task.job, task.job.census()
    members = _read(task, "file", MEMBER)
    keys_end, shingles_end = (np.cumsum(members[column], dtype=np.int64) for column in ("keys", "shingles"))
    known = np.array([party.known for party in census.parties], bool)[members["party"]]
    order = np.lexsort(
        (
            members["node"],
            members["position"],
            -members["bytes"],
            ~members["quality"],
            ~members["held_out"],
            ~known,
            members["label"],
        )
    )
    members, known = members[order], known[order]
    repeated = _repeated_ids(members, known, census)
    with _spooled(task, "keys", np.uint64) as keys, _spooled(task, "shingles", np.uint32) as shingles:
        evidence = _Evidence(keys, keys_end[order], shingles, shingles_end[order])
        survivor, similarity, exact, near = _copies(members, known, census, evidence, job)
    fate = np.where(members["held_out"], HELDOUT, TRAIN)
    by_known, by_held_out = known[survivor], members["held_out"][survivor]
    fate[near] = np.select(
        [by_known[near], by_held_out[near] & ~members["held_out"][near]], [KNOWN_NEAR, NEAR_HELDOUT], NEAR
    )
    fate[exact] = np.where(by_known[exact], KNOWN_EXACT, EXACT)
    _held_texts(members, known, census, fate, survivor)
    _asked(members, known, census, fate, survivor, similarity)
    dropped = np.flatnonzero((fate > HELDOUT) & ~known)
    verdicts = np.empty(len(dropped), VERDICT)
    verdicts["node"], verdicts["survivor"] = members["node"][dropped], members["node"][survivor[dropped]]
    verdicts["fate"], verdicts["similarity"] = fate[dropped], similarity[dropped]
    clusters, sizes = _clusters(members, survivor, fate, similarity, dropped)
    files = {}
    stem = f"verdicts-of-{task.parts:04d}/{task.part:04d}"
    files[job.file(f"{stem}.bin")] = path = job.work.scratch(job.file(f"{stem}.bin"))
    write_shuffled(path, verdicts, blocks_of_nodes(verdicts["node"], census.nodes))
    files[job.file(f"{stem}.npy")] = path = job.work.scratch(job.file(f"{stem}.npy"))
    with path.open("wb") as handle:
        np.save(handle, clusters)
    joined = near | exact
    near_sizes = np.bincount(survivor[near], minlength=1)
    return files, {
        "file": job.file(f"{stem}.bin"),
        "clusters": job.file(f"{stem}.npy"),
        "documents": len(members),
        "components": len(starts(members["label"])),
        "repeated_ids": repeated,
        "near_pairs": int(near.sum()),
        "near_clusters": int((near_sizes > 0).sum()),
        "exact_copies": int(exact.sum()),
        "largest_cluster": int(np.bincount(survivor[joined], minlength=1).max() + 1) if joined.any() else 0,
        "cluster_sizes": sizes,
    }


@dataclass(frozen=True)
class _Evidence:
    """Keys and shingles of all members, one member after another; `..._end` says where those of a member end."""

    keys: npt.NDArray[np.uint64]
    keys_end: _Ints
    shingles: npt.NDArray[np.uint32]
    shingles_end: _Ints


def _copies(
    members: npt.NDArray[Any], known: npt.NDArray[np.bool_], census: Census, evidence: _Evidence, job: Job
) -> tuple[_Ints, npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Exact, then near copies among ordered members.

    Returns, for each member: index of the one that stays for it, its similarity to that one, whether it is dropped as
    an exact
        copy, whether as a near-copy.
    """
    count = len(members)
    everyone = np.arange(count)
    party = members["party"]
    kinds = np.array([KINDS.index(p.kind) for p in census.parties])[party]
    keeps = np.array([p.duplicates == "keep" for p in census.parties], bool)[party]
    compares = np.array([removes_near(p) for p in census.parties], bool)[party]
    alone = np.where(keeps & ~known, everyone, -1)  # who keeps copies is in no group but its own
    first = _first_of(members["label"], members["digest"][:, 0], members["digest"][:, 1], kinds, alone)
    exact = (first != everyone) & ~known
    # one text, one witness: the first of its group whose text was shingled speaks for the one that stays
    witness = np.full(count, count)
    np.minimum.at(witness, first[compares], everyone[compares])
    asked_near = np.flatnonzero((first == everyone) & (witness < count))
    fixed = known | ~compares
    fixed = fixed[asked_near]
    boundary = np.append(starts(members["label"][asked_near]), len(asked_near))
    joined = np.arange(len(asked_near))
    alike = np.ones(len(asked_near), np.float32)
    if job.dedup.verify:
        shown = witness[asked_near]
        join_leaders(
            boundary,
            fixed,
            evidence.keys,
            evidence.keys_end[shown] - members["keys"][shown],
            evidence.keys_end[shown],
            evidence.shingles,
            evidence.shingles_end[shown] - members["shingles"][shown],
            evidence.shingles_end[shown],
            job.dedup.threshold,
            _MAX_LEADERS,
            joined,
            alike,
        )
    elif len(asked_near):
        best = np.repeat(boundary[:-1], np.diff(boundary))
        joined = np.where(fixed, joined, best)
        alike[joined != np.arange(len(joined))] = np.nan
    survivor, similarity = everyone.copy(), np.ones(count, np.float32)
    survivor[asked_near], similarity[asked_near] = asked_near[joined], alike
    near = (survivor != everyone) & ~known
    similarity[exact] = similarity[first[exact]]
    survivor[exact] = survivor[first[exact]]  # the copy of a near-copy: what stays is what that one was compared with
    return survivor, similarity, exact, near & ~exact


def _first_of(*columns: npt.NDArray[Any]) -> _Ints:
    """For every row the first one that equals it in all columns."""
    count = len(columns[0])
    order = np.lexsort(columns)  # stable: equal rows stay in their order
    new = np.zeros(count, bool)
    new[:1] = True
    for column in columns:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    first = np.empty(count, np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(count), 0))]
    return first


def _repeated_ids(members: npt.NDArray[Any], known: npt.NDArray[np.bool_], census: Census) -> dict[str, int]:
    """By source, how many documents have the id of another of their source."""
    own = members[~known]
    first = _first_of(own["label"], own["party"], own["position"])
    again = own["party"][first != np.arange(len(own))]
    return dict(Counter(census.parties[int(party)].name for party in again))


def _held_texts(
    members: npt.NDArray[Any], known: npt.NDArray[np.bool_], census: Census, fate: _Ints, survivor: _Ints
) -> None:
    """Mark what would be trained on though its very text is held out, where a source keeps its copies, in place."""
    if not any(p.duplicates == "keep" and not p.known for p in census.parties):
        return
    kinds = np.array([KINDS.index(p.kind) for p in census.parties])[members["party"]]
    holds = np.where(known, members["held_out"], fate == HELDOUT)
    order = np.argsort(~holds, kind="stable")  # the first of a text says whether any holds it out
    first = order[_first_of(*(c[order] for c in (members["label"], *members["digest"].T, kinds)))]
    hit = ~known[order] & holds[first] & (fate[order] == TRAIN)
    fate[order[hit]], survivor[order[hit]] = NEAR_HELDOUT, first[hit]
    fate[(fate == NEAR) & (fate[survivor] == NEAR_HELDOUT)] = NEAR_HELDOUT
    survivor[:] = survivor[survivor]  # what went for one of these went for the held-out text


def _asked(
    members: npt.NDArray[Any],
    known: npt.NDArray[np.bool_],
    census: Census,
    fate: _Ints,
    survivor: _Ints,
    similarity: npt.NDArray[np.float32],
) -> None:
    """Mark what asks a held-out question, in place."""
    talks = np.array([party.kind != "documents" for party in census.parties], bool)[members["party"]]
    index = np.flatnonzero(talks)
    if not len(index):
        return
    # a question that a finished corpus trains on is of no use to hold out
    trains = (known & ~members["held_out"])[index]
    order = np.argsort(~trains, kind="stable")
    first = _first_of(*(c[index[order]] for c in (members["label"], *members["asked"].T)))
    hit = trains[order][first] & (fate[index[order]] == HELDOUT) & ~known[index[order]]
    theirs, mine = index[order][first[hit]], index[order][hit]
    fate[mine], survivor[mine], similarity[mine] = KNOWN_NEAR, theirs, np.nan
    holds = np.where(known, members["held_out"], fate == HELDOUT)[index]
    # those that hold a question out go first, so the first of a question says whether any does
    order = np.argsort(~holds, kind="stable")
    index = index[order]
    first = _first_of(members["label"][index], members["asked"][index, 0], members["asked"][index, 1])
    hit = holds[order][first] & (fate[index] == TRAIN) & ~known[index]
    fate[index[hit]], survivor[index[hit]], similarity[index[hit]] = ASKED, index[first[hit]], np.nan


def _clusters(
    members: npt.NDArray[Any], survivor: _Ints, fate: _Ints, similarity: npt.NDArray[np.float32], dropped: _Ints
) -> tuple[npt.NDArray[Any], dict[str, int]]:
    """Rows of the clusters that may be shown, and how many clusters there are of each size."""
    copies = dropped[fate[dropped] != ASKED]
    copies = copies[np.argsort(survivor[copies], kind="stable")]
    begins = starts(survivor[copies])
    sizes = np.diff(begins, append=len(copies)) + 1
    leaders = survivor[copies[begins]]
    bins = Counter(_size_name(int(size)) for size in sizes)
    nodes = members["node"][leaders]
    largest = np.lexsort((nodes, -sizes))[:LARGEST]
    sampled = np.argsort(mixed(nodes), kind="stable")[:SAMPLED]
    rows = []
    for i in np.union1d(largest, sampled).tolist():
        shown = np.concatenate([leaders[i : i + 1], copies[begins[i] : begins[i] + min(sizes[i], ROWS) - 1]])
        part = np.empty(len(shown), CLUSTER)
        part["leader"], part["size"], part["node"] = nodes[i], sizes[i], members["node"][shown]
        part["fate"], part["similarity"] = fate[shown], similarity[shown]
        rows.append(part)
    return concatenated(rows, CLUSTER), dict(bins)


def _size_name(size: int) -> str:
    """`2`, `3-4`, `5-8`, ...: sizes by powers of two."""
    if size == 2:
        return "2"
    upper = 1 << (size - 1).bit_length()
    return f"{upper // 2 + 1}-{upper}"


def _read(task: ResolveTask, column: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return concatenated(_parts(task, column, dtype), dtype)


def _parts(task: ResolveTask, column: str, dtype: npt.DTypeLike) -> Iterator[npt.NDArray[Any]]:
    storage, blocks = task.job.work.storage, span(task.part, task.parts)
    gathered = json.loads(storage.read(members_key(task.job)))
    files = [f"{task.job.work.folder}/{place[column]}" for place in gathered if place[column] is not None]
    return read_many(storage, files, dtype, *blocks)


@contextmanager
def _spooled(task: ResolveTask, column: str, dtype: Any) -> Iterator[npt.NDArray[Any]]:
    """The part of all files one after another, in a local file that is mapped and not loaded."""
    with tempfile.TemporaryFile() as handle:
        for part in _parts(task, column, dtype):
            handle.write(part.tobytes())
        handle.flush()
        spooled = np.asarray(np.memmap(handle, dtype, "r")) if handle.tell() else np.empty(0, dtype)
        spooled.flags.writeable = False  # one type, whether empty or not: compiled once
        yield spooled
