"""The order of a stream: which source comes next, and which of its items. Pure arithmetic, random access.

Two pieces:

`interleave` spreads sources over a block so that every prefix holds each within one sample of its weight: Tijdeman's
algorithm for the chairman assignment problem (R. Tijdeman, Discrete Mathematics 32, 1980, p. 323). Each source has a
quota n*w after n samples; among the sources that are owed something, the one whose debt falls due first comes next.
With k sources the deviation never exceeds 1 - 1/(2k-2). Random draws would wander by sqrt(n): over 10,000 samples a
1 % source would be off by 10 samples, i.e. 10 % of its share.

`permute` is a keyed bijection of 0..n-1 computed for single items: a Feistel network over the next power of two,
walked until it falls inside (cycle walking: Black and Rogaway, CT-RSA 2002; under 2 steps on average). An epoch's
shuffle thus costs no memory: a Fisher-Yates array over 1T tokens in windows of 4096 would take 2 GB per rank.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6  # even, so that the two halves end where they began; 4 leave visible structure below 64 items


@functools.lru_cache(maxsize=16)
def interleave(weights: tuple[float, ...], length: int) -> NDArray[np.int16]:
    """A sequence of sources in which every prefix keeps to the weights.

    Args:
        weights: share of each source [k]; positive, sums to 1 within 1e-6.
        length: how many samples.

    Returns: source of each sample [length]; for every n and source s, |count of s in the first n - n*w_s| < 1.
    """
    scale = 1 << 40  # weights on this grid are exact integers, so ties are decided alike on every machine
    shares = [max(1, round(Fraction(weight) * scale)) for weight in weights]
    shares[shares.index(max(shares))] += scale - sum(shares)
    k = len(shares)
    pattern = np.zeros(length, np.int16)
    if k == 1:
        return pattern
    # with d = 1/(2k-2), sample j of source s (both from 0) may come once n*w_s - j >= d
    # and falls due when n*w_s - j >= 1 - d; the earliest due date goes first
    slack = 2 * k - 2
    owed = [(_ceil(scale, share * slack), source, 0) for source, share in enumerate(shares)]
    heapq.heapify(owed)
    due: list[tuple[int, int, int]] = []
    for n in range(1, length + 1):
        while owed and owed[0][0] <= n:
            _, source, j = heapq.heappop(owed)
            heapq.heappush(due, (_ceil(((j + 1) * slack - 1) * scale, shares[source] * slack), source, j))
        _, source, j = heapq.heappop(due)
        pattern[n - 1] = source
        heapq.heappush(owed, (_ceil(((j + 1) * slack + 1) * scale, shares[source] * slack), source, j + 1))
    pattern.setflags(write=False)  # shared by every caller
    return pattern


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


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
