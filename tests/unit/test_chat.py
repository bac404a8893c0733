"""The chat format, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.tokens.chat import assemble, ends_open, exchanges, prompt


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def test_turns_become_exchanges_and_a_trailing_question_is_cut():
    assert exchanges([user("a"), assistant("b"), user("c"), assistant("d"), user("e")]) == [("a", "b"), ("c", "d")]


def test_a_trailing_question_is_told():
    assert ends_open([user("a"), assistant("b"), user("c")])
    assert not ends_open([user("a"), assistant("b")])
    assert not ends_open([])


def test_system_messages_go_before_the_question_that_follows():
    assert exchanges([system("s"), system("t"), user("a"), assistant("b")]) == [("s\nt\na", "b")]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user("a")], "chat.no_answer"),
        ([], "chat.no_answer"),
        ([user("a"), assistant("")], "chat.empty_answer"),
        ([user("a"), assistant(" \n")], "chat.empty_answer"),
        ([user(""), assistant("b")], "chat.empty_question"),
        ([system(" "), user("a"), assistant("b")], "chat.empty_system"),
        ([system("s"), user(None), assistant("b")], "chat.empty_question"),
        ([user(["a"]), assistant("b")], "chat.not_text"),
        ([assistant("a")], "chat.begins_with_answer"),
        ([assistant("a"), user("b"), assistant("c")], "chat.begins_with_answer"),
        ([user("a"), user("b"), assistant("c")], "chat.two_questions"),
        ([user("a"), assistant("b"), assistant("c")], "chat.two_answers"),
        ([user("a"), system("s"), assistant("b")], "chat.system_after_question"),
        ([user("a"), assistant("b"), system("s")], "chat.ends_with_system"),
        ([system("s")], "chat.ends_with_system"),
        ([user("a"), {"role": "tool", "content": "b"}], "chat.unknown_role"),
        ([user("a"), {"role": "function", "content": "b"}, assistant("c")], "chat.unknown_role"),
        ([{"role": None, "content": "a"}, assistant("c")], "chat.unknown_role"),
    ],
)
def test_conversations_that_cannot_be_learnt_from_have_a_named_reason(messages, reason):
    assert exchanges(messages) == reason


def test_markers_and_mask_around_encoded_texts():
    ids = np.array([5, 6, 7, 8, 9, 10, 11], np.uint32)  # 5 6 | 7 | 8 | 9 10 ; then '' | 11
    lengths = np.array([2, 1, 1, 2, 0, 1])
    tokens, document_lengths, mask = assemble(ids, lengths, np.array([2, 1]))
    assert tokens.tolist() == [1, 5, 6, 2, 7, 0, 1, 8, 2, 9, 10, 0, 1, 2, 11, 0]
    assert mask.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert document_lengths.tolist() == [12, 4]
    assert assemble(ids, lengths, np.array([2, 1]), last_only=True)[2].tolist() == [0] * 9 + [1] * 3 + [0, 0, 1, 1]


def test_nothing_assembles_to_nothing():
    none = np.zeros(0, np.int64)
    assert [len(part) for part in assemble(none.astype(np.uint32), none, none)] == [0, 0, 0]


def test_prompt_leaves_the_last_question_open():
    assert prompt([user("a"), assistant("b"), user("c")]) == [("a", "b"), ("c", None)]
    with pytest.raises(ValueError, match="end with user"):
        prompt([user("a"), assistant("b")])
