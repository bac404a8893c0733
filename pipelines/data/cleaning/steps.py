"""What every corpus goes through: the passes over a batch that `passes` lists.

Enters: a batch, and what a piece's cleaning is given. Leaves: the batch with its texts, languages and notes, without
what a pass dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.cleaning.batch import Batch
from pipelines.data.cleaning.classifier import Poor, Weights, score
from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.cleaning.decontaminate import Contaminated, Lookup
from pipelines.data.cleaning.language import NAMED, chinese_variants, detect_all
from pipelines.data.cleaning.normalise import normalise_all
from pipelines.data.cleaning.origins import licence_of, refuse, refuse_path
from pipelines.data.cleaning.pii import PiiConfig, mask
from pipelines.data.cleaning.quality import judge, without_lines
from pipelines.data.sources.config import SourceConfig
from pipelines.data.text.document import Document, Dropped, render
from pipelines.data.text.licences import is_permissive
from pipelines.data.text.packed import pack


@dataclass(frozen=True)
class Given:
    """What the cleaning of a piece is given.

    Attributes: lookup, the n-grams of evaluation sets. weights, of the quality model, where it scores this source.
    """

    source: SourceConfig
    recipe: CleaningRecipe
    lookup: Lookup | None = None
    weights: Weights | None = None


def normalise(batch: Batch, given: Given) -> None:
    """Normalise the texts and mask personal data; what is empty then goes."""
    source, recipe = given.source, given.recipe
    batch.texts = _normalised(batch.documents, source, recipe.pii)
    if source.content == "web":
        batch.texts = [without_lines(text, recipe.quality.web.drop_lines) for text in batch.texts]
    drop_empty(batch)


def drop_empty(batch: Batch) -> None:
    """Drop what has no text."""
    batch.drop(["quality.empty" if not text.strip() else None for text in batch.living])


def look_at_origins(batch: Batch, given: Given) -> None:
    """Drop by address, path and licence."""
    documents, texts = batch.documents, batch.texts
    batch.drop([_origin(documents[i], texts[i], given.source, given.recipe) for i in batch.alive])


def name_languages(batch: Batch, given: Given) -> None:
    """Name the languages, drop what is surely another than is wanted, and note in which script Chinese is written.

    Code, generated text, and conversations whose language is declared are what they are declared: a Chinese question
    about a piece of English or of Python is still a Chinese conversation. So is what is declared as a language that the
    detector cannot name: it would take Dzongkha for Tibetan, and be sure of it.
    """
    source, rules = given.source, given.recipe.language
    declared = source.language
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


def judge_quality(batch: Batch, given: Given) -> None:
    """Drop by the quality rules; of preference pairs those that prefer nothing."""
    source = given.source
    if source.kind == "documents":
        languages = [batch.languages[i] for i in batch.alive]
        batch.drop(judge(batch.living, source.content, languages, given.recipe.quality))
    if source.kind == "preferences":
        pairs = [batch.documents[i].metadata for i in batch.alive]
        batch.drop(["quality.same_answers" if pair["chosen"] == pair["rejected"] else None for pair in pairs])


def look_for_evaluation_sets(batch: Batch, given: Given) -> None:
    """Drop what shares text with an evaluation set; what they share is the sample."""
    if given.lookup is None:
        return
    overlaps = zip(batch.alive, given.lookup.overlaps(batch.living), strict=True)
    batch.take_out(
        {
            i: Contaminated(f"contaminated.{overlap.set}", batch.documents[i].id, overlap.text, overlap.item)
            for i, overlap in overlaps
            if overlap is not None
        }
    )


def score_quality(batch: Batch, given: Given) -> None:
    """Note the quality model's score of each document, and drop those below its threshold."""
    if given.weights is None:
        return
    model = given.recipe.quality.model
    least = 0.0 if model is None or model.threshold is None else model.threshold
    poor: dict[int, Dropped] = {}
    for i, value in zip(batch.alive, score(pack(batch.living), given.weights).tolist(), strict=True):
        batch.documents[i].metadata["quality"] = round(value, 4)
        if value < least:
            poor[i] = Poor("quality.model", batch.documents[i].id, batch.texts[i], value)
    batch.take_out(poor)


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


def _turns_text(metadata: dict[str, Any]) -> str:
    if "messages" in metadata:
        turns = metadata["messages"]
        return render(turns) if all(turn["content"].strip() for turn in turns) else ""
    parts = (render(metadata["prompt"]), metadata["chosen"], metadata["rejected"])
    return "\n".join(parts) if all(part.strip() for part in parts) else ""


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
