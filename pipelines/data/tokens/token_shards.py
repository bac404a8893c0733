"""Token shards: flat arrays of ids in Megatron's `.bin/.idx` layout, and what stands beside them.

Enters: documents as arrays of token ids, each closed by the end-of-sequence id.
Leaves: for a shard `train/<source>/00000`

    .bin    the ids one after another, uint16 for a vocabulary below 65,500, else int32
    .idx    document lengths and offsets (`megatron.py`)
    .mask, .bytes and whatever else `SIDECARS` has for the source (`sidecars/`)
    .sums   checksums of the blocks of .bin and of the sidecars that are read by ranges (`blocks.py`)

Memory: a writer holds the lengths (4 bytes per document), a reader maps the ids and holds the offsets (8 bytes per
document): about 1.1 MB for a shard of 100M tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.blocks import BlockSums, ComparedArray, read_sums, write_sums
from pipelines.data.tokens.megatron import read_index, token_dtype, write_index
from pipelines.data.tokens.sidecars import SIDECARS
from pipelines.errors import DataError, TrunklineError

Ids = NDArray[np.integer[Any]]
# the error for a damaged file, from its suffix and a clause that says what is wrong
Refuse = Callable[[str, str], TrunklineError]


def suffixes(sidecars: tuple[str, ...]) -> tuple[str, ...]:
    """The files of a shard with some sidecars."""
    return ("bin", "idx", *sidecars, "sums")


def by_ranges(suffix: str) -> bool:
    """Whether a file of a shard is read by ranges, and so compared block by block with the shard's sums."""
    return suffix == "bin" or (suffix in SIDECARS and SIDECARS[suffix].by_ranges)


class TokenShardWriter:
    """Writes one shard, document by document or batch by batch; nothing but the lengths stays in memory.

    Args:
        paths: suffix -> local file to write: "bin", "idx", the shard's sidecars, and "sums", by which it is compared.
        vocabulary_size: decides the width of an id.
    """

    def __init__(self, paths: Mapping[str, Path], vocabulary_size: int):
        self.paths = dict(paths)
        self.dtype = np.dtype(token_dtype(vocabulary_size))
        self._sidecars = [suffix for suffix in paths if suffix in SIDECARS]
        self._files: dict[str, IO[bytes]] = {
            suffix: self.paths[suffix].open("wb") for suffix in ("bin", *self._sidecars)
        }
        self._sums = {suffix: BlockSums() for suffix in self._files if by_ranges(suffix)}
        self._lengths: list[NDArray[np.int32]] = []
        self.tokens = self.loss_tokens = self.documents = self.loss_bytes = 0

    def add(self, tokens: Ids, lengths: Ids, **sidecars: NDArray[Any] | None) -> None:
        """Append documents.

        Args:
            tokens: ids [tokens], documents one after another, each with its closing id.
            lengths: tokens of each document [documents].
            sidecars: the entries of each sidecar that the shard has; None is as good as none.

        Raises: ValueError for arrays that do not belong together.
        """
        entries = {name: values for name, values in sidecars.items() if values is not None}
        if int(lengths.sum()) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens, lengths that sum to {int(lengths.sum())}")
        if set(entries) != set(self._sidecars):
            raise ValueError(f"the shard has {', '.join(self._sidecars)} beside it; given is {', '.join(entries)}")
        for name, values in entries.items():
            expected = SIDECARS[name].count(len(tokens), len(lengths))
            if expected is not None and len(values) != expected:
                raise ValueError(f"{name} has {len(values)} entries; expected {expected}")
        self._write("bin", np.ascontiguousarray(tokens, self.dtype))
        for name, values in entries.items():
            self._write(name, SIDECARS[name].stored(values, self.tokens))
        self._lengths.append(lengths.astype(np.int32))
        self.tokens += len(tokens)
        self.loss_tokens += int(entries["mask"].sum()) if "mask" in entries else len(tokens)
        self.documents += len(lengths)
        self.loss_bytes += int(entries["bytes"].sum()) if "bytes" in entries else 0

    def _write(self, suffix: str, values: NDArray[Any]) -> None:
        data = values.reshape(-1).view(np.uint8).data
        self._files[suffix].write(data)
        if suffix in self._sums and data.nbytes:
            self._sums[suffix].add(data)

    def close(self) -> None:
        """Write the index and close every file; the shard is complete from here on."""
        for handle in self._files.values():
            handle.close()
        write_index(self.paths["idx"], np.concatenate([np.zeros(0, np.int32), *self._lengths]), self.dtype)
        if "sums" in self.paths:
            write_sums(self.paths["sums"], self._sums)

    def abandon(self) -> None:
        """Close and remove what was written: the shard failed."""
        for handle in self._files.values():
            handle.close()
        for path in self.paths.values():
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class TokenShard:
    """One shard, memory-mapped.

    Attributes:
        tokens: ids [tokens], uint16 or int32, mapped; read by slices, whose blocks are compared when first read.
        offsets: token offset of each document, and the total [documents + 1], int64.
        sidecars: what stands beside the ids, mapped, by name; entries as `SIDECARS` says.
        files: what is mapped; kept here, so that the cache keeps it.
    """

    tokens: Ids | ComparedArray
    offsets: NDArray[np.int64]
    sidecars: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def mask(self) -> NDArray[np.uint8] | ComparedArray | None:
        """1 where the token counts in the loss [tokens]; None when every token counts."""
        return self.sidecars.get("mask")

    @property
    def document_bytes(self) -> NDArray[np.int32] | None:
        """UTF-8 bytes that a document's counted tokens spell [documents]; None in a shard of another tool."""
        return self.sidecars.get("bytes")

    @property
    def documents(self) -> int:
        """How many documents the shard holds."""
        return len(self.offsets) - 1

    def document(self, index: int) -> Ids:
        """The ids of one document, its closing id included."""
        document: Ids = self.tokens[int(self.offsets[index]) : int(self.offsets[index + 1])]
        return document

    @classmethod
    def open(cls, paths: Mapping[str, Path], refuse: Refuse | None = None) -> TokenShard:
        """Map a shard.

        Args:
            paths: suffix -> local file; "bin" and "idx" are required; without "sums" the files are taken as they are.
            refuse: the error for a damaged file.

        Raises: DataError when the index is of another format or its lengths disagree with the files.
        """
        lengths, pointers, dtype = read_index(paths["idx"])
        bin_path, names = paths["bin"], [name for name in SIDECARS if name in paths]
        tokens = _map(bin_path, dtype)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if len(tokens) != offsets[-1]:
            raise DataError(f"{bin_path} holds {len(tokens)} tokens, its index says {offsets[-1]}: rebuild the shard")
        contradicting = np.flatnonzero(pointers != offsets[:-1] * dtype.itemsize)
        if len(contradicting):
            at = int(contradicting[0])
            raise DataError(
                f"{paths['idx']} contradicts itself: by the lengths before it, document {at} of {len(lengths)} begins "
                f"at byte {offsets[at] * dtype.itemsize}, by its offset at byte {pointers[at]}: rebuild the shard"
            )
        sidecars = {name: open_sidecar(name, paths, refuse) for name in names}
        for name, entries in sidecars.items():
            expected = SIDECARS[name].count(len(tokens), len(lengths))
            if expected is not None and len(entries) != expected:
                raise DataError(
                    f"{paths[name]}, a sidecar of {bin_path}, has {len(entries)} entries, the shard needs {expected}: "
                    "rebuild the shard"
                )
        compared = _compared("bin", tokens, paths, refuse)
        return cls(compared, offsets, sidecars, (bin_path, *(paths[name] for name in names)))


def open_sidecar(name: str, paths: Mapping[str, Path], refuse: Refuse | None = None) -> Any:
    """Map one sidecar of a shard and nothing else. Raises: DataError when it is of another size than its sums say."""
    return _compared(name, _map(paths[name], SIDECARS[name].stored_dtype), paths, refuse)


def _compared(
    suffix: str, array: NDArray[Any], paths: Mapping[str, Path], refuse: Refuse | None
) -> NDArray[Any] | ComparedArray:
    """A mapped file, whose blocks are compared with the shard's sums where it has some of it."""
    if not by_ranges(suffix) or "sums" not in paths:
        return array
    size, sums = read_sums(paths["sums"])[suffix]
    if array.nbytes != size:
        raise DataError(f"{paths[suffix]} has {array.nbytes} bytes, {paths['sums']} is of {size}: rebuild the shard")
    return ComparedArray(array, sums, _refusal(paths[suffix], suffix, refuse))


def _refusal(path: Path, suffix: str, refuse: Refuse | None) -> Callable[[str], TrunklineError]:
    if refuse is None:
        return lambda problem: DataError(f"{path} {problem}: it was changed or damaged: rebuild the shard")
    return functools.partial(refuse, suffix)


def shard_paths(folder: Path, prefix: str) -> dict[str, Path]:
    """suffix -> file for the shard `prefix` of a plain folder; absent sidecars are left out."""
    paths = {suffix: folder / f"{prefix}.{suffix}" for suffix in suffixes(tuple(SIDECARS))}
    return {suffix: path for suffix, path in paths.items() if suffix in ("bin", "idx") or path.exists()}


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise DataError(f"{path} has {size} bytes, its entries {dtype.itemsize} each: rebuild the shard")
    if size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # slicing a plain view is 5x cheaper than a memmap's
