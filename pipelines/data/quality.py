"""Quality rules: a document passes, or is dropped for the first rule it breaks, by name.

Enters: a normalised text and what kind of content its source declares. Leaves: None, or a reason such as
`quality.too_short` that becomes a counter and can be browsed (`show_dropped=quality.too_short`).

Rules for one kind of text are wrong for another, so each kind has its own:

    prose (spaced)   Gopher's document and repetition rules (Rae et al. 2021, tables A1 and A2) and FineWeb's line rule
                     (Penedo et al. 2024), with datatrove's duplicate counters and word lists
    prose (Chinese)  the same ideas counted in characters: Chinese puts no spaces, so Gopher's "words" would be sentences
    code             generated and minified files, data dumped as code, files of nothing but markup
    math, dialogue   short by nature: only emptiness and repetition are judged

datatrove's filter classes call spaCy's tokenizer, which would cost more than the rest of the pass; words here are what a
regular expression finds, which moves the ratios by less than their thresholds' own arbitrariness.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)
from datatrove.utils.text import TERMINAL_PUNCTUATION

_WORD = re.compile(r"\w[\w'’-]*|[^\w\s]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_CHINESE_ENDS = tuple("。！？…；：”’」』）") + tuple(TERMINAL_PUNCTUATION)
_GENERATED = re.compile(r"do not edit|automatically generated|auto-?generated|generated (by|from)", re.IGNORECASE)
_TOP_NGRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
_DUPLICATE_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
UNSPACED = ("zh", "ja")


@dataclass(frozen=True, kw_only=True)
class ProseRules:
    """Spaced scripts; the defaults are Gopher's and FineWeb's."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    max_symbol_ratio: float = 0.1  # of '#' or ellipses per word
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.7  # Gopher's 0.8 counts punctuation marks glued to their words; here they are words
    min_stop_words: int = 2  # distinct ones among Gopher's eight; English only
    min_punctuated_lines: float = 0.12  # lines that end a sentence
    repetition: bool = True  # duplicate lines, paragraphs and n-grams


@dataclass(frozen=True, kw_only=True)
class ChineseRules:
    """Chinese and Japanese, in characters."""

    min_characters: int = 40
    max_characters: int = 500_000
    min_han_share: float = 0.4  # of the characters that are not white space
    max_symbol_share: float = 0.4  # neither letter nor digit
    min_punctuated_lines: float = 0.05
    repetition: bool = True


@dataclass(frozen=True, kw_only=True)
class CodeRules:
    """Source code."""

    min_characters: int = 60
    max_line_characters: int = 2_000
    max_mean_line_characters: float = 120.0
    min_alphanumeric_share: float = 0.25
    max_digit_share: float = 0.4  # tables of numbers written as code
    max_repeated_lines: float = 0.6  # of the lines with at least five characters


@dataclass(frozen=True, kw_only=True)
class ShortRules:
    """Worked problems and dialogues."""

    min_characters: int = 20
    max_repeated_lines: float = 0.5


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Thresholds by kind of content."""

    prose: ProseRules = field(default_factory=ProseRules)
    chinese: ChineseRules = field(default_factory=ChineseRules)
    code: CodeRules = field(default_factory=CodeRules)
    math: ShortRules = field(default_factory=ShortRules)
    dialogue: ShortRules = field(default_factory=lambda: ShortRules(min_characters=60))


def judge(text: str, content: str, language: str, rules: QualityConfig) -> str | None:
    """Why a document is dropped, or None.

    Args:
        text: normalised. content: "prose", "code", "math" or "dialogue". language: its ISO code, which picks the prose rules.
    """
    if not text or text.isspace():
        return "quality.empty"
    if content == "code":
        reason = _code(text, rules.code)
    elif content in ("math", "dialogue"):
        reason = _short(text, rules.math if content == "math" else rules.dialogue)
    elif language in UNSPACED:
        reason = _chinese(text, rules.chinese)
    else:
        reason = _prose(text, language, rules.prose)
    return reason and f"quality.{reason}"


def _prose(text: str, language: str, rules: ProseRules) -> str | None:
    tokens = _WORD.findall(text)
    words = [token for token in tokens if token[0].isalnum() or token[0] == "_"]
    if len(words) < rules.min_words:
        return "too_short"
    if len(words) > rules.max_words:
        return "too_long"
    if not rules.min_mean_word_length <= sum(map(len, words)) / len(words) <= rules.max_mean_word_length:
        return "word_length"
    if max(text.count("#"), text.count("...") + text.count("…")) / len(words) > rules.max_symbol_ratio:
        return "symbol_ratio"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if _share(line.startswith(("•", "-", "*")) for line in lines) > rules.max_bullet_lines:
        return "bullets"
    if _share(line.endswith(("...", "…")) for line in lines) > rules.max_ellipsis_lines:
        return "ellipsis"
    if sum(any(c.isalpha() for c in word) for word in words) / len(tokens) < rules.min_alphabetic_words:
        return "alphabetic_ratio"
    if language == "en" and len({word.lower() for word in words} & set(STOP_WORDS)) < rules.min_stop_words:
        return "stop_words"
    if _share(line.endswith(tuple(TERMINAL_PUNCTUATION)) for line in lines) < rules.min_punctuated_lines:
        return "line_punctuation"
    return _repetition(text, lines, words, " ") if rules.repetition else None


def _chinese(text: str, rules: ChineseRules) -> str | None:
    dense = "".join(text.split())
    if len(dense) < rules.min_characters:
        return "too_short"
    if len(dense) > rules.max_characters:
        return "too_long"
    if len(_HAN.findall(dense)) / len(dense) < rules.min_han_share:
        return "alphabetic_ratio"
    if sum(not c.isalnum() for c in dense) / len(dense) > rules.max_symbol_share:
        return "symbol_ratio"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if _share(line.endswith(_CHINESE_ENDS) for line in lines) < rules.min_punctuated_lines:
        return "line_punctuation"
    # two characters are about one word, so the n-grams of Gopher's table are taken over pairs
    pairs = [dense[i : i + 2] for i in range(0, len(dense), 2)]
    return _repetition(text, lines, pairs, "") if rules.repetition else None


def _repetition(text: str, lines: list[str], words: list[str], glue: str) -> str | None:
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    for name, parts in (("repeated_paragraphs", paragraphs), ("repeated_lines", lines)):
        duplicates, characters = find_duplicates(parts)
        if duplicates / len(parts) > 0.3 or characters / len(text) > 0.2:
            return name
    for n, limit in _TOP_NGRAMS:
        if len(words) > 3 * n and find_top_duplicate(get_n_grams(words, n)) / len(text) > limit:
            return "repeated_ngrams"
    for n, limit in _DUPLICATE_NGRAMS:
        if find_all_duplicate(words, n) / len(text) > limit:
            return "repeated_ngrams"
    return None


def _code(text: str, rules: CodeRules) -> str | None:
    lines = text.split("\n")
    if len(text.strip()) < rules.min_characters:
        return "too_short"
    if _GENERATED.search("\n".join(lines[:5])):
        return "generated"
    if max(map(len, lines)) > rules.max_line_characters or len(text) / len(lines) > rules.max_mean_line_characters:
        return "long_lines"
    dense = "".join(text.split())
    if sum(c.isalnum() for c in dense) / len(dense) < rules.min_alphanumeric_share:
        return "symbol_ratio"
    if sum(c.isdigit() for c in dense) / len(dense) > rules.max_digit_share:
        return "digit_ratio"
    telling = [line.strip() for line in lines if len(line.strip()) >= 5]
    return "repeated_lines" if _repeated(telling) > rules.max_repeated_lines else None


def _short(text: str, rules: ShortRules) -> str | None:
    if len(text.strip()) < rules.min_characters:
        return "too_short"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return "repeated_lines" if _repeated(lines) > rules.max_repeated_lines else None


def _repeated(lines: Sequence[str]) -> float:
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def _share(flags: object) -> float:
    values = list(flags)  # type: ignore[call-overload]
    return sum(values) / len(values) if values else 0.0
