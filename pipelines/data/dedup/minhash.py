"""MinHash in one pass: UTF-8 bytes to words, shingles, signatures and band keys, without a Python object per word.

Enters: a batch of texts. Leaves: (documents, bands) band keys; two documents that share a key in any band are
candidates.

Shingles are 5-grams of words (see `text.words`). Each of `bands × rows` permutations keeps its smallest hash, and a
band key is the hash of its rows. A pair of Jaccard similarity s meets with probability 1 - (1 - s^rows)^bands (Broder
1997; Leskovec, Rajaraman & Ullman, ch. 3); 14 × 8 are FineWeb's numbers.

The permutations are multiply-add-shift, (a·x + b) >> 32 over 64 bits (Dietzfelbinger 1996): the plain 32-bit
multiply-add is a little faster but its low bits are no permutation worth the name.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import Count, Seed, config_class
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import pack
from pipelines.data.text.words import characters, plain_words

_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SAMPLE_SEED = np.uint64(0x9E6D62D06F6A9A9B)
Texts = Sequence[str] | Sequence[bytes]


@config_class
class MinHashConfig:
    """What counts as a near-copy; every field changes the result."""

    ngram: Count = 5  # words (or CJK characters) per shingle
    bands: Count = 14
    rows: Count = 8  # permutations per band: signatures are bands × rows hashes
    seed: Seed = 1


def band_keys(texts: Texts, config: MinHashConfig) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Band keys of a batch.

    Args:
        texts: normalised texts, as strings or as UTF-8; their bytes are held once more in memory.

    Returns:
        (documents, bands) uint64 keys, and (documents,) bool: whether the document has any word; one without has no
        keys.
    """
    keys, has_words, _ = keys_and_samples(texts, config)
    return keys, has_words


def keys_and_samples(
    texts: Texts, config: MinHashConfig
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """`band_keys`, and in the same pass a hash by which near-copies can be sampled together.

    Returns: the two of `band_keys`, and (documents,) uint64: the shingle that is least under a permutation which the
        signatures do not use, hashed. It is uniform, and two texts agree in it with probability J. Without a word: all
        ones.
    """
    batch = pack(texts)
    signatures = np.empty((len(texts), config.bands * config.rows), np.uint32)
    words, samples = np.empty(len(texts), np.int64), np.empty(len(texts), np.uint64)
    factors, shifts = _permutations(config.bands * config.rows, config.seed)
    _signatures(batch.data, batch.offsets, characters(), config.ngram, factors, shifts, signatures, words, samples)
    return _bands(signatures, config.bands, config.rows), words > 0, samples


def signatures(texts: Texts, config: MinHashConfig) -> npt.NDArray[np.uint32]:
    """(documents, bands × rows) uint32: equal entries estimate the Jaccard similarity of the shingle sets."""
    batch = pack(texts)
    out = np.empty((len(texts), config.bands * config.rows), np.uint32)
    factors, shifts = _permutations(config.bands * config.rows, config.seed)
    words, samples = np.empty(len(texts), np.int64), np.empty(len(texts), np.uint64)
    _signatures(batch.data, batch.offsets, characters(), config.ngram, factors, shifts, out, words, samples)
    return out


def shingles(text: str, ngram: int = 5) -> npt.NDArray[np.uint64]:
    """The set of shingle hashes of one text, sorted: what exact Jaccard is computed on."""
    batch = pack([text])
    size = int(batch.offsets[1])
    words = np.empty(size + 1, np.uint64)
    count = plain_words(batch.data, 0, size, characters(), words)
    return np.unique(_shingles(words, count, ngram)) if count else np.empty(0, np.uint64)


def shingle_sets(texts: Texts, ngram: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """The shingle sets of a batch, as the upper halves of their hashes.

    Half a hash halves what lies on disk between two passes; of n shingles a set has n²/2³³ collisions, 2·10⁻⁵ of one at
    450.

    Returns: the sets one after another, each ascending, (all shingles,) uint32; and the size of each, (documents,)
        int64.
    """
    batch = pack(texts)
    sets = np.empty(int(batch.offsets[-1]) + len(texts), np.uint32)
    sizes = np.empty(len(texts), np.int64)
    total = _shingle_sets(batch.data, batch.offsets, characters(), ngram, sets, sizes)
    return sets[:total], sizes


def jaccard(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted sets; two empty sets have nothing in common."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)


def detection_curve(
    config: MinHashConfig, similarities: Sequence[float] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
) -> dict[str, float]:
    """The probability that a pair of given Jaccard similarity becomes a candidate."""
    return {f"{s:.2f}": round(1 - (1 - s**config.rows) ** config.bands, 4) for s in similarities}


@functools.cache
def _permutations(count: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    generator = np.random.Generator(np.random.PCG64(seed))
    factors = generator.integers(0, 1 << 64, count, dtype=np.uint64) | np.uint64(1)
    return factors, generator.integers(0, 1 << 64, count, dtype=np.uint64)


@compiled
def _shingle(words: Any, first: int, length: int) -> Any:
    value = np.uint64(0x9E3779B97F4A7C15)
    for j in range(length):
        value = (value ^ words[first + j]) * _MIX
        value ^= value >> np.uint64(32)
    return value


@compiled
def _mixed(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(32))


@compiled
def _shingles(words: Any, count: int, ngram: int) -> Any:
    total = max(count - ngram + 1, 1)
    out = np.empty(total, np.uint64)
    for s in range(total):
        out[s] = _shingle(words, s, min(ngram, count))
    return out


@compiled
def _shingle_sets(data: Any, offsets: Any, table: Any, ngram: int, sets: Any, sizes: Any) -> int:
    total = 0
    for d in range(len(offsets) - 1):
        words = np.empty(offsets[d + 1] - offsets[d] + 1, np.uint64)
        count = plain_words(data, offsets[d], offsets[d + 1], table, words)
        sizes[d] = 0
        if count == 0:
            continue
        shingled = np.sort((_shingles(words, count, ngram) >> np.uint64(32)).astype(np.uint32))
        start = total
        for s in range(len(shingled)):
            if s == 0 or shingled[s] != shingled[s - 1]:
                sets[total] = shingled[s]
                total += 1
        sizes[d] = total - start
    return total


@compiled
def _signatures(
    data: Any, offsets: Any, table: Any, ngram: int, factors: Any, shifts: Any, out: Any, counts: Any, samples: Any
) -> None:
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words = np.empty(longest + 1, np.uint64)
    permutations = len(factors)
    for d in range(len(offsets) - 1):
        count = plain_words(data, offsets[d], offsets[d + 1], table, words)
        counts[d] = count
        row = out[d]
        row[:] = np.uint32(0xFFFFFFFF)
        samples[d] = least = np.uint64(0xFFFFFFFFFFFFFFFF)
        if count == 0:
            continue
        for s in range(max(count - ngram + 1, 1)):
            shingle = _shingle(words, s, min(ngram, count))
            least = min(least, _mixed(shingle ^ _SAMPLE_SEED))
            value = shingle >> np.uint64(32)
            for p in range(permutations):
                hashed = np.uint32((factors[p] * value + shifts[p]) >> np.uint64(32))
                if hashed < row[p]:
                    row[p] = hashed
        samples[d] = _mixed(least)  # the least of many is small: hashed once more it is not


@compiled
def _bands(signatures: Any, bands: int, rows: int) -> Any:
    keys = np.empty((len(signatures), bands), np.uint64)
    for d in range(len(signatures)):
        for band in range(bands):
            value = (_FNV_OFFSET ^ np.uint64(band)) * _FNV_PRIME
            for r in range(rows):
                value = (value ^ np.uint64(signatures[d, band * rows + r])) * _MIX
                value ^= value >> np.uint64(29)
            keys[d, band] = value
    return keys
