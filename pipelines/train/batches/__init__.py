"""What an objective reads, and how: sample numbers enter, arrays leave.

    windows.py   windows of a mixture
    pairs.py     a chosen and a rejected answer

An objective names its kind of batches. Whoever else asks about them knows only what `Batches` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.data.stream.cuts import Cut
from pipelines.data.stream.loader import Loader
from pipelines.data.stream.source_stream import Carried
from pipelines.store.artifact import Artifact

# as `Loader.batch`, and perhaps `sidecars`: what else belongs to each row, by name
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Continuation:
    """Where a branch reads on in its parent's stream.

    Attributes:
        first_sample: its first sample.
        segments: of the whole stream, in the plain form of a spec.
        carried: where each source goes on, where windows are of another length than the parent's.
    """

    first_sample: int
    segments: tuple[dict[str, Any], ...]
    carried: Sequence[Carried] = ()


class Batches(Protocol):
    """The samples of a run, as a function of their numbers alone.

    Attributes:
        unit: what a sample is, and what `batch.global_batch` counts: windows, pairs.
        rows_per_unit: rows of a micro-batch that one sample is.
        alike: whether all micro-batches are of one shape.
        names: its sources.
        cuts: source -> what the window cuts off, where it does.
        segments: what is read from which sample on, in the plain form of a spec.
        loader: whose shards are worth fetching ahead; None where all are opened at once.
    """

    unit: ClassVar[str]
    rows_per_unit: ClassVar[int]
    alike: ClassVar[bool]
    names: list[str]
    segments: tuple[dict[str, Any], ...]

    def __init__(self, tokens: Artifact, segments: Sequence[dict[str, Any]], seed: int, sequence_length: int) -> None:
        """Open a run's stream. Args: segments, of its spec."""
        ...

    @classmethod
    def of_data(cls, data: Artifact, tokens: Artifact, seed: int, sequence_length: int, epochs: float) -> Batches:
        """A stream that begins with this run.

        Args: data, the mixture or the tokens that a config names; tokens, those that hold the shards.
        Raises: ConfigError or DataError where nothing in them can be learnt from.
        """
        ...

    @property
    def loader(self) -> Loader | None: ...

    @property
    def cuts(self) -> Mapping[str, Cut]: ...

    @property
    def epoch_samples(self) -> int:
        """Samples in one epoch of all sources."""
        ...

    def read(self, indices: NDArray[np.int64]) -> Arrays:
        """The samples `indices` as one micro-batch."""
        ...

    def tokens_in(self, first: int, last: int) -> int:
        """Tokens trained on in samples [first, last); asked at each step."""
        ...

    def tokens_by_source(self, first: int, last: int) -> dict[str, int]:
        """The same by the source that gives them."""
        ...

    def delivered(self, first: int, last: int) -> dict[str, int]:
        """Samples that each source gives in samples [first, last)."""
        ...

    def check_epochs(self, data: Artifact, global_batch: int, steps: int) -> None:
        """Refuse a run that reads a source more often than `data` allows. Raises: ConfigError."""
        ...

    def unevenness(self, samples: int) -> str:
        """How often each source is read in so many samples, where that differs without anybody's asking; or ""."""
        ...

    def never_read(self, samples: int) -> list[str]:
        """A sentence for each source whose share is so small that so many samples hold none of it."""
        ...

    def go_on(self, parent: Mapping[str, Any], seed: int) -> Continuation:
        """Where a branch goes on. Args: parent, the state of its checkpoint. Raises: ConfigError for another seed."""
        ...
