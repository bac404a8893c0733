"""The chat format: `<用户>{question}<AI>{answer}</s>` per exchange; MiniCPM's, with an end after every answer.

Enters: messages (`role`, `content`) and the ids of their texts. Leaves: token documents with a loss mask that is 1 on
each answer and its closing `</s>`, and the Jinja template that makes `transformers` render the same ids.

Rules, the same in both: system messages are put before the question that follows them, each with a line end; user and
assistant take turns, user first; every message is text and says something. Any other role or order is dropped from
training by name, and refused by the template: the model never saw it. A question left without an answer at the end is
cut off in training, and is what a model is asked to answer. MiniCPM's own template has no system role and closes only
the last answer; closing each teaches the model where every answer stops.

A marker that somebody types into a message is text, never a marker. In training texts are encoded without markers and
these are put around them. A template has but one string for both, so it writes U+FDD1, a code point that no text holds
(a noncharacter of Unicode), into a typed marker, and the tokenizer takes U+FDD1 out again after it has looked for
markers: the ids are those of training.
A program that does not read the tokenizer's normalizer sees the bytes of U+FDD1 there, and still no marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

EOS, USER, ASSISTANT = "</s>", "<用户>", "<AI>"
EOS_ID, USER_ID, ASSISTANT_ID = 0, 1, 2
SPECIAL_TOKENS = (EOS, USER, ASSISTANT)

GUARD = "\ufdd1"
_GUARDED = " | ".join(f"replace('{marker}', '{marker[0]}{GUARD}{marker[1:]}')" for marker in SPECIAL_TOKENS)
_ORDER = "messages are system (any number, before a question), user, assistant, user, assistant, ...: "


def _refuse(message: str) -> str:
    return "{{- raise_exception(" + message + ") -}}"


# `{% generation %}` is written without dashes, as programs that do not know it look for just that
TEMPLATE = (
    "{%- if tools -%}" + _refuse("'this model was not trained with tools: leave tools out'") + "{%- endif -%}"
    "{%- set chat = namespace(system='', asked=false) -%}"
    "{%- for message in messages -%}"
    "{%- set role = message['role'] -%}{%- set content = message['content'] -%}"
    "{%- if role not in ['system', 'user', 'assistant'] -%}"
    + _refuse("'this model was not trained with the role ' ~ role ~ ': expected system, user or assistant'")
    + "{%- elif message['tool_calls'] -%}"
    + _refuse("'this model was not trained to call tools: leave tool_calls out'")
    + "{%- elif content is not string or not content | trim -%}"
    + _refuse("'a message of ' ~ role ~ ' holds no text: every content is a string that says something'")
    + "{%- endif -%}"
    "{%- set content = content | " + _GUARDED + " -%}"
    "{%- if role == 'system' -%}"
    "{%- if chat.asked -%}" + _refuse(f"'{_ORDER}a system message follows a question'") + "{%- endif -%}"
    "{%- set chat.system = chat.system + content + '\\n' -%}"
    "{%- elif role == 'user' -%}"
    "{%- if chat.asked -%}" + _refuse(f"'{_ORDER}two questions follow each other'") + "{%- endif -%}"
    "{{- '<用户>' + chat.system + content + '<AI>' -}}"
    "{%- set chat.system = '' -%}{%- set chat.asked = true -%}"
    "{%- else -%}"
    "{%- if not chat.asked -%}" + _refuse(f"'{_ORDER}an answer follows no question'") + "{%- endif -%}"
    "{% generation %}{{- content + '</s>' -}}{% endgeneration %}"
    "{%- set chat.asked = false -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if chat.system or not messages -%}" + _refuse(f"'{_ORDER}no question follows'") + "{%- endif -%}"
    "{%- if add_generation_prompt and not chat.asked -%}"
    + _refuse(f"'{_ORDER}add_generation_prompt asks for an answer where no question is open'")
    + "{%- endif -%}"
)

Message = Mapping[str, str]


def exchanges(messages: Sequence[Message]) -> list[tuple[str, str]] | str:
    """Question and answer texts, in order, or the reason why the conversation cannot be learnt from.

    A question at the end that has no answer is left out; `ends_open` tells.

    Returns: [(question, answer), ...], or one of `chat.unknown_role`, `chat.not_text`, `chat.empty_system`,
        `chat.empty_question`, `chat.empty_answer`, `chat.two_questions`, `chat.two_answers`, `chat.begins_with_answer`,
        `chat.system_after_question`, `chat.ends_with_system`, `chat.no_answer`.
    """
    pairs: list[tuple[str, str]] = []
    system, question = "", None
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in _NAMES:
            return "chat.unknown_role"
        if content is not None and not isinstance(content, str):
            return "chat.not_text"
        if not content or not content.strip():
            return f"chat.empty_{_NAMES[role]}"
        if role == "system":
            if question is not None:
                return "chat.system_after_question"
            system += content + "\n"
        elif role == "user":
            if question is not None:
                return "chat.two_questions"
            question, system = system + content, ""
        else:
            if question is None:
                return "chat.two_answers" if pairs else "chat.begins_with_answer"
            pairs.append((question, content))
            question = None
    if system:
        return "chat.ends_with_system"
    return pairs or "chat.no_answer"


def ends_open(messages: Sequence[Message]) -> bool:
    """Whether the last message is a question, which has no answer to be learnt."""
    return bool(messages) and messages[-1].get("role") == "user"


_NAMES = {"system": "system", "user": "question", "assistant": "answer"}


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
