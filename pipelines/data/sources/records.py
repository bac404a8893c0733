"""One record of a file, whatever its project calls its fields, as a document.

Enters: a record (a JSON object, a Parquet row, a string). Leaves: the document's text and metadata, or the reason why
there is none.

A record kind is one small function. Each says which shape it reads, and raises `Unfit` for any other; adding one here
is all a new layout needs. Only strings become text, and only turns under known roles become turns: nothing else is
turned into a string. `content_of` is the one place where a record's own fault ends: whatever it makes a function raise
is a reason as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources.conversations import ANSWERS, QUESTIONS, SYSTEMS, instruction, messages, preference
from pipelines.data.sources.shape import Unfit, list_of, text_of
from pipelines.data.text.document import Content
from pipelines.errors import TrunklineError

NO_TEXT = "read.no_text"
_OF_ANOTHER_KIND = {"conversations": "records.is_conversation", "preferences": "records.is_preference"}


@dataclass(frozen=True)
class RecordKind:
    """The kind of source a record belongs to, how it is read, and from which fields.

    `read` takes (record, text field) and returns the content, None where there is no text, or raises `Unfit`. A kind
    without `fields` reads the text field, and keeps what is plain beside it as metadata.
    """

    kind: str
    read: Callable[[Any, str], Content | None]
    fields: tuple[str, ...] = ()


def content_of(record_kind: RecordKind, record: Any, text_field: str) -> Content | str:
    """The content of a record, or the reason why it has none.

    That is a name of `read.` or `records.`; of a fault nobody foresaw, that of the exception.
    """
    try:
        return record_kind.read(record, text_field) or NO_TEXT
    except Unfit as unfit:
        return unfit.reason
    except (TrunklineError, MemoryError):
        raise
    except Exception as error:
        return f"records.{type(error).__name__}"


def holds(fields: Collection[str]) -> str | None:
    """The record kind whose fields these are, of conversations and preference pairs; None for none."""
    if "chosen" in fields and "rejected" in fields:
        return "preference"
    if "messages" in fields or "conversations" in fields:
        return "messages"
    is_answered = any(name in fields for name in QUESTIONS) and any(name in fields for name in ANSWERS)
    return "instruction" if is_answered else None


def plain_text(record: Any, text_field: str) -> Content | None:
    """A string, or an object whose `text_field` is one; its other plain fields are kept as metadata."""
    if isinstance(record, str):
        return (record, {}) if record.strip() else None
    if isinstance(record, Mapping) and text_field not in record and (other := holds(record)):
        raise Unfit(_OF_ANOTHER_KIND[RECORDS[other].kind])
    if not isinstance(record, Mapping) or not isinstance(record.get(text_field), str) or not record[text_field].strip():
        return None
    kept = {k: v for k, v in record.items() if k not in (text_field, "source", "language", "licence") and _is_plain(v)}
    return record[text_field], kept


def chapters(record: Any, text_field: str) -> Content | None:
    """A chapter of a book typeset with indentation and full-width spaces, which are layout, not text."""
    content = plain_text(record, text_field)
    if content is None:
        return None
    lines = (line.strip(" \t\u3000") for line in content[0].split("\n"))
    return "\n".join(line for line in lines if line), content[1]


def poem(record: Any, text_field: str) -> Content | None:
    """`{"title" or "rhythmic", "author", "paragraphs": [line, ...]}`, as collections of classical verse have it."""
    if not isinstance(record, Mapping) or not isinstance(record.get("paragraphs"), list):
        return None
    lines = [line for line in (text_of(line).strip() for line in record["paragraphs"]) if line]
    heading = [text for text in (text_of(record.get(key)) for key in ("title", "rhythmic", "author")) if text]
    return ("\n".join([*heading, *lines]), {}) if lines else None


def glosses(record: Any, text_field: str) -> Content | None:
    """Lines of a WordNet `data.*` file (wndb(5WN)) as a dictionary: "word, word: meaning; "an example"."."""
    if not isinstance(record, str):
        return None
    entries = []
    for line in record.splitlines():
        entry, bar, meaning = line.partition(" | ")
        fields = entry.split(" ")
        if bar and fields[0].isdigit():
            words = fields[
                4 : 4 + 2 * int(fields[3], 16) : 2
            ]  # their number is hexadecimal; each is followed by a sense id
            entries.append(f"{', '.join(words).replace('_', ' ')}: {meaning.strip()}.")
    return ("\n".join(entries), {}) if entries else None


def manual_page(record: Any, text_field: str) -> Content | None:
    """A manual page in roff as plain paragraphs (macros of man(7); those of mdoc(7) go with their arguments)."""
    if not isinstance(record, str):
        return None
    blocks: list[list[str]] = [[]]
    filled = True  # between .nf and .fi lines stay as they are
    for raw in record.splitlines():
        macro, arguments = _macro(raw)
        if macro in ("nf", "EX", "fi", "EE"):
            filled = macro in ("fi", "EE")
        if macro in ("SH", "SS"):
            blocks += [[" ".join(arguments)], []]
        elif macro in _BREAKS or (not macro and not raw.strip()):
            blocks.append([])
        elif macro in _FONTS:
            blocks[-1].append(("" if macro in _ALTERNATING else " ").join(arguments))
        elif not macro:
            blocks[-1] += [raw] if filled else ["\n" + raw]
    text = "\n\n".join(_filled(block) for block in blocks if block)
    return (text, {}) if text.strip() else None


def chat_log(record: Any, text_field: str) -> Content | None:
    """`{"messages": [[{"text", "sender", "timestamp"}, ...], ...]}`, a list of bursts by one person.

    Senders and times are dropped: they identify people. Speakers become A and B in order of appearance.
    """
    if not isinstance(record, Mapping):
        return None
    speakers: dict[str, str] = {}
    lines = []
    for burst in list_of(record.get("messages")):
        for message in list_of(burst):
            if not isinstance(message, Mapping):
                raise Unfit("records.bad_turn")
            text = " ".join(text_of(message.get("text")).split())
            if text:
                speaker = speakers.setdefault(str(message.get("sender")), "ABCDEFGH"[min(len(speakers), 7)])
                lines.append(f"{speaker}: {text}")
    return ("\n".join(lines), {"turns": len(lines)}) if lines else None


RECORDS = {
    "text": RecordKind("documents", plain_text),
    "chapters": RecordKind("documents", chapters),
    "poem": RecordKind("documents", poem, ("title", "rhythmic", "author", "paragraphs")),
    "glosses": RecordKind("documents", glosses),
    "manual_page": RecordKind("documents", manual_page),
    "chat_log": RecordKind("documents", chat_log, ("messages",)),
    "messages": RecordKind("conversations", messages, ("messages", "conversations", *SYSTEMS)),
    "instruction": RecordKind("conversations", instruction, (*QUESTIONS, "input", *ANSWERS, "history", *SYSTEMS)),
    "preference": RecordKind(
        "preferences", preference, ("prompt", "conversations", "history", "chosen", "rejected", *SYSTEMS)
    ),
}


_BREAKS = {"PP", "P", "LP", "TP", "IP", "HP", "sp", "br", "RS", "RE", "nf", "fi", "EX", "EE", "TQ", "SH", "SS"}
_ALTERNATING = {"BR", "RB", "IR", "RI", "BI", "IB"}  # fonts in turn, without a space: .BR open (2)
_FONTS = _ALTERNATING | {"B", "I", "SB", "SM"}
_SIGNS = {
    "em": "—",
    "en": "–",
    "aq": "'",
    "dq": '"',
    "oq": "‘",
    "cq": "’",
    "lq": "“",
    "rq": "”",
    "bu": "•",
    "co": "©",
    "ha": "^",
    "ti": "~",
}
_ESCAPE = re.compile(r"\\(?:f(?:\(..|\[[^]]*\]|.)|s[-+]?\d|\*?\((..)|\*?\[([^]]*)\]|([-e ~])|[&|^%:/c,])")


def _macro(line: str) -> tuple[str, list[str]]:
    """The name and the arguments of a roff request, "" for a line of text."""
    if not line.startswith((".", "'")):
        return "", []
    name, _, rest = line[1:].strip().partition(" ")
    arguments = re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)
    return name or "\\", [quoted or plain for quoted, plain in arguments]


def _filled(lines: list[str]) -> str:
    """Lines as one paragraph: a space between them, none between Chinese characters."""
    joined = re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])", "", " ".join(lines))
    plain = _ESCAPE.sub(
        lambda m: _SIGNS.get(m[1] or m[2] or "", "") or {"e": "\\", "~": " "}.get(m[3], m[3] or ""), joined
    )
    return plain.replace(" \n", "\n").strip("\n")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
