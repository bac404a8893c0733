"""Preference pairs: a prompt with a chosen and a rejected answer, as rows of one batch.

Enters: the `.chosen` and `.rejected` shards of a tokens artifact, document i of one beside document i of the other;
both hold prompt and answer, the mask is on the answer. Leaves: batches whose row 2i is chosen and row 2i + 1
rejected, in the format of `data.loader`. Pair i of a run is a pure function of (seed, i), as in the loader.

Each row holds one conversation (no packing): DPO compares sums of log-probabilities per answer, and a row is then
an answer. Preference sets are small (UltraFeedback: 64k prompts), so the pairs that fit are listed in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.artifacts import Artifact
from pipelines.data.stream.loader import Batch, Rows
from pipelines.data.stream.order import permute, stream_key
from pipelines.data.tokens.token_shards import TokenShard, TokenSource, open_sources
from pipelines.errors import DataError

Side = Literal["chosen", "rejected"]


class PreferenceLoader:
    """Random access to shuffled preference pairs.

    Args:
        sources: name -> (chosen shards, rejected shards); see `open_preferences`.
        seed: selects the shuffle of each epoch.
        sequence_length: T; a side keeps its first T + 1 tokens; see `fitting`.
        pad_id: id that fills the rest of a row.

    Attributes:
        left_out: source -> pairs of which too little fits; see `fitting`.
        truncated: source -> pairs of which a side is cut to its first T + 1 ids.
        pair_tokens: tokens of both sides of each pair, in stored order, int64 [pairs].
        pair_sources: index into `names` of each pair, in stored order, int64 [pairs].

    Raises: DataError when the two sides disagree or no pair fits.
    """

    def __init__(
        self, sources: dict[str, tuple[TokenSource, TokenSource]], seed: int, sequence_length: int, pad_id: int = 0
    ):
        self.seed, self.sequence_length, self.pad_id = seed, sequence_length, pad_id
        self.names = sorted(sources)
        self.left_out: dict[str, int] = {}
        self.truncated: dict[str, int] = {}
        self._sides = [sources[name] for name in self.names]
        rows: list[NDArray[np.int64]] = [np.zeros((4, 0), np.int64)]
        for index, (chosen, rejected) in enumerate(self._sides):
            for shard in range(len(chosen.prefixes)):
                lengths = [np.diff(side.shard(shard).offsets) for side in (chosen, rejected)]
                if len(lengths[0]) != len(lengths[1]):
                    raise DataError(
                        f"{chosen.prefixes[shard]} has {len(lengths[0])} documents, "
                        f"its other side {len(lengths[1])}: rebuild the tokens"
                    )
                fits = fitting(chosen.shard(shard), rejected.shard(shard), sequence_length + 1)
                name = self.names[index]
                self.left_out[name] = self.left_out.get(name, 0) + len(lengths[0]) - len(fits)
                read = np.minimum(np.stack(lengths)[:, fits], sequence_length + 1)
                both = read.sum(axis=0)
                self.truncated[name] = self.truncated.get(name, 0) + int(
                    (read.max(axis=0) < np.maximum(*lengths)[fits]).sum()
                )
                rows.append(np.stack([np.full(len(fits), index), np.full(len(fits), shard), fits, both]))
        found = np.concatenate(rows, axis=1)
        self._pairs, self.pair_tokens = found[:3], found[3]  # source, shard, document: int64 [3, pairs]
        self.pair_sources = self._pairs[0]
        if len(self) == 0:
            raise DataError(
                f"no preference pair of {', '.join(self.names) or 'any source'} fits in {sequence_length + 1} tokens "
                f"(left out: {self.left_out}): raise sequence_length"
            )

    def __len__(self) -> int:
        """Pairs in one epoch."""
        return int(self._pairs.shape[1])

    def pairs(self, indices: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """The number of each pair in stored order, int64 [n] in [0, len): where its reference log-probs are kept."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            numbers[here] = permute(places[here], len(self), stream_key(self.seed, "preferences", int(epoch)))
        return numbers

    def batch(self, indices: NDArray[np.int64] | Sequence[int]) -> Batch:
        """The pairs at places `indices` of the stream: chosen in row 2i, rejected in 2i + 1, as `Loader.batch`."""
        return self.stored(self.pairs(indices))

    def stored(self, numbers: NDArray[np.int64] | Sequence[int]) -> Batch:
        """Pairs by their number in stored order (no shuffle): for reference log-probs and evaluation."""
        chosen = self._pairs[:, np.asarray(numbers, np.int64)]
        rows = Rows(2 * chosen.shape[1], self.sequence_length, self.pad_id)
        for pair, (source, shard, document) in enumerate(chosen.T.tolist()):
            for row, side in enumerate(self._sides[source], start=2 * pair):
                tokens = side.shard(shard)
                start, stop = int(tokens.offsets[document]), int(tokens.offsets[document + 1])
                rows.fill(row, tokens, start, min(stop, start + self.sequence_length + 1))
        return rows.batch(np.repeat(chosen[0].astype(np.int16), 2))


def fitting(chosen: TokenShard, rejected: TokenShard, limit: int) -> NDArray[np.int64]:
    """The pairs of a shard that can be learnt from when each side keeps its first `limit` ids.

    A pair that has to be cut is kept when its prompt fills no more than half of the window and what is left of the two
    answers differs; so the preference is between two beginnings of answers, and never between equal texts.

    Returns: document numbers, int64, ascending.
    """
    longest = np.maximum(np.diff(chosen.offsets), np.diff(rejected.offsets))
    keep = longest <= limit
    for document in np.flatnonzero(~keep).tolist():
        ids, others = chosen.document(document)[:limit], rejected.document(document)[:limit]
        if chosen.mask is None:
            raise DataError("a shard of preferences has no loss mask: rebuild the tokens")
        start = int(chosen.offsets[document])
        prompt = (
            int(np.argmax(chosen.mask[start : start + len(ids)] == 1))
            if chosen.mask[start : start + len(ids)].any()
            else limit
        )
        keep[document] = prompt <= limit // 2 and not np.array_equal(ids, others)
    found: NDArray[np.int64] = np.flatnonzero(keep)
    return found


def open_preferences(
    artifact: Artifact, split: Literal["train", "heldout"] = "train", names: Iterable[str] | None = None
) -> dict[str, tuple[TokenSource, TokenSource]]:
    """The preference sources of a tokens artifact: name -> (chosen, rejected).

    Args:
        names: which sources; all of kind preferences when not given.
    """
    found = artifact.statistics["sources"]
    wanted = (
        [name for name in found if found[name]["kind"] == "preferences" and found[name][split]["documents"]]
        if names is None
        else list(names)
    )

    def side(source: TokenSource, which: Side) -> TokenSource:
        prefixes = tuple(f"{prefix}.{which}" for prefix in source.prefixes)
        return TokenSource(source.name, source.kind, prefixes, source.shard_tokens, source.locate)

    return {
        name: (side(source, "chosen"), side(source, "rejected"))
        for name, source in open_sources(artifact, split, wanted).items()
    }
