"""Normalisation: one canonical form, code left alone."""

import random

import pytest

from pipelines.data.cleaning.normalise import normalise, normalise_all


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("cafe\u0301", "café"),
        ("\ufeffa\x00b\u200bc\x07", "abc"),
        ("<\ufdd1/s>\ufdd0\ufdef\uffff", "</s>"),  # no text holds the guard of the chat template
        ("trailing  \t\nnext\u3000\n\n\n\n\nend", "trailing\nnext\n\nend"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("你好，世界²", "你好，世界²"),  # NFC, not NFKC: the comma and the square stay
        ("\n\n", ""),
    ],
)
def test_prose(raw: str, expected: str) -> None:
    assert normalise(raw) == expected
    assert normalise(expected) == expected


def test_code_keeps_its_layout_and_characters() -> None:
    code = "def f():\n    return 'e\u0301'  \n\n\n\n\x0cclass A:\n\tpass\n"
    assert normalise(code.replace("\n", "\r\n"), "code") == code


def test_problems_keep_their_layout() -> None:
    assert normalise("a  \n\n\n\nb", "math") == "a  \n\n\n\nb"


@pytest.mark.parametrize("content", ["prose", "code", "math"])
def test_a_batch_is_what_its_texts_are_one_by_one(content: str) -> None:
    chooser = random.Random(1)
    awkward = [
        "\r",
        "\n",
        " ",
        "\t",
        "\u3000",
        "\xa0",
        "\x0c",
        "\x85",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\ud800",
        "e\u0301",
    ]
    plain = ["word", "字", "é", "😀", "\n\n", "  ", "．", "\u2014", "\uff0c"]
    mixed = ["".join(chooser.choices(plain * 3 + awkward, k=chooser.randrange(12))) for _ in range(800)]
    every = [f"a{chr(code)}\nb {chr(code)}" for code in range(0x3100)] + [
        f"x{chr(code)}" for code in range(0xD700, 0x10100)
    ]
    texts = mixed + every
    assert normalise_all(texts, content) == [normalise(text, content) for text in texts]
