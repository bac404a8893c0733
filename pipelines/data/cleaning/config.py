"""What cleaning does, as the config states it: addresses, languages, quality, personal data, evaluation sets.

Enters: the values under `corpus`. Leaves: frozen dataclasses; the thresholds themselves stand beside the rules that use
them.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated

from pipelines.config import Chosen, Count, Range, Seed, Share, Whole, config_class
from pipelines.data.cleaning.batch import FurtherSettings
from pipelines.data.cleaning.further import FURTHER
from pipelines.data.cleaning.origins import UrlConfig
from pipelines.data.cleaning.pii import PiiConfig
from pipelines.data.cleaning.quality import QualityRules
from pipelines.data.sources.config import ReaderConfig, SourceConfig

Further = Annotated[FurtherSettings, Chosen("name", lambda: FURTHER)]


@config_class
class EvaluationSet:
    """A set that no document of the corpus may share text with."""

    reader: ReaderConfig
    fields: list[str] = field(default_factory=lambda: ["text"])  # that hold an item's text

    @property
    def source(self) -> SourceConfig:
        """It as a source of documents, whose text is the first field."""
        return SourceConfig(
            licence="evaluation only", reader=replace(self.reader, text_field=(*self.fields, "text")[0])
        )


@config_class
class DecontaminationConfig:
    """Which evaluation sets are kept out, and what counts as an overlap."""

    sets: dict[str, EvaluationSet] = field(default_factory=dict)
    ngram: Count = 13  # consecutive words (Chinese characters) that a document and an item share
    min_words: Count = 8  # an item from this length to ngram is looked for as a whole, a shorter one not at all
    max_items: Count = 10  # an n-gram that more items of a set share is their template and does not count


@config_class
class QualityModelConfig:
    """A linear classifier trained on two kinds of examples, which scores every document."""

    good: list[str]  # sources of the corpus, or of `examples`, by name
    bad: list[str]
    examples: dict[str, SourceConfig] = field(default_factory=dict)  # sources read for this alone
    sources: list[str] = field(
        default_factory=list
    )  # that are scored; empty: those of documents with content prose or web
    threshold: Share | None = None  # a document that scores below is dropped; null: scores are only recorded
    documents: Count = 5_000  # examples of each class, at most
    epochs: Count = 5
    folds: Annotated[int, Range(2)] = 5  # parts of the examples, each judged by a model that has not seen it
    seed: Seed = 0

    def scores(self, name: str, source: SourceConfig) -> bool:
        """Whether documents of this source are scored."""
        chosen = name in self.sources if self.sources else source.content in ("prose", "web")
        return chosen and source.kind == "documents"


@config_class
class QualityConfig(QualityRules):
    """Thresholds by kind of content, and a trained model beside them."""

    model: QualityModelConfig | None = None


@config_class
class LanguageConfig:
    """Which languages stay."""

    accept: list[str] = field(default_factory=lambda: ["en", "zh"])  # for sources of language "auto"
    min_characters: Whole = 60  # a shorter document keeps its declared language: the detector would guess
    max_other_score: Share = 0.65  # a document is dropped when the detector is surer than this of another language


@config_class
class CleaningRecipe:
    """What the passes over a batch are told."""

    url: UrlConfig = field(default_factory=UrlConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    pii: PiiConfig = field(default_factory=PiiConfig)
    decontaminate: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    # beside those that every corpus goes through; see `further`
    passes: list[Further] = field(default_factory=list)
