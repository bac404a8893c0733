"""One source under one packing: the i-th sample of a source to a shard and the tokens in it.

Enters: a source, a packing and a window. Leaves: for each local index its shard and item, shuffled anew in each epoch,
and the span of tokens that an item is. Shards are shuffled per epoch; inside a group of shards, items are permuted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.data.stream.cuts import Cut, cut_documents, cut_shards
from pipelines.data.stream.mixture import Packing
from pipelines.data.stream.order import permute, stream_key
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.errors import DataError


@dataclass(frozen=True)
class Carried:
    """Where a source goes on under another window length."""

    source: str
    packing: Packing
    begin: int  # samples of the new length that are left out: `Loader(begin=…)`
    epoch: int  # where that is, from 0
    group: int  # of shards, in that epoch, from 0
    groups: int  # in an epoch
    left_out: float  # share of an epoch that stays unread


def pack(offsets: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Pack whole consecutive documents into rows of at most `limit` tokens, greedily.

    Args:
        offsets: token offset of each document, and the total [documents + 1].

    Returns: first document of each row, and the number of documents [rows + 1]; a document longer than `limit` has a
        row of its own, to be cut there.
    """
    documents = len(offsets) - 1
    reach = np.searchsorted(offsets, offsets[:-1] + limit, "right") - 1  # the document after the last that fits
    following = np.maximum(reach, np.arange(1, documents + 1)).tolist()
    firsts = [0]
    while firsts[-1] < documents:
        firsts.append(following[firsts[-1]])
    return np.array(firsts, np.int64)


class SourceStream:
    """One source under one packing: local index -> shard and item."""

    def __init__(self, source: TokenSource, packing: Packing, seed: int, sequence_length: int, shards_per_group: int):
        self.source, self.packing, self.seed = source, packing, seed
        self.sequence_length, self.shards_per_group = sequence_length, shards_per_group
        self.cut = Cut(unit=source.kind)
        # rows of each shard: first token, and the end
        self._packs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        if packing == "windows":
            self._items = np.maximum(0, source.shard_tokens - 1) // sequence_length
            self.cut = cut_shards(source.shard_tokens, self._items, sequence_length)
        else:
            # reads the document lengths of every shard of this source (about 2 % of its bytes)
            for index in range(len(source.prefixes)):
                cut, left_out = cut_documents(source, index, sequence_length + 1)
                self.cut += cut
                offsets = source.offsets(index)
                firsts = pack(offsets, sequence_length + 1)
                counts = ~np.isin(firsts[:-1], left_out)  # a document that is too long has a row of its own
                self._packs.append((offsets[firsts[:-1]][counts], offsets[firsts[1:]][counts]))
            self._items = np.array([len(starts) for starts, _ in self._packs], np.int64)
        self.total = int(self._items.sum())
        if self.total == 0:
            if self.packing == "documents" and self.cut.left_out:
                raise DataError(self.cut.refusal(source.name, sequence_length))
            raise DataError(
                f"source {source.name} has {int(source.shard_tokens.sum())} tokens in {len(source.prefixes)} shards, "
                f"less than one window of {sequence_length + 1}: leave it out or lower sequence_length"
            )
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffle_shards)
        self.skipped = 0  # of this stream's samples, before its first

    def carry_on(self, read: int, sequence_length: int) -> Carried:
        """See `Loader.carry_on`. Args: read, samples taken from this stream."""
        epoch, place = divmod(self.skipped + read, self.total)
        there = SourceStream(self.source, self.packing, self.seed, sequence_length, self.shards_per_group)
        ends = self._group_ends(epoch)
        groups = len(ends) - 1
        group = int(np.searchsorted(ends, place, "left"))  # the first that was not begun
        left_out = (int(ends[group]) - place) / self.total
        if group == groups:
            epoch, group = epoch + 1, 0
        begin = epoch * there.total + int(there._group_ends(epoch)[group])
        return Carried(self.source.name, self.packing, begin, epoch, group, groups, left_out)

    def _group_ends(self, epoch: int) -> NDArray[np.int64]:
        """Where each group of shards begins among an epoch's items, and the total [groups + 1]."""
        _, ends = self._epoch(epoch)
        return np.append(ends[: -1 : self.shards_per_group], ends[-1])

    def locate(self, local: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and item of each local index, both int64 [n]."""
        epochs, places = np.divmod(local, self.total)
        shard, item = np.empty_like(local), np.empty_like(local)
        for epoch in np.unique(epochs):
            order, ends = self._epoch(int(epoch))
            group_ends = self._group_ends(int(epoch))
            here = np.flatnonzero(epochs == epoch)
            groups = np.searchsorted(group_ends, places[here], "right") - 1
            for group in np.unique(groups):
                chosen = here[groups == group]
                begin, end = int(group_ends[group]), int(group_ends[group + 1])
                key = stream_key(self.seed, self.source.name, int(epoch), int(group))
                moved = permute(places[chosen] - begin, end - begin, key) + begin
                position = np.searchsorted(ends, moved, "right") - 1
                shard[chosen], item[chosen] = order[position], moved - ends[position]
        return shard, item

    def span(self, shard: int, item: int) -> tuple[int, int]:
        """First and last (exclusive) token of an item inside its shard; at most T + 1 tokens."""
        width = self.sequence_length + 1
        if self.packing == "windows":
            start = item * self.sequence_length
            return start, start + width
        starts, stops = self._packs[shard]
        start = int(starts[item])
        return start, min(int(stops[item]), start + width)

    def _shuffle_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards in this epoch's order [shards]; where each begins among the items, and the total [shards + 1]."""
        count = len(self._items)
        order = permute(np.arange(count), count, stream_key(self.seed, self.source.name, epoch))
        return order, np.concatenate([[0], np.cumsum(self._items[order])])
