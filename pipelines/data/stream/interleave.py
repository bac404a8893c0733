"""Which source comes next: an endless sequence in which every prefix holds each source within one sample of its weight.

Tijdeman's algorithm for the chairman assignment problem (R. Tijdeman, Discrete Mathematics 32, 1980, p. 323). Each
source has a quota n*w after n samples; among the sources that are owed something, the one whose debt falls due first
comes next. With k sources the deviation never exceeds 1 - 1/(2k-2). Random draws would wander by sqrt(n): over 10,000
samples a 1 % source would be off by 10 samples, i.e. 10 % of its share. A pattern that repeats cannot hold a weight
below one in its length.

Random access. What comes next depends on how many of each source came before, and for that no formula is known that
keeps the bound. So the sequence is walked: from the nearest of the places that were passed before, every
`BLOCK_SAMPLES`, by a compiled kernel of about 1 ns a source and sample (22 sources: 22 ms a million samples, once per
process). Weights that are short decimals repeat after as many samples as their common denominator (0.7 and 0.3: after
10), and farther places cost nothing.

Weights are exact integers over one denominator, so that ties are decided alike on every machine: that of the decimals
as they are written, where it is below 2^40, else 2^40 (a weight is then off by 5e-13 at most, half a sample in 10^12).
"""

from __future__ import annotations

import functools
import heapq
import math
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_SAMPLES = 65_536  # walked at once; int16 + int32 per sample: 400 kB a block
SMALLEST_WEIGHT = 1e-12  # on the grid of 2^40, one part
_GRID = 1 << 40


def shares_of(weights: Sequence[float]) -> tuple[list[int], int]:
    """Weights as whole parts of one whole, in lowest terms.

    Args: weights, positive, sum to 1 within 1e-6.
    Returns: parts of each source, and their sum: the sequence repeats after so many samples.
    """
    exact = [
        Fraction(repr(float(weight))) for weight in weights
    ]  # the decimal as it is written, not its nearest double
    whole = math.lcm(*(fraction.denominator for fraction in exact))
    if whole > _GRID or sum(exact) != 1:
        whole = _GRID
    parts = [max(1, round(fraction * whole)) for fraction in exact]
    parts[parts.index(max(parts))] += whole - sum(parts)
    common = math.gcd(*parts)
    return [part // common for part in parts], whole // common


@functools.lru_cache(maxsize=16)
def interleave(weights: tuple[float, ...], length: int) -> NDArray[np.int16]:
    """The first samples of the sequence, without the compiled kernel, which takes half a second to load.

    Args:
        weights: share of each source [k]; positive, sums to 1 within 1e-6.
        length: how many samples.

    Returns: source of each sample [length]; for every n and source s, |count of s in the first n - n*w_s| < 1.
    """
    shares, whole = shares_of(weights)
    k = len(shares)
    pattern = np.zeros(length, np.int16)
    if k == 1:
        return pattern
    # with d = 1/(2k-2), sample j of source s (both from 0) may come once n*w_s - j >= d
    # and falls due when n*w_s - j >= 1 - d; the earliest due date goes first
    slack = 2 * k - 2
    owed = [(_ceil(whole, share * slack), source, 0) for source, share in enumerate(shares)]
    heapq.heapify(owed)
    due: list[tuple[int, int, int]] = []
    for n in range(1, length + 1):
        while owed and owed[0][0] <= n:
            _, source, j = heapq.heappop(owed)
            heapq.heappush(due, (_ceil(((j + 1) * slack - 1) * whole, shares[source] * slack), source, j))
        _, source, j = heapq.heappop(due)
        pattern[n - 1] = source
        heapq.heappush(owed, (_ceil(((j + 1) * slack + 1) * whole, shares[source] * slack), source, j + 1))
    pattern.setflags(write=False)  # shared by every caller
    return pattern


class Interleaving:
    """Random access to the sequence of some weights. Threads may share it."""

    def __init__(self, weights: Sequence[float]):
        """Args: weights, share of each source [k]; positive, sum to 1 within 1e-6."""
        self.weights = tuple(float(weight) for weight in weights)
        self._shares, self._whole = shares_of(self.weights)
        self._parts = np.array(self._shares, np.int64)
        self._passed = [np.zeros(len(self._shares), np.int64)]  # counts before each block of the first repetition
        self._lock = threading.Lock()
        self.block = functools.lru_cache(maxsize=8)(self._block)

    def counts(self, samples: int) -> NDArray[np.int64]:
        """How many of the first `samples` samples each source has [k]."""
        repeats, rest = divmod(samples, self._whole)
        block, within = divmod(rest, BLOCK_SAMPLES)
        counted: NDArray[np.int64] = self._parts * repeats + self._before(block)
        if within:
            pattern, _, _ = self.block(block)
            counted = counted + np.bincount(pattern[:within], minlength=len(counted))
        return counted

    def _block(self, number: int) -> tuple[NDArray[np.int16], NDArray[np.int32], NDArray[np.int64]]:
        """Samples [number, number + 1) * BLOCK_SAMPLES, cached as `block`.

        Returns: source of each [BLOCK_SAMPLES]; how many of the same source came earlier in the block [BLOCK_SAMPLES];
            and how many of each source came before the block [k].
        """
        before = self.counts(number * BLOCK_SAMPLES) if number * BLOCK_SAMPLES >= self._whole else self._before(number)
        pattern = np.zeros(BLOCK_SAMPLES, np.int16)
        if number == 0:
            pattern = interleave(self.weights, BLOCK_SAMPLES)
        elif len(self._shares) > 1:
            self._walk(before, number * BLOCK_SAMPLES, pattern)
        rank = np.empty(BLOCK_SAMPLES, np.int32)
        for source in np.unique(pattern):
            here = pattern == source
            rank[here] = np.arange(np.count_nonzero(here))
        return pattern, rank, before

    def _before(self, block: int) -> NDArray[np.int64]:
        """Counts before a block of the first repetition, which walks there from the last block that was passed."""
        with self._lock:
            pattern = np.empty(BLOCK_SAMPLES, np.int16)
            while len(self._passed) <= block:
                last = len(self._passed) - 1
                if last == 0:
                    pattern = interleave(self.weights, BLOCK_SAMPLES).copy()
                else:
                    self._walk(self._passed[last], last * BLOCK_SAMPLES, pattern)
                self._passed.append(self._passed[last] + np.bincount(pattern, minlength=len(self._shares)))
            return self._passed[block]

    def _walk(self, counts: NDArray[np.int64], samples: int, pattern: NDArray[np.int16]) -> None:
        """Fill `pattern` with what follows after `samples` samples, of which each source had `counts`."""
        if len(self._shares) == 1:
            pattern[:] = 0
            return
        slack = 2 * len(self._shares) - 2
        # sample j of source s may come at ceil((j*slack + 1)*whole / (share*slack)) and is due at
        # ceil(((j + 1)*slack - 1)*whole / …); kept as that whole number and what it was rounded up by, in parts of
        # share*slack, so that the next is an addition
        state = np.empty((7, len(self._shares)), np.int64)
        for source, (share, j) in enumerate(zip(self._shares, counts.tolist(), strict=True)):
            parts = share * slack
            for row, numerator in ((0, (j * slack + 1) * self._whole), (2, ((j + 1) * slack - 1) * self._whole)):
                ceiling = _ceil(numerator, parts)
                state[row, source], state[row + 1, source] = ceiling - samples, ceiling * parts - numerator
            state[4, source], rest = divmod(self._whole, share)
            state[5, source], state[6, source] = rest * slack, parts
        _kernel()(state, pattern)


@functools.cache
def _kernel() -> Any:
    """The walk as machine code; numba is imported by the runs that go so far."""
    from pipelines.data.text.kernels import compiled

    return compiled(_steps)


def _steps(state: NDArray[np.int64], pattern: NDArray[np.int16]) -> None:
    """Tijdeman's steps, counted from 1.

    Args: state [7, k], rows: when the next sample of a source may come, and what that was rounded up by; when it is
        due, and likewise; the whole samples from one to the next, and the rest; the parts of which those roundings are.
    """
    owed, due, never = state[0], state[2], 1 << 62
    for n in range(1, len(pattern) + 1):
        earliest = never
        for source in range(len(due)):  # without a branch, so that four sources are compared at once
            earliest = min(earliest, due[source] if owed[source] <= n else never)
        chosen = 0
        while due[chosen] != earliest or owed[chosen] > n:
            chosen += 1
        pattern[n - 1] = chosen
        for row in (0, 2):
            state[row, chosen] += state[4, chosen]
            state[row + 1, chosen] -= state[5, chosen]
            if state[row + 1, chosen] < 0:
                state[row, chosen] += 1
                state[row + 1, chosen] += state[6, chosen]


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
