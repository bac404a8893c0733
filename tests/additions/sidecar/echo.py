"""A number beside each token, which a test can work out of the token itself: its id times 7, modulo 251."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.sidecars.layouts import EncodedDocuments, PerToken


def _echo(documents: EncodedDocuments) -> NDArray[Any]:
    return documents.tokens.astype(np.int64) * 7 % 251


SIDECAR = PerToken(dtype=np.uint8, encode=_echo, kinds=frozenset({"documents"}), absent=253, padding=254)
