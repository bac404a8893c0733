"""Every document gets a number, without looking at one.

Enters: what each cleaned piece said about itself. Leaves: a *node* for every document: its place in the recipe's order
of sources, pieces and rows, counted after the sources' caps. It is the same number however the input was cut, so
whatever is decided by nodes is too. Only the piece on which a source's cap falls is opened.

Finished corpora that a new one is compared with (`known`) take the numbers after all others, a file of theirs like a
piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.dedup.facts import KEY
from pipelines.data.dedup.holdout import held_out_below
from pipelines.data.dedup.minhash import MinHashConfig
from pipelines.data.dedup.places import EVERY_HASH, Census, Party, Placed
from pipelines.data.sources.config import SourceConfig
from pipelines.errors import ConfigError
from pipelines.identity import decisive, with_defaults
from pipelines.store.artifact import Artifact
from pipelines.store.draft import Draft
from pipelines.store.storage import Storage


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
    for name, source in sources.items():
        pieces = [(key, done) for key, done in cleaned if done["source"] == name]
        party, own_places, is_capped = _number_source(work, name, source, pieces, len(parties), _nodes(places))
        parties.append(party)
        places += own_places
        if is_capped:
            capped.append(name)
    for corpus in known:
        for name, published in corpus.config["corpus"]["sources"].items():
            for split in ("train", "heldout"):
                places += _number_known(corpus, name, split, len(parties), _nodes(places))
                below = EVERY_HASH if split == "heldout" else 0
                parties.append(Party(name, published["kind"], published["duplicates"], below, known=True))
    return Census(tuple(parties), tuple(places), tuple(capped))


def _nodes(places: Sequence[Placed]) -> int:
    """How many documents were numbered so far."""
    return places[-1].first + places[-1].documents if places else 0


def _number_source(
    work: Draft,
    name: str,
    source: SourceConfig,
    pieces: Sequence[tuple[str, Mapping[str, Any]]],
    party: int,
    first: int,
) -> tuple[Party, list[Placed], bool]:
    """The party of a source, the places of its pieces from node `first` on, and whether its cap is reached."""
    places = []
    documents = size = 0
    full = False
    smallest: list[int] = []
    for key, done in pieces:
        count, taken, least = done["documents"], done["bytes"], done["smallest"]
        if full:  # whatever lies behind the cap, however small
            count = taken = 0
            least = []
        elif _over(source, documents + count, size + taken):
            facts = np.load(work.storage.fetch(f"{work.folder}/facts/{key}.npy"))
            full, count = True, _within_cap(facts["bytes"], documents, size, source)
            taken = int(facts["bytes"][:count].sum())
            least = facts["position"][:count].tolist() if least else []
        places.append(Placed(work.folder, key, party, first + documents, count, done["keys"]))
        smallest = sorted([*smallest, *least])[: source.heldout_minimum]
        documents, size = documents + count, size + taken
    is_capped = full or source.max_documents == documents or source.max_bytes == size
    below = held_out_below(smallest, documents, source.heldout, source.heldout_minimum)
    return Party(name, source.kind, source.duplicates, below), places, is_capped


def _number_known(corpus: Artifact, name: str, split: str, party: int, first: int) -> list[Placed]:
    """The places of the files of one split of a source of a finished corpus, from node `first` on."""
    places = []
    for file in corpus.statistics["sources"].get(name, {}).get(split, {}).get("files", []):
        documents = corpus.statistics["dedup"]["index"][file]
        stem = file.removesuffix(".parquet")
        entries = [
            corpus.manifest["files"][published]
            for published in (file, f"index/facts/{stem}.npy", f"index/keys/{stem}.bin")
        ]
        records = entries[2]["bytes"] // KEY.itemsize
        sums = tuple(entry["sha256"] for entry in entries)
        places.append(Placed(corpus.folder, stem, party, first, documents, records, sums))
        first += documents
    return places


@dataclass(frozen=True)
class KnownIndex:
    """One file of a finished corpus whose index is to be compared."""

    storage: Storage
    place: Placed


def compare_index(task: KnownIndex) -> dict[str, Any]:
    """Compare the index of one file of a finished corpus with its checksums. Returns: nothing to tell."""
    task.place.compare_index(task.storage)
    return {}


def refuse_other_keys(name: str, minhash: MinHashConfig, known: Sequence[Artifact]) -> None:
    """Raises: ConfigError for a finished corpus that a new one cannot be compared with."""
    ours = decisive(minhash)
    for corpus in known:
        if corpus.folder == f"corpus/{name}":
            raise ConfigError(f"known names {corpus.folder}, which is the corpus to be made: leave it out")
        if not corpus.folder.startswith("corpus/"):
            raise ConfigError(f"known names {corpus.folder}; expected finished corpora, corpus/NAME")
        if "index" not in corpus.statistics["dedup"]:
            raise ConfigError(
                f"{corpus.folder} was made by a version that left no keys to compare with: make it again with "
                "on_change=rebuild, or leave it out of known"
            )
        theirs = with_defaults(corpus.config["corpus"]["dedup"]["minhash"], minhash)
        if theirs != ours:
            different = [
                f"{key}={value} there, {ours[key]} here" for key, value in theirs.items() if value != ours[key]
            ]
            raise ConfigError(
                f"{corpus.folder} was made with another corpus.dedup.minhash ({', '.join(different)}), so its keys "
                "cannot be compared: use the same numbers, or leave it out of known"
            )


def _over(source: SourceConfig, documents: int, size: int) -> bool:
    """Whether so much is more than the source's cap."""
    return (source.max_documents is not None and documents > source.max_documents) or (
        source.max_bytes is not None and size > source.max_bytes
    )


def _within_cap(sizes: npt.NDArray[np.int64], documents: int, size: int, source: SourceConfig) -> int:
    """How many of a piece's documents still fit; one that crosses the byte cap is left out, unless it is the first."""
    count = len(sizes)
    if source.max_documents is not None:
        count = min(count, source.max_documents - documents)
    if source.max_bytes is not None:
        fitting = int(np.searchsorted(np.cumsum(sizes), source.max_bytes - size, side="right"))
        count = min(count, max(fitting, 1 if documents == 0 else 0))
    return count
