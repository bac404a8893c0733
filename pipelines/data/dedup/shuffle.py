"""The external shuffle: records in files that any number of tasks can share out among themselves, by reading ranges.

Enters: records of one task, each with a *block*, a number in [0, 4096). Leaves: a file of them in the order of their
blocks, behind a table of where each block begins. A reader of one part of P takes blocks [p·4096/P, (p+1)·4096/P) of
every file with two range reads, so P is chosen after the files were written, from how much there turned out to be, and
a file holds the same bytes for every P.

Blocks of hashes are their top 12 bits; blocks of document numbers are 4096 equal stretches of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import ConfigError
from pipelines.store.storage import REQUESTS_AT_ONCE, Storage

BLOCKS = 4096
_HEADER_BYTES = 8 * (BLOCKS + 1)
Blocks = npt.NDArray[np.uint16]


def blocks_of_hashes(hashes: npt.NDArray[np.uint64]) -> Blocks:
    """The block of uniform 64-bit hashes: their top 12 bits."""
    return (hashes >> np.uint64(52)).astype(np.uint16)


def blocks_of_nodes(nodes: npt.NDArray[np.int64], count: int) -> Blocks:
    """The block of node numbers in [0, count)."""
    return (nodes * BLOCKS // max(count, 1)).astype(np.uint16)


def mixed(values: npt.NDArray[Any], salt: int = 0) -> npt.NDArray[np.uint64]:
    """Integers to uniform 64-bit hashes (SplitMix64's finaliser): one to one for a given salt."""
    x = values.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & (1 << 64) - 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed_


def write_shuffled(path: Path, records: npt.NDArray[Any], blocks: Blocks) -> None:
    """Write records in the order of their blocks; within a block they keep their order.

    Args:
        records: (records,) of a fixed-size type. blocks: (records,) uint16 below 4096.
    """
    order = np.argsort(blocks, kind="stable")  # a radix sort, for 16-bit numbers
    offsets = np.zeros(BLOCKS + 1, "<u8")
    np.cumsum(np.bincount(blocks, minlength=BLOCKS), out=offsets[1:])
    with path.open("wb") as handle:
        handle.write(offsets.tobytes())
        records[order].tofile(handle)


def read_shuffled(storage: Storage, key: str, dtype: npt.DTypeLike, first: int, stop: int) -> npt.NDArray[Any]:
    """The records of blocks [first, stop) of one file, read-only."""
    offsets = np.frombuffer(storage.read_range(key, 8 * first, 8 * (stop + 1)), "<u8")
    size = np.dtype(dtype).itemsize
    start, end = (_HEADER_BYTES + int(offset) * size for offset in (offsets[0], offsets[-1]))
    return np.frombuffer(storage.read_range(key, start, end) if end > start else b"", dtype)


def read_many(
    storage: Storage, keys: Sequence[str], dtype: npt.DTypeLike, first: int, stop: int
) -> Iterator[npt.NDArray[Any]]:
    """`read_shuffled` of many files, in their order.

    Some dozen at a time, since an object store answers late, not slowly.
    """
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for start in range(0, len(keys), REQUESTS_AT_ONCE):
            some = keys[start : start + REQUESTS_AT_ONCE]
            yield from pool.map(lambda key: read_shuffled(storage, key, dtype, first, stop), some)


def read_all(storage: Storage, key: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """All records of one file."""
    return read_shuffled(storage, key, dtype, 0, BLOCKS)


def span(part: int, parts: int) -> tuple[int, int]:
    """The blocks of one part of `parts`, a power of two: first and one past the last."""
    return part * BLOCKS // parts, (part + 1) * BLOCKS // parts


def parts_for(need_bytes: float, task_memory: int, records_name: str) -> int:
    """How many parts keep each within `task_memory`: a power of two.

    Raises: ConfigError when that would take more than 4096.
    """
    parts = 1
    while need_bytes > parts * task_memory:
        parts *= 2
    if parts > BLOCKS:
        least = -(-int(need_bytes) // BLOCKS)
        raise ConfigError(
            f"corpus.dedup.task_memory is {task_memory:,} bytes; {records_name} of this corpus need {need_bytes:,.0f} "
            f"bytes, which are cut into at most {BLOCKS} parts: expected at least {least:,}, set it to that or more"
        )
    return parts


def starts(ordered: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where each run of equal values begins in an ordered array."""
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return np.flatnonzero(first)


def concatenated(parts: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Arrays one after another; none make an empty one."""
    return np.concatenate([np.empty(0, dtype), *parts])
