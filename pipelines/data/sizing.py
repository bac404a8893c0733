"""How much memory a task of deduplication takes and how much temporary space each step leaves, from counts alone.

Memory is what a task adds to the process it runs in (`BASE_BYTES`: Python, NumPy, Arrow, compiled kernels). The constants per
record are arrays counted in the code and confirmed by the peak memory of real tasks (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass

BASE_BYTES = 250_000_000  # of a worker process before it has any work
PAIR_BYTES = (
    64  # a record of `pairs`: keys 8, nodes 8, the order 8, both again in order 16, as read 12, links of the shared 12
)
LINK_BYTES = 120  # a link, from one end: read 16, both columns 16, order 8, ordered 16, results and their order 64
MEMBER_BYTES = 260  # a member: record 78, ordered again 78, offsets and orders 8 each
KEY_BYTES, FACT_BYTES, MEMBER_FILE_BYTES, VERDICT_BYTES = 12, 65, 78, 21  # a record on disk
SHINGLES_PER_BYTE = 0.14  # of English prose: 3,253 bytes make 442


@dataclass(frozen=True)
class Stage:
    """One step of deduplication."""

    name: str
    tasks: int
    memory_bytes: int  # of one task, beside BASE_BYTES
    temporary_bytes: int  # left in the work folder
