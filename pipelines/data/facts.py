"""What deduplication needs to know about the clean documents of a piece, without their text.

Enters: the documents that passed. Leaves: arrays, one entry per document or per band key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.data.corpus import CorpusRecipe, SourceConfig
from pipelines.data.document import Document, render
from pipelines.data.exact import digest
from pipelines.data.holdout import position
from pipelines.data.minhash import band_keys


def facts_of(kept: list[Document], source: SourceConfig, recipe: CorpusRecipe) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `facts/<piece>.npz`, by name; see the docstring of `cleaning`."""
    texts = [document.text for document in kept]
    facts: dict[str, npt.NDArray[Any]] = {
        "digest": np.array([digest(text) for text in texts], np.uint64).reshape(-1, 2),
        "asked": np.array([digest(_asked(document)) for document in kept], np.uint64).reshape(-1, 2),
        "position": np.array([position(document.id) for document in kept], np.uint64),
        "bytes": np.array([len(text.encode()) for text in texts], np.int64),
    }
    dedup = recipe.dedup
    near = source.kind == "documents" and source.duplicates == "near" and texts
    keys, has_words = band_keys(texts, dedup.minhash) if near else (np.empty((0, 0), np.uint64), np.empty(0, bool))
    rows = np.repeat(np.flatnonzero(has_words), keys.shape[1] if near else 0)
    flat = keys[has_words].reshape(-1)
    partition = flat % np.uint64(dedup.partitions)
    order = np.argsort(partition, kind="stable")
    offsets = np.searchsorted(partition[order], np.arange(dedup.partitions + 1, dtype=np.uint64))
    return facts | {"keys": flat[order], "rows": rows[order].astype(np.int64), "offsets": offsets.astype(np.int64)}


def _asked(document: Document) -> str:
    """What a conversation or a preference pair asks; of a document, its text."""
    metadata = document.metadata
    return render(metadata.get("prompt") or metadata.get("messages", ())[:-1]) or document.text
