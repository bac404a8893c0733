"""The order of a source's items: a shuffle with random access. Pure arithmetic.

`permute` is a keyed bijection of 0..n-1 computed for single items: a Feistel network over the next power of two,
walked until it falls inside (cycle walking: Black and Rogaway, CT-RSA 2002; under 2 steps on average). An epoch's
shuffle thus costs no memory: a Fisher-Yates array over 1T tokens in windows of 4096 would take 2 GB per rank.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6  # even, so that the two halves end where they began; 4 leave visible structure below 64 items


def permute(items: NDArray[np.int64], count: int, key: int) -> NDArray[np.int64]:
    """Where a keyed shuffle of 0..count-1 sends `items`.

    Args:
        items: int64 [n], each in [0, count).
        count: size of the shuffled range.
        key: 64 bits that select the shuffle; see `stream_key`.

    Returns: int64 [n]; over all items a bijection of [0, count).
    """
    bits = (count - 1).bit_length()
    if bits == 0:
        return np.zeros_like(items)
    low, high = bits // 2, bits - bits // 2
    keys = [np.uint64(stream_key(key, round_)) for round_ in range(_ROUNDS)]
    values = items.astype(np.uint64)
    walking = np.arange(len(values))
    while len(walking):
        moved = _feistel(values[walking], low, high, keys)
        values[walking] = moved
        walking = walking[moved >= count]
    return values.astype(np.int64)


@functools.lru_cache(maxsize=4096)
def stream_key(*parts: object) -> int:
    """64 bits that depend on every part: seed, source, epoch, group."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _feistel(values: NDArray[np.uint64], low: int, high: int, keys: Sequence[np.uint64]) -> NDArray[np.uint64]:
    left, right = values >> np.uint64(low), values & np.uint64((1 << low) - 1)
    left_bits, right_bits = high, low
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & np.uint64((1 << left_bits) - 1))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(low)) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014); wraps modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
