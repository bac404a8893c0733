"""Prefetch: exactly the shards that are read, before they are read, within the cache's bound."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixturePlan, PlannedSource
from pipelines.data.stream.prefetch import Prefetcher, WorkingSet
from pipelines.data.tokens.token_shards import TokenShardWriter, shard_paths
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.errors import ConfigError
from pipelines.store.cache import Cache
from tests.waits import wait_until

WEIGHTS = {"a": 0.6, "b": 0.4}
SHARDS, GROUP = 12, 2


class Remote:
    """Sources whose shards lie in another folder and are copied into a cache, each file by its own download."""

    def __init__(self, folder: Path, limit_bytes: int):
        self.cache, self.downloads = Cache(folder / "cache", limit_bytes), Counter[str]()
        self.far = folder / "far"
        self.sources, self.local = ({name: self._source(name, local) for name in WEIGHTS} for local in (False, True))

    def _source(self, name: str, local: bool) -> TokenSource:
        prefixes = tuple(f"{name}{i}" for i in range(SHARDS))
        if not self.far.exists():
            self.far.mkdir(parents=True)
        if not (self.far / f"{prefixes[0]}.bin").exists():
            for i, prefix in enumerate(prefixes):
                writer = TokenShardWriter(shard_files(self.far, prefix), 4096)
                writer.add(np.arange(i, i + 81), np.array([81]), bytes=np.array([80]))
                writer.close()
        size = sum(path.stat().st_size for path in shard_paths(self.far, prefixes[0]).values())
        locate = (lambda prefix: shard_paths(self.far, prefix)) if local else self._locate
        return TokenSource(name, "documents", prefixes, np.full(SHARDS, 81), locate, np.full(SHARDS, size))

    def _locate(self, prefix: str) -> dict[str, Path]:
        def download(suffix: str, path: Path) -> None:
            self.downloads[prefix] += suffix == "bin"
            shutil.copy(self.far / f"{prefix}.{suffix}", path)

        sizes = {suffix: path.stat().st_size for suffix, path in shard_paths(self.far, prefix).items()}
        return {s: self.cache.get(f"{prefix}.{s}", n, lambda path, s=s: download(s, path)) for s, n in sizes.items()}

    def loader(self, local: bool = False) -> Loader:
        planned = tuple(
            PlannedSource(
                name=n, kind="documents", weight=w, available_tokens=1, budget_tokens=1, epochs=1, packing="windows"
            )
            for n, w in WEIGHTS.items()
        )
        plan = MixturePlan(tokens="tokens/t", tokens_fingerprint="", sources=planned, dropped={})
        sources = self.local if local else self.sources
        return Loader(sources, [Segment(0, plan)], seed=1, sequence_length=4, shards_per_group=GROUP)


def shard_files(folder: Path, prefix: str) -> dict[str, Path]:
    return {suffix: folder / f"{prefix}.{suffix}" for suffix in ("bin", "idx", "bytes")}


def until(condition: Any) -> None:
    wait_until(condition, "the prefetcher")


def read(remote: Remote, first: int, last: int, step: int = 8) -> int:
    """Read a stretch through the prefetcher, each batch equal to the local one; the most bytes the cache held."""
    loader, local = remote.loader(), remote.loader(local=True)
    ahead = Prefetcher(loader, first, last, remote.cache.limit_bytes or 0)
    most = 0
    for at in range(first, last, step):
        samples = range(at, min(at + step, last))
        assert np.array_equal(loader.batch(samples)["tokens"], local.batch(samples)["tokens"])
        ahead.reached(samples[-1] + 1)
        most = max(most, remote.cache.used_bytes())
    ahead.close()
    return most


def test_the_coming_shards_arrive_before_anybody_reads(tmp_path: Path) -> None:
    remote = Remote(tmp_path, 10**9)
    loader = remote.loader()
    expected = {prefix for _, prefix in loader.shards(100, 300)}
    assert 4 < len(expected) < 2 * SHARDS
    ahead = Prefetcher(loader, 100, 300, 10**9)
    until(lambda: sum(len(source._open) for source in loader.sources.values()) == len(expected))
    held = {source.name: set(source._open) for source in loader.sources.values()}
    assert {f"{name}{i}" for name, indices in held.items() for i in indices} == expected
    loader.batch(range(100, 300))
    ahead.close()
    assert remote.downloads == dict.fromkeys(expected, 1)  # no shard more, and none twice


def test_a_small_cache_is_kept_to_over_epochs(tmp_path: Path) -> None:
    size = int(Remote(tmp_path / "size", 10**9).sources["a"].shard_bytes[0])
    limit = int(2 * GROUP * len(WEIGHTS) * size / 0.8) + 1  # two groups of each source: ample
    remote = Remote(tmp_path, limit)
    most = read(remote, 0, 1000)  # 240 windows a source and epoch
    assert 0 < most <= limit < size * 2 * SHARDS
    reads = Counter(
        prefix for at in range(0, 1000, 40) for prefix in {p for _, p in remote.loader().shards(at, at + 40)}
    )
    assert set(remote.downloads) == set(reads)
    assert sum(remote.downloads.values()) < sum(reads.values())


def test_a_cache_smaller_than_the_working_set_is_refused_with_numbers(tmp_path: Path) -> None:
    remote = Remote(tmp_path, 10**9)
    working = WorkingSet.of(remote.loader())
    size = int(remote.sources["a"].shard_bytes[0])
    assert (working.least_bytes, working.ample_bytes) == (4 * size, 8 * size)
    assert working.check(10**9) == ""
    assert "steps will wait where a source changes its shards" in working.check(int(6 * size / 0.8))
    with pytest.raises(ConfigError, match=rf"set TRUNKLINE_CACHE_BYTES to {int(8 * size / 0.8) + 1} \(at least"):
        working.check(int(3 * size / 0.8))


def test_reading_goes_on_where_the_room_is_just_enough(tmp_path: Path) -> None:
    size = int(Remote(tmp_path / "size", 10**9).sources["a"].shard_bytes[0])
    remote = Remote(tmp_path, int(GROUP * len(WEIGHTS) * size / 0.8) + 1)
    assert read(remote, 0, 480) <= (remote.cache.limit_bytes or 0)
