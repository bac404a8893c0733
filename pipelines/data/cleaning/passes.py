"""What is done to the documents of a batch, one pass after another, from normalising to scoring.

Enters: documents as their reader gave them. Leaves: for each, in order, the clean document or the reason why there is
none.

Each pass reads the whole batch before the next begins, so that compiled code does the reading; a document that is
dropped takes part in no further pass. Personal data is masked before anything is judged, so that neither what stays nor
the samples of what was dropped hold any. A pass that only some recipes ask for is a row in `further`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.cleaning import steps
from pipelines.data.cleaning.batch import Batch
from pipelines.data.cleaning.classifier import Weights
from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.cleaning.decontaminate import Lookup
from pipelines.data.cleaning.further import FURTHER
from pipelines.data.cleaning.steps import Given
from pipelines.data.sources.config import SourceConfig
from pipelines.data.text.document import Document, Dropped


@dataclass(frozen=True)
class Pass:
    """A pass over a batch.

    Attributes: notes, the keys that it writes into metadata. again: whether documents that lost lines as boilerplate go
        through it anew.
    """

    run: Callable[[Batch, Given], None]
    notes: tuple[str, ...] = ()
    again: bool = False


PASSES = {
    "normalise": Pass(steps.normalise, ("masked",)),
    "origins": Pass(steps.look_at_origins, ("code_licence",)),
    "language": Pass(steps.name_languages, ("script",)),
    "quality rules": Pass(steps.judge_quality, again=True),
    "evaluation sets": Pass(steps.look_for_evaluation_sets, again=True),
    "quality model": Pass(steps.score_quality, ("quality",), again=True),
}
_NOTES = tuple(key for row in PASSES.values() for key in row.notes)
# CPU seconds that `clean_batch` spent in this process on each pass: what the plan reads
SECONDS: defaultdict[str, float] = defaultdict(float)


def clean_batch(
    documents: Sequence[Document],
    source: SourceConfig,
    recipe: CleaningRecipe,
    lookup: Lookup | None = None,
    weights: Weights | None = None,
) -> list[Document | Dropped]:
    """Normalise the documents, mask personal data, name the languages, judge, look for evaluation sets, and score.

    Args:
        lookup: the n-grams of evaluation sets; a document that shares one is dropped as `contaminated.<set>`.
        weights: the quality model; a document that scores below its threshold is dropped as `quality.model`.

    Returns: one entry per document, in order; a `Dropped` has the text as it was judged.
    """
    batch, given = Batch(documents, _NOTES), Given(source, recipe, lookup, weights)
    for name, run, told in _asked(given, again=False):
        began = time.process_time()
        run(batch, told)
        SECONDS[name] += time.process_time() - began
    return batch.results()


def judge_again(
    documents: Sequence[Document],
    source: SourceConfig,
    recipe: CleaningRecipe,
    lookup: Lookup | None = None,
    weights: Weights | None = None,
) -> list[Document | Dropped]:
    """Judge clean documents whose text has changed since, as `clean_batch` would; the language each was given stays."""
    notes = [{key: d.metadata[key] for key in _NOTES if key in d.metadata} for d in documents]
    batch = Batch(documents, _NOTES)
    batch.texts = [document.text for document in documents]
    batch.languages = [document.metadata["language"] for document in documents]
    for document, own in zip(documents, notes, strict=True):
        document.metadata.update(own)
    steps.drop_empty(batch)
    for _, run, told in _asked(Given(source, recipe, lookup, weights), again=True):
        run(batch, told)
    return batch.results()


def _asked(given: Given, again: bool) -> list[tuple[str, Callable[[Batch, Any], None], Any]]:
    """The passes of a recipe, those of every corpus first: name, function, what it is told. Args: again, only such."""
    asked: list[tuple[str, Callable[[Batch, Any], None], Any]] = []
    asked += [(name, row.run, given) for name, row in PASSES.items() if row.again or not again]
    further = [(FURTHER[settings.name], settings) for settings in given.recipe.passes]
    return asked + [(settings.name, row.run, settings) for row, settings in further if row.again or not again]
