"""Which licences are permissive.

Enters: a licence as a source, a record or a file header states it. Leaves: whether its text may be used, changed and
passed on with no more than attribution.
"""

from __future__ import annotations

import re

PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "CDLA-Permissive-2.0",
    "ISC", "MIT", "ODC-BY-1.0", "PostgreSQL", "PSF-2.0", "public-domain", "Unlicense", "WordNet",
}  # fmt: skip
_FOLDED = {name.casefold() for name in PERMISSIVE}


def is_permissive(expression: str) -> bool:
    """Whether every part of an SPDX expression is: of alternatives (OR) one is enough, exceptions (WITH) add rights."""
    plain = re.sub(r"[()]|\sWITH\s+\S+", " ", expression)
    return all(
        any(choice.strip().casefold() in _FOLDED for choice in part.split(" OR ")) for part in plain.split(" AND ")
    )
