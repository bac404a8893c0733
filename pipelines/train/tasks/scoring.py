"""Held-out rows to nats, for the tasks that count them; `windows.py` says what counts.

Legend: B rows, T tokens, D model width, N counted targets, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.tasks.windows import Ids

_BATCH_TOKENS = 4096  # padded tokens per forward
_LOGITS = 1 << 24  # logits held at once: 64 MiB of float32


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
