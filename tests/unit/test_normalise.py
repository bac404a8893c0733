"""Normalisation: one canonical form, code left alone."""

import pytest

from pipelines.data.normalise import normalise


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("cafe\u0301", "café"),
        ("\ufeffa\x00b\u200bc\x07", "abc"),
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
