"""The words of a text as hashes, with their places: what evaluation sets and the quality model are compared by.

Enters: UTF-8 bytes and the table `minhash.characters`. Leaves: a hash per word. Words are those of near-deduplication: runs of
letters and digits with the marks on them, case folded, punctuation left out, and every character by itself in a script written without
spaces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.data.batch import compiled

# in `characters`: a word by itself; part of the one before it; passed over
_ALONE, _EXTENDS, _UNSEEN = np.uint32(1 << 24), np.uint32(1 << 25), np.uint32(1 << 26)
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_29, _32 = np.uint64(29), np.uint64(32)


@compiled
def mixed(value: Any) -> Any:
    """A hash of a hash, whose low bits are as good as its high ones."""
    value = (value ^ (value >> _32)) * _MIX
    return value ^ (value >> _29)


@compiled
def words_of(data: Any, start: int, stop: int, table: Any, out: Any, places: Any) -> int:
    """Hashes of the words of data[start:stop], and where each begins and ends; returns how many."""
    count, i, first = 0, start, -1
    word, after_alone = _OFFSET, False
    while i <= stop:
        byte = np.uint32(data[i]) if i < stop else np.uint32(32)
        if byte < 0x80:
            code, size = byte, 1
        elif byte < 0xE0:
            code, size = ((byte & np.uint32(0x1F)) << np.uint32(6)) | np.uint32(data[i + 1] & 0x3F), 2
        elif byte < 0xF0:
            high = ((byte & np.uint32(0x0F)) << np.uint32(12)) | (np.uint32(data[i + 1] & 0x3F) << np.uint32(6))
            code, size = high | np.uint32(data[i + 2] & 0x3F), 3
        else:  # rare Han and emoji: told apart by all their bytes
            code = np.uint32(0x10000) + (byte << np.uint32(16)) + (np.uint32(data[i + 1]) << np.uint32(8))
            code, size = code ^ (np.uint32(data[i + 2]) << np.uint32(12)) ^ np.uint32(data[i + 3]), 4
        entry = table[code] if size < 4 else code | _ALONE
        if size == 4 and byte == 0xF3 and data[i + 1] == 0xA0:  # variation selectors and tags
            entry = _UNSEEN
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
                out[count], places[count, 0], places[count, 1] = (
                    mixed((_OFFSET ^ np.uint64(entry)) * _PRIME),
                    i,
                    i + size,
                )
                count += 1
            after_alone = entry != 0
        else:
            after_alone = False
            if first < 0:
                first = i
            word = (word ^ np.uint64(entry)) * _PRIME
        i += size
    return count
