"""The first pass over the text: a piece in, its clean documents and what deduplication needs to know out.

Enters: a piece of a source. Leaves, committed in the artifact's work folder under the piece's own name:

    clean/<piece>.parquet   the documents that passed, as they will be written, in the piece's order
    facts/<piece>.npy       per document: digests, hash of the id, size (see `facts`)
    keys/<piece>.bin        what makes documents meet: bands, digests, ids (see `facts`)
    samples/<piece>.json    up to ten dropped documents for each reason

The text is read once: the passes over each batch (see `passes`), then digests and band keys. The piece is a pure
function of its input, so a piece whose worker was lost is simply made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.cleaning.aids import Aids
from pipelines.data.cleaning.classifier import Poor, histogram
from pipelines.data.cleaning.decontaminate import HITS, Contaminated
from pipelines.data.cleaning.excerpts import SAMPLES, excerpt, excerpt_of_unread, name_shown
from pipelines.data.cleaning.passes import clean_batch
from pipelines.data.cleaning.ruled import without_rules
from pipelines.data.corpus.recipe import CorpusRecipe
from pipelines.data.dedup.facts import write_facts
from pipelines.data.sources.columns import UNREADABLE
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.readers import Piece, read_piece
from pipelines.data.text.document import Document, Dropped, rows_to_table, to_row
from pipelines.store.draft import Draft

_BATCH_CHARACTERS, _BATCH_DOCUMENTS = 4_000_000, 5_000  # that pass together: bounds the memory of the compiled passes


@dataclass(frozen=True)
class CleanTask:
    """One piece to clean; `work` is the draft of the work folder."""

    work: Draft
    piece: Piece
    source: SourceConfig
    recipe: CorpusRecipe
    aids: Aids

    @property
    def key(self) -> str:
        """The piece's own key."""
        return self.piece.key

    @property
    def in_words(self) -> str:
        """The files that it reads, for an error."""
        return self.piece.in_words

    @property
    def parts(self) -> tuple[CleanTask, ...]:
        """A task for each of its files, to find the one that ends the process."""
        return tuple(replace(self, piece=piece) for piece in self.piece.parts)


def clean_piece(task: CleanTask) -> dict[str, Any]:
    """Clean one piece, or return what an earlier run left.

    Returns: the receipt's statistics: documents, bytes, dropped by reason, languages.
    """
    published = task.work.receipt(task.key)
    if published is not None:
        return dict(published["statistics"])
    kept: list[Document] = []
    dropped: Counter[str] = Counter()
    samples: list[dict[str, str]] = []
    overlaps: list[dict[str, str]] = []
    scores: list[float] = []
    size = 0
    for result in _cleaned(task):
        if isinstance(result, Dropped):
            dropped[result.reason] += 1
            if isinstance(result, Poor):
                scores.append(result.score)
            if isinstance(result, Contaminated) and len(overlaps) < HITS:
                name = result.reason.removeprefix("contaminated.")
                overlaps.append({"set": name, "item": result.item, "id": name_shown(result.where), "text": result.text})
            if dropped[result.reason] <= SAMPLES:
                shown = excerpt_of_unread if result.reason.startswith("read.") else excerpt
                samples.append({"reason": result.reason, "where": name_shown(result.where), "text": shown(result.text)})
            continue
        kept.append(result)
        scores += [result.metadata["quality"]] if "quality" in result.metadata else []
        size += len(result.text.encode())
        if _enough(len(kept), size, task.source):
            break
    return _publish(task, kept, dropped, samples, overlaps, scores)


def _cleaned(task: CleanTask) -> Iterator[Document | Dropped]:
    """The documents of the piece, clean or dropped, in its order; read a batch at a time."""
    batch: list[Document | Dropped] = []
    size = 0
    items = read_piece(task.piece, task.source)
    lookup, weights = task.aids.lookup(), task.aids.weights(task.piece.source)
    while True:
        item = next(items, None)
        if item is not None:
            batch.append(item)
            size += len(item.text)
            if size < _BATCH_CHARACTERS and len(batch) < _BATCH_DOCUMENTS:
                continue
        documents = [item for item in batch if isinstance(item, Document)]
        results = iter(clean_batch(documents, task.source, task.recipe, lookup, weights))
        yield from (item if isinstance(item, Dropped) else next(results) for item in batch)
        if item is None:
            return
        batch, size = [], 0


def _enough(documents: int, size: int, source: SourceConfig) -> bool:
    """Whether this piece alone fills the source's cap, so that reading on is useless."""
    over = source.max_documents is not None and documents >= source.max_documents
    return over or (source.max_bytes is not None and size >= source.max_bytes)


def _publish(
    task: CleanTask,
    kept: list[Document],
    dropped: Counter[str],
    samples: list[dict[str, str]],
    overlaps: list[dict[str, str]],
    scores: list[float],
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
    keyed = write_facts(kept, task.source, task.recipe.dedup.minhash, facts_file, keys_file)
    samples_file.write_text(json.dumps(samples, ensure_ascii=False), encoding="utf-8")
    text_bytes = sum(len(document.text.encode()) for document in kept)
    statistics = {
        "source": task.piece.source,
        "records": len(kept) + sum(dropped.values()),
        "raw_bytes": task.piece.bytes or text_bytes,  # of what is generated there is no raw form
        "documents": len(kept),
        "bytes": text_bytes,
        "dropped": dict(sorted(dropped.items())),
        "contaminated": overlaps,
        "languages": dict(Counter(document.metadata["language"] for document in kept)),
        "without_rules": without_rules(
            (document.metadata["language"] for document in kept), task.source.kind, task.source.content
        ),
        "unreadable": dict(Counter(d.metadata[UNREADABLE] for d in kept if UNREADABLE in d.metadata)),
        "scores": histogram(scores) if scores else [],
        **keyed,
    }
    work.publish(key, files, statistics)
    return statistics
