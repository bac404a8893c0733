"""The first pass over the text: one piece in, its clean documents and everything deduplication needs to know about them out.

Enters: a piece of a source. Leaves, committed in the artifact's work folder under the piece's own name:

    clean/<piece>.parquet   the documents that passed, as they will be written, in the piece's order
    facts/<piece>.npy       per document: digests, hash of the id, size (see `facts`)
    keys/<piece>.bin        what makes documents meet: bands, digests, ids (see `facts`)
    samples/<piece>.json    up to ten dropped documents for each reason

The text is read once: normalise → language → quality → digest → band keys. The piece is a pure function of its input, so a
piece whose worker was lost is simply made again.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipelines.artifacts import Draft
from pipelines.data.corpus import CorpusRecipe, SourceConfig
from pipelines.data.document import Document, Dropped, render, rows_to_table, to_row
from pipelines.data.facts import write_facts
from pipelines.data.language import detect
from pipelines.data.normalise import normalise
from pipelines.data.quality import judge
from pipelines.data.readers import Piece, read_piece

SAMPLES = 10  # dropped documents kept for each reason
EXCERPT = 400  # characters of each


@dataclass(frozen=True)
class CleanTask:
    """One piece to clean; `work` is the draft of the work folder."""

    work: Draft
    piece: Piece
    source: SourceConfig
    recipe: CorpusRecipe

    @property
    def key(self) -> str:
        """The piece's own key."""
        return self.piece.key


def clean_piece(task: CleanTask) -> dict[str, Any]:
    """Clean one piece, or return what an earlier run left.

    Returns: the receipt's statistics: documents, bytes, dropped by reason, languages.
    """
    held = task.work.receipt(task.key)
    if held is not None:
        return dict(held["statistics"])
    kept: list[Document] = []
    dropped: Counter[str] = Counter()
    samples: list[dict[str, str]] = []
    size = 0
    for item in read_piece(task.piece, task.source):
        result = item if isinstance(item, Dropped) else clean(item, task.source, task.recipe)
        if isinstance(result, Dropped):
            dropped[result.reason] += 1
            if dropped[result.reason] <= SAMPLES:
                samples.append({"reason": result.reason, "where": result.where, "text": result.text[:EXCERPT]})
            continue
        kept.append(result)
        size += len(result.text.encode())
        if _enough(len(kept), size, task.source):
            break
    return _publish(task, kept, dropped, samples)


def clean(document: Document, source: SourceConfig, recipe: CorpusRecipe) -> Document | Dropped:
    """Normalise one document, name its language, and judge it."""
    if source.kind == "documents":
        text = normalise(document.text, source.content)
    else:
        _normalise_turns(document.metadata)
        text = _turns_text(document.metadata)
    if not text.strip():
        return Dropped("quality.empty", document.id)
    language, reason = _language(text, source, recipe, document.metadata)
    if reason is None and source.kind == "documents":
        reason = judge(text, source.content, language, recipe.quality)
    if reason is None and source.kind == "preferences" and document.metadata["chosen"] == document.metadata["rejected"]:
        reason = "quality.same_answers"
    if reason is not None:
        return Dropped(reason, document.id, text)
    document.metadata["language"] = language
    document.text = text
    return document


def _language(
    text: str, source: SourceConfig, recipe: CorpusRecipe, metadata: dict[str, Any]
) -> tuple[str, str | None]:
    """The language, and a reason when it is not one that is wanted.

    Code, generated text, and conversations whose language is declared are what they are declared: a Chinese question about
    a piece of English or of Python is still a Chinese conversation.
    """
    if source.language == "code" or source.reader.type == "generated":
        return source.language, None
    if source.language != "auto" and (source.kind != "documents" or len(text) < recipe.language.min_characters):
        return source.language, None
    found = detect(text)
    if found.variant:
        metadata["script"] = found.variant
    accepted = recipe.language.accept if source.language == "auto" else [source.language]
    if found.language in accepted:
        return found.language, None
    if found.language != "und" and found.score > recipe.language.max_other_score:
        return found.language, "language.other"
    return accepted[0], None  # the detector is unsure: the declared language stands


def _normalise_turns(metadata: dict[str, Any]) -> None:
    for key in ("messages", "prompt"):
        for turn in metadata.get(key, ()):
            turn["content"] = normalise(turn["content"], "math")  # answers keep their layout: lists, code, formulas
    for key in ("chosen", "rejected"):
        if key in metadata:
            metadata[key] = normalise(metadata[key], "math")


def _turns_text(metadata: dict[str, Any]) -> str:
    if "messages" in metadata:
        turns = metadata["messages"]
        return render(turns) if all(turn["content"].strip() for turn in turns) else ""
    parts = (render(metadata["prompt"]), metadata["chosen"], metadata["rejected"])
    return "\n".join(parts) if all(part.strip() for part in parts) else ""


def _enough(documents: int, size: int, source: SourceConfig) -> bool:
    """Whether this piece alone fills the source's cap, so that reading on is useless."""
    over = source.max_documents is not None and documents >= source.max_documents
    return over or (source.max_bytes is not None and size >= source.max_bytes)


def _publish(
    task: CleanTask, kept: list[Document], dropped: Counter[str], samples: list[dict[str, str]]
) -> dict[str, Any]:
    work, key = task.work, task.key
    names = (f"clean/{key}.parquet", f"facts/{key}.npy", f"keys/{key}.bin", f"samples/{key}.json")
    files = {name: work.scratch(name) for name in names}
    clean_file, facts_file, keys_file, samples_file = files.values()
    pq.write_table(
        rows_to_table([to_row(document, task.source.kind) for document in kept], task.source.kind),
        clean_file,
        compression="zstd",
    )
    facts = write_facts(kept, task.source, task.recipe.dedup.minhash, facts_file, keys_file)
    samples_file.write_text(json.dumps(samples, ensure_ascii=False))
    statistics = {
        "source": task.piece.source,
        "documents": len(kept),
        "bytes": sum(len(document.text.encode()) for document in kept),
        "dropped": dict(sorted(dropped.items())),
        "languages": dict(Counter(document.metadata["language"] for document in kept)),
        **facts,
    }
    work.publish(key, files, statistics)
    return statistics
