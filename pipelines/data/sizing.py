"""How much memory a task of deduplication takes and how much temporary space its steps leave, from counts alone.

Memory is what a task adds to the process it runs in (`BASE_BYTES`: Python, NumPy, Arrow, compiled kernels). A constant per record
is the arrays that are alive together, counted in the code, and rounded up from the peak of anonymous memory of real tasks:
62 bytes for each of 8 million keys, 117 for each of 6 million links, 342 for each of 400,000 members (docs/log.md). The
exception is a single component whose keys alone outgrow the setting: it is never split.
"""

from __future__ import annotations

BASE_BYTES = 250_000_000  # of a worker process before it has any work
PAIR_BYTES = 64  # a record of `pairs`: as read 12, keys and nodes 16, their order 8, both again in order 16, links of what is shared
LINK_BYTES = 120  # a link, from one end: as read 16, both columns 16, their order 8, again in order 16, results and theirs 64
MEMBER_BYTES = 360  # a member: the record twice 172, a dozen columns of 8, orders of what is compared
KEY_FILE_BYTES, FACT_FILE_BYTES, LINK_FILE_BYTES, MEMBER_FILE_BYTES = 12, 65, 16, 78  # a record on disk
SHINGLES_PER_BYTE = 0.14  # of English prose: 3,253 bytes make 442


def temporary_bytes(documents: int, text_bytes: int, linked_share: float, bands: int, verify: bool) -> dict[str, int]:
    """What the steps leave in the work folder until the corpus is committed, beside the cleaned text itself.

    Args:
        documents, text_bytes: that passed the rules. linked_share: of documents that share a key with another.
    """
    linked = round(documents * linked_share)
    keys = bands + 2  # and the text and the id
    evidence = 8 * keys * linked + 4 * round(SHINGLES_PER_BYTE * text_bytes * linked_share) if verify else 0
    return {
        "facts": documents * FACT_FILE_BYTES,
        "keys": documents * keys * KEY_FILE_BYTES,
        # a document is linked, from both ends, in about half of the ranges where it has a key: a few copies, not one file
        "links": linked * bands // 2 * 2 * LINK_FILE_BYTES,
        "members": linked * MEMBER_FILE_BYTES + evidence,
        "index": documents * (FACT_FILE_BYTES + keys * KEY_FILE_BYTES),  # stays: part of the finished corpus
    }
