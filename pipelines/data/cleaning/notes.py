"""Rules for notes as people keep them: lists, tables, recipes, diaries, how-tos with commands, mails, in any language.

Enters: normalised texts of sources with `content: notes`. Leaves: for each None, or a reason.

The rules of prose were written for pages of the web, where a text of 40 words, of list items or of lines without a full
stop is a menu. Of 67 notes of the tests (`tests/notes_sample.py`) they drop 55. What is junk among notes is something
else: what a machine wrote, and what somebody copied over and over. So these rules ask three things only, and none of
them knows a language:

    is it made of letters?      marks of Markdown count neither for nor against it, a Chinese character for two
    are the letters words?      base64, checksums, identifiers and minified files are not
    does it say more than once what it says?   lines are compared without their figures, so that logs, paths and dumps
                                repeat themselves; and 100 words in a row that are always the same few are no text

Plain Python reads some megabytes per second, which is enough for what people write by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.config import Count, Share, Whole, config_class

# of Markdown, of tables and of lists: they say how a text is laid out
_MARKUP = re.compile(r"[\s|\-–—*_#>`\[\]()+=~:.,…•·←→]+")
LOREM_IPSUM = re.compile(r"lorem ipsum", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]+")
_FIGURE = re.compile(r"\d+")
# a word of letters and figures; a Chinese character, kana or Thai letter is one by itself
_UNSPACED = "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+")
_SPACED_WORD = re.compile(r"[^\W_]+")
_WRITTEN_UNSPACED = re.compile(f"[{_UNSPACED}]")
_CODED_LETTERS, _CODED_MIXED = 30, 8  # characters of a word that is none: of letters alone, or with figures between
# characters without a space: what is longer than 100 is an address, a blob or a minified file
_LONG_RUN = re.compile(r"\S{101,}")
_MIXED = re.compile(r"[^\W\d]\d+[^\W\d]|\d[^\W\d]+\d")


@config_class
class NotesRules:
    """Notes; lengths are in characters that are not white space."""

    min_characters: Whole = 10
    max_characters: Whole = 1_000_000
    min_letter_share: Share = 0.5  # of what is neither white space nor a mark of Markdown
    # of the letters and figures: in words of over 30, or of 8 and more that mix the two, or in 100 without a space
    max_coded_share: Share = 0.3
    max_repeated_lines: Share = 0.5  # that occurred before, figures apart
    min_distinct_words: Share = 0.2  # of the first `distinct_words`; a shorter note has too few to be judged so
    distinct_words: Count = 100  # or Chinese characters
    lorem_ipsum: bool = True  # drop placeholder text


def judge_notes(texts: Sequence[str], rules: NotesRules) -> list[str | None]:
    """Why each note is dropped, or None."""
    return [_reason(text, rules) for text in texts]


def _reason(text: str, rules: NotesRules) -> str | None:
    """The name of the first rule that a note breaks."""
    characters = sum(map(len, text.split()))
    if not characters:
        return "quality.empty"
    if characters < rules.min_characters:
        return "quality.too_short"
    if characters > rules.max_characters:
        return "quality.too_long"
    if _letter_share(text) < rules.min_letter_share:
        return "quality.alphabetic_ratio"
    words = _words(text)
    if _coded_share(text, words) > rules.max_coded_share:
        return "quality.coded"
    if _repeated_lines(text) > rules.max_repeated_lines:
        return "quality.repeated_lines"
    first = [word.casefold() for word in words[: rules.distinct_words]]
    if len(first) == rules.distinct_words and len(set(first)) < rules.min_distinct_words * len(first):
        return "quality.repeated_words"
    return "quality.lorem_ipsum" if rules.lorem_ipsum and LOREM_IPSUM.search(text) else None


def _words(text: str) -> list[str]:
    # most texts need no look at each character
    return (_WORD if _WRITTEN_UNSPACED.search(text) else _SPACED_WORD).findall(text)


def _letter_share(text: str) -> float:
    told = _MARKUP.sub("", text)
    twice = len(_WRITTEN_UNSPACED.findall(told))
    return (sum(map(len, _LETTERS.findall(told))) + twice) / max(1, len(told) + twice)


def _coded_share(text: str, words: Sequence[str]) -> float:
    coded = sum(len(word) for word in words if _is_coded(word))
    for run in _LONG_RUN.findall(text):
        if _WRITTEN_UNSPACED.search(run) is None:
            coded += sum(len(word) for word in _SPACED_WORD.findall(run) if not _is_coded(word))
    return coded / max(1, sum(map(len, words)))


def _is_coded(word: str) -> bool:
    return len(word) >= _CODED_MIXED and (len(word) > _CODED_LETTERS or _MIXED.search(word) is not None)


def _repeated_lines(text: str) -> float:
    lines = [line for line in (_FIGURE.sub("", line).strip() for line in text.split("\n")) if line]
    return 1 - len(set(lines)) / max(1, len(lines))
