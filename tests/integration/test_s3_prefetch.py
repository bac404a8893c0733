"""A stream from a real S3 server with 20 ms of latency: exactly the shards that are read, within the cache's bound."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tokens import commit_tokens
from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixturePlan
from pipelines.data.stream.prefetch import Prefetcher, WorkingSet
from pipelines.data.tokens.sidecars import in_batches
from pipelines.data.tokens.token_sources import open_sources
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.cache import Cache
from tests.integration.faulty_s3 import faulty_s3
from tests.integration.s3_server import S3Server


def loader(store: ArtifactStore) -> Loader:
    plan = MixturePlan.from_json(store.get("mixture/bench").json("mixture.json"))
    sources = open_sources(store.get("tokens/bench"), sidecars=in_batches())
    return Loader(sources, [Segment(0, plan)], seed=3, sequence_length=128, shards_per_group=2)


def test_what_is_read_is_fetched_once_and_the_cache_keeps_its_bound(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    here = ArtifactStore(str(tmp_path / "store"))
    commit_tokens(here, {"a": 0.7, "b": 0.3}, shards=10, shard_tokens=20_000)
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(faulty_s3(server.endpoint))
        stack.enter_context(server.environment(AWS_ENDPOINT_URL=proxy.endpoint))
        there = ArtifactStore(f"s3://{server.bucket}/prefetch")
        commit_tokens(there, {"a": 0.7, "b": 0.3}, shards=10, shard_tokens=20_000)
        remote, local = loader(there), loader(here)
        limit = int(WorkingSet.of(remote).ample_bytes / 0.8) + 1
        monkeypatch.setenv("TRUNKLINE_CACHE_BYTES", str(limit))
        cache = Cache(tmp_path / "cache" / "objects")
        proxy.latency_seconds = 0.02
        proxy.inject()  # forgets the requests so far
        first, last, most = 500, 1400, 0
        ahead = Prefetcher(remote, first, last, limit)
        for at in range(first, last, 50):
            samples = range(at, at + 50)
            assert np.array_equal(remote.batch(samples)["tokens"], local.batch(samples)["tokens"])
            ahead.reached(at + 50)
            most = max(most, cache.used_bytes())
        ahead.close()
        fetched = [
            match[1] for r in proxy.requests if (match := re.match(r"GET .*/(train/\S+\.(bin|idx|bytes|sums))", r))
        ]
    read = {prefix for _, prefix in local.shards(first, last)}
    assert 6 < len(read) < 20
    assert sorted(fetched) == sorted(f"{prefix}.{suffix}" for prefix in read for suffix in ("bin", "idx", "sums"))
    assert limit / 2 < most <= limit
