"""A conversation with a loaded model: history that fits, text as it comes, and how fast it came.

Enters: messages and a `Loaded`. Leaves: whole characters, each as soon as the last of its bytes is there, and an
`Answer`.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.data.text.document import Message
from pipelines.errors import ConfigError
from pipelines.train.runtimes.contract import DraftCounts, Loaded, Sampling


@dataclass(frozen=True)
class Answer:
    """What a model said, and what it took."""

    text: str
    tokens: int
    prompt_tokens: int  # of the whole conversation before it
    prompt_read: int  # of these, read for this answer: the others had been read before
    prompt_seconds: float  # until the first id
    decode_seconds: float  # from the first id to the last
    ended: bool  # by the model; else it was as long as it may be
    stopped: bool = False  # by whoever asked
    draft: DraftCounts | None = None

    def __str__(self) -> str:
        """Tokens and speeds, for a line behind the answer."""
        parts = [f"prompt {self.prompt_tokens:,} tokens"]
        if self.prompt_read < self.prompt_tokens:
            parts[0] += f", {self.prompt_read:,} of them new"
        if self.prompt_seconds > 0:
            parts[0] += f" at {self.prompt_read / self.prompt_seconds:,.0f}/s"
        decode = f"answer {self.tokens:,} tokens"
        if self.tokens > 1 and self.decode_seconds > 0:
            decode += f" at {(self.tokens - 1) / self.decode_seconds:,.1f}/s"
        parts.append(decode)
        if self.draft is not None and self.draft.proposed:
            share = self.draft.accepted / self.draft.proposed
            parts.append(f"draft {self.draft.accepted:,} of {self.draft.proposed:,} accepted ({share:.0%})")
        if self.stopped:
            parts.append("stopped")
        elif not self.ended:
            parts.append("cut off: as long as it may be")
        return " · ".join(parts)


def answer(
    loaded: Loaded, ids: Sequence[int], sampling: Sampling, show: Callable[[str], None], interruptible: bool = False
) -> Answer:
    """Let the model answer.

    Args:
        show: takes the text, some characters at a time.
        interruptible: Ctrl-C ends the answer, and what was said so far is kept; else it is raised.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, tokens, stopped = "", 0, False
    began = first = last = time.perf_counter()
    stream = loaded.stream(ids, sampling)
    try:
        for id_ in stream:
            last = time.perf_counter()
            if not tokens:
                first = last
            tokens += 1
            piece = decoder.decode(loaded.decode([id_]))
            if piece:
                text += piece
                show(piece)
    except KeyboardInterrupt:
        if not interruptible:
            raise
        stopped = True
    finally:
        if not tokens:
            first = last = time.perf_counter()
    if rest := decoder.decode(b"", final=True):
        text += rest
        show(rest)
    room = min(sampling.max_new_tokens, loaded.context - len(ids))
    return Answer(
        text=text,
        tokens=tokens,
        prompt_tokens=len(ids),
        prompt_read=loaded.prompt_read,
        prompt_seconds=first - began,
        decode_seconds=last - first,
        ended=tokens < room and not stopped,
        stopped=stopped,
        draft=loaded.draft,
    )


def fitted(loaded: Loaded, messages: Sequence[Message], sampling: Sampling) -> tuple[list[int], int]:
    """Ids of the conversation, open for an answer, the oldest exchanges left out until there is room for one.

    Room is kept for `max_new_tokens`, or for half of the context where that is less. System messages stay.

    Returns: the ids, and how many exchanges were left out.
    Raises: ConfigError when the last question alone leaves no room.
    """
    system = [message for message in messages if message["role"] == "system"]
    turns = [message for message in messages if message["role"] != "system"]
    room = min(sampling.max_new_tokens, loaded.context // 2)
    left_out = 0
    while True:
        ids = loaded.encode_chat([*system, *turns])
        if len(ids) + room <= loaded.context:
            return ids, left_out
        if len(turns) <= 1:
            break
        turns = turns[2:]
        left_out += 1
    if len(ids) < loaded.context:  # a shorter answer
        return ids, left_out
    raise ConfigError(
        f"the question has {len(ids):,} tokens and the model {loaded.context:,} positions: ask something shorter"
    )
