"""The loader: sample i of a run is a pure function of (segments, seed, i).

Enters: token shards and a list of segments, each a mixture plan that holds from one sample on.
Leaves: batches of windows as NumPy arrays, the same stream for any number of ranks.

Because nothing is iterated, resuming is knowing i; a branch or a mid-run change of mixture is one more segment, and
a source that goes on in it starts where the earlier segments left it. The way from i to tokens:

    i          -> source and its local index   by weights, each within one sample in every prefix (`interleave`)
    local      -> epoch and place in the epoch
    place      -> shard and item               shards shuffled per epoch; inside a group of shards, items permuted
    item       -> tokens                       windows [w*T, w*T + T + 1) or whole documents packed into T + 1

A node therefore reads `shards_per_group` shards of a source at a time, and `Loader.uses` tells `prefetch` exactly
which come next. Shuffling every item over the whole corpus would touch every shard in every step.

Legend: B rows of a batch, T tokens that a model reads (`sequence_length`); a row holds T + 1 ids, so that
inputs = tokens[:, :T] and targets = tokens[:, 1:].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.data.stream.cuts import Cut
from pipelines.data.stream.interleave import BLOCK_SAMPLES, Interleaving
from pipelines.data.stream.mixture import MixturePlan, Packing
from pipelines.data.stream.rows import Batch, Rows, batch_sidecars
from pipelines.data.stream.source_stream import Carried, SourceStream
from pipelines.data.tokens.token_shards import TokenShard
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.errors import ConfigError, DataError

_CHUNK_SAMPLES = 4_096  # addresses are worked out for so many samples at once (about 1 ms) and kept for a few chunks


@dataclass(frozen=True)
class Segment:
    """From sample `from_sample` on, the stream follows `plan`."""

    from_sample: int
    plan: MixturePlan


@dataclass(frozen=True)
class Use:
    """A shard, as (source, name), and the first and last of some samples that read it."""

    shard: tuple[str, str]
    first: int
    last: int


class Loader:
    """Random access to a mixed stream of windows.

    Args:
        sources: every source that a segment names.
        segments: the first from sample 0, then by rising `from_sample`.
        seed: selects the shuffle.
        sequence_length: T.
        pad_id: id that fills the rest of a row of packed documents (the end-of-sequence id).
        shards_per_group: how many shards of a source are shuffled together.
        begin: samples of a source, under a packing, that are left out at its beginning: see `carry_on`.

    Raises: ConfigError for segments out of order; DataError for a source that is absent or shorter than one window.
    """

    def __init__(
        self,
        sources: Mapping[str, TokenSource],
        segments: Sequence[Segment],
        seed: int,
        sequence_length: int,
        pad_id: int = 0,
        shards_per_group: int = 8,
        begin: Mapping[tuple[str, Packing], int] | None = None,
    ):
        starts = [segment.from_sample for segment in segments]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ConfigError(f"segments begin at samples {starts}; expected 0 first and then rising")
        self.sequence_length, self.pad_id, self.shards_per_group = sequence_length, pad_id, shards_per_group
        self.names = sorted({source.name for segment in segments for source in segment.plan.sources})
        if absent := [name for name in self.names if name not in sources]:
            raise DataError(f"the mixture names {', '.join(absent)}; the tokens hold {', '.join(sorted(sources))}")
        self.sources = {name: sources[name] for name in self.names}
        self.sidecars = batch_sidecars(self.sources.values())
        parts = sorted({(source.name, source.packing) for segment in segments for source in segment.plan.sources})
        self._streams = [
            SourceStream(sources[name], packing, seed, sequence_length, shards_per_group) for name, packing in parts
        ]
        for part, stream in zip(parts, self._streams, strict=True):
            stream.skipped = (begin or {}).get(part, 0)
        self._stream_source = np.array([self.names.index(name) for name, _ in parts], np.int16)
        self._segments: list[_Parts] = []
        before = np.array([(begin or {}).get(part, 0) for part in parts], np.int64)
        for segment, following in zip(segments, [*starts[1:], None], strict=True):
            order = _Parts(segment, parts, before)
            self._segments.append(order)
            if following is not None:
                before = before + order.counts(following - segment.from_sample)
        self._starts = np.array(starts, np.int64)
        self._chunk = functools.lru_cache(maxsize=8)(self._resolve)

    def carry_on(self, samples: int, sequence_length: int) -> list[Carried]:
        """Where a stream of other windows begins, so that it reads nothing again that the first `samples` have read.

        Windows of two lengths cut a shard differently, but the order of shards is the same for both. So each source
        goes on at the first group of shards that was not begun: what is left of the group before it stays unread in
        that epoch.
        """
        return [
            stream.carry_on(read, sequence_length)
            for stream, read in zip(self._streams, self._counts(samples).tolist(), strict=True)
        ]

    @property
    def cuts(self) -> dict[str, Cut]:
        """Source -> what its windows cut off, where they do: documents longer than T + 1 tokens keep the first T +
        1.
        """
        return {stream.source.name: stream.cut for stream in self._streams if not stream.cut.harmless}

    def epoch_samples(self, name: str) -> int:
        """Samples in one epoch of a source."""
        return sum(stream.total for stream in self._streams if stream.source.name == name)

    def delivered(self, samples: int) -> dict[str, int]:
        """Source -> how many of the first `samples` samples are its own."""
        counts = self._counts(samples)
        return {name: int(counts[self._stream_source == i].sum()) for i, name in enumerate(self.names)}

    def _counts(self, samples: int) -> NDArray[np.int64]:
        counts = np.zeros(len(self._streams), np.int64)
        for order, end in zip(self._segments, [*self._starts[1:], None], strict=True):
            last = samples if end is None else min(samples, int(end))
            counts += order.counts(max(0, last - order.from_sample))
        return counts

    def uses(self, first: int, last: int) -> list[Use]:
        """Which shards samples [first, last) read, and from where to where, in order of first use: what to prefetch."""
        stream, shard, _ = self.addresses(np.arange(first, last))
        pairs, begin = np.unique(np.stack([stream, shard]), axis=1, return_index=True)
        _, back = np.unique(np.stack([stream, shard])[:, ::-1], axis=1, return_index=True)
        uses = []
        for at in np.argsort(begin):
            source = self._streams[pairs[0, at]].source
            uses.append(
                Use((source.name, source.prefixes[pairs[1, at]]), first + int(begin[at]), last - 1 - int(back[at]))
            )
        return uses

    def shards(self, first: int, last: int) -> list[tuple[str, str]]:
        """(source, shard) pairs that samples [first, last) read, in order of first use."""
        return list(dict.fromkeys(use.shard for use in self.uses(first, last)))

    def batch(self, indices: NDArray[np.int64] | Sequence[int]) -> Batch:
        """The samples `indices` as one batch.

        Returns: contiguous arrays
            tokens     int32 [B, T+1]
            positions  int32 [B, T]    0 at the start of each document; a window that begins inside one starts at 0
            loss_mask  uint8 [B, T]    1 where the target tokens[:, t+1] counts: not padding, not the first id of a
                                       document, and set in the mask of a masked shard
            sources    int16 [B]       index into `names`
            sidecars   a dictionary, absent when empty: arrays of what else stands beside the ids of some source, by
            name
        """
        stream, shard, item = self.addresses(np.asarray(indices, np.int64))
        rows = Rows(len(stream), self.sequence_length, self.pad_id, self.sidecars)
        opened: dict[tuple[int, int], TokenShard] = {}  # a batch reads the same few shards again and again
        for row, (s, k, i) in enumerate(zip(stream.tolist(), shard.tolist(), item.tolist(), strict=True)):
            if (token_shard := opened.get((s, k))) is None:
                token_shard = opened[s, k] = self._streams[s].source.shard(k)
            rows.fill(row, token_shard, *self._streams[s].span(k, i))
        return rows.batch(self._stream_source[stream])

    def addresses(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where samples lie: stream (a source under one packing), shard and item of each, int64 [n]."""
        chunks, within = np.divmod(indices, _CHUNK_SAMPLES)
        places = np.empty((3, len(indices)), np.int64)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            places[:, here] = self._chunk(int(chunk))[:, within[here]]
        return places[0], places[1], places[2]

    def _resolve(self, chunk: int) -> NDArray[np.int64]:
        """Stream, shard and item of every sample of a chunk: int64 [3, _CHUNK_SAMPLES]."""
        samples = np.arange(chunk * _CHUNK_SAMPLES, (chunk + 1) * _CHUNK_SAMPLES)
        segment = np.searchsorted(self._starts, samples, "right") - 1
        places = np.empty((3, len(samples)), np.int64)
        local = np.empty(len(samples), np.int64)
        for s in np.unique(segment):
            here = segment == s
            places[0, here], local[here] = self._segments[s].locate(samples[here])
        for s in np.unique(places[0]):
            here = places[0] == s
            places[1, here], places[2, here] = self._streams[s].locate(local[here])
        return places


def rank_indices(step: int, *, global_batch: int, rank: int, world_size: int, micro_batch: int) -> NDArray[np.int64]:
    """The samples that one rank takes in one optimizer step.

    Micro-step k of rank r takes samples step*global_batch + (k*world_size + r)*micro_batch + [0, micro_batch), so the
    union over ranks is the same stretch of the stream whatever their number.

    Returns: int64 [micro_steps, micro_batch].
    Raises: ConfigError when global_batch is not a multiple of world_size * micro_batch.
    """
    if global_batch % (world_size * micro_batch):
        raise ConfigError(
            f"global batch {global_batch} does not divide into {world_size} ranks x micro-batch {micro_batch}; "
            f"expected a multiple of {world_size * micro_batch}"
        )
    stretch = np.arange(step * global_batch, (step + 1) * global_batch, dtype=np.int64)
    return stretch.reshape(-1, world_size, micro_batch)[:, rank]


class _Parts:
    """One segment: sample -> stream and local index."""

    def __init__(self, segment: Segment, parts: Sequence[tuple[str, Packing]], before: NDArray[np.int64]):
        sources = segment.plan.sources
        self._ids = np.array([parts.index((source.name, source.packing)) for source in sources], np.int16)
        self._order = Interleaving([source.weight for source in sources])
        self.from_sample, self._before = segment.from_sample, before

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Stream and stream-local index of each sample [n]."""
        blocks, places = np.divmod(samples - self.from_sample, BLOCK_SAMPLES)
        stream, local = np.empty(len(samples), np.int16), np.empty(len(samples), np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            pattern, rank, earlier = self._order.block(int(block))
            source = pattern[places[here]]
            stream[here] = self._ids[source]
            local[here] = self._before[stream[here]] + earlier[source] + rank[places[here]]
        return stream, local

    def counts(self, samples: int) -> NDArray[np.int64]:
        """Samples of each stream among the first `samples` of this segment."""
        counted = np.zeros_like(self._before)
        counted[self._ids] = self._order.counts(samples)
        return counted
