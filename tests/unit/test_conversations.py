"""Conversations and pairs of every published shape: strings under known roles, and a named reason for everything
else.
"""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.data.sources.records import RECORDS, content_of


def turns(*said: str) -> list[dict[str, str]]:
    """`s:`, `u:` and `a:` before each turn's text."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[text[0]], "content": text[2:]} for text in said]


def read(kind: str, record: Any) -> Any:
    """The metadata of what is read, or the reason why nothing is."""
    found = content_of(RECORDS[kind], record, "text")
    return found if isinstance(found, str) else found[1]


GPT = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": turns("s:S", "u:Q", "a:A")}, turns("s:S", "u:Q", "a:A")),
        ({"conversations": GPT}, turns("u:Q", "a:A")),
        ({"conversations": GPT, "system": "Be a pirate."}, turns("s:Be a pirate.", "u:Q", "a:A")),
        ({"messages": turns("u:Q", "a:A"), "system_prompt": "S"}, turns("s:S", "u:Q", "a:A")),
        ({"messages": turns("s:S", "u:Q", "a:A"), "system": "S"}, turns("s:S", "u:Q", "a:A")),
        ({"messages": turns("s:T", "u:Q", "a:A"), "system": "S"}, turns("s:S", "s:T", "u:Q", "a:A")),
        ({"conversations": GPT, "system": None}, turns("u:Q", "a:A")),
        ({"conversations": GPT, "system": "  "}, turns("u:Q", "a:A")),
        ({"messages": turns("s:", "u:Q", "a:A")}, turns("u:Q", "a:A")),
        ({"messages": None, "conversations": GPT}, turns("u:Q", "a:A")),
        ({"messages": [{"role": "User", "content": "Q"}, {"role": " ASSISTANT", "content": "A"}]}, turns("u:Q", "a:A")),
        ({"messages": [{"role": "developer", "content": "S"}, *turns("u:Q", "a:A")]}, turns("s:S", "u:Q", "a:A")),
        ({"messages": [{"role": None, "from": "human", "value": "Q"}, *turns("a:A")]}, turns("u:Q", "a:A")),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, *turns("a:A")]},
            turns("u:Q", "a:A"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_text", "text": "Q"}]},
                    {"role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
                ]
            },
            turns("u:Q", "a:A"),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in "PQ"]}, *turns("a:A")]},
            turns("u:P\nQ", "a:A"),
        ),
        ({"messages": [*turns("u:Q"), {"role": "assistant", "content": "A", "tool_calls": []}]}, turns("u:Q", "a:A")),
    ],
)
def test_conversations_in_every_shape(record: Any, expected: Any) -> None:
    assert read("messages", record) == {"messages": expected}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, "not_an_object"),
        (None, "not_an_object"),
        ("text", "not_an_object"),
        ([GPT], "not_an_object"),
        ({}, "no_messages"),
        ({"messages": []}, "no_messages"),
        ({"messages": "text"}, "no_messages"),
        ({"messages": {"role": "user", "content": "Q"}}, "no_messages"),
        ({"messages": [None, 1]}, "bad_turn"),
        ({"messages": ["Q", "A"]}, "bad_turn"),
        ({"messages": [{"content": "Q"}, *turns("a:A")]}, "unknown_role"),
        ({"messages": [{"role": 3, "content": "Q"}, *turns("a:A")]}, "unknown_role"),
        ({"messages": [{"role": "narrator", "content": "Q"}, *turns("a:A")]}, "unknown_role"),
        ({"messages": [*turns("u:Q"), {"role": "tool", "content": "20C"}, *turns("a:A")]}, "tools"),
        ({"messages": [*turns("u:Q"), {"role": "function", "content": "20C"}, *turns("a:A")]}, "tools"),
        ({"messages": [*turns("u:Q"), {"role": "assistant", "content": "A", "tool_calls": [{"id": "1"}]}]}, "tools"),
        (
            {"messages": [*turns("u:Q"), {"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
            "tools",
        ),
        ({"messages": [*turns("u:Q"), {"role": "assistant", "content": None}]}, "empty_turn"),
        ({"messages": [*turns("u:Q"), {"role": "assistant"}]}, "empty_turn"),
        ({"messages": turns("u:Q", "a: \n")}, "empty_turn"),
        ({"messages": turns("u:", "a:A")}, "empty_turn"),
        ({"messages": [{"role": "user", "content": []}, *turns("a:A")]}, "empty_turn"),
        ({"messages": [*turns("u:Q"), {"role": "assistant", "content": 42}]}, "not_text"),
        ({"messages": [*turns("u:Q"), {"role": "assistant", "content": {"a": "A"}}]}, "not_text"),
        ({"messages": [*turns("u:Q"), {"role": "assistant", "content": ["A", "B"]}]}, "not_text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}, *turns("a:A")]},
            "not_text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}, *turns("a:A")]}, "not_text"),
        ({"conversations": GPT, "system": {"a": 1}}, "not_text"),
        ({"conversations": GPT, "system": 5}, "not_text"),
        ({"messages": turns("s:S")}, "no_question"),
        ({"messages": turns("s:S", "a:A")}, "no_question"),
        ({"messages": turns("u:Q")}, "ends_without_answer"),
        ({"messages": turns("u:Q", "a:A", "u:thanks")}, "ends_without_answer"),
        ({"messages": turns("u:Q", "a:A", "s:S")}, "ends_without_answer"),
    ],
)
def test_what_is_no_conversation_has_a_name(record: Any, reason: str) -> None:
    assert read("messages", record) == f"records.{reason}"


ALPACA = {"instruction": "Q", "input": "", "output": "A"}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ALPACA, turns("u:Q", "a:A")),
        ({**ALPACA, "input": "I"}, turns("u:Q\nI", "a:A")),
        ({**ALPACA, "input": None, "history": None, "system": None}, turns("u:Q", "a:A")),
        ({**ALPACA, "history": []}, turns("u:Q", "a:A")),
        (
            {**ALPACA, "history": [["q", "a"], ["r", "b"]], "system": "S"},
            turns("s:S", "u:q", "a:a", "u:r", "a:b", "u:Q", "a:A"),
        ),
        ({**ALPACA, "history": turns("u:q", "a:a")}, turns("u:q", "a:a", "u:Q", "a:A")),
        ({"system_prompt": "S", "question": "Q", "response": "A"}, turns("s:S", "u:Q", "a:A")),
        ({"instruction": "", "question": "Q", "output": None, "answer": "A"}, turns("u:Q", "a:A")),
    ],
)
def test_instructions_in_every_shape(record: Any, expected: Any) -> None:
    assert read("instruction", record) == {"messages": expected}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**ALPACA, "history": [["Hello there?", None]]}, "records.bad_history"),
        ({**ALPACA, "history": [[None, "Hi"]]}, "records.bad_history"),
        ({**ALPACA, "history": [["q", ["a", "b"]]]}, "records.bad_history"),
        ({**ALPACA, "history": [["q"]]}, "records.bad_history"),
        ({**ALPACA, "history": [["q", "a", "b"]]}, "records.bad_history"),
        ({**ALPACA, "history": ["q", "a"]}, "records.bad_history"),
        ({**ALPACA, "history": ["qa"]}, "records.bad_history"),
        ({**ALPACA, "history": [["q", ""]]}, "records.empty_turn"),
        ({**ALPACA, "history": turns("u:q")}, "records.bad_history"),
        ({**ALPACA, "history": [{"prompt": "q", "response": "a"}]}, "records.unknown_role"),
        ({**ALPACA, "history": "no history"}, "records.not_a_list"),
        ({**ALPACA, "history": 7}, "records.not_a_list"),
        ({**ALPACA, "history": {"q": "a"}}, "records.not_a_list"),
        ({**ALPACA, "instruction": {"a": "Q"}}, "records.not_text"),
        ({**ALPACA, "input": 5}, "records.not_text"),
        ({**ALPACA, "output": 4}, "records.not_text"),
        ({**ALPACA, "output": ["A"]}, "records.not_text"),
        ({**ALPACA, "system": ["S"]}, "records.not_text"),
        ({**ALPACA, "output": None}, "read.no_text"),
        ({**ALPACA, "instruction": " "}, "read.no_text"),
        ([], "records.not_an_object"),
    ],
)
def test_what_is_no_instruction_has_a_name(record: Any, reason: str) -> None:
    assert read("instruction", record) == reason


def pair(prompt: Any, chosen: Any = "good", rejected: Any = "bad", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


LONG = turns("u:Q", "a:A", "u:R")


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        (pair("Q"), turns("u:Q")),
        (pair("Q", system="S"), turns("s:S", "u:Q")),
        (pair("R", history=[["Q", "A"]]), LONG),
        (pair(turns("s:S", "u:R"), history=turns("u:Q", "a:A")), turns("s:S", "u:Q", "a:A", "u:R")),
        (pair("R", [*LONG, *turns("a:good")], [*LONG, *turns("a:bad")], history=[["Q", "A"]]), LONG),
        (pair(turns("s:S", "u:Q")), turns("s:S", "u:Q")),
        (pair("Q", turns("a:good"), {"from": "gpt", "value": "bad"}), turns("u:Q")),
        (pair("Q", turns("u:Q", "a:good"), turns("u:Q", "a:bad")), turns("u:Q")),  # the whole conversation again
        (pair("Q", turns("u:Q", "a:good"), "bad"), turns("u:Q")),
        (pair("Q", turns("s:S", "u:Q", "a:good"), turns("s:S", "u:Q", "a:bad")), turns("s:S", "u:Q")),
        (pair(turns("s:S", "u:Q"), turns("u:Q", "a:good"), turns("u:Q", "a:bad")), turns("s:S", "u:Q")),
        (pair("Q", turns("a:A", "u:R", "a:good"), turns("a:A", "u:R", "a:bad")), LONG),  # goes on from the prompt
        (pair(LONG, [*LONG, *turns("a:good")], [*LONG, *turns("a:bad")]), LONG),
        (pair(None, turns("u:Q", "a:good"), turns("u:Q", "a:bad")), turns("u:Q")),  # the prompt is what both begin with
        (pair(None, [*LONG, *turns("a:good")], [*LONG, *turns("a:bad")]), LONG),
        (pair([], turns("s:S", "u:Q", "a:good"), turns("s:S", "u:Q", "a:bad")), turns("s:S", "u:Q")),
        (
            {"conversations": GPT[:1], "chosen": GPT[1] | {"value": "good"}, "rejected": GPT[1] | {"value": "bad"}},
            turns("u:Q"),
        ),
    ],
)
def test_pairs_in_every_shape(record: Any, prompt: Any) -> None:
    assert read("preference", record) == {"prompt": prompt, "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (pair("Q", turns("a:good", "u:THANKS"), turns("a:bad", "u:HATED")), "records.ends_without_answer"),
        (pair("Q", turns("u:Q"), turns("u:Q", "a:bad")), "records.ends_without_answer"),
        (pair("Q", {"role": "user", "content": "good"}, "bad"), "records.prompt_differs"),
        (pair("Q", {"content": "good"}, "bad"), "records.unknown_role"),
        (pair("Q", turns("a:A", "u:R", "a:good"), turns("a:B", "u:R", "a:bad")), "records.sides_differ_early"),
        (pair("Q", turns("a:A", "u:R", "a:good"), "bad"), "records.sides_differ_early"),
        (pair("Q", turns("u:other", "a:good"), turns("u:other", "a:bad")), "records.prompt_differs"),
        (pair("Q", turns("s:S", "u:Q", "a:good"), turns("s:T", "u:Q", "a:bad")), "records.prompt_differs"),
        (pair("Q", "same", "same"), "records.same_answers"),
        (pair("R", history="Q"), "records.not_a_list"),
        (pair("R", history=[["Q", None]]), "records.bad_history"),
        (pair("R", turns("u:R", "a:good"), turns("u:R", "a:bad"), history=[["Q", "A"]]), "records.prompt_differs"),
        (pair(None, turns("u:Q", "a:A"), turns("u:Q", "a:A")), "records.same_answers"),
        (pair(None), "records.no_prompt"),
        (pair(turns("s:S")), "records.no_prompt"),
        (pair(None, turns("u:P", "a:good"), turns("u:Q", "a:bad")), "records.no_prompt"),
        (pair(turns("u:Q", "a:A")), "records.no_question"),
        (pair("Q", 5), "records.not_text"),
        (pair("Q", {"a": 1}), "records.unknown_role"),
        (pair(5), "records.not_text"),
        (pair("Q", ["good"], ["bad"]), "records.bad_turn"),
        (pair("Q", [], "bad"), "records.no_messages"),
        (pair("Q", None), "read.no_text"),
        (pair("Q", "good", " "), "read.no_text"),
        (pair("Q", turns("a: ")), "records.empty_turn"),
        ("text", "records.not_an_object"),
    ],
)
def test_what_is_no_pair_has_a_name(record: Any, reason: str) -> None:
    assert read("preference", record) == reason


@pytest.mark.parametrize(
    ("kind", "record", "reason"),
    [
        ("poem", {"title": "t", "paragraphs": ["a", None, 7]}, "records.not_text"),
        ("poem", {"title": {"a": 1}, "paragraphs": ["a"]}, "records.not_text"),
        ("poem", {"title": "t", "paragraphs": "a"}, "read.no_text"),
        ("chat_log", {"messages": [[{"text": 5, "sender": "x"}]]}, "records.not_text"),
        ("chat_log", {"messages": ["hello"]}, "records.not_a_list"),
        ("chat_log", {"messages": [["hello"]]}, "records.bad_turn"),
        ("chat_log", {"messages": 7}, "records.not_a_list"),
        ("glosses", "123 x y zz a | meaning", "records.ValueError"),  # a fault that nobody foresaw: named by its class
        ("text", 5, "read.no_text"),
        ("text", None, "read.no_text"),
        ("text", {"text": ["a"]}, "read.no_text"),
        ("text", {"text": {"text": "a"}}, "read.no_text"),
        ("chapters", [], "read.no_text"),
        ("manual_page", {}, "read.no_text"),
    ],
)
def test_other_records_of_another_shape_have_a_name(kind: str, record: Any, reason: str) -> None:
    assert read(kind, record) == reason
