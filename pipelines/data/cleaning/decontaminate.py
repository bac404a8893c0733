"""Documents that hold a piece of an evaluation set are dropped, with the overlapping text on record.

Enters: the evaluation sets that the config names, then batches of documents. Leaves: for each document None, or the
item it overlaps with and the text they share.

A document is contaminated when it shares 13 consecutive words with an item (Brown et al. 2020, appendix C; characters
of Chinese and Japanese; three times as many of Thai, Lao, Khmer and Burmese, whose letters are no words), words being
those of near-deduplication: case and punctuation are folded away. An item of 8 to 12 words is looked for as a whole,
and a shorter one not at all, as GPT-3's authors did: five words in a row are found in innocent text. An n-gram that
more than `max_items` items of one set share is its template ("which of the following is true"), and says nothing about
any of them.

The n-grams are hashed to 64 bits and looked up in a table; a bitmap of 16 bits per n-gram, which stays in the
processor's cache, answers for nearly every word that is in none.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.cleaning.config import DecontaminationConfig, EvaluationSet
from pipelines.data.cleaning.excerpts import passage
from pipelines.data.cleaning.normalise import normalise_all
from pipelines.data.sources.readers import Stretch, open_stretch, plan_pieces, read_piece
from pipelines.data.text.document import Dropped
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import pack
from pipelines.data.text.words import characters, mixed, words_of
from pipelines.display.progress import say
from pipelines.errors import DataError
from pipelines.store.draft import Draft

SETS = "corpus.decontaminate.sets"  # the config group of the sets
OVERLAP = 1_000  # characters of a shared text that are kept
HITS = 1_000  # of a source that are kept; all are counted
TABLE = pa.schema([(name, pa.string()) for name in ("set", "item", "source", "id", "text")])
_READ_BYTES = 1 << 24
_LETTERS_PER_WORD = 3
_WHOLE = 1 << 62  # bytes of a piece: files are not cut


@dataclass(frozen=True)
class Grams:
    """The n-grams of all sets; `owner` is the item each belongs to, the first one of several."""

    key: npt.NDArray[np.uint64]
    owner: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]  # in words, the longest first
    items: tuple[tuple[str, str], ...]  # (set, id)
    unread: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # by set, the records that cannot be read, by reason


@dataclass(frozen=True)
class Overlap:
    """What a document shares with an evaluation set."""

    set: str
    item: str
    text: str


@dataclass(frozen=True, slots=True)
class Contaminated(Dropped):
    """A document dropped for an overlap; `text` is what it shares with `item`."""

    item: str = ""


def contents(config: DecontaminationConfig) -> dict[str, str]:
    """The SHA-256 of every set's files, which is part of a corpus's identity; a package has its own in the config.

    Raises: DataError when there is nothing to read.
    """
    digests = {}
    for name, chosen in config.sets.items():
        if chosen.reader.type == "files":
            digest = hashlib.sha256()
            for piece in plan_pieces(name, chosen.source, _WHOLE, SETS):
                for stretch in piece.stretches:
                    digest.update(_digest(name, stretch))
            digests[name] = digest.hexdigest()
    return digests


def gather(config: DecontaminationConfig) -> Grams:
    """Read the sets and cut them into n-grams.

    Raises: DataError for a set that holds nothing to look for, naming the fields its items have.
    """
    names: list[tuple[str, str]] = []
    keys: list[npt.NDArray[np.uint64]] = []
    owners: list[npt.NDArray[np.int32]] = []
    lengths: set[int] = set()
    unread: dict[str, dict[str, int]] = {}
    for name, chosen in config.sets.items():
        lost: Counter[str] = Counter()
        items = list(_items(name, chosen, lost))
        if lost:
            unread[name] = dict(sorted(lost.items()))
            say(
                f"   evaluation set {name}: {lost.total():,} of {lost.total() + len(items):,} records cannot be read, "
                f"so nothing is compared with them: {_in_words(lost)}"
            )
        pairs: list[tuple[npt.NDArray[np.uint64], int]] = []
        different: dict[str, npt.NDArray[np.uint64]] = {}  # a passage of many questions is one text, not a template
        for _, texts in items:
            for text in texts:
                if text not in different:
                    different[text] = np.unique(_grams_of(text, config, lengths))
            pairs.append((np.unique(np.concatenate([different[text] for text in texts])), len(names) + len(pairs)))
        every, counts = np.unique(np.concatenate(list(different.values())), return_counts=True)
        template = every[counts > config.max_items]
        names += [(name, item) for item, _ in items]
        for grams, owner in pairs:
            own = grams[~np.isin(grams, template)]
            keys.append(own)
            owners.append(np.full(len(own), owner, np.int32))
        if not any(len(part) for part in keys[-len(pairs) :]):
            raise DataError(
                f"evaluation set {name} has no item of {config.min_words} words or more in {', '.join(chosen.fields)}: "
                f"name other corpus.decontaminate.sets.{name}.fields, or leave the set out"
            )
    key, first = np.unique(np.concatenate(keys), return_index=True)
    longest_first = np.array(sorted(lengths, reverse=True), np.int64)
    return Grams(key, np.concatenate(owners)[first], longest_first, tuple(names), unread)


def save(grams: Grams, path: Path) -> None:
    """Write them to a file."""
    with path.open("wb") as handle:
        np.savez(
            handle, key=grams.key, owner=grams.owner, lengths=grams.lengths, items=np.array(grams.items, dtype=np.str_)
        )


@functools.lru_cache(maxsize=2)
def load(path: Path) -> Lookup:
    """What `save` wrote, ready to look up; kept for the next piece of the same process."""
    with np.load(path) as saved:
        items = tuple((str(name), str(item)) for name, item in saved["items"].tolist())
        return Lookup(Grams(saved["key"], saved["owner"], saved["lengths"], items))


class Lookup:
    """Finds the n-grams of evaluation sets in documents."""

    def __init__(self, grams: Grams):
        self.grams = grams
        self._slots, self._bits = _tables(grams.key)

    def overlaps(self, texts: Sequence[str]) -> list[Overlap | None]:
        """The first overlap of each text, by the longest n-gram: as long as n-gram follows on n-gram."""
        batch = pack(texts)
        hits = np.full((len(texts), 3), -1, np.int64)
        grams = self.grams
        _scan(batch.data, batch.offsets, characters(), grams.lengths, grams.key, self._slots, self._bits, hits)
        overlaps: list[Overlap | None] = [None] * len(texts)
        for d in np.flatnonzero(hits[:, 0] >= 0):
            gram, start, stop = hits[d].tolist()
            first, last = int(batch.offsets[d]), int(batch.offsets[d + 1])
            shared = passage(batch.data[first:last].tobytes(), start - first, stop - first, OVERLAP)
            overlaps[d] = Overlap(*grams.items[int(grams.owner[gram])], shared)
        return overlaps


def publish_hits(draft: Draft, cleaned: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Write `contamination.parquet`, a row for each document that was dropped for an overlap.

    Returns: by set, how many documents were dropped and how many items they overlap with.
    """
    hits: list[dict[str, str]] = []
    shown: Counter[str] = Counter()
    for done in cleaned:  # the first of a source, however it was cut
        some = done["contaminated"][: HITS - shown[done["source"]]]
        shown[done["source"]] += len(some)
        hits += [{"source": done["source"], **hit} for hit in some]
    path = draft.scratch("contamination.parquet")
    pq.write_table(pa.Table.from_pylist(hits, schema=TABLE), path, compression="zstd")
    draft.publish("contamination", {"contamination.parquet": path})
    documents: Counter[str] = Counter()
    for done in cleaned:
        prefix = "contaminated."
        documents.update({r.removeprefix(prefix): n for r, n in done["dropped"].items() if r.startswith(prefix)})
    return {
        name: {"documents": count, "items": len({hit["item"] for hit in hits if hit["set"] == name})}
        for name, count in sorted(documents.items())
    }


def _items(name: str, chosen: EvaluationSet, unread: Counter[str]) -> Iterable[tuple[str, list[str]]]:
    """(id, texts of its fields) of every item; those that cannot be read are counted in `unread`, by reason."""
    source = chosen.source
    some, textless = False, chosen.fields[1:]
    for piece in plan_pieces(name, source, _WHOLE, SETS):
        for item in read_piece(piece, source):
            if isinstance(item, Dropped):
                unread[item.reason] += 1
            else:
                further = {key: item.metadata.get(key) for key in chosen.fields[1:]}
                some, textless = True, [key for key in textless if not isinstance(further[key], str)]
                texts = [item.text, *(text for text in further.values() if isinstance(text, str))]
                yield item.id.removeprefix(f"{name}/"), normalise_all(texts, "prose")  # as documents are
    if not some:
        reasons = f" ({_in_words(unread)})" if unread else ""
        raise DataError(
            f"evaluation set {name}: no record has text under {chosen.fields[0]!r}{reasons}: correct "
            f"corpus.decontaminate.sets.{name}.fields, or its reader"
        )
    if textless:
        raise DataError(
            f"evaluation set {name}: no record has text under {', '.join(map(repr, textless))} (a list or an object "
            f"is none), so nothing would be compared with it: correct corpus.decontaminate.sets.{name}.fields"
        )


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))


def _grams_of(text: str, config: DecontaminationConfig, lengths: set[int]) -> npt.NDArray[np.uint64]:
    batch = pack([text])
    room = len(batch.data) + 1
    words, places = np.empty(room, np.uint64), np.empty((room, 2), np.int64)
    count = words_of(batch.data, 0, int(batch.offsets[1]), characters(), words, places)
    # a word of Thai, Lao, Khmer or Burmese is written with some three of what is compared there
    scale = _LETTERS_PER_WORD if sum(map(_is_unspaced, text)) > sum(map(str.isalpha, text)) / 2 else 1
    length = min(count, config.ngram * scale)
    if length < min(config.min_words, config.ngram) * scale:
        return np.empty(0, np.uint64)
    lengths.add(length)
    grams: npt.NDArray[np.uint64] = _rolled(words, count, length)
    return grams


def _digest(name: str, stretch: Stretch) -> bytes:
    digest = hashlib.sha256()
    with open_stretch(name, stretch) as stream:
        for block in iter(lambda: stream.read(_READ_BYTES), b""):
            digest.update(block)
    return digest.digest()


def _is_unspaced(character: str) -> bool:
    """Whether it is a letter of an alphabet that is written without spaces."""
    return character.isalpha() and ("\u0e00" <= character < "\u10a0" or "\u1780" <= character < "\u1800")


def _tables(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """An open table of places in `keys` (-1 where empty), and the bitmap."""
    size = 1 << max(4, (2 * len(keys)).bit_length())
    slots = np.full(size, -1, np.int32)
    bits = np.zeros(max(1 << 13, 2 * size), np.uint8)
    _fill(keys, slots, bits)
    return slots, bits


_BASE = np.uint64(0x9E3779B97F4A7C15)


@compiled
def _rolled(words: Any, count: int, length: int) -> Any:
    """Hashes of the runs of `length` words, each from the one before it."""
    total = max(count - length + 1, 0)
    out = np.empty(total, np.uint64)
    power = np.uint64(1)
    for _ in range(length - 1):
        power *= _BASE
    value = np.uint64(0)
    for i in range(count if total else 0):
        if i >= length:
            value -= words[i - length] * power
        value = value * _BASE + words[i]
        if i >= length - 1:
            out[i - length + 1] = mixed(value ^ np.uint64(length))
    return out


@compiled
def _fill(keys: Any, slots: Any, bits: Any) -> None:
    mask, bit_mask = np.int64(len(slots) - 1), np.uint64(8 * len(bits) - 1)
    for k in range(len(keys)):
        at = np.int64(keys[k] & np.uint64(mask))
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = k
        bit = np.int64((keys[k] >> np.uint64(20)) & bit_mask)
        bits[bit >> 3] |= np.uint8(1 << (bit & 7))


@compiled
def _find(key: Any, keys: Any, slots: Any, bits: Any) -> Any:
    bit = np.int64((key >> np.uint64(20)) & np.uint64(8 * len(bits) - 1))
    if not (bits[bit >> 3] >> (bit & 7)) & 1:
        return -1
    mask = np.int64(len(slots) - 1)
    at = np.int64(key & np.uint64(mask))
    while slots[at] >= 0:
        if keys[slots[at]] == key:
            return slots[at]
        at = (at + 1) & mask
    return -1


@compiled
def _scan(data: Any, offsets: Any, table: Any, lengths: Any, keys: Any, slots: Any, bits: Any, out: Any) -> None:
    """Into `out`, per document: the first n-gram that is in a set, and the bytes of the run of n-grams it begins."""
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words, places = np.empty(longest + 1, np.uint64), np.empty((longest + 1, 2), np.int64)
    for d in range(len(offsets) - 1):
        count = words_of(data, offsets[d], offsets[d + 1], table, words, places)
        for length in lengths:
            grams = _rolled(words, count, length)
            for g in range(len(grams)):
                gram = _find(grams[g], keys, slots, bits)
                if gram < 0:
                    continue
                last = g
                while last + 1 < len(grams) and _find(grams[last + 1], keys, slots, bits) >= 0:
                    last += 1
                out[d, 0], out[d, 1], out[d, 2] = gram, places[g, 0], places[last + length - 1, 1]
                break
            if out[d, 0] >= 0:
                break
