"""Which documents are held out: a rule of the document's id alone, decided before any duplicate is removed.

Enters: the ids of one source. Leaves: a threshold on their hashes.

The hash of an id is a uniform number, so "hash below fraction × 2⁶⁴" takes that fraction of any source, the same
documents on every machine and for any number of shards, without looking at the others. A small source would by chance
hold out nothing: the `minimum` documents of smallest hash are always taken, though never more than one in ten.

Deciding before deduplication means a held-out document wins its cluster, so no near-copy of it stays in training.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

_SEED = 0x7261696E  # fixed for ever: another seed is another held-out set
_ALL = 1 << 64


def position(document_id: str) -> int:
    """Where an id falls in [0, 2⁶⁴)."""
    return xxhash.xxh3_64_intdigest(document_id.encode(), seed=_SEED)


def held_out_below(smallest: Sequence[int], documents: int, fraction: float, minimum: int) -> int:
    """The threshold of one source: documents whose position is below it are held out.

    Args:
        smallest: the `minimum` smallest positions of the source (all of them when there are fewer), ascending.
        documents: how many documents the source has.
        fraction: share to hold out, 0 to below 1; 0 holds out nothing.
        minimum: held out at least, as far as that is no more than a tenth of the source.
    """
    if fraction <= 0:
        return 0
    least = min(minimum, documents // 10)
    return max(int(fraction * _ALL), smallest[least - 1] + 1 if least else 0)
