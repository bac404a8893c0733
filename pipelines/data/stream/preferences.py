"""Preference pairs: a prompt with a chosen and a rejected answer, as rows of one batch.

Enters: the `.chosen` and `.rejected` shards of a tokens artifact, document i of one beside document i of the other;
both hold prompt and answer, the mask is on the answer. Leaves: batches whose row 2i is chosen and row 2i + 1
rejected, in the format of `loader`. Pair i of a run is a pure function of (seed, i), as in the loader.

Each row holds one conversation (no packing): DPO compares sums of log-probabilities per answer, and a row is then
an answer. Preference sets are small (UltraFeedback: 64k prompts), so the pairs that fit are listed in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.data.stream.cuts import Cut
from pipelines.data.stream.order import permute, stream_key
from pipelines.data.stream.rows import Batch, Rows, batch_sidecars
from pipelines.data.tokens.token_shards import TokenShard
from pipelines.data.tokens.token_sources import TokenSource, open_sources
from pipelines.errors import DataError
from pipelines.store.artifact import Artifact

Side = Literal["chosen", "rejected"]


class NothingFits(DataError):
    """No pair leaves enough of itself in the window to be learnt from."""


class PreferenceLoader:
    """Random access to shuffled preference pairs.

    Args:
        sources: name -> (chosen shards, rejected shards); see `open_preferences`.
        seed: selects the shuffle of each epoch.
        sequence_length: T; a side keeps its first T + 1 tokens; see `fitting`.
        pad_id: id that fills the rest of a row.

    Attributes:
        cuts: source -> what the window cuts off, where it does: pairs of which too little fits are left out
            (`fitting`), of others a side keeps its first T + 1 ids.
        pair_tokens: tokens of both sides of each pair, in stored order, int64 [pairs].
        pair_sources: index into `names` of each pair, in stored order, int64 [pairs].

    Raises: DataError when the two sides disagree; NothingFits when no pair fits.
    """

    def __init__(
        self, sources: dict[str, tuple[TokenSource, TokenSource]], seed: int, sequence_length: int, pad_id: int = 0
    ):
        self.seed, self.sequence_length, self.pad_id = seed, sequence_length, pad_id
        self.names = sorted(sources)
        self._sides = [sources[name] for name in self.names]
        self.sidecars = batch_sidecars(side for sides in self._sides for side in sides)
        cuts = {name: Cut(unit="pairs") for name in self.names}
        rows: list[NDArray[np.int64]] = [np.zeros((4, 0), np.int64)]
        for index, (chosen, rejected) in enumerate(self._sides):
            for shard in range(len(chosen.prefixes)):
                sides = chosen.shard(shard), rejected.shard(shard)
                lengths = [np.diff(side.offsets) for side in sides]
                if len(lengths[0]) != len(lengths[1]):
                    raise DataError(
                        f"{chosen.prefixes[shard]} has {len(lengths[0])} documents, "
                        f"its other side {len(lengths[1])}: rebuild the tokens"
                    )
                fits = fitting(*sides, sequence_length + 1)
                cuts[self.names[index]] += _cut(*sides, fits, sequence_length + 1)
                both = np.minimum(np.stack(lengths)[:, fits], sequence_length + 1).sum(axis=0)
                rows.append(np.stack([np.full(len(fits), index), np.full(len(fits), shard), fits, both]))
        self.cuts = {name: cut for name, cut in cuts.items() if not cut.harmless}
        listed = np.concatenate(rows, axis=1)
        # source, shard, document: int64 [3, pairs]
        self._pairs, self.pair_tokens = listed[:3], listed[3]
        self.pair_sources = self._pairs[0]
        if len(self) == 0:
            raise NothingFits(_none_fits(self.names, self.cuts, sequence_length))

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

    def stored(self, numbers: NDArray[np.int64] | Sequence[int], trim_to: int | None = None) -> Batch:
        """Pairs by their number in stored order (no shuffle). Args: trim_to, see `Rows.batch`."""
        chosen = self._pairs[:, np.asarray(numbers, np.int64)]
        rows = Rows(2 * chosen.shape[1], self.sequence_length, self.pad_id, self.sidecars)
        for pair, (source, shard, document) in enumerate(chosen.T.tolist()):
            for row, side in enumerate(self._sides[source], start=2 * pair):
                tokens = side.shard(shard)
                start, stop = int(tokens.offsets[document]), int(tokens.offsets[document + 1])
                rows.fill(row, tokens, start, min(stop, start + self.sequence_length + 1))
        return rows.batch(np.repeat(chosen[0].astype(np.int16), 2), trim_to)


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
    kept: NDArray[np.int64] = np.flatnonzero(keep)
    return kept


def _cut(chosen: TokenShard, rejected: TokenShard, fits: NDArray[np.int64], limit: int) -> Cut:
    """What a window of `limit` ids takes away from the pairs of a shard. Args: fits, what `fitting` returned."""
    lengths = np.stack([np.diff(chosen.offsets), np.diff(rejected.offsets)])
    longest = lengths.max(axis=0, initial=1)
    out = np.setdiff1d(np.arange(lengths.shape[1]), fits)
    cut = fits[longest[fits] > limit]
    targets = 0
    for side in (chosen, rejected):
        if side.mask is not None:
            targets += sum(
                int(np.count_nonzero(side.mask[side.offsets[i] + limit : side.offsets[i + 1]])) for i in cut.tolist()
            )
            targets += sum(
                int(np.count_nonzero(side.mask[side.offsets[i] : side.offsets[i + 1]])) for i in out.tolist()
            )
    return Cut(
        unit="pairs", rows=lengths.shape[1], cut=len(cut), left_out=len(out),
        lost_tokens=int(np.maximum(0, lengths[:, cut] - limit).sum() + lengths[:, out].sum()), lost_targets=targets,
        counts_from=int(longest[out].min(initial=2**62)) - 1 if len(out) else 0,
        whole_from=int(longest.max(initial=1)) - 1,
    )  # fmt: skip


def _none_fits(names: Sequence[str], cuts: Mapping[str, Cut], sequence_length: int) -> str:
    if not cuts:
        return (
            f"the tokens hold no preference pair ({', '.join(names) or 'no source'}): add a source of kind "
            "preferences to their corpus"
        )
    first = min(cut.counts_from for cut in cuts.values())
    whole = max(cut.whole_from for cut in cuts.values())
    left_out = ", ".join(f"{name} {cut.left_out:,}" for name, cut in cuts.items())
    return (
        f"no preference pair fits in windows of {sequence_length} tokens (left out: {left_out}): a prompt must fill "
        f"no more than half of it and the answers must differ in it: set batch.sequence_length to {first} (the first "
        f"pair fits whole) or {whole} (every pair does)"
    )


def open_preferences(
    artifact: Artifact, split: Literal["train", "heldout"] = "train", names: Iterable[str] | None = None
) -> dict[str, tuple[TokenSource, TokenSource]]:
    """The preference sources of a tokens artifact: name -> (chosen, rejected).

    Args:
        names: which sources; all of kind preferences when not given.
    """
    sources = artifact.statistics["sources"]
    wanted = (
        [name for name in sources if sources[name]["kind"] == "preferences" and sources[name][split]["documents"]]
        if names is None
        else list(names)
    )

    def side(source: TokenSource, which: Side) -> TokenSource:
        prefixes = tuple(f"{prefix}.{which}" for prefix in source.prefixes)
        return TokenSource(
            source.name, source.kind, prefixes, source.shard_tokens, source.locate, sidecars=source.sidecars
        )

    return {
        name: (side(source, "chosen"), side(source, "rejected"))
        for name, source in open_sources(artifact, split, wanted).items()
    }
