"""Packed documents, as real training has them: the same arm with each attention kernel, and the losses beside.

Enters: a built arm of whole rows. Leaves: `documents` in a section of results.json: by kernel the speed over documents
of 700 tokens on average, none of which sees another, and the loss of one batch, the same for all; the arm is left as it
was. What a batch takes depends on its documents, so every kernel gets the same ones, and meets them once before.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

import benchmarks.train as bench
from benchmarks.gpu import swaps
from benchmarks.gpu.record import CUDA, TINY, put, sync
from benchmarks.gpu.setting import Built
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.network.batch import Batch
from pipelines.train.objectives.next_token import NextToken

MEAN = 20 if TINY else 700  # tokens of a document
STEPS = 1 if TINY else 2


@contextlib.contextmanager
def packed(built: Built, kernel: str, masked: bool = True) -> Iterator[None]:
    """The arm with an attention kernel for a while. Args: masked, over documents instead of whole rows."""
    network, plain = swaps._network(built), built.options
    with swaps.kernel_chosen(built, kernel):
        if not masked:
            yield
            return
        built.options = argparse.Namespace(**{**vars(plain), "document_tokens": MEAN})
        try:
            with swaps._set(network, "config", dataclasses.replace(network.config, document_masking=True)):
                yield
        finally:
            built.options = plain


def speeds(built: Built, section: str) -> None:
    """Every kernel's. The first is the arm's own."""
    accumulation = 2 if TINY else max(2, swaps.TOKENS // built.options.sequence // built.options.micro_batch)
    found: dict[str, Any] = {}
    losses: dict[str, float] = {}
    kernels = swaps.kernels_to_compare(built)
    for kernel in kernels:  # before any trains on: all under the same weights
        with packed(built, kernel):
            losses[kernel] = loss(built)
    found["loss of one batch"] = losses
    put(section, "documents", found)
    for kernel in kernels:
        with packed(built, kernel):
            found[kernel] = speed(built, accumulation)
        put(section, "documents", found)


def loss(built: Built) -> float:
    """Of one micro-batch under the weights as they are."""
    assert built.arm is not None
    options = argparse.Namespace(**{**vars(built.options), "accumulation": 1})
    (batch,) = bench.batches(options, built.model, 300, built.arm)
    objective = NextToken()

    def total(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
        return objective.sums(model, hidden, batch)[0] / batch.loss_mask.sum()

    return round(float(built.arm.engine.forward(total, batch)), 6)


def speed(built: Built, accumulation: int) -> dict[str, object]:
    """Of steps whose documents the kernel has met once."""
    assert built.arm is not None
    arm, model = built.arm, built.model
    options = argparse.Namespace(**{**vars(built.options), "accumulation": accumulation})
    built.accumulate(accumulation)
    made = [bench.batches(options, model, 200 + number, arm) for number in range(STEPS)]
    for batches in made:
        arm.step(batches)
    sync()
    began = time.perf_counter()
    for batches in made:
        arm.step(batches)
    sync()
    taken = (time.perf_counter() - began) / STEPS
    tokens = accumulation * options.micro_batch * options.sequence
    every = [batch.positions for batches in made for batch in batches]
    count = sum(int((positions == 0).sum()) for positions in every)
    keys = sum(float((positions + 0.5).sum()) for positions in every) / (STEPS * tokens)
    flops = 6.0 * parameter_counts(model)["total"] + 12.0 * model.layers * model.d_model * keys
    peak = bench.peak_flops(options.precision) if CUDA else 1e12
    return {
        "ms_per_4096_tokens": round(taken / tokens * 4096e3, 2),
        "tokens_per_s": round(tokens / taken, 1),
        "mfu_causal": round(tokens / taken * flops / peak, 4),  # of pairs within documents
        "rows": options.micro_batch,
        "mean_document": round(STEPS * tokens / count, 1),
        "loss": round(arm.loss(), 4),
    }
