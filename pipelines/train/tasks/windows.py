"""Held-out documents in windows, for the tasks that count them: which ids of a window count.

Conventions. A document is read in consecutive windows of T tokens that overlap by one id: window k predicts ids kT+1 …
kT+T and sees nothing before kT, so every counted id is predicted exactly once. The first id of a text document has no
context and no begin marker: bits per byte charges it ln(vocabulary), what a code without a model pays; `loss` leaves it
out. Each row holds one document, so causal attention is document masking.

The bytes of a window are its ids' share of the document's `.bytes` entry: exact by the tokenizer's byte lengths;
without a tokenizer, in proportion to ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.token_shards import TokenShard

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Window:
    """At most T targets of one document."""

    document: int  # its number in the shard
    tokens: Ids  # [n + 1]
    counted: NDArray[np.bool_]  # [n], whether tokens[1:] count
    opens: bool  # tokens[0] is the document's first id, and counts

    def byte_count(self, shard: TokenShard, id_bytes: NDArray[np.int64] | None) -> float:
        """UTF-8 bytes that the counted ids spell, as their share of the document's; 0 when the shard does not know."""
        if shard.document_bytes is None:
            return 0.0
        own = np.concatenate([self.tokens[: int(self.opens)], self.tokens[1:][self.counted]])
        ids, counted = document_ids(shard, self.document)
        whole = ids[counted]
        part, total = (len(own), len(whole)) if id_bytes is None else (id_bytes[own].sum(), id_bytes[whole].sum())
        return float(shard.document_bytes[self.document]) * float(part) / max(1.0, float(total))


def windows(shard: TokenShard, length: int, seed: int) -> Iterator[Window]:
    """Every window of a shard in which something counts, in an order drawn by `seed`."""
    per_document = np.maximum(1, -(-(np.diff(shard.offsets) - 1) // length))
    ends = np.cumsum(per_document)
    for number in drawn_order(int(per_document.sum()), seed).tolist():
        document = int(np.searchsorted(ends, number, "right"))
        place = number - int(ends[document] - per_document[document])
        tokens, counted = document_ids(shard, document)
        span = slice(place * length, (place + 1) * length + 1)
        opens = place == 0 and bool(counted[:1].any())
        if opens or counted[span][1:].any():
            yield Window(document, tokens[span], counted[span][1:], opens)


def byte_lengths(tokenizer_json: str) -> NDArray[np.int64]:
    """UTF-8 bytes that each id of a byte-level BPE spells [V]; 0 for markers.

    Its vocabulary writes every byte as one character, so a token's length is its bytes.
    """
    content = json.loads(tokenizer_json)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    markers = [int(added["id"]) for added in content["added_tokens"]]
    sizes = np.zeros(max([*vocabulary.values(), *markers]) + 1, np.int64)
    for token, number in vocabulary.items():
        sizes[number] = len(token)
    sizes[markers] = 0
    return sizes


def drawn_order(count: int, seed: int) -> NDArray[np.int64]:
    """The numbers below `count` in an order that the seed draws."""
    return np.random.default_rng(seed).permutation(count)


def document_ids(shard: TokenShard, index: int) -> tuple[Ids, NDArray[np.bool_]]:
    """Ids of a document, and which of them count."""
    span = slice(int(shard.offsets[index]), int(shard.offsets[index + 1]))
    tokens = shard.tokens[span]
    return tokens, np.ones(len(tokens), np.bool_) if shard.mask is None else shard.mask[span].astype(np.bool_)
