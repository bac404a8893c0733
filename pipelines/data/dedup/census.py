"""Every document gets a number, without looking at one.

Enters: what each cleaned piece said about itself. Leaves: a *node* for every document: its place in the recipe's order of
sources, pieces and rows, counted after the sources' caps. It is the same number however the input was cut, so whatever is
decided by nodes is too. Only the piece on which a source's cap falls is opened.

Finished corpora that a new one is compared with (`known`) take the numbers after all others, a file of theirs like a piece.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import plain
from pipelines.data.corpus import CorpusConfig, DedupConfig, SourceConfig
from pipelines.data.dedup.facts import KEY
from pipelines.data.dedup.holdout import held_out_below
from pipelines.errors import ConfigError, StorageError
from pipelines.identity import fingerprint
from pipelines.store.artifacts import Artifact, ArtifactStore, Draft
from pipelines.store.storage import Storage, remembered_sha256

_ALL = 1 << 64


@dataclass(frozen=True)
class Party:
    """A source, as far as deduplication is concerned; of a finished corpus each split is one."""

    name: str
    kind: str
    duplicates: str
    heldout_below: int  # hashes of ids below this are held out
    known: bool = False  # of a finished corpus: nothing is dropped from it

    def held(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which documents are held out, by the hash of their ids."""
        if self.heldout_below >= _ALL:
            return np.ones(len(positions), bool)
        held: npt.NDArray[np.bool_] = positions < np.uint64(self.heldout_below)
        return held


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

    def _index(self, what: str, suffix: str) -> str:
        index = "index/" if "/" in self.key else ""
        return f"{self.folder}/{index}{what}/{self.key}.{suffix}"

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
        return (
            ArtifactStore(storage.uri).get(self.folder).path(key.removeprefix(f"{self.folder}/"))
        )  # says what is wrong

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
        held = self.work.receipt(receipt)
        if held is None:
            files, statistics = make()
            held = self.work.publish(receipt, files, statistics)
        return dict(held["statistics"])

    def forget(self, folder: str) -> None:
        """Delete files that every reader has read: their receipts stay, so nothing asks for them again."""
        self.work.storage.delete(self.key(folder))

    def file(self, name: str) -> str:
        """A file of the deduplication, within the work folder."""
        return f"{self.name}/{name}"

    def key(self, name: str) -> str:
        """The same file's key in the storage."""
        return f"{self.work.folder}/{self.file(name)}"


def take_census(
    work: Draft,
    cleaned: Sequence[tuple[str, Mapping[str, Any]]],
    sources: Mapping[str, SourceConfig],
    known: Sequence[Artifact] = (),
) -> Census:
    """Number the documents of all pieces, up to the cap of each source, then those of the known corpora.

    Args:
        cleaned: the key and the statistics of every cleaned piece, in the recipe's order.
    """
    parties: list[Party] = []
    places: list[Placed] = []
    capped = []
    first = 0
    for name, source in sources.items():
        documents = size = 0
        full = False
        smallest: list[int] = []
        for key, done in cleaned:
            if done["source"] != name:
                continue
            count, taken, least = done["documents"], done["bytes"], done["smallest"]
            if full:  # whatever lies behind the cap, however small
                count = taken = 0
                least = []
            elif _over(source, documents + count, size + taken):
                facts = np.load(work.storage.fetch(f"{work.folder}/facts/{key}.npy"))
                full, count = True, _within_cap(facts["bytes"], documents, size, source)
                taken = int(facts["bytes"][:count].sum())
                least = facts["position"][:count].tolist() if least else []
            places.append(Placed(work.folder, key, len(parties), first, count, done["keys"]))
            smallest = sorted([*smallest, *least])[: source.heldout_minimum]
            first, documents, size = first + count, documents + count, size + taken
        if full or source.max_documents == documents or source.max_bytes == size:
            capped.append(name)
        below = held_out_below(smallest, documents, source.heldout, source.heldout_minimum)
        parties.append(Party(name, source.kind, source.duplicates, below))
    for corpus in known:
        for name, source in corpus.config["corpus"]["sources"].items():
            for split in ("train", "heldout"):
                files = corpus.statistics["sources"].get(name, {}).get(split, {}).get("files", [])
                for file in files:
                    count = corpus.statistics["dedup"]["index"][file]
                    stem = file.removesuffix(".parquet")
                    held = [
                        corpus.manifest["files"][f] for f in (file, f"index/facts/{stem}.npy", f"index/keys/{stem}.bin")
                    ]
                    records = held[2]["bytes"] // KEY.itemsize
                    sums = tuple(entry["sha256"] for entry in held)
                    places.append(Placed(corpus.folder, stem, len(parties), first, count, records, sums))
                    first += count
                party = Party(name, source["kind"], source["duplicates"], _ALL if split == "heldout" else 0, known=True)
                parties.append(party)
    return Census(tuple(parties), tuple(places), tuple(capped))


@dataclass(frozen=True)
class KnownIndex:
    """One file of a finished corpus whose index is to be compared."""

    storage: Storage
    place: Placed


def compare_index(task: KnownIndex) -> dict[str, Any]:
    """Compare the index of one file of a finished corpus with its checksums. Returns: nothing to tell."""
    task.place.compare_index(task.storage)
    return {}


def refuse_other_keys(config: CorpusConfig, known: Sequence[Artifact]) -> None:
    """Raises: ConfigError for a finished corpus that a new one cannot be compared with."""
    ours = plain(config.corpus.dedup.minhash)
    for corpus in known:
        if corpus.folder == f"corpus/{config.name}":
            raise ConfigError(f"known names {corpus.folder}, which is the corpus to be made: leave it out")
        if not corpus.folder.startswith("corpus/"):
            raise ConfigError(f"known names {corpus.folder}; expected finished corpora, corpus/NAME")
        if "index" not in corpus.statistics["dedup"]:
            raise ConfigError(
                f"{corpus.folder} was made by a version that left no keys to compare with: make it again with on_change=rebuild, "
                "or leave it out of known"
            )
        theirs = corpus.config["corpus"]["dedup"]["minhash"]
        if theirs != ours:
            different = [
                f"{key}={value} there, {ours[key]} here" for key, value in theirs.items() if value != ours[key]
            ]
            raise ConfigError(
                f"{corpus.folder} was made with another corpus.dedup.minhash ({', '.join(different)}), so its keys cannot be compared: "
                "use the same numbers, or leave it out of known"
            )


def open_job(work: Draft, census: Census, dedup: DedupConfig) -> Job:
    """Leave the census where every task finds it."""
    facts = {
        "parties": [asdict(party) for party in census.parties],
        "places": [asdict(place) for place in census.places],
        "capped": census.capped,
    }
    # another rule, memory or number of parts: those steps are made again, since what they read may be gone already
    job = Job(work, f"dedup-{fingerprint([facts, plain(dedup)])[:12]}", dedup)
    work.storage.write(job.key("census.json"), json.dumps(facts).encode())
    return job


_CENSUSES: dict[str, Census] = {}  # by place; its name is a fingerprint, so it never changes


def _read_census(storage: Storage, key: str) -> Census:
    place = f"{storage.uri}/{key}"
    if place not in _CENSUSES:
        facts = json.loads(storage.read(key))
        _CENSUSES.clear()
        _CENSUSES[place] = Census(
            tuple(Party(**party) for party in facts["parties"]),
            tuple(Placed(**{**found, "sums": tuple(found["sums"])}) for found in facts["places"]),
            tuple(facts["capped"]),
        )
    return _CENSUSES[place]


def _over(source: SourceConfig, documents: int, size: int) -> bool:
    """Whether so much is more than the source's cap."""
    return (source.max_documents is not None and documents > source.max_documents) or (
        source.max_bytes is not None and size > source.max_bytes
    )


def _within_cap(sizes: npt.NDArray[np.int64], documents: int, size: int, source: SourceConfig) -> int:
    """How many of a piece's documents still fit; the one that crosses the byte cap is left out, unless it is the first."""
    count = len(sizes)
    if source.max_documents is not None:
        count = min(count, source.max_documents - documents)
    if source.max_bytes is not None:
        fitting = int(np.searchsorted(np.cumsum(sizes), source.max_bytes - size, side="right"))
        count = min(count, max(fitting, 1 if documents == 0 else 0))
    return count
