"""Training's stream from a real S3 server with latency: how long steps wait for their batches, with and without
prefetch.

    python -m benchmarks.stream --latency 0.02 --step 0.05

Tokens of three sources are committed to SeaweedFS behind a proxy that adds `--latency` seconds to every request. The
stream of a training stage (`pipelines.train.run.stream`, as every rank runs it) is read by a step that takes `--step`
seconds and computes nothing. The cache holds `--cache` times the ample working set, and starts empty. Printed for each
way: waits per step after the first five, downloads, and the most that the cache held.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tokens import commit_tokens
from pipelines.config import parse
from pipelines.data.stream.prefetch import WorkingSet
from pipelines.display.progress import human, table
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.cache import Cache
from pipelines.train.plan.planning import plan_stage
from pipelines.train.run.stream import Stream
from pipelines.train.spec import TrainConfig
from tests.integration.faulty_s3 import FaultyS3, faulty_s3
from tests.integration.s3_server import s3_server

_WARM_STEPS = 5  # the first waits for its shards whatever is done, the next few until the queue of batches is full


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds added to every request")
    parser.add_argument("--step", type=float, default=0.05, help="seconds that a training step computes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--shards", type=int, default=40, help="of each source")
    parser.add_argument("--shard-tokens", type=int, default=500_000)
    parser.add_argument("--cache", type=float, default=1.0, help="of what two groups of shards of each source take")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(s3_server(folder / "s3"))
        proxy = stack.enter_context(faulty_s3(server.endpoint))
        stack.enter_context(server.environment(AWS_ENDPOINT_URL=proxy.endpoint))
        os.environ["TRUNKLINE_CACHE"] = str(folder / "writing")
        store = ArtifactStore(f"s3://{server.bucket}/store")
        commit_tokens(store, {"a": 0.5, "b": 0.3, "c": 0.2}, options.shards, options.shard_tokens)
        proxy.latency_seconds = options.latency
        rows = [_measure(store, proxy, folder / f"cache{ahead}", ahead, options) for ahead in (True, False)]
    header = [
        "shards fetched",
        "first step s",
        "mean wait ms",
        "p99 ms",
        "longest ms",
        "steps that waited > 1 ms",
        "waited of all",
        "shards read",
        "GETs a shard",
        "cache held",
        "of",
    ]
    print(table(header, rows))


def _measure(store: ArtifactStore, proxy: FaultyS3, cache: Path, ahead: bool, options: argparse.Namespace) -> list[Any]:
    os.environ["TRUNKLINE_CACHE"] = str(cache)
    config = parse(
        TrainConfig,
        {
            "name": "run",
            "data": "mixture/bench",
            "steps": options.steps,
            "seed": 1,
            "schedule": {"warmup_steps": 1, "peak_lr": 0.01},
            "tracking": {"enabled": False},
            "model": {
                "layers": 1,
                "d_model": 32,
                "d_ff": 80,
                "heads": 4,
                "kv_heads": 2,
                "vocabulary": 4096,
                "max_positions": 1024,
                "dim_model_base": 16,
            },
            "batch": {"sequence_length": 1024, "global_batch": 64, "micro_batch": 8},
        },
    )
    spec = plan_stage("pretrain", config, store, None, 1).spec
    os.environ["TRUNKLINE_CACHE_BYTES"] = "1TB"
    working = WorkingSet.of(Stream(spec, store).batches.loader)
    limit = int(options.cache * working.ample_bytes / 0.8) + 1
    os.environ["TRUNKLINE_CACHE_BYTES"] = str(limit)
    stream = Stream(spec, store)
    if not ahead:
        stream.cache_bytes = 0
        for source in stream.batches.loader.sources.values():
            source.open_shards = 2 * stream.batches.loader.shards_per_group
    proxy.inject()
    waits, held = [], 0
    for step, _ in enumerate(stream.steps(0, 0, 1)):
        waits.append(stream.wait_seconds)
        time.sleep(options.step)
        if step % 10 == 0:
            held = max(held, Cache(cache / "objects").used_bytes())
    after = 1000 * np.array(waits[_WARM_STEPS:])
    gets = Counter(request for request in proxy.requests if request.startswith("GET") and request.endswith(".bin"))
    read = {prefix for _, prefix in stream.batches.loader.shards(0, options.steps * 64)}
    assert {request.rsplit("/train/")[-1].removesuffix(".bin") for request in gets} == {
        p.split("train/")[-1] for p in read
    }
    return [
        "ahead" if ahead else "when read",
        round(waits[0], 2),
        round(float(after.mean()), 2),
        round(float(np.quantile(after, 0.99)), 2),
        round(float(after.max()), 1),
        f"{int((after > 1).sum())} of {len(after)}",
        f"{after.sum() / 1000 / (options.steps * options.step):.2%}",
        len(read),
        round(sum(gets.values()) / len(read), 2),
        human(held, "B"),
        human(limit, "B"),
    ]


if __name__ == "__main__":
    main()
