"""Pairs of answers: a sample is two rows, row 2i the chosen answer and row 2i + 1 the rejected one.

Enters: the preference pairs of a tokens artifact. Leaves: `Batches` of pairs (`pipelines/data/stream/preferences.py`),
as wide as their longest row, and with them whatever an objective has worked out of each pair.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.data.stream.cuts import Cut
from pipelines.data.stream.preferences import PreferenceLoader, open_preferences
from pipelines.store.artifact import Artifact
from pipelines.train.batches import Arrays, Continuation

_TRIM_TOKENS = 64


class Pairs:
    """See `Batches`."""

    unit: ClassVar[str] = "pairs"
    rows_per_unit: ClassVar[int] = 2
    alike: ClassVar[bool] = False

    def __init__(self, tokens: Artifact, segments: Sequence[dict[str, Any]], seed: int, sequence_length: int):
        self.preferences = PreferenceLoader(open_preferences(tokens), seed, sequence_length)
        self.names, self.segments, self.loader = self.preferences.names, tuple(segments), None
        self._attached: dict[str, NDArray[np.float32]] = {}
        self._given = functools.lru_cache(maxsize=2)(self._count_epoch)

    @classmethod
    def of_data(cls, data: Artifact, tokens: Artifact, seed: int, sequence_length: int, epochs: float) -> Pairs:
        """Raises: NothingFits when no pair leaves enough of itself in the window."""
        return cls(tokens, (), seed, sequence_length)

    @property
    def cuts(self) -> Mapping[str, Cut]:
        return self.preferences.cuts

    @property
    def epoch_samples(self) -> int:
        return len(self.preferences)

    def read(self, indices: NDArray[np.int64]) -> Arrays:
        numbers = self.preferences.pairs(indices)
        arrays = self.stored(numbers)
        attached = {name: values[numbers].reshape(-1) for name, values in self._attached.items()}
        return {**arrays, "sidecars": {**arrays.get("sidecars", {}), **attached}}

    def stored(self, numbers: NDArray[np.int64]) -> Arrays:
        """Pairs by their number in stored order, with nothing attached; pairs are short, windows long."""
        return self.preferences.stored(numbers, trim_to=_TRIM_TOKENS)

    def attach(self, name: str, values: NDArray[np.float32]) -> None:
        """Have `read` deliver `values` too, as a sidecar. Args: values, of pairs in stored order [pairs, 2]."""
        self._attached[name] = values

    def tokens_in(self, first: int, last: int) -> int:
        return sum(self.tokens_by_source(first, last).values())

    def tokens_by_source(self, first: int, last: int) -> dict[str, int]:
        given = self._tokens_before(last) - self._tokens_before(first)
        return dict(zip(self.names, given.tolist(), strict=True))

    def _tokens_before(self, sample: int) -> NDArray[np.int64]:
        """Tokens of each source in samples [0, sample): int64 [sources]."""
        epoch, place = divmod(sample, len(self.preferences))
        whole, begun = self._given(0)[:, -1], self._given(epoch)[:, place]
        before: NDArray[np.int64] = epoch * whole + begun
        return before

    def _count_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Tokens of each source in the first so many pairs of an epoch: int64 [sources, pairs + 1]."""
        pairs = self.preferences.pairs(np.arange(len(self.preferences)) + epoch * len(self.preferences))
        own = self.preferences.pair_sources[pairs] == np.arange(len(self.names))[:, None]
        return np.pad(np.cumsum(own * self.preferences.pair_tokens[pairs], axis=1), ((0, 0), (1, 0)))

    def delivered(self, first: int, last: int) -> dict[str, int]:
        """Nothing: no mixture says how many samples each source should give."""
        return {}

    def check_epochs(self, data: Artifact, global_batch: int, steps: int) -> None:
        """All are allowed: no mixture sets a limit."""

    def unevenness(self, samples: int) -> str:
        """Nothing: each pair is read once in an epoch."""
        return ""

    def never_read(self, samples: int) -> list[str]:
        """Nothing: pairs of all sources are shuffled together."""
        return []

    def go_on(self, parent: Mapping[str, Any], seed: int) -> Continuation:
        """At the beginning: pairs are few, and shuffled anew for each run."""
        return Continuation(0, ())
