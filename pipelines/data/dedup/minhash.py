"""MinHash in one pass: UTF-8 bytes to words, shingles, signatures and band keys, without a Python object per word.

Enters: a batch of texts. Leaves: (documents, bands) band keys; two documents that share a key in any band are candidates.

Words are runs of letters and digits of a spaced script, with the marks on them; a character of a script written without spaces (Han,
kana, Thai with its vowel signs and tone marks, ...) is a word by itself. Case and punctuation are folded away, and what only the renderer
reads (joiners, soft hyphens, variation selectors) is passed over. Shingles are 5-grams of words; each of `bands × rows` permutations keeps
its smallest hash, and a band key is the hash of its rows. A pair of Jaccard similarity s meets with probability
1 - (1 - s^rows)^bands (Broder 1997; Leskovec, Rajaraman & Ullman, ch. 3); 14 × 8 are FineWeb's numbers.

The permutations are multiply-add-shift, (a·x + b) >> 32 over 64 bits (Dietzfelbinger 1996): the plain 32-bit multiply-add is
a little faster but its low bits are no permutation worth the name.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipelines.config import Count, Seed, config_class

_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SAMPLE_SEED = np.uint64(0x9E6D62D06F6A9A9B)
# flags in the character table: a word by itself; part of the one before it; passed over
_ALONE, _EXTENDS, _UNSEEN = 1 << 24, 1 << 25, 1 << 26
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
        (documents, bands) uint64 keys, and (documents,) bool: whether the document has any word; one without has no keys.
    """
    keys, has_words, _ = keys_and_samples(texts, config)
    return keys, has_words


def keys_and_samples(
    texts: Texts, config: MinHashConfig
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """`band_keys`, and in the same pass a hash by which near-copies can be sampled together.

    Returns: the two of `band_keys`, and (documents,) uint64: the shingle that is least under a permutation which the
        signatures do not use, hashed. It is uniform, and two texts agree in it with probability J. Without a word: all ones.
    """
    data, offsets = _pack(texts)
    signatures = np.empty((len(texts), config.bands * config.rows), np.uint32)
    words, samples = np.empty(len(texts), np.int64), np.empty(len(texts), np.uint64)
    factors, shifts = _permutations(config.bands * config.rows, config.seed)
    _signatures(data, offsets, characters(), config.ngram, factors, shifts, signatures, words, samples)
    return _bands(signatures, config.bands, config.rows), words > 0, samples


def signatures(texts: Texts, config: MinHashConfig) -> npt.NDArray[np.uint32]:
    """(documents, bands × rows) uint32: equal entries estimate the Jaccard similarity of the shingle sets."""
    data, offsets = _pack(texts)
    out = np.empty((len(texts), config.bands * config.rows), np.uint32)
    factors, shifts = _permutations(config.bands * config.rows, config.seed)
    words, samples = np.empty(len(texts), np.int64), np.empty(len(texts), np.uint64)
    _signatures(data, offsets, characters(), config.ngram, factors, shifts, out, words, samples)
    return out


def shingles(text: str, ngram: int = 5) -> npt.NDArray[np.uint64]:
    """The set of shingle hashes of one text, sorted: what exact Jaccard is computed on."""
    data, offsets = _pack([text])
    words = np.empty(int(offsets[1]) + 1, np.uint64)
    count = _words(data, 0, int(offsets[1]), characters(), words)
    return np.unique(_shingles(words, count, ngram)) if count else np.empty(0, np.uint64)


def shingle_sets(texts: Texts, ngram: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """The shingle sets of a batch, as the upper halves of their hashes.

    Half a hash halves what lies on disk between two passes; of n shingles a set has n²/2³³ collisions, 2·10⁻⁵ of one at 450.

    Returns: the sets one after another, each ascending, (all shingles,) uint32; and the size of each, (documents,) int64.
    """
    data, offsets = _pack(texts)
    found = np.empty(int(offsets[-1]) + len(texts), np.uint32)
    counts = np.empty(len(texts), np.int64)
    total = _shingle_sets(data, offsets, characters(), ngram, found, counts)
    return found[:total], counts


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
def characters() -> npt.NDArray[np.uint32]:
    """What a BMP character is to the word splitter: 0 a separator, else its folded code point with the flags above."""
    table = np.zeros(1 << 16, np.uint32)
    for code in range(1 << 16):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf" or 0xFE00 <= code <= 0xFE0F:
            table[code] = _UNSEEN
        elif category[0] in "LNM" or character == "_":
            folded = character.casefold()
            table[code] = ord(folded) if len(folded) == 1 else code
            if _stands_alone(code):
                table[code] |= _EXTENDS if category[0] == "M" else _ALONE
    return table


def _stands_alone(code: int) -> bool:
    """Scripts written without spaces: Thai to Myanmar, Khmer, kana, Han and its radicals; hangul puts spaces."""
    return 0x0E00 <= code < 0x10A0 or 0x1780 <= code < 0x1800 or 0x2E80 <= code < 0xA000 or 0xF900 <= code < 0xFB00


def _pack(texts: Texts) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(item) for item in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded) or b"\0", np.uint8), offsets


@functools.cache
def _permutations(count: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    generator = np.random.Generator(np.random.PCG64(seed))
    factors = generator.integers(0, 1 << 64, count, dtype=np.uint64) | np.uint64(1)
    return factors, generator.integers(0, 1 << 64, count, dtype=np.uint64)


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True)(function)


@_compiled
def _words(data: Any, start: int, stop: int, table: Any, out: Any) -> int:
    """Hashes of the words of data[start:stop] into `out`; returns how many."""
    count, i = 0, start
    word, inside, after_alone = _FNV_OFFSET, False, False
    while i < stop:
        byte = np.uint32(data[i])
        if byte < 0x80:
            code, length = byte, 1
        elif byte < 0xE0:
            code, length = byte & np.uint32(0x1F), 2
        elif byte < 0xF0:
            code, length = byte & np.uint32(0x0F), 3
        else:
            code, length = byte & np.uint32(0x07), 4
        for j in range(1, length):
            if i + j < stop:
                code = (code << np.uint32(6)) | np.uint32(data[i + j] & 0x3F)
        i += length
        if code < np.uint32(0x10000):
            entry = table[code]
        elif np.uint32(0xE0000) <= code < np.uint32(0xE1000):
            entry = np.uint32(_UNSEEN)
        else:  # rare Han and emoji, each a word by itself
            entry = (code & np.uint32(0xFFFFFF)) | np.uint32(_ALONE)
        if entry == 0 or entry >= np.uint32(_ALONE):
            if entry >= np.uint32(_UNSEEN):
                continue
            if inside:
                out[count] = word
                count += 1
                word, inside = _FNV_OFFSET, False
            if entry >= np.uint32(_EXTENDS) and after_alone:
                out[count - 1] = (out[count - 1] ^ np.uint64(entry)) * _FNV_PRIME
            elif entry != 0:
                out[count] = (_FNV_OFFSET ^ np.uint64(entry)) * _FNV_PRIME
                count += 1
            after_alone = entry != 0
        else:
            after_alone = False
            word = (word ^ np.uint64(entry)) * _FNV_PRIME
            inside = True
    if inside:
        out[count] = word
        count += 1
    return count


@_compiled
def _shingle(words: Any, first: int, length: int) -> Any:
    value = np.uint64(0x9E3779B97F4A7C15)
    for j in range(length):
        value = (value ^ words[first + j]) * _MIX
        value ^= value >> np.uint64(32)
    return value


@_compiled
def _mixed(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(32))


@_compiled
def _shingles(words: Any, count: int, ngram: int) -> Any:
    total = max(count - ngram + 1, 1)
    out = np.empty(total, np.uint64)
    for s in range(total):
        out[s] = _shingle(words, s, min(ngram, count))
    return out


@_compiled
def _shingle_sets(data: Any, offsets: Any, table: Any, ngram: int, found: Any, counts: Any) -> int:
    total = 0
    for d in range(len(offsets) - 1):
        words = np.empty(offsets[d + 1] - offsets[d] + 1, np.uint64)
        count = _words(data, offsets[d], offsets[d + 1], table, words)
        counts[d] = 0
        if count == 0:
            continue
        shingled = np.sort((_shingles(words, count, ngram) >> np.uint64(32)).astype(np.uint32))
        start = total
        for s in range(len(shingled)):
            if s == 0 or shingled[s] != shingled[s - 1]:
                found[total] = shingled[s]
                total += 1
        counts[d] = total - start
    return total


@_compiled
def _signatures(
    data: Any, offsets: Any, table: Any, ngram: int, factors: Any, shifts: Any, out: Any, counts: Any, samples: Any
) -> None:
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words = np.empty(longest + 1, np.uint64)
    permutations = len(factors)
    for d in range(len(offsets) - 1):
        count = _words(data, offsets[d], offsets[d + 1], table, words)
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


@_compiled
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
