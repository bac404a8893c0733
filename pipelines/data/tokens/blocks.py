"""Sums over the blocks of a file that is read by ranges, and arrays that compare a block when it is first read.

Enters: the bytes of a token shard's `.bin`, and of its sidecars that are read by ranges, as they are written. Leaves: a
file `.sums` and, of a mapped file, an array whose slices are what was written or an error.

A shard is some hundred megabytes of which a window reads kilobytes, so its checksum would have to be worked out over
all of it before the first window. Blocks of 64 KiB are compared one by one instead, each once in a process: a stream
reads every block in the end, so all of it is compared once an epoch, and no step waits for more than the blocks that it
reads.

CRC-32: it sees every change within 32 neighbouring bits and all but one in 4 billion others, reads 1 to 2 GB/s (a rank
reads some MB/s of tokens), and is in Python's own library: a worker needs no package for it. It is no defence against
an attacker, and need not be: who can write a shard can write its sums.

`.sums`, little-endian:  8 bytes "TLSUMS1\\0"    uint32 block bytes    then for `.bin`, for `.mask` and for each further
sidecar: uint64 bytes of the file, uint32[ceil(bytes / block bytes)] sums. Before those of a further sidecar stands its
suffix: uint64 bytes, UTF-8.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError, TrunklineError

_FIRST = ("bin", "mask")  # whose sums come first and without a name; an absent file counts as an empty one
BLOCK_BYTES = 1 << 16
_MAGIC = b"TLSUMS1\0"
_HEADER = struct.Struct("<8sI")

Sums = NDArray[np.uint32]


class BlockSums:
    """Sums of a file that is being written."""

    def __init__(self) -> None:
        self.size = 0
        self._sums: list[int] = []
        self._open = 0  # sum of the last block, which is not full

    def add(self, data: memoryview) -> None:
        """The next bytes of the file."""
        data = data.cast("B")
        at = 0
        while at < len(data):
            room = BLOCK_BYTES - self.size % BLOCK_BYTES
            piece = data[at : at + room]
            self._open = zlib.crc32(piece, self._open)
            self.size, at = self.size + len(piece), at + len(piece)
            if self.size % BLOCK_BYTES == 0:
                self._sums.append(self._open)
                self._open = 0

    @property
    def sums(self) -> Sums:
        """One sum for each block, the last one perhaps short."""
        return np.array([*self._sums, *([self._open] if self.size % BLOCK_BYTES else [])], "<u4")


def write_sums(path: Path, of: Mapping[str, BlockSums]) -> None:
    """The `.sums` file of a shard. Args: of, the suffix of a file that is read by ranges -> its sums."""
    with path.open("wb") as handle:
        handle.write(_HEADER.pack(_MAGIC, BLOCK_BYTES))
        for suffix in (*_FIRST, *(suffix for suffix in of if suffix not in _FIRST)):
            if suffix not in _FIRST:
                name = suffix.encode()
                handle.write(struct.pack("<Q", len(name)) + name)
            sums = of.get(suffix, BlockSums())
            handle.write(struct.pack("<Q", sums.size) + sums.sums.tobytes())


def read_sums(path: Path) -> dict[str, tuple[int, Sums]]:
    """Suffix -> bytes of the file, and its sums. Raises: DataError when the file is no list of sums."""
    data = path.read_bytes()
    sums: dict[str, tuple[int, Sums]] = {}
    try:
        magic, block = _HEADER.unpack_from(data)
        at = _HEADER.size
        while len(sums) < len(_FIRST) or at < len(data):
            if len(sums) < len(_FIRST):
                suffix = _FIRST[len(sums)]
            else:
                (length,) = struct.unpack_from("<Q", data, at)
                suffix = data[at + 8 : at + 8 + length].decode()
                at += 8 + length
            (size,) = struct.unpack_from("<Q", data, at)
            count = -(-size // BLOCK_BYTES)
            sums[suffix] = size, np.frombuffer(data, "<u4", count, at + 8)
            at += 8 + 4 * count
    except (struct.error, ValueError) as error:
        raise DataError(f"{path} is cut short or no list of sums ({error})") from error
    if magic != _MAGIC or block != BLOCK_BYTES or at != len(data):
        raise DataError(f"{path} is no list of sums of blocks of {BLOCK_BYTES} bytes")
    return sums


class ComparedArray:
    """A mapped file as a one-dimensional array; each block is compared with its sum before it is first read.

    Whatever else is asked of it (`tolist`, `astype`, NumPy's functions) reads, and so compares, all of it.

    Args:
        array: the mapped file, read by slices.
        sums: of its blocks.
        refuse: makes the error for a block, from a clause that says what is wrong.
    """

    def __init__(self, array: NDArray[Any], sums: Sums, refuse: Callable[[str], TrunklineError]):
        self._array, self._sums, self._refuse = array, sums, refuse
        self._bytes = array.view(np.uint8).data
        self._seen = bytearray(len(sums))  # two threads at once compare a block twice, which costs nothing else
        self._left = len(sums)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, place: Any) -> Any:
        if self._left:
            self._compare(place)
        return self._array[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self[:], name)

    def _compare(self, place: Any) -> None:
        if type(place) is slice and place.step is None and (place.start or 0) >= 0 and (place.stop or 0) > 0:
            start, stop = place.start or 0, min(place.stop, len(self._array))
        elif type(place) is int and place >= 0:
            start, stop = place, place + 1
        else:
            start, stop = 0, len(self._array)
        if start >= stop:
            return
        seen = self._seen
        width = self._array.itemsize
        for block in range(start * width // BLOCK_BYTES, (stop * width - 1) // BLOCK_BYTES + 1):
            if not seen[block]:
                begin = block * BLOCK_BYTES
                if zlib.crc32(self._bytes[begin : begin + BLOCK_BYTES]) != self._sums[block]:
                    raise self._refuse(
                        f"does not match its checksum in bytes {begin:,} to "
                        f"{min(begin + BLOCK_BYTES, len(self._bytes)):,}"
                    )
                seen[block] = 1
                self._left = len(seen) - seen.count(1)
