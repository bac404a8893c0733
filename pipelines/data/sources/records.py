"""One record of a file, whatever its project calls its fields, as a document.

Enters: a record (a JSON object, a Parquet row, a string). Leaves: the document's text and metadata, or None when the record
holds no text.

A record kind is one small function. Each says which shape it reads; adding one here is all a new layout needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.data.document import Message, render

Content = tuple[str, dict[str, Any]]
_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
_QUESTIONS = ("instruction", "question", "problem")
_ANSWERS = ("output", "response", "answer", "solution", "generated_solution")


@dataclass(frozen=True)
class RecordKind:
    """The kind of source a record belongs to, and how it is read: (record, text field) to content."""

    kind: str
    read: Callable[[Any, str], Content | None]


def plain_text(record: Any, text_field: str) -> Content | None:
    """A string, or an object whose `text_field` is one; its other plain fields are kept as metadata."""
    if isinstance(record, str):
        return (record, {}) if record.strip() else None
    if not isinstance(record, Mapping) or not isinstance(record.get(text_field), str) or not record[text_field].strip():
        return None
    kept = {k: v for k, v in record.items() if k not in (text_field, "source", "language", "licence") and _is_plain(v)}
    return record[text_field], kept


def chapters(record: Any, text_field: str) -> Content | None:
    """A chapter of a book typeset with indentation and full-width spaces, which are layout, not text."""
    found = plain_text(record, text_field)
    if found is None:
        return None
    lines = (line.strip(" \t\u3000") for line in found[0].split("\n"))
    return "\n".join(line for line in lines if line), found[1]


def poem(record: Any, text_field: str) -> Content | None:
    """`{"title" or "rhythmic", "author", "paragraphs": [line, ...]}`, as collections of classical verse are published."""
    if not isinstance(record, Mapping) or not isinstance(record.get("paragraphs"), list):
        return None
    lines = [str(line).strip() for line in record["paragraphs"] if str(line).strip()]
    heading = [str(record[key]) for key in ("title", "rhythmic", "author") if record.get(key)]
    return ("\n".join([*heading, *lines]), {}) if lines else None


def glosses(record: Any, text_field: str) -> Content | None:
    """Lines of a WordNet `data.*` file (wndb(5WN)) as a dictionary: "word, word: meaning; "an example"."."""
    if not isinstance(record, str):
        return None
    entries = []
    for line in record.splitlines():
        facts, bar, meaning = line.partition(" | ")
        fields = facts.split(" ")
        if bar and fields[0].isdigit():
            words = fields[
                4 : 4 + 2 * int(fields[3], 16) : 2
            ]  # their number is hexadecimal; each is followed by a sense id
            entries.append(f"{', '.join(words).replace('_', ' ')}: {meaning.strip()}.")
    return ("\n".join(entries), {}) if entries else None


def manual_page(record: Any, text_field: str) -> Content | None:
    """A manual page in roff as plain paragraphs (macros of man(7); those of mdoc(7) are left out with their arguments)."""
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
    for burst in record.get("messages") or []:
        for message in burst:
            text = " ".join(str(message.get("text") or "").split())
            if text:
                speaker = speakers.setdefault(str(message.get("sender")), "ABCDEFGH"[min(len(speakers), 7)])
                lines.append(f"{speaker}: {text}")
    return ("\n".join(lines), {"turns": len(lines)}) if lines else None


def messages(record: Any, text_field: str) -> Content | None:
    """`{"messages": [{"role", "content"}]}` or the ShareGPT form `{"conversations": [{"from", "value"}]}`."""
    if not isinstance(record, Mapping):
        return None
    turns = _turns(record.get("messages") or record.get("conversations"))
    if not turns or turns[-1]["role"] != "assistant" or not any(turn["role"] == "user" for turn in turns):
        return None
    return render(turns), {"messages": turns}


def instruction(record: Any, text_field: str) -> Content | None:
    """Alpaca's `{"instruction", "input", "output"}`, with `history` and `system` where given; or another name for either."""
    if not isinstance(record, Mapping):
        return None
    asked = next((record[name] for name in _QUESTIONS if record.get(name)), None)
    question = "\n".join(str(part) for part in (asked, record.get("input")) if part)
    answer = next((record[name] for name in _ANSWERS if record.get(name)), None)
    if not question.strip() or not isinstance(answer, str) or not answer.strip():
        return None
    turns = [{"role": "system", "content": str(record["system"])}] if record.get("system") else []
    for asked, answered in record.get("history") or []:
        turns += [{"role": "user", "content": str(asked)}, {"role": "assistant", "content": str(answered)}]
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return render(turns), {"messages": turns}


def preference(record: Any, text_field: str) -> Content | None:
    """`{"prompt" | "conversations", "chosen", "rejected"}`; the prompt is a string or turns, the answers strings or turns."""
    if not isinstance(record, Mapping):
        return None
    asked = record.get("prompt") or record.get("conversations")
    prompt = [{"role": "user", "content": asked}] if isinstance(asked, str) else _turns(asked)
    chosen, rejected = _answer(record.get("chosen")), _answer(record.get("rejected"))
    if not prompt or prompt[-1]["role"] != "user" or not chosen or not rejected or chosen == rejected:
        return None
    text = "\n".join((render(prompt), chosen, rejected))
    return text, {"prompt": prompt, "chosen": chosen, "rejected": rejected}


RECORDS = {
    "text": RecordKind("documents", plain_text),
    "chapters": RecordKind("documents", chapters),
    "poem": RecordKind("documents", poem),
    "glosses": RecordKind("documents", glosses),
    "manual_page": RecordKind("documents", manual_page),
    "chat_log": RecordKind("documents", chat_log),
    "messages": RecordKind("conversations", messages),
    "instruction": RecordKind("conversations", instruction),
    "preference": RecordKind("preferences", preference),
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


def _turns(value: Any) -> list[Message]:
    """Turns under their usual roles; none at all when one has no text or an unknown role (a tool's answer, say)."""
    turns = []
    for turn in value if isinstance(value, list) else []:
        content = turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None
        role = _ROLES.get(str(turn.get("role", turn.get("from")))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(content, str) or not content.strip():
            return []
        turns.append({"role": role, "content": content})
    return turns


def _answer(value: Any) -> str:
    if isinstance(value, list) and value:  # the whole conversation again, as some sets give it: its last turn
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content", value.get("value"))
    return value if isinstance(value, str) and value.strip() else ""


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
