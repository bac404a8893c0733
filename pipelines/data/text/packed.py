"""A batch of texts as one buffer of bytes, for the kernels that read it.

Enters: texts. Leaves: their UTF-8 and where each begins, which compiled code reads without a Python object per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Packed:
    """A batch of texts as one buffer: document d is data[offsets[d] : offsets[d + 1]], UTF-8."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def pack(texts: Sequence[str] | Sequence[bytes]) -> Packed:
    """The texts' UTF-8, one after another; a lone surrogate, which UTF-8 has no place for, is packed all the same."""
    encoded = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(item) for item in encoded], out=offsets[1:])
    return Packed(np.frombuffer(b"".join(encoded) or b"\0", np.uint8), offsets)
