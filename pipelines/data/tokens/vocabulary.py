"""How many ids a tokenizer gets where nobody says: by how much text there is to learn them from.

Enters: bytes of training text. Leaves: a power of two near their square root: 4,096 for 16 MB, 16,384 for 270 MB, as
the demo and the pocket model have them. An embedding grows with the ids, and each of them has to be learnt.
"""

from __future__ import annotations

import math

_FEWEST, _MOST = 9, 16  # powers of two


def ids_for(text_bytes: float) -> int:
    """How many ids so much text can teach."""
    power = round(math.log2(max(1.0, math.sqrt(text_bytes))))
    return int(2 ** min(max(power, _FEWEST), _MOST))
