"""Held-out documents to nats, for the tasks that count them: what counts in a window, and how it is summed.

Legend: B rows, T tokens, D model width, N counted targets, V vocabulary.

Conventions. A document is read in consecutive windows of T tokens that overlap by one id: window k predicts ids kT+1 …
kT+T and sees nothing before kT, so every counted id is predicted exactly once. The first id of a text document has no
context and no begin marker: bits per byte charges it ln(vocabulary), what a code without a model pays; `loss` leaves it
out. Each row holds one document, so causal attention is document masking.

The bytes of a window are its ids' share of the document's `.bytes` entry: exact by the tokenizer's byte lengths;
without a tokenizer, in proportion to ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.tokens.token_shards import TokenShard
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer

_BATCH_TOKENS = 4096  # padded tokens per forward
_LOGITS = 1 << 24  # logits held at once: 64 MiB of float32

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


def token_nats(
    model: Transformer, rows: Sequence[tuple[Ids, NDArray[np.bool_]]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Negative log-likelihood of each row's counted targets, summed, and how many they are: both [rows].

    Rows of like length share a forward. On a CPU each core takes whole batches, with torch on one thread: threads that
    share one operation wait for each other in every layer, 9 times slower as soon as another process wants a core
    (measured: 98 s against 11 s for the demo's evaluation).
    """
    nats = torch.zeros(len(rows), dtype=torch.float64)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]))
    batches = list(batches_by_length(order, rows))
    on_gpu = model.embed_tokens.weight.is_cuda
    before = torch.get_num_threads()
    torch.set_num_threads(before if on_gpu else 1)
    try:
        with ThreadPoolExecutor(1 if on_gpu else len(os.sched_getaffinity(0))) as pool:
            spent_by_batch = pool.map(lambda members: _batch_nats(model, [rows[row] for row in members]), batches)
            for members, spent in zip(batches, spent_by_batch, strict=True):
                nats[members] = spent
    finally:
        torch.set_num_threads(before)
    return nats.numpy(), np.array([int(counted.sum()) for _, counted in rows], np.int64)


@torch.no_grad()
def _batch_nats(model: Transformer, rows: Sequence[tuple[Ids, NDArray[np.bool_]]]) -> Tensor:
    """Nats of each row (B,), float64. Logits are made only where a target counts, a slice at a time: with 122,753 ids a
    full window's would take 2 GB."""
    place = model.embed_tokens.weight.device
    tokens, counted = padded(rows)
    tokens_BT, counted_BT = torch.from_numpy(tokens).to(place), torch.from_numpy(counted).to(place)
    positions_BT = torch.arange(counted.shape[1], device=place).expand(counted.shape)
    if not counted.any():
        return torch.zeros(len(rows), dtype=torch.float64)
    hidden_BTD = model(ModelInput(inputs=tokens_BT[:, :-1], positions=positions_BT))
    return counted_nats(model, hidden_BTD, tokens_BT[:, 1:], counted_BT).cpu()


def padded(rows: Sequence[tuple[Ids, NDArray[np.bool_]]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids (B, T + 1) and which targets count (B, T), as wide as the longest row; padding does not count."""
    width = max(len(ids) for ids, _ in rows)
    tokens = np.zeros((len(rows), width), np.int64)
    counted = np.zeros((len(rows), width - 1), np.bool_)
    for i, (ids, counts) in enumerate(rows):
        tokens[i, : len(ids)], counted[i, : len(counts)] = ids, counts
    return tokens, counted


@torch.no_grad()
def counted_nats(model: Transformer, hidden_BTD: Tensor, targets_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Nats of each row's counted targets (B,), float64, on the device of the hidden states."""
    nats_B = torch.zeros(len(hidden_BTD), dtype=torch.float64, device=hidden_BTD.device)
    hidden_ND, targets_N, owners_N = hidden_BTD[counted_BT], targets_BT[counted_BT], counted_BT.nonzero()[:, 0]
    step = max(1, _LOGITS // model.config.vocabulary)
    for at in range(0, len(targets_N), step):
        here = slice(at, at + step)
        spent_N = F.cross_entropy(model.logits(hidden_ND[here]).float(), targets_N[here], reduction="none")
        nats_B.index_add_(0, owners_N[here], spent_N.double())
    return nats_B


def drawn_order(count: int, seed: int) -> NDArray[np.int64]:
    """The numbers below `count` in an order that the seed draws."""
    return np.random.default_rng(seed).permutation(count)


def document_ids(shard: TokenShard, index: int) -> tuple[Ids, NDArray[np.bool_]]:
    """Ids of a document, and which of them count."""
    span = slice(int(shard.offsets[index]), int(shard.offsets[index + 1]))
    tokens = shard.tokens[span]
    return tokens, np.ones(len(tokens), np.bool_) if shard.mask is None else shard.mask[span].astype(np.bool_)


def batches_by_length(order: Sequence[int], rows: Sequence[tuple[Ids, NDArray[np.bool_]]]) -> Iterator[list[int]]:
    """Rows in order of length, as many as fit into `_BATCH_TOKENS` with padding."""
    members: list[int] = []
    for row in order:
        if members and (len(members) + 1) * len(rows[row][0]) > _BATCH_TOKENS:
            yield members
            members = []
        members.append(row)
    if members:
        yield members
