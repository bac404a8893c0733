"""Lines that many documents share: menus, licences, footers.

Enters: the cleaned pieces of sources that remove copies. Leaves: the same pieces without the lines (or paragraphs) of at least
`min_characters` that occur in more than `max_documents` documents of the corpus. The first document that has such a line keeps
it. A document of which nothing is left is dropped as `quality.boilerplate`; what is left of the others is judged again, as a document that
never had these lines would have been: by the quality rules (too short now, …), the evaluation sets and the quality model.

    list    the hashes of a piece's lines             a task per piece
    find    hashes that too many documents share      a task per range of hashes
    strip   the piece, its facts and keys anew        a task per piece

The same external shuffle as for documents (see `shuffle`), before signatures are computed from what is left. Off by default.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import xxhash

from pipelines.cluster.cluster import ShardMap
from pipelines.data.cleaning.aids import Aids
from pipelines.data.cleaning.classifier import histogram
from pipelines.data.cleaning.decontaminate import HITS, Contaminated
from pipelines.data.cleaning.passes import judge_again
from pipelines.data.cleaning.ruled import without_rules
from pipelines.data.corpus import CorpusRecipe, LinesConfig, SourceConfig
from pipelines.data.dedup import sizing
from pipelines.data.dedup.census import Census, Job, Placed, open_job
from pipelines.data.dedup.facts import write_facts
from pipelines.data.dedup.settle import SAMPLES
from pipelines.data.dedup.shuffle import (
    blocks_of_hashes,
    blocks_of_nodes,
    concatenated,
    parts_for,
    read_many,
    span,
    starts,
    write_shuffled,
)
from pipelines.data.document import Document, Dropped, rows_to_table, utf8
from pipelines.data.samples import excerpt, name_shown
from pipelines.store.artifacts import Draft

LINE = np.dtype([("hash", "<u8"), ("row", "<u4")])
REMOVED = np.dtype([("node", "<i8"), ("hash", "<u8")])
_EXAMPLES = 20  # of the most frequent lines
_Piece = tuple[str, Mapping[str, Any]]  # key and statistics


@dataclass(frozen=True)
class ListTask:
    """One piece."""

    job: Job
    place: Placed
    lines: LinesConfig


@dataclass(frozen=True)
class FindTask:
    """One range of hashes, of the lines of all places."""

    job: Job
    places: tuple[Placed, ...]
    lines: LinesConfig
    part: int
    parts: int


@dataclass(frozen=True)
class StripTask:
    """One piece to strip; `files` are those of all ranges, `frequent` the hashes whose text is wanted as examples."""

    job: Job
    place: Placed
    lines: LinesConfig
    files: tuple[str, ...]
    source: SourceConfig
    recipe: CorpusRecipe
    aids: Aids
    cleaned: dict[str, Any]
    frequent: tuple[int, ...]


def remove_boilerplate(
    work: Draft,
    census: Census,
    cleaned: Sequence[_Piece],
    sources: Mapping[str, SourceConfig],
    recipe: CorpusRecipe,
    aids: Aids,
    map_shards: ShardMap,
) -> tuple[list[_Piece], dict[str, Any]]:
    """Strip all pieces.

    Args:
        census: of the cleaned pieces, whose caps are applied here: a stripped piece holds what is under them.

    Returns: the pieces in the same order, under new keys where they were stripped; statistics: removed (lines), distinct (lines),
        documents (that lost any), and examples of the most frequent with the documents that had them.
    """
    job, lines = open_job(work, census, recipe.dedup), recipe.dedup.lines
    chosen = [p for p in census.places if _takes_part(sources[census.parties[p.party].name]) and p.documents]
    listed = map_shards(list_lines, [ListTask(job, place, lines) for place in chosen], "boilerplate: list")
    need = sum(done["lines"] for done in listed) * sizing.PAIR_BYTES
    parts = parts_for(need, recipe.dedup.task_memory, "the lines")
    found = map_shards(
        find_shared,
        [FindTask(job, tuple(chosen), lines, part, parts) for part in range(parts)],
        "boilerplate: find",
    )
    frequent = heapq.nlargest(_EXAMPLES, ((count, value) for done in found for value, count in done["frequent"]))
    files = tuple(done["file"] for done in found)
    held = dict(cleaned)
    stripped = map_shards(
        strip_piece,
        [
            StripTask(
                job,
                place,
                lines,
                files,
                sources[census.parties[place.party].name],
                recipe,
                aids,
                dict(held[place.key]),
                tuple(value for _, value in frequent),
            )
            for place in chosen
        ],
        "boilerplate: strip",
    )
    anew = {place.key: (done["key"], done["piece"]) for place, done in zip(chosen, stripped, strict=True)}
    texts = {int(value): text for done in stripped for value, text in done["examples"].items()}
    none = {"documents": 0, "bytes": 0, "keys": 0, "smallest": []}
    beyond = {place.key for place in census.places if not place.documents}
    return [anew.get(key, (key, {**done, **none} if key in beyond else done)) for key, done in cleaned], {
        "removed": sum(done["removed"] for done in stripped),
        "distinct": sum(done["distinct"] for done in found),
        "documents": sum(done["touched"] for done in stripped),
        "examples": [{"text": texts.get(value, ""), "documents": count} for count, value in frequent],
    }


def list_lines(task: ListTask) -> dict[str, Any]:
    """Publish the hashes of one piece's lines, each once per document. Returns: statistics: lines."""
    place, job, file = task.place, task.job, _lines_file(task.job, task.place)

    def make() -> tuple[dict[str, Path], dict[str, Any]]:
        hashes: list[int] = []
        rows: list[int] = []
        for row, text in enumerate(_texts(job, place)):
            mine = {value for value, _ in _hashed(text, task.lines) if value}
            hashes.extend(sorted(mine))
            rows.extend([row] * len(mine))
        records = np.empty(len(rows), LINE)
        records["hash"], records["row"] = np.array(hashes, np.uint64), rows
        path = job.work.scratch(file)
        write_shuffled(path, records, blocks_of_hashes(records["hash"]))
        return {file: path}, {"lines": len(records)}

    return job.once(f"lines/{place.key}", make)


def find_shared(task: FindTask) -> dict[str, Any]:
    """Publish which documents lose which lines, of one range of hashes.

    Returns: statistics: file; distinct (lines that are removed somewhere); frequent, up to 20 of [hash, documents].
    """
    job, name = task.job, f"shared-of-{task.parts:04d}/{task.part:04d}"

    def make() -> tuple[dict[str, Path], dict[str, Any]]:
        hashes, nodes = [], []
        files = [f"{job.work.folder}/{_lines_file(job, place)}" for place in task.places]
        read = read_many(job.work.storage, files, LINE, *span(task.part, task.parts))
        for place, found in zip(task.places, read, strict=True):
            hashes.append(found["hash"])
            nodes.append(found["row"] + np.int64(place.first))
        removed, counted = shared_lines(
            concatenated(hashes, np.uint64), concatenated(nodes, np.int64), task.lines.max_documents or 0
        )
        path = job.work.scratch(job.file(f"{name}.bin"))
        write_shuffled(path, removed, blocks_of_nodes(removed["node"], job.census().nodes))
        frequent = heapq.nlargest(_EXAMPLES, ((count, value) for value, count in counted))
        statistics = {
            "file": job.file(f"{name}.bin"),
            "distinct": len(counted),
            "frequent": [[value, count] for count, value in frequent],
        }
        return {job.file(f"{name}.bin"): path}, statistics

    return job.once(name, make)


def shared_lines(
    hashes: npt.NDArray[np.uint64], nodes: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[Any], list[tuple[int, int]]]:
    """Which documents lose which lines.

    Args:
        hashes, nodes: (records,) each line of each document once. most: documents that may share a line.

    Returns: records of `REMOVED`: of every line in more than `most` documents all but the first of them; and (hash, documents) of
        these lines.
    """
    order = np.lexsort((nodes, hashes))
    hashes, nodes = hashes[order], nodes[order]
    first = starts(hashes)
    sizes = np.diff(first, append=len(hashes))
    gone = np.repeat(sizes > most, sizes)
    gone[first] = False
    removed = np.empty(int(gone.sum()), REMOVED)
    removed["node"], removed["hash"] = nodes[gone], hashes[gone]
    many = sizes > most
    return removed, list(zip(hashes[first[many]].tolist(), sizes[many].tolist(), strict=True))


def strip_piece(task: StripTask) -> dict[str, Any]:
    """Publish one piece without shared lines, its facts, keys and samples.

    Returns: statistics: key (of the new piece), piece (its statistics, as `clean_piece` gives them), removed (lines), touched
        (documents), examples (text of the wanted hashes that it met first).
    """
    return task.job.once(f"stripped/{task.place.key}", lambda: _strip(task))


def _strip(task: StripTask) -> tuple[dict[str, Path], dict[str, Any]]:
    job, place, lines = task.job, task.place, task.lines
    work, key = job.work, f"{place.key}-{job.name}"
    gone = _removed(task)
    wanted, examples = set(task.frequent), {}
    rows = pq.read_table(work.storage.fetch(place.text)).slice(0, place.documents).to_pylist()
    before: dict[int, Document] = {}  # what loses something, by its row
    removed = 0
    for number, row in enumerate(rows):
        mine = gone.get(place.first + number)
        if mine:
            before[number] = _document(row)
            parts = _hashed(row["text"], lines)
            examples.update({value: excerpt(text) for value, text in parts if value in wanted and value in mine})
            removed += sum(value in mine for value, _ in parts)
            row["text"] = without(row["text"], lines, mine)
    judged = _judged_again(task, {number: rows[number] for number in before})
    told = _Told(task, json.loads(work.storage.read(f"{work.folder}/samples/{place.key}.json")))
    for number, result in judged.items():
        told.count(before[number], result, before[number].text)
    rows = [row for number, row in enumerate(rows) if not isinstance(judged.get(number), Dropped)]
    kept = [_document(row) for row in rows]
    names = (f"clean/{key}.parquet", f"facts/{key}.npy", f"keys/{key}.bin", f"samples/{key}.json")
    files = {name: work.scratch(name) for name in names}
    clean_file, facts_file, keys_file, samples_file = files.values()
    pq.write_table(rows_to_table(rows, task.source.kind), clean_file, compression="zstd")
    samples_file.write_text(json.dumps(told.samples, ensure_ascii=False), encoding="utf-8")
    facts = write_facts(kept, task.source, task.recipe.dedup.minhash, facts_file, keys_file)
    languages = [row["language"] for row in rows]
    piece = {
        **task.cleaned,
        **facts,
        "documents": len(kept),
        "bytes": sum(len(document.text.encode()) for document in kept),
        "dropped": dict(sorted(told.dropped.items())),
        "contaminated": told.contaminated,
        "languages": dict(Counter(languages)),
        "without_rules": without_rules(languages, task.source.kind, task.source.content),
        "scores": told.scores,
    }
    shown = {str(value): text for value, text in examples.items()}
    return files, {"key": key, "piece": piece, "removed": removed, "touched": len(gone), "examples": shown}


def without(text: str, lines: LinesConfig, gone: Container[int]) -> str:
    """A text without the lines (or paragraphs) of these hashes.

    Where something is taken out, the blank lines on its two sides become one run, as long as the longer of them, so that the text equals
    one which never had it; at the beginning and the end none are left. Nothing else changes.
    """
    ending = "\n" if text.endswith("\n") else ""
    items: list[str | None] = []  # lines, None for what goes
    for value, part in _hashed(text.removesuffix("\n"), lines):
        if items and lines.unit == "paragraph":
            items.append("")
        inside = part.split("\n")
        items += [line if not line.strip() else None for line in inside] if value in gone else inside
    gaps = [(gap, list(some)) for gap, some in itertools.groupby(items, lambda line: line is None or not line.strip())]
    out: list[str] = []
    for number, (gap, some) in enumerate(gaps):
        if not gap or None not in some:
            out += [line for line in some if line is not None]
        elif 0 < number < len(gaps) - 1:
            runs = (len(list(run)) for blank, run in itertools.groupby(some, lambda line: line is not None) if blank)
            out += [""] * max(runs, default=0)
    return "\n".join(out) + ending if out else ""


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


class _Told:
    """What a piece's statistics and samples say, as documents are judged again."""

    def __init__(self, task: StripTask, samples: list[dict[str, str]]):
        done = task.cleaned
        self.samples = samples
        self.dropped = Counter[str](done["dropped"])
        self.contaminated: list[dict[str, str]] = list(done["contaminated"])
        self.scores: list[int] = list(done["scores"])

    def count(self, before: Document, now: Document | Dropped, text: str) -> None:
        """Count what became of one document; the score it had gives way to the one it has."""
        score = now.metadata.get("quality") if isinstance(now, Document) else getattr(now, "score", None)
        if self.scores and "quality" in before.metadata and score is not None:
            changes = zip(histogram([score]), histogram([before.metadata["quality"]]), strict=True)
            self.scores = [held + new - old for held, (new, old) in zip(self.scores, changes, strict=True)]
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


def _removed(task: StripTask) -> dict[int, set[int]]:
    """By node, the hashes of the lines that a piece's documents lose."""
    place = task.place
    ends = np.array([place.first, place.first + place.documents - 1], np.int64)
    first, last = (int(block) for block in blocks_of_nodes(ends, task.job.census().nodes))
    gone: dict[int, set[int]] = {}
    files = [f"{task.job.work.folder}/{file}" for file in task.files]
    for found in read_many(task.job.work.storage, files, REMOVED, first, last + 1):
        for node, value in found.tolist():
            if ends[0] <= node <= ends[1]:
                gone.setdefault(node, set()).add(value)
    return gone


def _takes_part(source: SourceConfig) -> bool:
    return source.kind == "documents" and source.duplicates != "keep"


def _texts(job: Job, place: Placed) -> list[str]:
    table = pq.read_table(job.work.storage.fetch(place.text), columns=["text"])
    texts: list[str] = table.column("text").slice(0, place.documents).to_pylist()
    return texts


def _hashed(text: str, lines: LinesConfig) -> list[tuple[int, str]]:
    """The lines of a text with the hash of each, 0 for one that is too short to count."""
    return [
        (xxhash.xxh3_64_intdigest(stripped) if len(stripped := line.strip()) >= lines.min_characters else 0, line)
        for line in text.split(_separator(lines))
    ]


def _separator(lines: LinesConfig) -> str:
    return "\n" if lines.unit == "line" else "\n\n"


def _lines_file(job: Job, place: Placed) -> str:
    return job.file(f"lines/{place.key}.bin")
