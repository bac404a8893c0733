"""Answers to a file of prompts, in their order, resumable.

Enters: JSON lines, each `{"messages": [...]}` or `{"prompt": "..."}`; whatever else a line holds is kept beside its
answer. Leaves: JSON lines with the whole conversation in `messages`, which `workflows.corpus` reads as conversations.

A line is answered with a seed of its own (that of the settings and the line's number) and from an empty cache, so a
file that was interrupted and goes on ends as one that was not. Each answer is on disk before the next begins. What a
kill leaves of a half-written line is made again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import plain
from pipelines.data.text.document import Message
from pipelines.data.tokens.chat import prompt
from pipelines.display.progress import Progress, say
from pipelines.errors import ConfigError, DataError
from pipelines.identity import fingerprint
from pipelines.store.disk import disk_error
from pipelines.train.runtimes.contract import Loaded, Sampling
from pipelines.train.runtimes.conversation import answer, fitted

_MOST_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One line of the file."""

    line: int
    messages: list[Message]
    beside: dict[str, Any]


def read_prompts(path: Path, system: str | None) -> list[Prompt]:
    """Every line of a file, all checked before any is answered.

    Args: system, put before conversations that have no system message of their own.
    Raises: DataError naming the lines that cannot be answered, and why; ConfigError when the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise ConfigError(
            f'prompts={path}: there is no such file; expected a file of JSON lines, each {{"prompt": "…"}} or '
            '{"messages": [{"role": "user", "content": "…"}]}. A single question: leave prompts out and type it, or '
            "echo '…' | the same command without prompts"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = "it is a folder" if isinstance(error, IsADirectoryError) else str(error)
        raise ConfigError(f"prompts={path} cannot be read: {why}; expected a file of JSON lines in UTF-8") from error
    prompts, bad = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt(number, line, system))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        more = f"; and {len(bad) - _MOST_SHOWN} more" if len(bad) > _MOST_SHOWN else ""
        raise DataError(
            f"{len(bad):,} of {len(bad) + len(prompts):,} lines of {path} cannot be answered; "
            f"{'; '.join(bad[:_MOST_SHOWN])}{more}; expected "
            '{"messages": [{"role": "user", "content": "…"}]} or {"prompt": "…"} on each: nothing was answered'
        )
    if not prompts:
        raise DataError(f"{path} holds no prompt; expected a line of JSON for each")
    return prompts


def _prompt(number: int, line: str, system: str | None) -> Prompt:
    """Raises: ValueError with the reason."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"holds {type(record).__name__}, no object")
    if ("messages" in record) == ("prompt" in record):
        raise ValueError(
            "holds both messages and prompt" if "prompt" in record else "holds neither messages nor prompt"
        )
    if "prompt" in record:
        if not isinstance(record["prompt"], str) or not record["prompt"].strip():
            raise ValueError("its prompt is no text that says something")
        messages = [{"role": "user", "content": record["prompt"]}]
    else:
        messages = record["messages"]
        turns = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
        if not turns or not messages:
            raise ValueError("its messages are no list of objects with role and content")
        messages = [{"role": message.get("role"), "content": message.get("content")} for message in messages]
    if system is not None and not any(message["role"] == "system" for message in messages):
        messages = [{"role": "system", "content": system}, *messages]
    prompt(messages)
    return Prompt(number, messages, {key: value for key, value in record.items() if key not in ("messages", "prompt")})


def answer_all(
    loaded: Loaded, prompts: Sequence[Prompt], answers: Path, sampling: Sampling, model: str
) -> dict[str, int]:
    """Answer what is not answered yet, line after line.

    Args: model, what the answers say they were made by.
    Returns: counts: answered (in all), kept (of an earlier run), cut (answers as long as they may be), left_out
        (exchanges that had no room), tokens.
    Raises: ConfigError when `answers` holds what another model, other settings or other prompts left.
    """
    made_with = f"{model} {fingerprint(plain(sampling))[:8]}"
    kept = _kept(answers, prompts, made_with)
    counts = {"answered": len(kept), "kept": len(kept), "cut": 0, "left_out": 0, "tokens": 0}
    for line in kept:
        counts["cut"] += line["cut"]
        counts["left_out"] += line["left_out"]
        counts["tokens"] += line["tokens"]
    if kept:
        say(f"   {answers} holds {len(kept):,} of {len(prompts):,} answers already: the others follow")
    progress = Progress("answers", len(prompts), "prompts")
    if kept:
        progress.update(done=len(kept))
    try:
        with answers.open("r+b" if answers.exists() else "wb") as file:
            file.truncate(sum(line["bytes"] for line in kept))
            file.seek(0, os.SEEK_END)
            for prompt_ in prompts[len(kept) :]:
                own = dataclasses.replace(sampling, seed=(sampling.seed + prompt_.line) % 2**63)
                loaded.forget()
                ids, left_out = fitted(loaded, prompt_.messages, own)
                said = answer(loaded, ids, own, lambda _: None)
                record = {
                    **prompt_.beside,
                    "messages": [*prompt_.messages, {"role": "assistant", "content": said.text}],
                    "answer": {
                        "line": prompt_.line,
                        "made_with": made_with,
                        "tokens": said.tokens,
                        "cut": not said.ended,
                        "left_out": left_out,
                    },
                }
                file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
                file.flush()
                counts["answered"] += 1
                counts["cut"] += not said.ended
                counts["left_out"] += left_out
                counts["tokens"] += said.tokens
                progress.update(tokens=f"{counts['tokens']:,}")
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error) or ConfigError(f"answers={answers} cannot be written: {error}") from error
    return counts


def _kept(answers: Path, prompts: Sequence[Prompt], made_with: str) -> list[dict[str, Any]]:
    """What an earlier run left, one entry for each whole line."""
    try:
        data = answers.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"answers={answers} cannot be read: {error}; name another file") from error
    lines = data.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    kept = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            own, messages = record["answer"], record["messages"][:-1]
            entry = {key: own[key] for key in ("tokens", "cut", "left_out")}
        except (ValueError, KeyError, TypeError, IndexError):
            reason = f"its line {number + 1} is no answer of this command"
            break
        if own.get("made_with") != made_with:
            reason = f"it was made with {own.get('made_with')}, and this is {made_with}"
            break
        if number >= len(prompts) or messages != prompts[number].messages:
            reason = f"its line {number + 1} answers another prompt"
            break
        kept.append({**entry, "bytes": len(line)})
    else:
        return kept
    raise ConfigError(
        f"answers={answers} exists and cannot be gone on with: {reason}; name another file, or delete this one"
    )
