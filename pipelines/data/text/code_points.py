"""UTF-8 read one character at a time by compiled code: the one decoder that every kernel uses.

Enters: bytes and a place in them. Leaves: the code point that begins there, and how many bytes it takes. Lone
surrogates, which `packed` lets through, are read as what they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.data.text.kernels import compiled

BEYOND_BMP = np.uint32(0x10000)  # from here on a character has four bytes
_ASCII, _LOW_3, _LOW_4, _LOW_5, _LOW_6 = (np.uint32(mask) for mask in (0x7F, 0x07, 0x0F, 0x1F, 0x3F))
_6, _12, _18 = np.uint32(6), np.uint32(12), np.uint32(18)


@compiled
def code_point_at(data: Any, place: int) -> Any:
    """(code point, bytes) of the character at `place`, uint32 and int.

    Args: data, as `pack` gives it: whole characters.
    """
    lead = np.uint32(data[place])
    if lead <= _ASCII:
        return lead, 1
    second = np.uint32(data[place + 1]) & _LOW_6
    if lead < 0xE0:
        return ((lead & _LOW_5) << _6) | second, 2
    third = np.uint32(data[place + 2]) & _LOW_6
    if lead < 0xF0:
        return ((lead & _LOW_4) << _12) | (second << _6) | third, 3
    fourth = np.uint32(data[place + 3]) & _LOW_6
    return ((lead & _LOW_3) << _18) | (second << _12) | (third << _6) | fourth, 4
