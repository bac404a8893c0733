"""Which texts hold characters that libraries need not agree on, because Unicode gave them a meaning only lately.

How text is cut before byte pairs are merged depends on what is a letter, a number or a space. `tokenizers` 0.23 and
gigatoken 0.10 carry tables of different Unicode versions: over all 1,112,064 code points they cut 4,657 differently,
every one of them unassigned in Python 3.11's table (Unicode 14; docs/log.md). So a text with a code point that is
unassigned here goes to the slow library, whatever version of either is installed. Such characters are rare: most are
noise.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.data.text.code_points import code_point_at
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import pack


def unsettled(texts: Sequence[str]) -> list[int]:
    """The places of the texts that hold an unassigned code point; about 1 GB/s, and nothing for ASCII."""
    places = [place for place, text in enumerate(texts) if not text.isascii()]
    if not places:
        return []
    batch = pack([texts[place] for place in places])
    hits = _scan(batch.data, batch.offsets, _unassigned())
    return [place for place, hit in zip(places, hits, strict=True) if hit]


@functools.cache
def _unassigned() -> NDArray[np.bool_]:
    """Whether a code point is unassigned in Python's Unicode table, bool [0x110000]; 0.2 s once in a process."""
    return np.fromiter((unicodedata.category(chr(code)) == "Cn" for code in range(0x110000)), np.bool_, 0x110000)


@compiled
def _scan(data: NDArray[np.uint8], offsets: NDArray[np.int64], unassigned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the texts of a batch hold an unassigned code point."""
    hits = np.zeros(len(offsets) - 1, np.bool_)
    for text in range(len(hits)):
        at = offsets[text]
        while at < offsets[text + 1]:
            code, size = code_point_at(data, at)
            if unassigned[code]:
                hits[text] = True
                break
            at += size
    return hits
