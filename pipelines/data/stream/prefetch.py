"""Shards of a remote store brought to this machine before the training step that reads them.

Enters: a loader, which knows exactly which shards the coming samples read, and how many bytes may be held. Leaves:
those shards downloaded and open when the reader asks, and closed behind it, so that the cache can let them go.

A source is read in groups of shards (see `loader`): all of a group at once, then none of it until the next epoch.
So the working set is one group of each source, and while one group is read, the next has all that time to arrive.
Nothing is guessed: what is downloaded is what is read. Every rank of a machine runs this over the whole stream, and the
cache lets one of them download each shard.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.data.stream.loader import Loader, Use
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.display.progress import human
from pipelines.errors import ConfigError, StorageError

_STRIDE_SAMPLES = 1024  # looked ahead at once: 0.3 ms
_AHEAD_SAMPLES = 1 << 20  # looked ahead at most; a million windows of 4,096 are 8 GB of tokens
_DOWNLOADS = 4  # at once; each splits a large file into parallel ranges
_ROOM = 0.8  # of the cache: the rest is for checkpoints and what else the run fetches

Shard = tuple[str, str]  # source, name of the shard


@dataclass(frozen=True)
class WorkingSet:
    """What a mixture needs in the cache.

    Attributes:
        least_bytes: one group of each source; with less, shards would be downloaded again and again.
        ample_bytes: two, so that the next group arrives while this one is read.
    """

    least_bytes: int
    ample_bytes: int

    @classmethod
    def of(cls, loader: Loader) -> WorkingSet:
        """For any order of the shards: the largest ones of each source."""
        groups = [_largest(source, loader.shards_per_group) for source in loader.sources.values()]
        pairs = [_largest(source, 2 * loader.shards_per_group) for source in loader.sources.values()]
        return cls(sum(groups), sum(pairs))

    def check(self, limit_bytes: int) -> str:
        """A warning when steps will wait at times, or "".

        Raises: ConfigError when the cache is smaller than the least.
        """
        room = int(_ROOM * limit_bytes)
        needs = (
            f"this mixture reads {human(self.least_bytes, 'B')} of shards at a time, and "
            f"{human(self.ample_bytes, 'B')} let the next ones arrive meanwhile"
        )
        has = f"the cache may hold {human(limit_bytes, 'B')}, {human(room, 'B')} of them shards"
        if room < self.least_bytes:
            raise ConfigError(
                f"{has}; {needs}: set TRUNKLINE_CACHE_BYTES to {int(self.ample_bytes / _ROOM) + 1} (at least "
                f"{int(self.least_bytes / _ROOM) + 1})"
            )
        return f"{has}; {needs}: steps will wait where a source changes its shards" if room < self.ample_bytes else ""


class Prefetcher:
    """Holds the shards of the samples to come open, as many as there is room for.

    Args:
        loader: whose sources it opens and closes from now on.
        first: the sample that is read first.
        last: the sample before which reading ends.
        limit_bytes: of the cache.
    """

    def __init__(self, loader: Loader, first: int, last: int, limit_bytes: int):
        self._loader, self._position, self._last = loader, first, last
        self._room = int(_ROOM * limit_bytes)
        # shard that is wanted -> the last sample that reads it, as far as was looked ahead
        self._until: dict[Shard, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._where: dict[Shard, tuple[TokenSource, int]] = {}
        for name, source in loader.sources.items():
            source.open_shards = len(source.prefixes)  # closed here, when their samples are read
            source.relieve = self._relieve
            self._where.update({(name, prefix): (source, i) for i, prefix in enumerate(source.prefixes)})
        self._pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="prefetch")
        threading.Thread(target=self._look_ahead, name="prefetch-plan", daemon=True).start()

    def reached(self, sample: int) -> None:
        """Say that no sample before this one will be read again."""
        with self._changed:
            self._position = sample
            self._changed.notify()

    def close(self) -> None:
        """Start no more downloads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _look_ahead(self) -> None:
        """Have the shards of ever later samples brought, in the order of their first use, as room allows."""
        for begin in range(self._position, self._last, _STRIDE_SAMPLES):
            uses = self._loader.uses(begin, min(begin + _STRIDE_SAMPLES, self._last))
            with self._changed:
                for use in uses:
                    if use.shard in self._until:
                        self._until[use.shard] = max(use.last, self._until[use.shard])
                for use in uses:
                    while not (self._closed or self._fits(use)):
                        self._changed.wait()
                    if self._closed:
                        return
                    if use.shard not in self._until:
                        self._pool.submit(self._bring, use.shard)
                    self._until[use.shard] = max(use.last, self._until.get(use.shard, 0))

    def _fits(self, use: Use) -> bool:
        """Whether a shard can be held beside what is held already; what is read now must be, in any case."""
        for shard in [shard for shard, last in self._until.items() if last < self._position]:
            del self._until[shard]
            source, index = self._where[shard]
            source.close(index)
        if use.shard in self._until or use.first <= self._position:
            return True
        bytes_open = sum(map(self._bytes, self._until)) + self._bytes(use.shard)
        return bytes_open <= self._room and use.first - self._position < _AHEAD_SAMPLES

    def _relieve(self) -> None:
        """Close everything: the reader needs a shard that the cache has no room for, and can open the others again."""
        for source, index in self._where.values():
            source.close(index)

    def _bring(self, shard: Shard) -> None:
        source, index = self._where[shard]
        try:
            source.bring(index)
        except StorageError:
            return  # the reader meets it again when it needs the shard, and says so
        with self._changed:
            if shard not in self._until:  # read already, while this was on its way
                source.close(index)

    def _bytes(self, shard: Shard) -> int:
        source, index = self._where[shard]
        return int(source.shard_bytes[index])


def _largest(source: TokenSource, count: int) -> int:
    return sum(sorted(source.shard_bytes.tolist(), reverse=True)[:count])
