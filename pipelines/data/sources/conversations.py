"""Conversations and preference pairs, in the shapes that projects publish them, as turns under three roles.

Enters: a record. Leaves: its text and its turns `{"role": "system" | "user" | "assistant", "content"}`, or `Unfit`.

| reason | the record |
|---|---|
| `records.not_an_object`, `.no_messages`, `.bad_turn`, `.bad_history`, `.not_a_list` | is of another shape |
| `records.not_text` | holds a number, an object or a picture where text is expected |
| `records.unknown_role` | has a turn of another role |
| `records.tools` | calls a tool or quotes one, which the chat format does not know |
| `records.empty_turn` | has a question or an answer without text |
| `records.no_question`, `.no_prompt`, `.ends_without_answer` | asks nothing; does not end with the assistant's answer |
| `records.same_answers`, `.sides_differ_early`, `.prompt_differs` | is a pair that differs not in one last answer |

Whether turns alternate is judged where they are rendered (`tokens/chat.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.sources.shape import Unfit, first_text, list_of, object_of, text_of
from pipelines.data.text.document import Content, Message, render

_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
_TOOL_ROLES = ("tool", "function", "ipython", "observation", "function_call", "tool_call", "tool_response")
_TEXT_PARTS = ("text", "input_text", "output_text")
_CALLS = ("tool_calls", "function_call")  # in a turn
SYSTEMS = ("system", "system_prompt")  # beside the turns
QUESTIONS = ("instruction", "question", "problem")
ANSWERS = ("output", "response", "answer", "solution", "generated_solution")


def messages(record: Any, text_field: str) -> Content | None:
    """`{"messages": [{"role", "content"}]}` or `{"conversations": [{"from", "value"}]}`; `system` where given."""
    record = object_of(record)
    turns = _turns(record.get("messages") or record.get("conversations"), "records.no_messages")
    turns = _with_system(record, turns)
    if not any(turn["role"] == "user" for turn in turns):
        raise Unfit("records.no_question")
    if turns[-1]["role"] != "assistant":
        raise Unfit("records.ends_without_answer")
    return render(turns), {"messages": turns}


def instruction(record: Any, text_field: str) -> Content | None:
    """Alpaca's `{"instruction", "input", "output"}` or other names for these, with `history` and `system` where given.

    `history` is a list of [question, answer], or turns as in `messages`.
    """
    record = object_of(record)
    asked, answer = (first_text(record, names) for names in (QUESTIONS, ANSWERS))
    question = "\n".join(part for part in (asked, text_of(record.get("input"))) if part)
    if not question.strip() or not answer.strip():
        return None
    turns = _history(record.get("history"))
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    turns = _with_system(record, turns)
    return render(turns), {"messages": turns}


def preference(record: Any, text_field: str) -> Content | None:
    """`{"prompt" | "conversations", "chosen", "rejected"}`, each a string or turns.

    `history`, as in `instruction`, precedes the prompt, and `system` both. Answers given as turns may go on from the
    prompt or hold it again. What both sides begin with belongs to the prompt, so without a prompt it is the turns that
    two whole conversations share. One answer of the assistant must then be left on either side.
    """
    record = object_of(record)
    asked = record.get("prompt") or record.get("conversations")
    prompt = _side(asked, "user") if asked else []
    if history := _history(record.get("history")):
        bare = _without_system(prompt)
        prompt = [*prompt[: len(prompt) - len(bare)], *history, *bare]
    sides = [_side(record.get(name), "assistant") for name in ("chosen", "rejected")]
    if not all(sides):
        return None
    if prompt:
        prompt, sides = _continued(prompt, sides)
    chosen, rejected = sides
    if chosen == rejected:
        raise Unfit("records.same_answers")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    prompt = _with_system(record, prompt + chosen[:shared])
    chosen, rejected = chosen[shared:], rejected[shared:]
    if not any(turn["role"] == "user" for turn in prompt):
        raise Unfit("records.no_prompt")
    if any(not side or side[-1]["role"] != "assistant" for side in (chosen, rejected)):
        raise Unfit("records.ends_without_answer")
    if len(chosen) > 1 or len(rejected) > 1:
        raise Unfit("records.sides_differ_early")  # before the last answer, and a pair holds one answer a side
    if prompt[-1]["role"] != "user":
        raise Unfit("records.no_question")
    good, bad = chosen[0]["content"], rejected[0]["content"]
    text = "\n".join((render(prompt), good, bad))
    return text, {"prompt": prompt, "chosen": good, "rejected": bad}


def _turns(value: Any, missing: str) -> list[Message]:
    """Turns under their usual roles; `missing` is the reason where there is no list of them.

    A system turn that is blank says nothing, and goes. Any other turn that has no text, or a role that is not known,
    costs the conversation: what follows it would answer something else.
    """
    if not isinstance(value, list) or not value:
        raise Unfit(missing)
    turns = []
    for said in value:
        turn = _turn(said)
        if turn["content"].strip():
            turns.append(turn)
        elif turn["role"] != "system":
            raise Unfit("records.empty_turn")
    return turns


def _turn(value: Any) -> Message:
    """A turn of any project's as `{"role", "content"}`."""
    if not isinstance(value, Mapping):
        raise Unfit("records.bad_turn")
    said = _given(value, "role", "from")
    name = said.strip().lower() if isinstance(said, str) else ""
    if name in _TOOL_ROLES or any(value.get(key) for key in _CALLS):
        raise Unfit("records.tools")
    if name not in _ROLES:
        raise Unfit("records.unknown_role")
    return {"role": _ROLES[name], "content": _content(_given(value, "content", "value"))}


def _given(turn: Mapping[str, Any], *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _content(value: Any) -> str:
    """A turn's text: a string, or a list of parts that are all of type text, which become paragraphs."""
    if isinstance(value, list):
        if not all(isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS for part in value):
            raise Unfit("records.not_text")
        value = "\n".join(text_of(part.get("text")) for part in value)
    return text_of(value)


def _with_system(record: Mapping[str, Any], turns: list[Message]) -> list[Message]:
    """The turns behind the system text that stands beside them, unless they begin with it themselves."""
    system = first_text(record, SYSTEMS)
    turn = {"role": "system", "content": system}
    return turns if not system.strip() or turns[:1] == [turn] else [turn, *turns]


def _history(value: Any) -> list[Message]:
    """Earlier exchanges: [question, answer] each, or turns that end with an answer."""
    turns: list[Message] = []
    if not value and (value is None or value in ([], "")):
        return turns
    items = list_of(value)
    if all(isinstance(item, Mapping) for item in items):
        turns = _turns(items, "records.bad_history")
        if not turns or turns[-1]["role"] != "assistant":
            raise Unfit("records.bad_history")
        return turns
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 2 or not all(isinstance(text, str) for text in item):
            raise Unfit("records.bad_history")
        if not all(text.strip() for text in item):
            raise Unfit("records.empty_turn")
        turns += [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
    return turns


def _side(value: Any, role: str) -> list[Message]:
    """A prompt, or one side of a pair, as turns; a string is said by `role`. Without text there are none."""
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list):
        return _turns(value, "records.no_messages")
    text = text_of(value)
    return [{"role": role, "content": text}] if text.strip() else []


def _continued(prompt: list[Message], sides: list[list[Message]]) -> tuple[list[Message], list[list[Message]]]:
    """The prompt, and each side without it where it holds the prompt again; system turns may stand in either alone."""
    bare, told = _without_system(prompt), prompt[: len(prompt) - len(_without_system(prompt))]
    rest = []
    for side in sides:
        if side[0]["role"] == "assistant":  # goes on from the prompt
            rest.append(side)
            continue
        turns = _without_system(side)
        system = side[: len(side) - len(turns)]
        if turns[: len(bare)] != bare or (system and told and system != told):
            raise Unfit("records.prompt_differs")
        told = system or told
        rest.append(turns[len(bare) :])
    return [*told, *bare], rest


def _without_system(turns: list[Message]) -> list[Message]:
    """The turns behind the system turns at the beginning."""
    begin = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    return turns[begin:]
