"""What a reader is shown of a corpus: examples of what was dropped, and clusters of copies.

Enters: the artifact's `dropped/<source>.parquet` and `duplicates/clusters.parquet` (see `duplicates`). Leaves: rows,
clusters as lists of rows (who stays, who was dropped for it), and the differences of two excerpts as runs of equal,
removed and added text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.text.document import EXCERPT
from pipelines.store.artifact import Artifact

Cluster = list[dict[str, Any]]  # rows of one cluster, the document that stays first
Run = tuple[str, str]  # "=", "-" or "+", and the text
RULE = (
    "Of each cluster a held-out document stays first, then the best in quality, the longest, the smallest hash of "
    "the id"
)
_CONTEXT = 60  # characters of equal text shown on either side of a difference
_TOKEN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|\s+|[^\W\u2e80-\u9fff\uf900-\ufaff]+|.", re.DOTALL)
_MARKS = {"=": ("", ""), "-": ("[-", "-]"), "+": ("{+", "+}")}
_COLOURS = {"=": ("", ""), "-": ("\033[31;9m", "\033[0m"), "+": ("\033[32m", "\033[0m")}


def read_rows(data: bytes) -> list[dict[str, Any]]:
    """The rows of a Parquet file in memory, read by this thread alone.

    `pq.read_table` reads by a thread of Arrow's whatever it is told (25.0), and that may let go of `data` only when the
    read has returned, for which it waits for Python's lock. If Python ends meanwhile, it ends the waiting thread too,
    inside a destructor, by which C++ aborts the process: "terminate called without an active exception", after all was
    printed (python/cpython#87135, mended in 3.14). A file read by its path holds nothing of Python's.
    """
    return list(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist())


def read_clusters(data: bytes) -> list[Cluster]:
    """The clusters of a `clusters.parquet`, in its order: the largest first."""
    clusters: dict[int, Cluster] = {}
    for row in read_rows(data):
        clusters.setdefault(row["cluster"], []).append(row)
    return list(clusters.values())


def samples(corpus: Artifact) -> dict[str, list[dict[str, str]]]:
    """By source, up to ten examples of each reason for which it lost documents: rows of `dropped/<source>.parquet`."""
    files = {name: f"dropped/{name}.parquet" for name in corpus.statistics["sources"]}
    return {
        name: pq.read_table(corpus.path(file)).to_pylist()
        for name, file in files.items()
        if file in corpus.manifest["files"]
    }


def differences(stays: str, dropped: str) -> list[Run]:
    """Runs of text that lead from one excerpt to the other: "=" in both, "-" in `stays` only, "+" in `dropped` only.

    White space is equal to any other, as it is to deduplication. Both are the first 400 characters of longer texts, so
    what differs at the very end only shows where they were cut off; it is left out.
    """
    a, b = _TOKEN.findall(stays), _TOKEN.findall(dropped)
    left, right = ([" " if token.isspace() else token for token in tokens] for tokens in (a, b))
    runs: list[Run] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for sign, tokens in (("=", a[a0:a1]),) if kind == "equal" else (("-", a[a0:a1]), ("+", b[b0:b1])):
            if tokens:
                runs.append((sign, "".join(tokens)))
    if max(len(stays), len(dropped)) >= EXCERPT:
        while len(runs) > 1 and runs[-1][0] != "=":
            runs.pop()
    return runs


def shortened(runs: Sequence[Run]) -> list[Run]:
    """The same with the middle of long equal runs left out, so that the differences are near each other."""
    short = []
    for place, (sign, text) in enumerate(runs):
        before, after = _CONTEXT * (place > 0), _CONTEXT * (place < len(runs) - 1)
        if sign == "=" and len(text) > before + after + 10 and len(runs) > 1:
            text = f"{text[:before]} … {text[len(text) - after :]}"
        short.append((sign, text))
    return short


def lines(cluster: Cluster, number: int, rows: int = 5, colours: bool = False) -> Iterator[str]:
    """One cluster as lines for a terminal or a log.

    Args: rows, dropped documents shown; colours, instead of [-…-] {+…+}.
    """
    stays, changed, equal = parted(cluster)
    yield f"\n── {number} · {stays['size']:,} documents: {composition(cluster)}"
    yield f"   {stays['role']:<14} {stays['id']}"
    yield from (f"      {line}" for line in stays["text"].splitlines() if line.strip())
    marks = _COLOURS if colours else _MARKS
    for row in changed[:rows]:
        yield f"   {row['role']:<14} {row['id']}{alike(row)}"
        runs = differences(stays["text"], row["text"])
        if all(sign == "=" for sign, _ in runs):
            yield "      (no difference in the first 400 characters)"
            continue
        shown = "".join(f"{marks[sign][0]}{text}{marks[sign][1]}" for sign, text in shortened(runs))
        yield from (f"      {line}" for line in shown.splitlines() if line.strip())
    if equal:
        yield f"   the same text  {', '.join(row['id'] for row in equal[:rows])}"
    more = stays["size"] - 1 - len(changed[:rows]) - len(equal[:rows])
    if more:
        yield f"   and {more:,} more"


def parted(cluster: Cluster) -> tuple[dict[str, Any], Cluster, Cluster]:
    """The document that stays, those that differ from it, and those of the same text."""
    stays, *rest = cluster
    equal = [row for row in rest if row["role"].endswith("exact") and row["text"] == stays["text"]]
    return stays, [row for row in rest if row not in equal], equal


def alike(row: Mapping[str, Any]) -> str:
    """How similar a dropped document is to the one that stays, where that was computed."""
    return "" if row["similarity"] is None else f"  Jaccard {row['similarity']:.3f}"


def composition(cluster: Cluster) -> str:
    """`12 near, 3 exact` of the rows that are kept for browsing."""
    roles: dict[str, int] = {}
    for row in cluster[1:]:
        roles[row["role"]] = roles.get(row["role"], 0) + 1
    listed = ", ".join(f"{count} {role}" for role, count in sorted(roles.items(), key=lambda item: -item[1]))
    return listed if cluster[0]["size"] == len(cluster) else f"among the first {len(cluster) - 1}, {listed}"
