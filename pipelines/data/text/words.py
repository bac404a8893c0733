"""The words of a text as hashes: what near-copies, evaluation sets and the quality model are compared by.

Enters: UTF-8 bytes and the table `characters`. Leaves: a hash per word.

Words are runs of letters and digits of a spaced script, with the marks on them; a character of a script written without
spaces (Han, kana, Thai with its vowel signs and tone marks, ...) is a word by itself. Case and punctuation are folded
away, and what only the renderer reads (joiners, soft hyphens, variation selectors) is passed over.

    plain_words    for shingles, which hash the words once more
    words_of       for n-grams and features: hashes whose low bits are as good as the high ones, and the places of the
                   words
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.text.code_points import BEYOND_BMP, code_point_at
from pipelines.data.text.kernels import compiled

# flags in `characters`: a word by itself; part of the one before it; passed over
_ALONE, _EXTENDS, _UNSEEN = np.uint32(1 << 24), np.uint32(1 << 25), np.uint32(1 << 26)
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_29, _32 = np.uint64(29), np.uint64(32)
_SPACE = np.uint32(32)
_LOW_24 = np.uint32(0xFFFFFF)


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


@compiled
def mixed(value: Any) -> Any:
    """A hash of a hash, whose low bits are as good as its high ones."""
    value = (value ^ (value >> _32)) * _MIX
    return value ^ (value >> _29)


@compiled
def _is_sign_to_the_renderer(code: Any) -> Any:
    """Of characters beyond the BMP: variation selectors and tags."""
    return np.uint32(0xE0000) <= code < np.uint32(0xE1000)


@compiled
def plain_words(data: Any, start: int, stop: int, table: Any, out: Any) -> int:
    """Hashes of the words of data[start:stop] into `out`; returns how many."""
    count, i = 0, start
    word, inside, after_alone = _OFFSET, False, False
    while i < stop:
        code, size = code_point_at(data, i)
        i += size
        if code < BEYOND_BMP:
            entry = table[code]
        elif _is_sign_to_the_renderer(code):
            entry = _UNSEEN
        else:  # rare Han and emoji, each a word by itself
            entry = (code & _LOW_24) | _ALONE
        if entry == 0 or entry >= _ALONE:
            if entry >= _UNSEEN:
                continue
            if inside:
                out[count] = word
                count += 1
                word, inside = _OFFSET, False
            if entry >= _EXTENDS and after_alone:
                out[count - 1] = (out[count - 1] ^ np.uint64(entry)) * _PRIME
            elif entry != 0:
                out[count] = (_OFFSET ^ np.uint64(entry)) * _PRIME
                count += 1
            after_alone = entry != 0
        else:
            after_alone = False
            word = (word ^ np.uint64(entry)) * _PRIME
            inside = True
    if inside:
        out[count] = word
        count += 1
    return count


@compiled
def _four_bytes(data: Any, i: int) -> Any:
    """The entry of a rare Han character or an emoji, by all its bytes."""
    code = BEYOND_BMP + (np.uint32(data[i]) << np.uint32(16)) + (np.uint32(data[i + 1]) << np.uint32(8))
    return code ^ (np.uint32(data[i + 2]) << np.uint32(12)) ^ np.uint32(data[i + 3]) | _ALONE


@compiled
def words_of(data: Any, start: int, stop: int, table: Any, out: Any, places: Any) -> int:
    """Hashes of the words of data[start:stop], and where each begins and ends; returns how many."""
    count, i, first = 0, start, -1
    word, after_alone = _OFFSET, False
    while i <= stop:
        code, size = code_point_at(data, i) if i < stop else (_SPACE, 1)
        if code < BEYOND_BMP:
            entry = table[code]
        else:
            entry = _UNSEEN if _is_sign_to_the_renderer(code) else _four_bytes(data, i)
        if entry >= _UNSEEN:
            i += size
            continue
        if entry == 0 or entry >= _ALONE:
            if first >= 0:
                out[count], places[count, 0], places[count, 1] = mixed(word), first, i
                count += 1
                word, first = _OFFSET, -1
            if entry >= _EXTENDS and after_alone:
                out[count - 1] = mixed((out[count - 1] ^ np.uint64(entry)) * _PRIME)
                places[count - 1, 1] = i + size
            elif entry != 0:
                out[count] = mixed((_OFFSET ^ np.uint64(entry)) * _PRIME)
                places[count, 0], places[count, 1] = i, i + size
                count += 1
            after_alone = entry != 0
        else:
            after_alone = False
            if first < 0:
                first = i
            word = (word ^ np.uint64(entry)) * _PRIME
        i += size
    return count
