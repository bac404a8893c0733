"""One piece without the lines that many documents share, and what is left of it judged again.

Enters: a cleaned piece, and which of its documents lose which lines (see `boilerplate`). Leaves: the same piece under a
new key, with its facts, keys and samples, as if its documents had never had these lines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.data.cleaning.aids import Aids
from pipelines.data.cleaning.classifier import histogram
from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.cleaning.decontaminate import HITS, Contaminated
from pipelines.data.cleaning.excerpts import SAMPLES, excerpt, name_shown
from pipelines.data.cleaning.passes import judge_again
from pipelines.data.cleaning.ruled import without_rules
from pipelines.data.dedup.facts import write_facts
from pipelines.data.dedup.lines import hashed_lines, without
from pipelines.data.dedup.places import Job, Placed, records_of
from pipelines.data.sources.config import SourceConfig
from pipelines.data.text.document import Document, Dropped, rows_to_table, utf8

REMOVED = np.dtype([("node", "<i8"), ("hash", "<u8")])
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class StripTask:
    """One piece to strip; `files` are those of all ranges, `frequent` the hashes whose text is wanted as examples."""

    job: Job
    place: Placed
    files: tuple[str, ...]
    source: SourceConfig
    recipe: CleaningRecipe
    aids: Aids
    cleaned: dict[str, Any]
    frequent: tuple[int, ...]


def strip_piece(task: StripTask) -> dict[str, Any]:
    """Publish one piece without shared lines, its facts, keys and samples.

    Returns: statistics: key (of the new piece), piece (its statistics, as `clean_piece` gives them), removed (lines),
        touched (documents), examples (text of the wanted hashes that it met first).
    """
    return task.job.once(f"stripped/{task.place.key}", lambda: _strip(task))


def _strip(task: StripTask) -> tuple[dict[str, Path], dict[str, Any]]:
    work, place = task.job.work, task.place
    key = f"{place.key}-{task.job.name}"
    lost = _lost_lines(task)
    rows: Rows = pq.read_table(work.storage.fetch(place.text)).slice(0, place.documents).to_pylist()
    before, removed, examples = _take_out(task, rows, lost)
    judged = _judged_again(task, {number: rows[number] for number in before})
    tally = _Tally(task, json.loads(work.storage.read(f"{work.folder}/samples/{place.key}.json")))
    for number, result in judged.items():
        tally.count(before[number], result, before[number].text)
    rows = [row for number, row in enumerate(rows) if not isinstance(judged.get(number), Dropped)]
    files, piece = _written(task, key, rows, tally)
    shown = {str(value): text for value, text in examples.items()}
    return files, {"key": key, "piece": piece, "removed": removed, "touched": len(lost), "examples": shown}


def _lost_lines(task: StripTask) -> dict[int, set[int]]:
    """By node, the hashes of the lines that a piece's documents lose."""
    lost: dict[int, set[int]] = {}
    for node, value in records_of(task.job, task.place, task.files, REMOVED).tolist():
        lost.setdefault(node, set()).add(value)
    return lost


def _take_out(
    task: StripTask, rows: Rows, lost: Mapping[int, set[int]]
) -> tuple[dict[int, Document], int, dict[int, str]]:
    """Take the lines out of the rows' texts.

    Returns: by row, the documents as they were that lose something; how many lines went; the text of wanted hashes.
    """
    lines, wanted = task.job.dedup.lines, set(task.frequent)
    before: dict[int, Document] = {}
    examples: dict[int, str] = {}
    removed = 0
    for number, row in enumerate(rows):
        if own := lost.get(task.place.first + number):
            before[number] = _document(row)
            hashed = hashed_lines(row["text"], lines)
            examples.update({value: excerpt(text) for value, text in hashed if value in wanted and value in own})
            removed += sum(value in own for value, _ in hashed)
            row["text"] = without(row["text"], lines, own)
    return before, removed, examples


def _document(row: Mapping[str, Any]) -> Document:
    metadata = {**json.loads(row["metadata"]), "language": row["language"]}
    return Document(text=row["text"], id=row["id"], metadata=metadata)


def _judged_again(task: StripTask, rows: Mapping[int, dict[str, Any]]) -> dict[int, Document | Dropped]:
    """By row, what lost something: the document as it is now, its metadata written back, or why it is dropped."""
    empty = [number for number, row in rows.items() if not row["text"].strip()]
    judged: dict[int, Document | Dropped] = {
        number: Dropped("quality.boilerplate", rows[number]["id"], rows[number]["text"]) for number in empty
    }
    left = [number for number in rows if number not in judged]
    documents = [_document(rows[number]) for number in left]
    weights = task.aids.weights(task.cleaned["source"])
    results = judge_again(documents, task.source, task.recipe, task.aids.lookup(), weights) if left else []
    for number, result in zip(left, results, strict=True):
        judged[number] = result
        if isinstance(result, Document):
            notes = {key: value for key, value in result.metadata.items() if key != "language"}
            rows[number]["metadata"] = utf8(json.dumps(notes, ensure_ascii=False, sort_keys=True))
    return judged


class _Tally:
    """What a piece's statistics and samples say, as documents are judged again."""

    def __init__(self, task: StripTask, samples: list[dict[str, str]]):
        cleaned = task.cleaned
        self.samples = samples
        self.dropped = Counter[str](cleaned["dropped"])
        self.contaminated: list[dict[str, str]] = list(cleaned["contaminated"])
        self.scores: list[int] = list(cleaned["scores"])

    def count(self, before: Document, now: Document | Dropped, text: str) -> None:
        """Count what became of one document; the score it had gives way to the one it has."""
        score = now.metadata.get("quality") if isinstance(now, Document) else getattr(now, "score", None)
        if self.scores and "quality" in before.metadata and score is not None:
            changes = zip(histogram([score]), histogram([before.metadata["quality"]]), strict=True)
            self.scores = [count + new - old for count, (new, old) in zip(self.scores, changes, strict=True)]
        if isinstance(now, Document):
            return
        self.dropped[now.reason] += 1
        if isinstance(now, Contaminated) and len(self.contaminated) < HITS:
            name = now.reason.removeprefix("contaminated.")
            self.contaminated.append({"set": name, "item": now.item, "id": name_shown(now.where), "text": now.text})
        if self.dropped[now.reason] <= SAMPLES:
            self.samples.append(
                {"reason": now.reason, "where": name_shown(now.where), "text": excerpt(now.text or text)}
            )


def _written(task: StripTask, key: str, rows: Sequence[dict[str, Any]], tally: _Tally) -> tuple[dict[str, Path], Any]:
    """The files of the new piece, and its statistics."""
    names = (f"clean/{key}.parquet", f"facts/{key}.npy", f"keys/{key}.bin", f"samples/{key}.json")
    files = {name: task.job.work.scratch(name) for name in names}
    clean_file, facts_file, keys_file, samples_file = files.values()
    pq.write_table(rows_to_table(rows, task.source.kind), clean_file, compression="zstd")
    samples_file.write_text(json.dumps(tally.samples, ensure_ascii=False), encoding="utf-8")
    kept = [_document(row) for row in rows]
    counts = write_facts(kept, task.source, task.job.dedup.minhash, facts_file, keys_file)
    languages = [row["language"] for row in rows]
    return files, {
        **task.cleaned,
        **counts,
        "documents": len(kept),
        "bytes": sum(len(document.text.encode()) for document in kept),
        "dropped": dict(sorted(tally.dropped.items())),
        "contaminated": tally.contaminated,
        "languages": dict(Counter(languages)),
        "without_rules": without_rules(languages, task.source.kind, task.source.content),
        "scores": tally.scores,
    }
