"""The recipe of a corpus: which sources, read how, cleaned by which rules.

Enters: the resolved config. Leaves: frozen dataclasses that have been checked against each other (see `checks`), before
anything is fetched. What a room of the flow is told stands in that room: `sources.config`, `cleaning.config`,
`dedup.config`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pipelines.config import Count, WorkflowConfig, config_class, runtime
from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.corpus import checks
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.sources.config import SourceConfig


@config_class
class CorpusRecipe(CleaningRecipe):
    """The group `corpus`: everything that decides what comes out."""

    sources: dict[str, SourceConfig]
    dedup: DedupConfig = field(default_factory=DedupConfig)
    piece_bytes: Count = runtime(4_000_000)  # of raw input per task
    file_bytes: Count = 64_000_000  # of text per output file

    @property
    def example_sources(self) -> dict[str, SourceConfig]:
        """The sources that the quality model learns from, by name."""
        if self.quality.model is None:
            return {}
        known = {**self.sources, **self.quality.model.examples}
        return {name: known[name] for name in (*self.quality.model.good, *self.quality.model.bad)}


@config_class
class CorpusConfig(WorkflowConfig):
    """Config of `workflows.corpus`."""

    corpus: CorpusRecipe
    sources: Literal["all", "permissive"] = "all"  # "permissive" leaves out every source whose licence is not
    # finished corpora (corpus/NAME): copies of their documents are dropped
    known: list[str] = field(default_factory=list)
    quality_report: bool = runtime(True)  # compare a sample of documents exactly, to know what deduplication finds
    # a reason: print examples from the finished corpus, do nothing else
    show_dropped: str | None = runtime(None)
    # so many: print clusters of copies from the finished corpus, do nothing else
    show_clusters: Count | None = runtime(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        recipe = self.corpus
        checks.check_some_are_read(recipe.sources, self.chosen)
        for name, source in recipe.sources.items():
            checks.check_source(f"corpus.sources.{name}", name, source)
        checks.check_cleaning(recipe, recipe.sources)
        checks.check_sizes(recipe.piece_bytes, self.show_clusters)
        checks.check_dedup(recipe.dedup)

    @property
    def chosen(self) -> dict[str, SourceConfig]:
        """The sources that are read, by name."""
        return {name: s for name, s in self.corpus.sources.items() if self.sources == "all" or s.permissive}
