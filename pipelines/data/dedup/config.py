"""What counts as a copy, as the config states it: of lines, and of whole documents.

Enters: the values under `corpus.dedup`. Leaves: frozen dataclasses.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pipelines.config import Count, Range, Whole, config_class, runtime
from pipelines.data.dedup.minhash import MinHashConfig


@config_class
class LinesConfig:
    """Boilerplate: lines that many documents share (see `boilerplate`)."""

    unit: Literal["line", "paragraph"] = "line"
    min_characters: Whole = 40  # a shorter line is never taken for boilerplate
    max_documents: Count | None = (
        None  # a line in more documents than this is removed from all but the first; null: none is
    )


@config_class
class DedupConfig:
    """Near-duplicate removal."""

    lines: LinesConfig = field(default_factory=LinesConfig)
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    verify: bool = True  # compare candidates by exact Jaccard similarity
    threshold: Annotated[float, Range(above=0, high=1)] = 0.7  # least Jaccard similarity of a near-copy, when verified
    task_memory: Count = runtime(
        512_000_000
    )  # bytes that one task may take for its records: decides the number of tasks
