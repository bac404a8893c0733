"""How much memory a task of deduplication takes, from counts alone.

That is what a task adds to the process it runs in (`BASE_BYTES`: Python, NumPy, Arrow, compiled kernels). A constant
per record is the arrays that are alive together, counted in the code, and rounded up from the peak of anonymous memory
of real tasks: 62 bytes for each of 8 million keys, 117 for each of 6 million links, 342 for each of 400,000 members
(docs/log.md). The exception is a single component whose keys alone outgrow the setting: it is never split.
"""

from __future__ import annotations

BASE_BYTES = 250_000_000  # of a worker process before it has any work
# a record of `pairs`: as read 12, keys and nodes 16, their order 8, both again in order 16, links of what is shared
PAIR_BYTES = 64
LINK_BYTES = (
    120  # a link, from one end: as read 16, both columns 16, their order 8, again in order 16, results and theirs 64
)
MEMBER_BYTES = 360  # a member: the record twice 172, a dozen columns of 8, orders of what is compared
MEMBER_FILE_BYTES = 78  # a member on disk, beside its keys and shingles
