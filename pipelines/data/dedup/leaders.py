"""The inner loop of `resolve`: documents of a component, best first, are compared with leaders that share a key.

Enters: keys and shingle sets, mapped from disk, and where those of each document lie. Leaves: the leader of each
document and their exact Jaccard similarity. Compiled, one component after another; memory is that of the largest
component's keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.data.text.kernels import compiled


@compiled
def join_leaders(
    boundary: Any, fixed: Any, keys: Any, key_start: Any, key_end: Any, shingles: Any, start: Any, end: Any,
    threshold: float, most: int, joined: Any, alike: Any,
) -> None:  # fmt: skip
    """Join each document to a leader, component by component; documents are ordered best first.

    Args:
        boundary: (components + 1,) where each begins. fixed: (documents,) bool: leads, whatever it resembles.
        joined: (documents,) out: the leader's index, or its own. alike: (documents,) out: similarity to it.
    """
    stamp = np.full(len(fixed), -1)
    for c in range(len(boundary) - 1):
        low, high = boundary[c], boundary[c + 1]
        if high - low < 2:
            continue
        total = 0
        for d in range(low, high):
            total += key_end[d] - key_start[d]
        # the component's keys become dense numbers of its buckets
        value, place, at = np.empty(total, np.uint64), np.empty(total, np.int64), 0
        for d in range(low, high):
            for k in range(key_start[d], key_end[d]):
                value[at] = keys[k]
                at += 1
        order = np.argsort(value)
        buckets = 0
        for j in range(total):
            if j > 0 and value[order[j]] != value[order[j - 1]]:
                buckets += 1
            place[order[j]] = buckets
        buckets += 1
        room = np.zeros(buckets + 1, np.int64)
        for j in range(total):
            room[place[j] + 1] += 1
        for b in range(buckets):
            room[b + 1] = room[b] + min(room[b + 1], most)
        led = np.empty(room[buckets], np.int64)
        filled = np.zeros(buckets, np.int64)
        at = 0
        for d in range(low, high):
            mine = at
            at += key_end[d] - key_start[d]
            if not fixed[d]:
                tried = np.empty((at - mine) * most, np.int64)
                n = 0
                for j in range(mine, at):
                    b = place[j]
                    for t in range(filled[b]):
                        leader = led[room[b] + t]
                        if stamp[leader] != d:
                            stamp[leader] = d
                            tried[n] = leader
                            n += 1
                for leader in np.sort(tried[:n]):
                    similarity = _jaccard(shingles, start[d], end[d], start[leader], end[leader], threshold)
                    if similarity >= threshold:
                        joined[d], alike[d] = leader, similarity
                        break
            if joined[d] == d:
                for j in range(mine, at):
                    b = place[j]
                    if filled[b] < room[b + 1] - room[b]:
                        led[room[b] + filled[b]] = d
                        filled[b] += 1


@compiled
def _jaccard(shingles: Any, i: int, i_end: int, j: int, j_end: int, threshold: float) -> float:
    """Jaccard similarity of two ascending sets, or 0 as soon as it cannot reach the threshold."""
    a, b, common = i_end - i, j_end - j, 0
    # |A ∩ B| ≥ t·|A ∪ B| means |A ∩ B| ≥ t/(1+t)·(|A|+|B|); a hair less, so that rounding decides nothing
    needed = threshold / (1 + threshold) * (a + b) - 1e-6
    while i < i_end and j < j_end:
        if common + min(i_end - i, j_end - j) < needed:
            return 0.0
        left, right = shingles[i], shingles[j]
        if left == right:
            common += 1
            i += 1
            j += 1
        elif left < right:
            i += 1
        else:
            j += 1
    return common / max(1, a + b - common)
