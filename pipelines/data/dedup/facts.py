"""What deduplication needs to know about the clean documents of a piece, without their text.

Enters: the documents that passed. Leaves two files, whose records mean the same whatever the piece was cut from:

    facts   per document: digests of the text and of what is asked, hash of the id, size, quality
    keys    (key, row): two documents that share a key may have to do with each other. One space of 64-bit keys for
            everything that can make them meet, each kind under a salt of its own:
              bands of the MinHash signature, where the source removes near-copies
              the text (within its kind of source)
              the question, for conversations and preferences
              the id, so that a repeated one is found

A key only brings documents together; what they are to each other is decided on the full digests, or on the texts.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from pipelines.data.dedup.exact import digest
from pipelines.data.dedup.holdout import position
from pipelines.data.dedup.minhash import MinHashConfig, keys_and_samples
from pipelines.data.dedup.shuffle import blocks_of_hashes, mixed, write_shuffled
from pipelines.data.sources.config import SourceConfig
from pipelines.data.text.document import Document, render

FACT = np.dtype(
    [
        ("digest", "<u8", 2),  # of the text
        ("asked", "<u8", 2),  # of the question; 0 for documents
        ("position", "<u8"),  # hash of the id
        ("bytes", "<i8"),  # of the text in UTF-8
        ("sample", "<u8"),  # equal for near-copies with probability J (see `dedup_report`)
        ("quality", "u1"),  # the classifier's score, 0 to 255; 0 where none was computed
    ]
)
KEY = np.dtype([("key", "<u8"), ("row", "<u4")])
KINDS = ("documents", "conversations", "preferences")
_ASKED_SALT = len(KINDS)


def write_facts(
    kept: Sequence[Document], source: SourceConfig, minhash: MinHashConfig, facts_file: Path, keys_file: Path
) -> dict[str, Any]:
    """Write both files.

    Returns: statistics: keys (records), smallest (the hashes of the ids that are held out whatever the share,
        ascending).
    """
    texts = [document.text.encode() for document in kept]
    facts = np.zeros(len(kept), FACT)
    facts["digest"] = np.array([digest(text) for text in texts], np.uint64).reshape(-1, 2)
    if source.kind != "documents":
        facts["asked"] = np.array([digest(_asked(document)) for document in kept], np.uint64).reshape(-1, 2)
    facts["position"] = np.array([position(document.id) for document in kept], np.uint64)
    facts["bytes"] = [len(text) for text in texts]
    facts["quality"] = [round(255 * float(document.metadata.get("quality") or 0)) for document in kept]
    keys = _keys(kept, texts, facts, source, minhash)
    with facts_file.open("wb") as handle:
        np.save(handle, facts)
    write_shuffled(keys_file, keys, blocks_of_hashes(keys["key"]))
    smallest = heapq.nsmallest(source.heldout_minimum, facts["position"].tolist()) if source.heldout > 0 else []
    return {"keys": len(keys), "smallest": smallest}


def _keys(
    kept: Sequence[Document],
    texts: Sequence[bytes],
    facts: npt.NDArray[Any],
    source: SourceConfig,
    minhash: MinHashConfig,
) -> npt.NDArray[Any]:
    rows = np.arange(len(kept), dtype=np.uint32)
    ids = np.array([xxhash.xxh3_64_intdigest(document.id.encode()) for document in kept], np.uint64)
    parts = [(ids, rows)]
    parts.append((mixed(facts["digest"][:, 0], KINDS.index(source.kind)), rows))
    if source.kind != "documents":
        parts.append((mixed(facts["asked"][:, 0], _ASKED_SALT), rows))
    elif source.duplicates == "near":
        bands, worded, facts["sample"] = keys_and_samples(texts, minhash)
        parts.append((bands[worded].ravel(), np.repeat(rows[worded], minhash.bands)))
    keys = np.empty(sum(len(values) for values, _ in parts), KEY)
    keys["key"] = np.concatenate([values for values, _ in parts])
    keys["row"] = np.concatenate([rows for _, rows in parts])
    return keys


def _asked(document: Document) -> bytes:
    """What a conversation or a preference pair asks; of one that is not made of turns, its text."""
    metadata = document.metadata
    return (render(metadata.get("prompt") or metadata.get("messages", ())[:-1]) or document.text).encode()
