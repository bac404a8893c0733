"""How many tokens a second the product's stream brings to the device, in windows of 4,096 tokens.

    python -m benchmarks.gpu.loader

Enters: `data.tar.xz` (see `data.sh`), whose spec `long` reads 16 windows a step in micro-batches of four. Leaves:
section `loader` of results.json: the stream alone, as fast as it goes (reading thread, pinned copies, documents found
on the host), and beside matrix products that keep the device busy, where what counts is how long a step waits for its
batches. 2.4B parameters at half of an H100's peak take some 26,000 tokens a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

import torch

from benchmarks.gpu.record import DEVICE, TINY, part, put, sync
from benchmarks.gpu.worker import unpack
from pipelines.config import parse
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.network.model import Transformer
from pipelines.train.run.stream import Stream
from pipelines.train.spec import TrainSpec

CONSUMED = 26_000  # tokens a second: 2.4B at 4,096 tokens in 155 ms
SECTION = "loader"


def main() -> None:
    """Both."""
    specs = unpack(Path(os.environ.get("WORK", "/tmp/gpu_work"), "loader"))
    spec = parse(TrainSpec, json.loads((specs / "long.json").read_text(encoding="utf-8")))
    spec = dataclasses.replace(spec, steps=8 if TINY else 4000)
    model = Transformer(spec.model).to(DEVICE, torch.bfloat16)
    with part(SECTION, "alone", needs=8) as go:
        if go:
            put(SECTION, "alone", alone(spec, model))
    with part(SECTION, "beside products", needs=8) as go:
        if go:
            put(SECTION, "beside products", beside(spec, model))


def alone(spec: TrainSpec, model: Transformer, seconds: float = 4.0) -> dict[str, object]:
    """As fast as it goes."""
    with contextlib.closing(Stream(spec, ArtifactStore(spec.store)).steps(0, 0, 1, model.locate)) as stream:
        next(stream)  # the shards are opened
        began, steps = time.perf_counter(), 0
        for _ in stream:
            steps += 1
            if time.perf_counter() - began > seconds:
                break
        sync()
        rate = steps * step_tokens(spec) / (time.perf_counter() - began)
    return {"tokens_per_s": round(rate), "times_what_2.4b_takes": round(rate / CONSUMED, 1), "steps": steps}


def beside(spec: TrainSpec, model: Transformer, steps: int = 40) -> dict[str, object]:
    """How long steps of some 25 ms of products wait, and how much longer the products take with copies beside them."""
    side, products = (256, 2) if TINY else (8192, 16)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

    def step() -> float:
        began = time.perf_counter()
        for _ in range(products):
            a @ b
        sync()
        return time.perf_counter() - began

    plain = [step() for _ in range(4 if TINY else 20)]
    data = Stream(spec, ArtifactStore(spec.store))
    waits, behind = [], []
    with contextlib.closing(data.steps(0, 0, 1, model.locate)) as stream:
        next(stream)
        for _, _batches in zip(range(4 if TINY else steps), stream, strict=False):
            waits.append(data.wait_seconds)
            behind.append(step())
    return {
        "products_ms": round(1e3 * statistics.median(plain), 2),
        "with_the_stream_ms": round(1e3 * statistics.median(behind), 2),
        "median_wait_ms": round(1e3 * statistics.median(waits), 3),
        "longest_wait_ms": round(1e3 * max(waits), 3),
        "tokens_per_s_taken": round(step_tokens(spec) / statistics.median(behind)),
    }


def step_tokens(spec: TrainSpec) -> int:
    """Of one step."""
    return spec.batch.global_batch * spec.batch.sequence_length


if __name__ == "__main__":
    main()
