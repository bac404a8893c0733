"""Where the documents lie, by number, and how a task reads what belongs to some of them.

Enters: the numbers that `census` gave. Leaves: `Census`, which says in which file a number is; and the readers of the
records of one place, of some rows, and of one range of hashes, which every step of the deduplication uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import plain
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.dedup.facts import KEY
from pipelines.data.dedup.shuffle import blocks_of_nodes, concatenated, read_all, read_many
from pipelines.errors import StorageError
from pipelines.identity import fingerprint
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.storage import Storage, remembered_sha256

EVERY_HASH = 1 << 64  # as `heldout_below`: all documents are held out
Nodes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Party:
    """A source, as far as deduplication is concerned; of a finished corpus each split is one."""

    name: str
    kind: str
    duplicates: str
    heldout_below: int  # hashes of ids below this are held out
    known: bool = False  # of a finished corpus: nothing is dropped from it

    def holds_out(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which documents are held out, by the hash of their ids."""
        if self.heldout_below >= EVERY_HASH:
            return np.ones(len(positions), bool)
        is_held_out: npt.NDArray[np.bool_] = positions < np.uint64(self.heldout_below)
        return is_held_out


@dataclass(frozen=True)
class Placed:
    """Documents that lie in one file: a cleaned piece, or a file of a finished corpus."""

    folder: str  # of the work, or of the finished corpus
    key: str
    party: int
    first: int  # node of its first document
    documents: int  # under the cap
    records: int  # keys in its file
    sums: tuple[str, ...] = ()  # SHA-256 of text, facts and keys of a finished corpus, by its manifest

    @property
    def text(self) -> str:
        """The Parquet file with the documents."""
        return f"{self.folder}/{self.key}.parquet" if "/" in self.key else f"{self.folder}/clean/{self.key}.parquet"

    @property
    def facts(self) -> str:
        return self._index("facts", "npy")

    @property
    def keys(self) -> str:
        return self._index("keys", "bin")

    def _index(self, name: str, suffix: str) -> str:
        index = "index/" if "/" in self.key else ""
        return f"{self.folder}/{index}{name}/{self.key}.{suffix}"

    def text_path(self, storage: Storage) -> Path:
        """The Parquet file on this machine; that of a finished corpus is compared with its checksum."""
        return self._compared(storage, self.text, 0)

    def compare_index(self, storage: Storage) -> None:
        """Compare facts and keys of a finished corpus, of which tasks read ranges, with their checksums.

        Raises: ArtifactError when one is not what was published.
        """
        for number, file in enumerate((self.facts, self.keys), start=1):
            self._compared(storage, file, number)

    def _compared(self, storage: Storage, key: str, number: int) -> Path:
        try:
            path = storage.fetch(key)
            if not self.sums or remembered_sha256(path) == self.sums[number]:
                return path
        except StorageError:
            if not self.sums:
                raise
        # says what is wrong
        return ArtifactStore(storage.uri).get(self.folder).path(key.removeprefix(f"{self.folder}/"))

    def read_facts(self, storage: Storage) -> npt.NDArray[Any]:
        """The facts of the documents under the cap."""
        facts: npt.NDArray[Any] = np.load(storage.fetch(self.facts), mmap_mode="r")
        return facts[: self.documents]


@dataclass(frozen=True)
class Census:
    """All parties and the places of all documents, in the order of nodes."""

    parties: tuple[Party, ...]
    places: tuple[Placed, ...]
    capped: tuple[str, ...]  # sources that had more than their cap

    @property
    def nodes(self) -> int:
        """How many documents there are."""
        return self.places[-1].first + self.places[-1].documents if self.places else 0

    @property
    def own_nodes(self) -> int:
        """How many of them are of the new corpus."""
        own = self.own
        return own[-1].first + own[-1].documents if own else 0

    @property
    def own(self) -> tuple[Placed, ...]:
        """The places of the new corpus."""
        return tuple(place for place in self.places if not self.parties[place.party].known)

    def places_of(self, nodes: npt.NDArray[np.int64]) -> list[tuple[Placed, npt.NDArray[np.int64]]]:
        """The places that hold any of the nodes, each with the rows in it; `nodes` ascending."""
        firsts = np.array([place.first for place in self.places], np.int64)
        index = np.searchsorted(firsts, nodes, side="right") - 1
        return [(self.places[i], nodes[index == i] - self.places[i].first) for i in np.unique(index)]


@dataclass(frozen=True)
class Job:
    """What every task of the deduplication is told; the census itself lies in the work folder."""

    work: Draft
    name: str  # of this census: what another cut of the same input left is never mistaken for this one's
    dedup: DedupConfig

    def census(self) -> Census:
        """The census, read once per process."""
        return _read_census(self.work.storage, f"{self.work.folder}/{self.name}/census.json")

    def once(self, name: str, make: Callable[[], tuple[dict[str, Path], dict[str, Any]]]) -> dict[str, Any]:
        """What `make` says of the files it made and their statistics, or what an earlier run left under this name."""
        receipt = f"{self.name}-{name.replace('/', '-')}"
        published = self.work.receipt(receipt)
        if published is None:
            files, statistics = make()
            published = self.work.publish(receipt, files, statistics)
        return dict(published["statistics"])

    def forget(self, folder: str) -> None:
        """Delete files that every reader has read: their receipts stay, so nothing asks for them again."""
        self.work.storage.delete(self.key(folder))

    def file(self, name: str) -> str:
        """A file of the deduplication, within the work folder."""
        return f"{self.name}/{name}"

    def key(self, name: str) -> str:
        """The same file's key in the storage."""
        return f"{self.work.folder}/{self.file(name)}"


def open_job(work: Draft, census: Census, dedup: DedupConfig) -> Job:
    """Leave the census where every task finds it."""
    content = {
        "parties": [asdict(party) for party in census.parties],
        "places": [asdict(place) for place in census.places],
        "capped": census.capped,
    }
    # another rule, memory or number of parts: those steps are made again, since what they read may be gone already
    job = Job(work, f"dedup-{fingerprint([content, plain(dedup)])[:12]}", dedup)
    work.storage.write(job.key("census.json"), json.dumps(content).encode())
    return job


_CENSUSES: dict[str, Census] = {}  # by place; its name is a fingerprint, so it never changes


def _read_census(storage: Storage, key: str) -> Census:
    place = f"{storage.uri}/{key}"
    if place not in _CENSUSES:
        content = json.loads(storage.read(key))
        _CENSUSES.clear()
        _CENSUSES[place] = Census(
            tuple(Party(**party) for party in content["parties"]),
            tuple(Placed(**{**fields, "sums": tuple(fields["sums"])}) for fields in content["places"]),
            tuple(content["capped"]),
        )
    return _CENSUSES[place]


def records_of(job: Job, place: Placed, files: Sequence[str], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The records of a place's documents, file after file.

    Args:
        files: in the work folder, of records with a `node`, each in the order of `blocks_of_nodes`.
    """
    if not place.documents:
        return np.empty(0, dtype)
    ends = np.array([place.first, place.first + place.documents - 1], np.int64)
    first, last = (int(block) for block in blocks_of_nodes(ends, job.census().nodes))
    keys = [f"{job.work.folder}/{file}" for file in files]
    records = concatenated(read_many(job.work.storage, keys, dtype, first, last + 1), dtype)
    own: npt.NDArray[Any] = records[(records["node"] >= ends[0]) & (records["node"] <= ends[1])]
    return own


def keys_of_rows(storage: Storage, place: Placed, rows: Nodes) -> npt.NDArray[Any]:
    """The keys of some rows of a place, records of `KEY` whose `row` is the turn among `rows`."""
    turn = np.full(place.documents, -1, np.int64)
    turn[rows] = np.arange(len(rows))
    keys = read_all(storage, place.keys, KEY)
    keys = keys[keys["row"] < place.documents]
    turns = turn[keys["row"]]
    wanted = turns >= 0
    chosen = np.empty(int(wanted.sum()), KEY)
    chosen["key"], chosen["row"] = keys["key"][wanted], turns[wanted]
    return chosen


def range_of_hashes(
    storage: Storage, places: Sequence[Placed], files: Sequence[str], dtype: np.dtype[Any], blocks: tuple[int, int]
) -> tuple[npt.NDArray[np.uint64], Nodes]:
    """Hashes and nodes, (records,) each, of one range of the hashes of all places, of the documents under the cap.

    Args:
        files: one for each place, of records of a hash and a `row`, in the order of `blocks_of_hashes`. blocks: first
            and one past the last.
    """
    hash_name = next(name for name in dtype.names or () if name != "row")
    hashes: list[npt.NDArray[np.uint64]] = []
    nodes: list[Nodes] = []
    for place, records in zip(places, read_many(storage, files, dtype, *blocks), strict=True):
        records = records[records["row"] < place.documents]
        hashes.append(records[hash_name])
        nodes.append(records["row"] + np.int64(place.first))
    return concatenated(hashes, np.uint64), concatenated(nodes, np.int64)
