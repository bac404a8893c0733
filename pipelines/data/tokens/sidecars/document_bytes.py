"""UTF-8 bytes of the text that a document's counted tokens spell, for bits per byte. No part of a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.sidecars.layouts import EncodedDocuments, PerDocument


def _bytes(documents: EncodedDocuments) -> NDArray[np.int64]:
    return documents.loss_bytes


SIDECAR = PerDocument(dtype=np.int32, encode=_bytes, in_batch=False)
