"""What is done to the documents of a batch, one pass after another, from normalising to scoring.

Enters: documents as their reader gave them. Leaves: for each, in order, the clean document or the reason why there is
none.

Each pass reads the whole batch before the next begins, so that compiled code does the reading; a document that is
dropped takes part in no further pass. Personal data is masked before anything is judged, so that neither what stays nor
the samples of what was dropped hold any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.data.cleaning.classifier import Poor, Weights, score
from pipelines.data.cleaning.config import CleaningRecipe, QualityModelConfig
from pipelines.data.cleaning.decontaminate import Contaminated, Lookup, Overlap
from pipelines.data.cleaning.language import NAMED, chinese_variants, detect_all
from pipelines.data.cleaning.normalise import normalise_all
from pipelines.data.cleaning.origins import licence_of, refuse, refuse_path
from pipelines.data.cleaning.pii import PiiConfig, mask
from pipelines.data.cleaning.quality import judge, without_lines
from pipelines.data.sources.config import SourceConfig
from pipelines.data.text.document import Document, Dropped, render
from pipelines.data.text.licences import is_permissive
from pipelines.data.text.packed import pack

_OURS = (
    "masked",
    "script",
    "quality",
    "code_licence",
)  # what the passes note in the metadata; a record's own fields of these names go


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
    batch = _Batch(documents)
    batch.texts = _normalised(documents, source, recipe.pii)
    if source.content == "web":
        batch.texts = [without_lines(text, recipe.quality.web.drop_lines) for text in batch.texts]
    batch.drop(["quality.empty" if not text.strip() else None for text in batch.texts])
    batch.drop([_origin(documents[i], batch.texts[i], source, recipe) for i in batch.alive])
    _languages(batch, source, recipe)
    _judge(batch, source, recipe, lookup, weights)
    return batch.results()


def judge_again(
    documents: Sequence[Document],
    source: SourceConfig,
    recipe: CleaningRecipe,
    lookup: Lookup | None = None,
    weights: Weights | None = None,
) -> list[Document | Dropped]:
    """Judge clean documents whose text has changed since, as `clean_batch` would; the language each was given stays."""
    languages = [document.metadata["language"] for document in documents]
    notes = [{key: d.metadata[key] for key in _OURS if key in d.metadata} for d in documents]
    batch = _Batch(documents)
    batch.texts, batch.languages = [document.text for document in documents], languages
    for document, note in zip(documents, notes, strict=True):
        document.metadata.update(note)
    batch.drop(["quality.empty" if not text.strip() else None for text in batch.texts])
    _judge(batch, source, recipe, lookup, weights)
    return batch.results()


def _judge(
    batch: _Batch, source: SourceConfig, recipe: CleaningRecipe, lookup: Lookup | None, weights: Weights | None
) -> None:
    """Drop by the quality rules, the evaluation sets and the quality model."""
    if source.kind == "documents":
        languages = [batch.languages[i] for i in batch.alive]
        batch.drop(judge(batch.living, source.content, languages, recipe.quality))
    if source.kind == "preferences":
        metadata = [batch.documents[i].metadata for i in batch.alive]
        batch.drop(["quality.same_answers" if m["chosen"] == m["rejected"] else None for m in metadata])
    if lookup is not None:
        batch.contaminated(lookup.overlaps(batch.living))
    if weights is not None:
        batch.scored(score(pack(batch.living), weights).tolist(), recipe.quality.model)


class _Batch:
    """The documents of a batch, their texts and languages now, and which of them are still in the running."""

    def __init__(self, documents: Sequence[Document]):
        self.documents = documents
        self.texts: list[str] = []
        self.languages = [""] * len(documents)
        self.alive = list(range(len(documents)))
        self._dropped: dict[int, Dropped] = {}
        for document in documents:
            for key in _OURS:
                document.metadata.pop(key, None)

    @property
    def living(self) -> list[str]:
        return [self.texts[i] for i in self.alive]

    def drop(self, reasons: Sequence[str | None]) -> None:
        """Take those out of the running that have a reason; `reasons` has one entry for each that was in it."""
        for i, reason in zip(self.alive, reasons, strict=True):
            if reason is not None:
                self._dropped[i] = Dropped(reason, self.documents[i].id, self.texts[i])
        self.alive = [i for i in self.alive if i not in self._dropped]

    def contaminated(self, overlaps: Sequence[Overlap | None]) -> None:
        """Take those out of the running that share text with an evaluation set; what they share is the sample."""
        for i, overlap in zip(self.alive, overlaps, strict=True):
            if overlap is not None:
                reason = f"contaminated.{overlap.set}"
                self._dropped[i] = Contaminated(reason, self.documents[i].id, overlap.text, overlap.item)
        self.alive = [i for i in self.alive if i not in self._dropped]

    def scored(self, scores: Sequence[float], model: QualityModelConfig | None) -> None:
        """Note each score, and take those below the threshold out of the running."""
        least = 0.0 if model is None or model.threshold is None else model.threshold
        for i, value in zip(self.alive, scores, strict=True):
            self.documents[i].metadata["quality"] = round(value, 4)
            if value < least:
                self._dropped[i] = Poor("quality.model", self.documents[i].id, self.texts[i], value)
        self.alive = [i for i in self.alive if i not in self._dropped]

    def results(self) -> list[Document | Dropped]:
        for i in self.alive:
            self.documents[i].text = self.texts[i]
            self.documents[i].metadata["language"] = self.languages[i]
        return [self._dropped.get(i, document) for i, document in enumerate(self.documents)]


def _normalised(documents: Sequence[Document], source: SourceConfig, pii: PiiConfig) -> list[str]:
    """The texts, normalised and masked; of conversations and preference pairs the turns too, in their metadata."""
    if source.kind == "documents":
        texts = normalise_all([document.text for document in documents], source.content)
        return _masked(documents, texts, range(len(texts)), pii) if source.masked else texts
    turns = [(i, *turn) for i, document in enumerate(documents) for turn in _turns(document.metadata)]
    # answers keep their layout: lists, code, formulas
    texts = normalise_all([holder[key] for _, holder, key in turns], "math")
    if source.masked:
        texts = _masked(documents, texts, [i for i, _, _ in turns], pii)
    for (_, holder, key), text in zip(turns, texts, strict=True):
        holder[key] = text
    return [_turns_text(document.metadata) for document in documents]


def _origin(document: Document, text: str, source: SourceConfig, recipe: CleaningRecipe) -> str | None:
    """A reason in the document's address, path or licence; a licence that is found is noted."""
    reason = refuse(document.metadata, recipe.url)
    if reason is None and source.content == "code":
        rules = recipe.quality.code
        reason = refuse_path(document.id, document.metadata, rules.skip)
        licence = licence_of(text, document.metadata)
        if licence is not None:
            document.metadata["code_licence"] = licence
            if reason is None and rules.licences == "permissive" and not is_permissive(licence):
                reason = "code.licence"
    return reason


def _masked(documents: Sequence[Document], texts: list[str], owners: Sequence[int], pii: PiiConfig) -> list[str]:
    """The texts, and in the metadata of their documents how much was masked."""
    masked, counts = mask(texts, pii.kinds)
    for owner, kinds in zip(owners, counts, strict=True):
        if kinds:
            before = documents[owner].metadata.get("masked", {})
            documents[owner].metadata["masked"] = dict(Counter(before) + Counter(kinds))
    return masked


def _turns(metadata: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where each turn's text is held: (mapping, key)."""
    for key in ("messages", "prompt"):
        for turn in metadata.get(key, ()):
            yield turn, "content"
    for key in ("chosen", "rejected"):
        if key in metadata:
            yield metadata, key


def _languages(batch: _Batch, source: SourceConfig, recipe: CleaningRecipe) -> None:
    """Name the languages, drop what is surely another than is wanted, and note in which script Chinese is written.

    Code, generated text, and conversations whose language is declared are what they are declared: a Chinese question
    about a piece of English or of Python is still a Chinese conversation. So is what is declared as a language that the
    detector cannot name: it would take Dzongkha for Tibetan, and be sure of it.
    """
    rules, declared = recipe.language, source.language
    accepted = rules.accept if declared == "auto" else [declared]
    certain = (
        declared not in NAMED | {"auto"}
        or source.reader.type == "generated"
        or (declared != "auto" and source.kind != "documents")
    )
    short = 0 if declared == "auto" else rules.min_characters
    asked = [] if certain else [i for i in batch.alive if len(batch.texts[i]) >= short]
    named = dict(zip(asked, detect_all([batch.texts[i] for i in asked]), strict=True))
    reasons: list[str | None] = []
    for i in batch.alive:
        detected = named.get(i)
        reasons.append(None)
        if detected is None:
            batch.languages[i] = declared
        elif detected.language in accepted:
            batch.languages[i] = detected.language
        elif detected.language != "und" and detected.score > rules.max_other_score:
            reasons[-1] = "language.other"
        else:  # the detector is unsure: the declared language stands
            batch.languages[i] = accepted[0]
    batch.drop(reasons)
    chinese = [i for i in batch.alive if batch.languages[i] == "zh"]
    unseen = [i for i in chinese if i not in named or named[i].language != "zh"]
    variants = dict(zip(unseen, chinese_variants([batch.texts[i] for i in unseen]), strict=True))
    for i in chinese:
        if variant := variants[i] if i in variants else named[i].variant:
            batch.documents[i].metadata["script"] = variant


def _turns_text(metadata: dict[str, Any]) -> str:
    if "messages" in metadata:
        turns = metadata["messages"]
        return render(turns) if all(turn["content"].strip() for turn in turns) else ""
    parts = (render(metadata["prompt"]), metadata["chosen"], metadata["rejected"])
    return "\n".join(parts) if all(part.strip() for part in parts) else ""
