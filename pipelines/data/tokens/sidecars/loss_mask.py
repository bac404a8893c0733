"""Which tokens count in the loss: those of answers, in conversations and preference pairs. Of documents all count.

The loader makes the batch's `loss_mask` of it: padding and the first id of a document never count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.sidecars.layouts import EncodedDocuments, PerToken


def _mask(documents: EncodedDocuments) -> NDArray[np.uint8]:
    assert documents.mask is not None
    return documents.mask


SIDECAR = PerToken(
    dtype=np.uint8,
    encode=_mask,
    kinds=frozenset({"conversations", "preferences"}),
    absent=1,
    beside="targets",
)
