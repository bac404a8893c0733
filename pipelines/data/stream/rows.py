"""A batch being filled: spans of token shards become rows with positions, a loss mask and sidecars.

Enters: for each row, a shard and a span of its tokens. Leaves: the arrays of a batch, the same for windows, packed
documents and pairs. What stands beside the ids is filled by its row of `SIDECARS`; only the loss mask is joined with
what rows know themselves: padding and the first id of a document never count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.sidecars import SIDECARS, in_batches
from pipelines.data.tokens.token_shards import TokenShard
from pipelines.data.tokens.token_sources import TokenSource

Batch = dict[str, Any]  # see `Rows.batch`


def batch_sidecars(sources: Iterable[TokenSource]) -> tuple[str, ...]:
    """The sidecars that batches of some sources have, the loss mask always among them."""
    read = {"mask", *(name for source in sources for name in source.sidecars)}
    return tuple(name for name in in_batches() if name in read)


class Rows:
    """A batch being filled: token spans become rows with positions, a loss mask and sidecars. See `Loader.batch`."""

    def __init__(self, count: int, sequence_length: int, pad_id: int, sidecars: Sequence[str] = ("mask",)):
        width = sequence_length + 1
        self.tokens = np.full((count, width), pad_id, np.int32)
        self.begins = np.zeros((count, width), np.bool_)  # the id is the first of a document, or of the padding
        self._sidecars = [(name, SIDECARS[name], SIDECARS[name].blank(count, width)) for name in sidecars]
        self._width = width
        # kept, since to make them for each row costs as much as to copy it
        self._span = np.zeros(2, np.int64)

    def fill(self, row: int, shard: TokenShard, start: int, stop: int) -> None:
        """Put the tokens [start, stop) of a shard into a row; at most T + 1."""
        length = stop - start
        if length == self._width:
            self.tokens[row] = shard.tokens[start:stop]
        else:
            self.tokens[row, :length] = shard.tokens[start:stop]
            self.begins[row, length] = True
        for name, sidecar, blank in self._sidecars:
            entries = shard.sidecars.get(name)
            if entries is not None or length < self._width:
                sidecar.fill(blank, row, entries, shard.offsets, start, stop)
        self._span[0], self._span[1] = start, stop
        first, last = shard.offsets.searchsorted(self._span).tolist()
        if first < last:
            self.begins[row, shard.offsets[first:last] - start] = True

    def batch(self, sources: NDArray[np.int16], trim_to: int | None = None) -> Batch:
        """The finished arrays.

        Args: trim_to, leave out columns that are padding in every row, down to a multiple of so many; None: all stay.
        """
        at = np.arange(self._width - 1, dtype=np.int32)
        begun = np.maximum.accumulate(np.where(self.begins[:, :-1], at, np.int32(0)), axis=1)
        whole = self._finished(self._width - 1)
        loss_mask = whole["mask"] & ~self.begins[:, 1:]
        length = self._width - 1
        if trim_to is not None:
            used = int(np.flatnonzero(loss_mask.any(axis=0)).max(initial=0)) + 1
            length = min(length, -(-used // trim_to) * trim_to)
            whole = self._finished(length)
        sidecars = {name: np.ascontiguousarray(array) for name, array in whole.items() if name != "mask"}
        return {
            "tokens": np.ascontiguousarray(self.tokens[:, : length + 1]),
            "positions": np.ascontiguousarray((at - begun)[:, :length]),
            "loss_mask": np.ascontiguousarray(loss_mask[:, :length]),
            "sources": sources,
            **({"sidecars": sidecars} if sidecars else {}),
        }

    def _finished(self, length: int) -> dict[str, NDArray[Any]]:
        """The arrays of all sidecars. Args: length, inputs of a row that are kept."""
        return {
            key: array
            for name, sidecar, blank in self._sidecars
            for key, array in sidecar.finished(name, blank, length).items()
        }
