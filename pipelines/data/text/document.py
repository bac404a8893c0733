"""The document that travels through the corpus, what replaces it when it is dropped, and how it is written.

Enters: nothing. Leaves: datatrove's `Document` (text, id, metadata), `Dropped`, and the Arrow schema of each kind.

One class serves three kinds. `text` is always what is normalised, measured and deduplicated; a conversation and a
preference pair keep their turns in the metadata beside it, because the turns are what training reads:

    kind           text                      metadata
    documents      the document              source, language, licence, anything the reader knows
    conversations  its turns, one per line   + messages [{role, content}]
    preferences    prompt, chosen, rejected  + prompt [{role, content}], chosen, rejected
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from datatrove.data import Document

__all__ = [
    "CONTENT_KEYS",
    "EXCERPT",
    "RAW_EXCERPT",
    "Content",
    "Document",
    "Dropped",
    "Kind",
    "Message",
    "render",
    "rows_to_table",
    "schema",
    "text_of_row",
    "to_row",
    "utf8",
]

Kind = Literal["documents", "conversations", "preferences"]
Message = dict[str, str]
Content = tuple[str, dict[str, Any]]  # a text and its metadata

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_CONTENT: dict[str, list[tuple[str, pa.DataType]]] = {
    "documents": [("text", pa.string())],
    "conversations": [("messages", _MESSAGES)],
    "preferences": [("prompt", _MESSAGES), ("chosen", pa.string()), ("rejected", pa.string())],
}
CONTENT_KEYS: dict[str, tuple[str, ...]] = {
    kind: tuple(name for name, _ in fields if name != "text") for kind, fields in _CONTENT.items()
}
EXCERPT = 400  # characters of a document that samples show
RAW_EXCERPT = 1_200  # that readers keep of what they drop: it is masked before it is cut (see `samples`)
_COMMON = ("source", "language", "licence")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document that goes no further: a named reason, where it came from, and the text as far as it is known."""

    reason: str
    where: str
    text: str = ""


def schema(kind: str) -> pa.Schema:
    """The columns of a corpus file of this kind."""
    text = [(name, pa.string()) for name in (*_COMMON, "metadata")]
    return pa.schema([("id", pa.string()), *_CONTENT[kind], *text])


def to_row(document: Document, kind: str) -> dict[str, Any]:
    """One row of the schema; what the metadata holds beyond the columns becomes a JSON string."""
    metadata = document.metadata
    content = {key: metadata[key] for key in CONTENT_KEYS[kind]} or {"text": document.text}
    extra = {k: v for k, v in metadata.items() if k not in content and k not in _COMMON}
    return {
        "id": document.id,
        **content,
        **{name: metadata[name] for name in _COMMON},
        "metadata": utf8(json.dumps(extra, ensure_ascii=False, sort_keys=True)),
    }


def utf8(text: str) -> str:
    """The text with a question mark for every lone surrogate: JSON and names of files hold them, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def rows_to_table(rows: Sequence[dict[str, Any]], kind: str) -> pa.Table:
    """Rows of `to_row` as one Arrow table."""
    return pa.Table.from_pylist(list(rows), schema=schema(kind))


def text_of_row(row: dict[str, Any]) -> str:
    """The text of a row to look at: of a preference pair, what it asks."""
    return row["text"] if "text" in row else render(row.get("messages") or row["prompt"])


def render(messages: Iterable[Message]) -> str:
    """Turns as plain text, one after another, roles left out: the form that is measured and compared."""
    return "\n".join(message["content"] for message in messages)
