"""What a window cuts off: rows that lose their end, rows of which nothing counts any more, and their tokens.

Enters: the lengths and loss masks of a source, and a window. Leaves: a `Cut`, whose sentences stand in the plan and in
the log. A row whose every target lies behind the window is left out of the stream: it would cost a step and teach
nothing.

Cost: document lengths, which packing reads anyway, and of each document that is cut one look at its mask (2 to 5 µs).
From a remote store the masks of shards with such documents are fetched (one byte a token).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.token_sources import TokenSource
from pipelines.errors import DataError

_HARMLESS = 0.01  # of a source's tokens; on average half a window of each shard is lost


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What windows of T tokens take away from a source.

    Attributes:
        unit: what a row is: conversations or pairs; shards, where windows run across documents and only ends are lost.
        rows: in the source.
        cut: rows that keep their beginning alone.
        left_out: rows that are never read, since nothing of them would count.
        lost_tokens: ids behind the window, and all of the rows that are left out.
        lost_targets: of them, ids that count in the loss.
        counts_from: the shortest T in which a row that is left out counts; 0 when none is left out.
        whole_from: the shortest T that cuts nothing.
    """

    unit: str
    rows: int = 0
    cut: int = 0
    left_out: int = 0
    lost_tokens: int = 0
    lost_targets: int = 0
    counts_from: int = 0
    whole_from: int = 0

    @property
    def harmless(self) -> bool:
        """Whether every row is read whole."""
        return not self.cut and not self.left_out

    def __add__(self, other: Cut) -> Cut:
        return Cut(
            unit=self.unit,
            rows=self.rows + other.rows,
            cut=self.cut + other.cut,
            left_out=self.left_out + other.left_out,
            lost_tokens=self.lost_tokens + other.lost_tokens,
            lost_targets=self.lost_targets + other.lost_targets,
            counts_from=min(filter(None, (self.counts_from, other.counts_from)), default=0),
            whole_from=max(self.whole_from, other.whole_from),
        )

    def describe(self, name: str) -> str:
        """E.g. `chat: of 60 conversations 20 lose their end and 12 are left out, …`."""
        if self.unit == "shards":
            shards = "1 shard" if self.rows == 1 else f"{self.rows:,} shards"
            whole = f", nothing at all of {self.left_out:,} of them" if self.left_out else ""
            return (
                f"{name}: {self.lost_tokens:,} tokens at the end of {shards} fill no window and are not read{whole}; "
                "larger corpus files or a smaller batch.sequence_length lose less"
            )
        return (
            f"{name}: of {self.rows:,} {self.unit} {self.cut:,} lose their end and {self.left_out:,} are left out "
            f"because {'too little of them fits' if self.unit == 'pairs' else 'nothing of them would count'}; "
            f"{self.lost_tokens:,} tokens are not read, {self.lost_targets:,} of them answers; "
            f"batch.sequence_length={self.whole_from} cuts nothing"
            + ("; NOTHING of it is trained on" if self.left_out == self.rows else "")
        )

    def refusal(self, name: str, sequence_length: int) -> str:
        """Why a source of which nothing counts cannot be trained on, and what to do."""
        if not self.counts_from:
            return (
                f"nothing of source {name} counts: no token of its {self.rows:,} {self.unit} is marked as an answer: "
                "encode the corpus anew with `python -m workflows.tokenize`, or leave the source out"
            )
        return (
            f"nothing of source {name} counts in windows of {sequence_length} tokens: all {self.left_out:,} "
            f"{self.unit} have their answers behind the window: set batch.sequence_length to {self.counts_from} (the "
            f"first of them counts) or {self.whole_from} (nothing is cut), or leave the source out"
        )


def cut_shards(shard_tokens: NDArray[np.int64], windows: NDArray[np.int64], sequence_length: int) -> Cut:
    """What lies behind the last window of each shard; nothing to speak of below a hundredth of the source.

    Args: windows, of each shard; they overlap by one id.
    """
    lost = shard_tokens - np.where(windows > 0, windows * sequence_length + 1, 0)
    cut = Cut(unit="shards", rows=len(shard_tokens), whole_from=sequence_length)
    if lost.sum() <= _HARMLESS * shard_tokens.sum():
        return cut
    left_out = int(np.count_nonzero(windows == 0))
    return cut + Cut(
        unit="shards", cut=int(np.count_nonzero(lost)) - left_out, left_out=left_out, lost_tokens=int(lost.sum())
    )


def cut_documents(source: TokenSource, index: int, limit: int) -> tuple[Cut, NDArray[np.int64]]:
    """What reading the first `limit` ids of each document of a shard takes away.

    Returns: and the documents of which nothing would count, ascending [left out].
    """
    offsets = source.offsets(index)
    lengths = np.diff(offsets)
    long = np.flatnonzero(lengths > limit)
    cut = Cut(unit=source.kind, rows=len(lengths), whole_from=int(lengths.max(initial=1)) - 1)
    if not len(long):
        return cut, long
    mask = source.mask(index)
    lost = lengths[long] - limit
    if mask is None:  # every id counts but a document's first
        return cut + Cut(
            unit=source.kind, cut=len(long), lost_tokens=int(lost.sum()), lost_targets=int(lost.sum())
        ), long[:0]
    if len(mask) != offsets[-1]:
        raise DataError(
            f"the mask of {source.prefixes[index]} has {len(mask)} bytes, its index says {offsets[-1]} tokens: "
            "rebuild the shard"
        )
    left_out, needed, lost_tokens, lost_targets = [], 0, 0, 0
    for document, start, stop in zip(long.tolist(), offsets[long].tolist(), offsets[long + 1].tolist(), strict=True):
        if np.count_nonzero(mask[start + 1 : start + limit]):
            lost_tokens += stop - start - limit
            lost_targets += int(np.count_nonzero(mask[start + limit : stop]))
            continue
        left_out.append(document)
        behind = mask[start + limit : stop]
        lost_tokens += stop - start
        lost_targets += int(np.count_nonzero(behind))
        if behind.any():
            first = limit + int(np.argmax(behind != 0))  # place of its first target, and so the window that reaches it
            needed = min(needed or first, first)
    return cut + Cut(
        unit=source.kind, cut=len(long) - len(left_out), left_out=len(left_out), lost_tokens=lost_tokens,
        lost_targets=lost_targets, counts_from=needed,
    ), np.array(left_out, np.int64)  # fmt: skip
