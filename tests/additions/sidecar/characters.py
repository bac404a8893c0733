"""A number for each document, written when its text becomes tokens: how many characters it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.sidecars.layouts import EncodedDocuments, PerDocument


def _characters(documents: EncodedDocuments) -> NDArray[Any]:
    return np.array([len(row["text"]) for row in documents.rows], np.int32)


SIDECAR = PerDocument(dtype=np.int32, encode=_characters, kinds=frozenset({"documents"}), absent=-1, padding=-2)
