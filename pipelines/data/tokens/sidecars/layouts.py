"""How a sidecar lies in its file, and how a row's share of it becomes part of a batch.

Enters: documents as they are encoded, and later the spans of tokens that a batch's rows read. Leaves: a file beside
each shard, flat and without a header, so that it can be mapped; and arrays of a batch.

    PerToken      an entry for each token                     in a batch [B, T], beside the inputs or beside the targets
    PerDocument   an entry for each document                  in a batch [B, T]: each token has its document's entry
    Anchored      values that stand at some of the tokens     in a batch [V, ...], and `<name>.at` [V, 2]: row and place

`Anchored` is for what is large and rare, as the images of a document: a document has any number of values, and a window
that cuts it reads those whose token it reads.

Legend: B rows, T inputs of a row; a row spans up to T + 1 ids of one shard, of which [:T] are inputs and [1:] targets.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

KINDS = frozenset({"documents", "conversations", "preferences"})


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents ready to be written, one after another.

    Attributes:
        tokens: ids [tokens], each document with its closing id.
        lengths: tokens of each document [documents].
        rows: the corpus's row of each document [documents].
        loss_bytes: UTF-8 bytes of each document that its counted tokens spell [documents].
        mask: 1 where the token counts in the loss [tokens]; None where every token counts.
    """

    tokens: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    rows: Sequence[Mapping[str, Any]]
    loss_bytes: NDArray[np.int64]
    mask: NDArray[np.uint8] | None = None


@dataclass(frozen=True, kw_only=True)
class Sidecar(ABC):
    """One row of the table `SIDECARS`.

    Attributes:
        dtype: of an entry, in the file and in a batch.
        encode: the entries of some documents. Its module is part of the fingerprint of tokens that have this sidecar.
        kinds: of the sources that have it.
        columns: what `encode` reads of the corpus beside the columns of every source of the kind. A file without them
            gets no sidecar.
        in_batch: whether it becomes part of a batch.
        absent: the entry of a token or document whose source is without this sidecar.
        padding: the entry where a row has no token.
    """

    dtype: npt.DTypeLike
    encode: Callable[[EncodedDocuments], NDArray[Any]]
    kinds: frozenset[str] = KINDS
    columns: tuple[str, ...] = ()
    in_batch: bool = True
    absent: int = 0
    padding: int = 0

    # a file that is read by ranges is compared with its checksums block by block, any other whole when it is opened
    by_ranges = True

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The dtype of an entry of the file."""
        return np.dtype(self.dtype)

    def stored(self, entries: NDArray[Any], first_token: int) -> NDArray[Any]:
        """What `encode` returned, as it is appended to the file.

        Args: first_token, where those documents begin in their shard.
        """
        return np.ascontiguousarray(entries, self.stored_dtype)

    @abstractmethod
    def count(self, tokens: int, documents: int) -> int | None:
        """Entries in the file of a shard; None where only the file knows."""

    @abstractmethod
    def blank(self, rows: int, width: int) -> Any:
        """What `fill` writes to: of a batch of `rows` rows that span `width` = T + 1 ids each."""

    @abstractmethod
    def fill(
        self, blank: Any, row: int, entries: Any | None, offsets: NDArray[np.int64], start: int, stop: int
    ) -> None:
        """Take a row's share; not called for a row without padding where the shard is without.

        Args:
            entries: the mapped file; None where the shard is without.
            offsets: token offset of each document of the shard, and the total [documents + 1].
            start, stop: the tokens of the shard that the row reads.
        """

    @abstractmethod
    def finished(self, name: str, blank: Any, length: int) -> dict[str, NDArray[Any]]:
        """The batch's arrays. Args: length, inputs of a row that are kept, T or fewer."""


@dataclass(frozen=True, kw_only=True)
class PerToken(Sidecar):
    """An entry for each token: [B, T]. Attributes: beside, whether entry t belongs to input t or to target t."""

    beside: Literal["inputs", "targets"] = "inputs"

    def count(self, tokens: int, documents: int) -> int:
        return tokens

    def blank(self, rows: int, width: int) -> NDArray[Any]:
        return np.full((rows, width), self.absent, self.dtype)

    def fill(
        self, blank: Any, row: int, entries: Any | None, offsets: NDArray[np.int64], start: int, stop: int
    ) -> None:
        if entries is not None:
            blank[row, : stop - start] = entries[start:stop]
        if stop - start < blank.shape[1]:
            blank[row, stop - start :] = self.padding

    def finished(self, name: str, blank: Any, length: int) -> dict[str, NDArray[Any]]:
        first = int(self.beside == "targets")
        return {name: blank[:, first : first + length]}


@dataclass(frozen=True, kw_only=True)
class PerDocument(Sidecar):
    """An entry for each document: [B, T], at each input that of its document."""

    by_ranges = False

    def count(self, tokens: int, documents: int) -> int:
        return documents

    def blank(self, rows: int, width: int) -> NDArray[Any]:
        return np.full((rows, width), self.absent, self.dtype)

    def fill(
        self, blank: Any, row: int, entries: Any | None, offsets: NDArray[np.int64], start: int, stop: int
    ) -> None:
        if entries is not None:
            first, last = offsets.searchsorted(start, "right") - 1, offsets.searchsorted(stop, "left")
            lengths = np.diff(offsets[first : last + 1].clip(start, stop))
            blank[row, : stop - start] = np.repeat(entries[first:last], lengths)
        blank[row, stop - start :] = self.padding

    def finished(self, name: str, blank: Any, length: int) -> dict[str, NDArray[Any]]:
        return {name: blank[:, :length]}


@dataclass(frozen=True, kw_only=True)
class Anchored(Sidecar):
    """Values of one shape at some of the tokens: a batch has [V, *shape], and [V, 2] int64, row and place of each.

    `encode` returns records (`stored_dtype`) by ascending `at`, the place of the value's token among those documents'
    tokens.
    """

    shape: tuple[int, ...] = ()

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return np.dtype([("at", "<i8"), ("value", self.dtype, self.shape)])

    def stored(self, entries: NDArray[Any], first_token: int) -> NDArray[Any]:
        records = np.array(entries, self.stored_dtype)
        records["at"] += first_token
        return records

    def count(self, tokens: int, documents: int) -> None:
        return None

    def blank(self, rows: int, width: int) -> list[tuple[int, int, NDArray[Any]]]:
        return []

    def fill(
        self, blank: Any, row: int, entries: Any | None, offsets: NDArray[np.int64], start: int, stop: int
    ) -> None:
        if entries is None:
            return
        first = bisect.bisect_left(range(len(entries)), start, key=lambda number: entries[number]["at"])
        for number in range(first, len(entries)):
            at, value = entries[number]
            if at >= stop:
                break
            blank.append((row, int(at) - start, value))

    def finished(self, name: str, blank: Any, length: int) -> dict[str, NDArray[Any]]:
        kept = [anchor for anchor in blank if anchor[1] < length]
        values = np.array([value for _, _, value in kept], self.dtype).reshape(-1, *self.shape)
        places = np.array([(row, place) for row, place, _ in kept], np.int64).reshape(-1, 2)
        return {name: values, f"{name}.at": places}
