"""The chat format: `<用户>{question}<AI>{answer}</s>` per exchange; MiniCPM's, with an end after every answer.

Enters: messages (`role`, `content`) and the ids of their texts. Leaves: token documents with a loss mask that is 1 on
each answer and its closing `</s>`, and the Jinja template that makes `transformers` render the same ids.

Rules, the same in both: system messages are put before the question that follows them, each with a line end; user and
assistant take turns, user first; a question left without an answer at the end is cut off in training. MiniCPM's own
template has no system role and closes only the last answer; closing each teaches the model where every answer stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

EOS, USER, ASSISTANT = "</s>", "<用户>", "<AI>"
EOS_ID, USER_ID, ASSISTANT_ID = 0, 1, 2
SPECIAL_TOKENS = (EOS, USER, ASSISTANT)

TEMPLATE = (
    "{%- set pending = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set pending.system = pending.system + message['content'] + '\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '<用户>' + pending.system + message['content'] + '<AI>' -}}{%- set pending.system = '' -%}"
    "{%- else -%}{{- message['content'] + '</s>' -}}{%- endif -%}"
    "{%- endfor -%}"
)

Message = Mapping[str, str]


def exchanges(messages: Sequence[Message]) -> list[tuple[str, str]] | str:
    """Question and answer texts, in order, or the reason why the conversation cannot be learnt from.

    Returns: [(question, answer), ...], or one of `chat.unknown_role`, `chat.turns_out_of_order`, `chat.no_answer`,
        `chat.empty_answer`.
    """
    pairs: list[tuple[str, str]] = []
    system, question = "", None
    for message in messages:
        role, content = message["role"], message["content"] or ""
        if role == "system" and question is None:
            system += content + "\n"
        elif role == "user" and question is None:
            question, system = system + content, ""
        elif role == "assistant" and question is not None:
            if not content:
                return "chat.empty_answer"
            pairs.append((question, content))
            question = None
        else:
            return "chat.turns_out_of_order" if role in ("system", "user", "assistant") else "chat.unknown_role"
    return pairs or "chat.no_answer"


def prompt(messages: Sequence[Message]) -> list[tuple[str, str | None]]:
    """The exchanges so far, the last one open: [(question, answer), ..., (question, None)], to be answered by a model.

    Raises: ValueError when the messages do not end with a question, or cannot be read by `exchanges`.
    """
    closed = exchanges([*messages, {"role": "assistant", "content": "-"}])
    if isinstance(closed, str):
        raise ValueError(
            f"messages cannot be answered: {closed}; expected turns of user and assistant that end with user"
        )
    return [*closed[:-1], (closed[-1][0], None)]


def assemble(
    ids: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    exchanges_per_document: NDArray[np.int64],
    last_only: bool = False,
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint8]]:
    """Put the markers around encoded texts.

    Args:
        ids: ids of question, answer, question, answer, ... one after another [ids].
        lengths: ids of each text [2 * exchanges].
        exchanges_per_document: how many exchanges make each document [documents].
        last_only: count only the last answer of a document in the loss (preference pairs).

    Returns: tokens [ids + 3 * exchanges], tokens per document [documents], loss mask uint8 like tokens.
    """
    question, answer = lengths[0::2], lengths[1::2]
    spans = np.stack([question + 2, answer + 1], axis=1)  # <用户> question <AI>, answer </s>
    ends = np.cumsum(spans.ravel()).reshape(-1, 2)
    tokens = np.zeros(int(ends[-1, 1]) if len(ends) else 0, np.uint32)
    content = np.ones(len(tokens), np.bool_)
    for marker, places in (
        (USER_ID, ends[:, 0] - spans[:, 0]),
        (ASSISTANT_ID, ends[:, 0] - 1),
        (EOS_ID, ends[:, 1] - 1),
    ):
        tokens[places] = marker
        content[places] = False
    tokens[content] = ids
    document_ends = np.cumsum(exchanges_per_document)
    counted = np.zeros(spans.shape, np.uint8)
    counted[document_ends - 1 if last_only else slice(None), 1] = 1
    document_tokens = np.diff(ends[document_ends - 1, 1], prepend=0) if len(document_ends) else np.zeros(0, np.int64)
    return tokens, document_tokens, np.repeat(counted.ravel(), spans.ravel())
