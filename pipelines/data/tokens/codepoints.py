"""Which texts hold characters that libraries need not agree on, because Unicode gave them a meaning only lately.

How text is cut before byte pairs are merged depends on what is a letter, a number or a space. `tokenizers` 0.23 and gigatoken 0.10
carry tables of different Unicode versions: over all 1,112,064 code points they cut 4,657 differently, every one of them
unassigned in Python 3.11's table (Unicode 14; docs/log.md). So a text with a code point that is unassigned here goes to the
slow library, whatever version of either is installed. Such characters are rare: most are noise.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray


def unsettled(texts: Sequence[str]) -> list[int]:
    """The places of the texts that hold an unassigned code point; about 1 GB/s, and nothing for ASCII."""
    places = [place for place, text in enumerate(texts) if not text.isascii()]
    if not places:
        return []
    encoded = [texts[place].encode() for place in places]
    ends = np.cumsum([len(text) for text in encoded])
    found = _scan(np.frombuffer(b"".join(encoded), np.uint8), ends, _unassigned())
    return [place for place, hit in zip(places, found, strict=True) if hit]


@functools.cache
def _unassigned() -> NDArray[np.bool_]:
    """Whether a code point is unassigned in Python's Unicode table, bool [0x110000]; 0.2 s once in a process."""
    return np.fromiter((unicodedata.category(chr(code)) == "Cn" for code in range(0x110000)), np.bool_, 0x110000)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan(data: NDArray[np.uint8], ends: NDArray[np.int64], unassigned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the texts that end at `ends` in valid UTF-8 hold an unassigned code point."""
    found = np.zeros(len(ends), np.bool_)
    at = 0
    for text in range(len(ends)):
        while at < ends[text]:
            lead = data[at]
            if lead < 0x80:
                at += 1
                continue
            more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
            code = np.int64(lead) & (0x3F >> more)
            for i in range(1, more + 1):
                code = (code << 6) | (np.int64(data[at + i]) & 0x3F)
            if unassigned[code]:
                found[text] = True
                at = ends[text]
                break
            at += more + 1
    return found
