"""Rows of a corpus to documents of tokens, by the kind of their source.

Enters: Parquet rows of documents (id, text), conversations (id, messages) or preferences (id, prompt, chosen,
rejected). Leaves: `EncodedDocuments`, of preferences one for each side. A row that cannot be learnt from is dropped by
a named reason and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.data.tokens.chat import EOS_ID, assemble, exchanges
from pipelines.data.tokens.sidecars.layouts import EncodedDocuments
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import DataError
from pipelines.store.artifact import Artifact

_ROWS = 1024  # rows encoded at once: a few MB of text


def corpus_files(corpus: Artifact, split: str, source: str) -> list[str]:
    """The Parquet files of one source, sorted."""
    return sorted(
        file for file in corpus.manifest["files"] if file.startswith(f"{split}/{source}/") and file.endswith(".parquet")
    )


def read_rows(corpus: Artifact, file: str, kind: str, more: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file of the corpus. Args: more, columns to read beside those of every file of the kind."""
    columns = {
        "documents": ["id", "text"],
        "conversations": ["id", "messages"],
        "preferences": ["id", "prompt", "chosen", "rejected"],
    }
    if kind not in columns:
        raise DataError(f"{corpus.folder}/{file} is of kind {kind}; expected {', '.join(columns)}")
    parquet = pq.ParquetFile(corpus.path(file))
    if absent := [column for column in columns[kind] if column not in parquet.schema_arrow.names]:
        raise DataError(
            f"{corpus.folder}/{file} has no column {', '.join(absent)}; it has {', '.join(parquet.schema_arrow.names)}"
        )
    for batch in parquet.iter_batches(batch_size=_ROWS, columns=[*columns[kind], *sorted(more)]):
        yield batch.to_pylist()


def _encode_documents(
    rows: list[dict[str, Any]], encoder: Encoder, dropped: Counter[str]
) -> tuple[list[EncodedDocuments], list[str]]:
    kept = [row for row in rows if row["text"]]
    texts = [row["text"] for row in kept]
    dropped["text.empty"] += len(rows) - len(texts)
    ids, lengths = encoder.encode(texts)
    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    closed = np.insert(ids, np.cumsum(lengths), np.uint32(EOS_ID))
    return [EncodedDocuments(closed, lengths + 1, kept, sizes)], texts


def _encode_conversations(
    rows: list[dict[str, Any]], encoder: Encoder, dropped: Counter[str]
) -> tuple[list[EncodedDocuments], list[str]]:
    readable: list[tuple[dict[str, Any], list[tuple[str, str]]]] = []
    for row in rows:
        pairs = exchanges(row["messages"])
        if isinstance(pairs, str):
            dropped[pairs] += 1
        else:
            readable.append((row, pairs))
    kept = [pairs for _, pairs in readable]
    encoded = _encode_exchanges([row for row, _ in readable], kept, encoder, last_only=False)
    return [encoded], [text for pairs in kept for pair in pairs for text in pair]


def _encode_preferences(
    rows: list[dict[str, Any]], encoder: Encoder, dropped: Counter[str]
) -> tuple[list[EncodedDocuments], list[str]]:
    kept, both = [], []
    for row in rows:
        sides = [
            exchanges([*row["prompt"], {"role": "assistant", "content": row[side]}]) for side in ("chosen", "rejected")
        ]
        reason = next(
            (side for side in sides if isinstance(side, str)),
            "preference.same_answers" if sides[0] == sides[1] else None,
        )
        if reason is None:
            kept.append(row)
            both.append(sides)
        else:
            dropped[reason] += 1
    documents = [[pair for pair in side if not isinstance(pair, str)] for sides in both for side in sides]
    encoded = [_encode_exchanges(kept, documents[side::2], encoder, last_only=True) for side in (0, 1)]
    return encoded, [text for pairs in documents for pair in pairs for text in pair]


def _encode_exchanges(
    rows: list[dict[str, Any]], documents: list[list[tuple[str, str]]], encoder: Encoder, last_only: bool
) -> EncodedDocuments:
    ids, lengths = encoder.encode([text for pairs in documents for pair in pairs for text in pair])
    tokens, document_lengths, mask = assemble(
        ids, lengths, np.array([len(pairs) for pairs in documents], np.int64), last_only
    )
    learnt = [pairs[-1:] if last_only else pairs for pairs in documents]
    sizes = np.array([sum(len(answer.encode()) for _, answer in pairs) for pairs in learnt], np.int64)
    return EncodedDocuments(tokens, document_lengths, rows, sizes, mask)


ENCODE: dict[str, Callable[[list[dict[str, Any]], Encoder, Counter[str]], tuple[list[EncodedDocuments], list[str]]]] = {
    "documents": _encode_documents,
    "conversations": _encode_conversations,
    "preferences": _encode_preferences,
}
