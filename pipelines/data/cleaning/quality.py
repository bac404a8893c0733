"""Quality rules: a document passes, or is dropped for the first rule it breaks, by name.

Enters: a batch of normalised texts and what kind of content their source declares. Leaves: for each None, or a reason
such as `quality.too_short` that becomes a counter and can be browsed (`show_dropped=quality.too_short`).

Rules for one kind of text are wrong for another, so each kind has its own:

    prose (spaced)   Gopher's document and repetition rules (Rae et al. 2021, tables A1 and A2) and FineWeb's line rule
                     (Penedo et al. 2024); the length of a word is judged beside that of the language's own (see
                     `ruled`)
    prose (Chinese)  the same ideas counted in characters: Chinese puts no spaces, so Gopher's "words" would be
                     sentences
    prose (Thai, …)  likewise, for alphabets without spaces; a line need not end in a full stop, which Thai and Lao do
                     not write
    prose (others)   a language without rules of its own is kept or dropped as `without_rules` says; kept, it must still
                     repeat neither its lines nor its paragraphs, which needs no knowledge of it
    web              prose, and what pages have more of: C4's placeholder text and curly brackets (Raffel et al. 2020),
                     FineWeb's short lines, repeated lines and lists
    code             generated and minified files, data dumped as code, files of nothing but markup
    math, dialogue   short by nature: only emptiness and repetition are judged
    verse            likewise: lines without a full stop, and refrains, are what verse is made of (see `forms` for verse
                     among prose)
    notes            what people keep in a folder, in any language: lists, tables, commands, mails (see `notes`)

datatrove's filter classes call spaCy's tokenizer, which would cost more than the rest of the pass; words here are runs
of letters, digits, apostrophes and hyphens, which moves the ratios by less than their thresholds' own arbitrariness.
Everything is counted in `measures`, so a rule is one comparison over the batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.config import Amount, Share, Whole, config_class
from pipelines.data.cleaning.forms import goes_on, has_refrain, is_chinese_with_terms, is_verse, without_formulas
from pipelines.data.cleaning.measures import Measures, Units, measure
from pipelines.data.cleaning.notes import LOREM_IPSUM, NotesRules, judge_notes
from pipelines.data.cleaning.origins import Skipped
from pipelines.data.cleaning.ruled import ENGLISH, UNSPACED, Ruled, mean_word, rules_of
from pipelines.data.text.packed import pack

_GENERATED = re.compile(r"do not edit|automatically generated|auto-?generated|generated (by|from)", re.IGNORECASE)
_TOP_NGRAMS = (0.20, 0.18, 0.16)  # Gopher's shares of the text, for 2-, 3- and 4-grams
_DUPLICATE_NGRAMS = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # for 5- to 10-grams
# of characters twice as much: a quarter of the chapters of Chinese statutes have more than the above, and what really
# repeats itself has five times as much (benchmarks/short_texts.py)
_DUPLICATE_CHARACTERS = 2.0
# of texts so short (words) that a phrase of eight words which comes twice is a tenth of them: 1.1 % of 272 stretches of
# licences had more than Gopher's, none has half as much again
_SHORT, _DUPLICATE_SHORT = 200, 1.5
_DUPLICATE_PARTS, _DUPLICATE_PART_CHARACTERS = 0.3, 0.2  # of lines and of paragraphs
# C4's, as datatrove has them, and FineWeb's: what sites say about themselves in the middle of a text
NOTICES = (
    "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip
CHARACTERS_PER_WORD = {"chinese": 2, "unspaced": 5}  # about, for the length of n-grams
__all__ = [
    "UNSPACED",
    "ChineseRules",
    "CodeRules",
    "ProseRules",
    "QualityRules",
    "ShortRules",
    "UnspacedRules",
    "WebRules",
    "judge",
    "without_lines",
]
Mask = npt.NDArray[np.bool_]


@config_class
class ProseRules:
    """Spaced scripts; the defaults are Gopher's and FineWeb's.

    The mean length of a word is English's: another language's is taken as a share of its own.
    """

    min_words: Whole = 50
    max_words: Whole = 100_000
    min_mean_word_length: Amount = 3.0
    max_mean_word_length: Amount = 10.0
    max_symbol_ratio: Share = 0.1  # of '#' or ellipses per word
    max_bullet_lines: Share = 0.9
    max_ellipsis_lines: Share = 0.3
    # of words and marks, numbers with the marks that touch them left out; Gopher's 0.8 counts marks glued to their
    # words
    min_alphabetic_words: Share = 0.7
    max_number_words: Share = 0.4  # of the words; Gopher's 0.8 takes numbers and marks as one
    min_stop_words: Whole = 2  # distinct ones among Gopher's eight; English only
    min_punctuated_lines: Share = 0.12  # lines that end a sentence
    repetition: bool = True  # duplicate lines, paragraphs and n-grams


@config_class
class ChineseRules:
    """Chinese and Japanese, in characters."""

    min_characters: Whole = 20  # a quatrain of five-character lines has so many
    max_characters: Whole = 500_000
    min_han_share: Share = 0.4  # Han characters and kana, of the characters that are neither white space nor digits
    max_digit_share: Share = 0.5  # of the characters that are not white space
    max_symbol_share: Share = 0.4  # neither letter nor digit
    min_punctuated_lines: Share = 0.05
    repetition: bool = True


@config_class
class UnspacedRules:
    """Thai, Lao, Khmer, Burmese, Tibetan, in characters, vowel signs and tone marks among them."""

    min_characters: Whole = 100
    max_characters: Whole = 1_000_000
    min_letter_share: Share = 0.4  # letters of these alphabets, of the characters that are not white space
    max_symbol_share: Share = 0.4  # neither letter nor digit
    repetition: bool = True


@config_class
class WebRules:
    """Pages of the web, beside the prose rules of their language.

    The word lists of C4 are not taken: they drop what minorities write.
    """

    drop_lines: list[str] = field(
        default_factory=lambda: list(NOTICES)
    )  # that hold one of these, in any case; the rest stays
    lorem_ipsum: bool = True  # drop placeholder text
    max_curly_brackets: Whole = 0  # C4's: a page with one shows code or a template
    max_short_lines: Share = 0.67  # of at most 30 characters; spaced scripts, like the next but one
    max_repeated_line_characters: Share = 0.01  # FineWeb's: menus and footers
    max_breaks_per_word: Share = 0.3  # lists


@config_class
class CodeRules:
    """Source code."""

    min_characters: Whole = 60
    max_line_characters: Whole = 2_000
    max_mean_line_characters: Amount = 120.0
    min_alphanumeric_share: Share = 0.25
    max_digit_share: Share = 0.4  # tables of numbers written as code
    max_repeated_lines: Share = 0.6  # of the lines with at least five characters
    licences: Literal["any", "permissive"] = (
        "any"  # what a file's own header or record may say; silence is the source's licence
    )
    skip: list[Skipped] = field(default_factory=lambda: ["vendored", "minified", "lock"])  # by their paths


@config_class
class ShortRules:
    """Worked problems, dialogues, verse."""

    min_characters: Whole = 20
    max_repeated_lines: Share = 0.5


@config_class
class QualityRules:
    """Thresholds by kind of content."""

    prose: ProseRules = field(default_factory=ProseRules)
    chinese: ChineseRules = field(default_factory=ChineseRules)
    unspaced: UnspacedRules = field(default_factory=UnspacedRules)
    # prose and pages in a language that none of these is for (see `ruled`): kept, and counted as kept without rules, or
    # dropped
    without_rules: Literal["keep", "drop"] = "keep"
    web: WebRules = field(default_factory=WebRules)
    code: CodeRules = field(default_factory=CodeRules)
    math: ShortRules = field(default_factory=ShortRules)
    dialogue: ShortRules = field(default_factory=lambda: ShortRules(min_characters=60))
    verse: ShortRules = field(default_factory=lambda: ShortRules(min_characters=10, max_repeated_lines=0.7))
    notes: NotesRules = field(default_factory=NotesRules)


def judge(texts: Sequence[str], content: str, languages: Sequence[str], rules: QualityRules) -> list[str | None]:
    """Why each document of a batch is dropped, or None.

    Args:
        texts: normalised. content: "prose", "web", "notes", "code", "math", "dialogue" or "verse". languages: ISO
            codes, which pick the prose rules.
    """
    if content == "notes":
        return judge_notes(texts, rules.notes)
    if content in ("prose", "web"):
        return _by_language(texts, content, languages, rules)
    measured = measure(pack(texts), "none")
    if content == "code":
        return _first(measured, _code(measured, texts, rules.code))
    short = {"math": rules.math, "dialogue": rules.dialogue, "verse": rules.verse}
    return _first(measured, _short(measured, short[content]))


def without_lines(text: str, phrases: Sequence[str]) -> str:
    """A page without the lines that hold one of these phrases."""
    folded = text.casefold()
    if not any(phrase.casefold() in folded for phrase in phrases):
        return text
    lines = text.split("\n")
    wanted = (line for line in lines if not any(phrase.casefold() in line.casefold() for phrase in phrases))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(wanted)).strip("\n")


def _by_language(texts: Sequence[str], content: str, languages: Sequence[str], rules: QualityRules) -> list[str | None]:
    """Each text by the rules of its language."""
    reasons: list[str | None] = [None] * len(texts)
    ruled = [rules_of(language, text) for language, text in zip(languages, texts, strict=True)]
    for kind in dict.fromkeys(ruled):
        chosen = [i for i, one in enumerate(ruled) if one == kind]
        broken = _prose_or_web([texts[i] for i in chosen], content, [languages[i] for i in chosen], kind, rules)
        for i, reason in zip(chosen, broken, strict=True):
            reasons[i] = reason
    return reasons


def _prose_or_web(
    texts: list[str], content: str, languages: list[str], kind: Ruled, rules: QualityRules
) -> list[str | None]:
    asked = {
        "spaced": rules.prose.repetition,
        "chinese": rules.chinese.repetition,
        "unspaced": rules.unspaced.repetition,
    }
    repetition = asked.get(kind, True)
    units: Units = "none" if kind == "none" or not repetition else "words" if kind == "spaced" else "characters"
    measured = measure(pack(texts), units, CHARACTERS_PER_WORD.get(kind, 1))
    broken: dict[str, Mask] = {}
    if kind == "spaced":
        broken = _prose(measured, texts, languages, rules.prose)
    elif kind == "chinese":
        broken = _chinese(measured, texts, rules.chinese)
    elif kind == "unspaced":
        broken = _unspaced(measured, rules.unspaced)
    elif rules.without_rules == "drop":
        broken = {"no_rules": np.ones(len(texts), bool)}
    if repetition:
        broken |= _repetition(measured, texts, units == "characters")
    if content == "web":
        broken |= _web(measured, texts, kind == "spaced", rules.web)
    return _first(measured, broken)


def _prose(m: Measures, texts: Sequence[str], languages: Sequence[str], rules: ProseRules) -> dict[str, Mask]:
    mean = _share(m.word_characters, m.words) * np.array([ENGLISH / mean_word(one) for one in languages])
    english = np.array([language == "en" for language in languages])
    return {
        "too_short": m.words < rules.min_words,
        "too_long": m.words > rules.max_words,
        "word_length": (mean < rules.min_mean_word_length) | (mean > rules.max_mean_word_length),
        "symbol_ratio": _share(np.maximum(m.hashes, m.ellipses), m.words) > rules.max_symbol_ratio,
        "bullets": _share(m.bullet_lines, m.lines) > rules.max_bullet_lines,
        "ellipsis": _share(m.ellipsis_lines, m.lines) > rules.max_ellipsis_lines,
        "alphabetic_ratio": (_share(m.alphabetic_words, m.tokens - m.figures) < rules.min_alphabetic_words)
        | (_share(m.words - m.alphabetic_words, m.words) > rules.max_number_words),
        "stop_words": english & (m.stop_words < rules.min_stop_words),
        "line_punctuation": _unless(
            _share(m.ended_lines, m.lines) < rules.min_punctuated_lines,
            texts,
            lambda text: goes_on(text, chinese=False),
        ),
    }


def _chinese(m: Measures, texts: Sequence[str], rules: ChineseRules) -> dict[str, Mask]:
    unended = _share(m.chinese_ended_lines, m.lines) < rules.min_punctuated_lines
    foreign = _share(m.han, m.dense - m.digits) < rules.min_han_share
    return {
        "too_short": m.dense < rules.min_characters,
        "too_long": m.dense > rules.max_characters,
        "alphabetic_ratio": _unless(foreign, texts, is_chinese_with_terms)
        | (_share(m.digits, m.dense) > rules.max_digit_share),
        "symbol_ratio": _unless(
            _share(m.dense - m.alphanumeric, m.dense) > rules.max_symbol_share,
            texts,
            lambda text: is_chinese_with_terms(text) and _symbols(without_formulas(text)) <= rules.max_symbol_share,
        ),
        "line_punctuation": _unless(unended, texts, lambda text: is_verse(text) or goes_on(text, chinese=True)),
    }


def _unspaced(m: Measures, rules: UnspacedRules) -> dict[str, Mask]:
    return {
        "too_short": m.dense < rules.min_characters,
        "too_long": m.dense > rules.max_characters,
        "alphabetic_ratio": _share(m.unspaced, m.dense) < rules.min_letter_share,
        "symbol_ratio": _share(m.dense - m.alphanumeric, m.dense) > rules.max_symbol_share,
    }


def _repetition(m: Measures, texts: Sequence[str], characters: bool) -> dict[str, Mask]:
    paragraphs = _share(m.duplicate_paragraphs, m.paragraphs), _share(m.duplicate_paragraph_characters, m.characters)
    lines = _share(m.duplicate_lines, m.lines), _share(m.duplicate_line_characters, m.characters)
    over = [_share(m.top_ngrams, m.characters[:, None]) > np.array(_TOP_NGRAMS)]
    times = np.full(len(m), _DUPLICATE_CHARACTERS) if characters else np.where(m.words < _SHORT, _DUPLICATE_SHORT, 1.0)
    over.append(_share(m.duplicate_ngrams, m.characters[:, None]) > np.array(_DUPLICATE_NGRAMS) * times[:, None])
    broken = {
        "repeated_paragraphs": (paragraphs[0] > _DUPLICATE_PARTS) | (paragraphs[1] > _DUPLICATE_PART_CHARACTERS),
        "repeated_lines": (lines[0] > _DUPLICATE_PARTS) | (lines[1] > _DUPLICATE_PART_CHARACTERS),
        "repeated_ngrams": np.concatenate(over, axis=1).sum(axis=1) > 0,
    }
    return {name: _unless(mask, texts, has_refrain) for name, mask in broken.items()}


def _web(m: Measures, texts: Sequence[str], spaced: bool, rules: WebRules) -> dict[str, Mask]:
    placeholder = np.array([rules.lorem_ipsum and LOREM_IPSUM.search(text) is not None for text in texts])
    repeated = _share(m.duplicate_line_characters, m.characters - m.breaks)
    return {
        "lorem_ipsum": placeholder,
        "curly_brackets": m.braces > rules.max_curly_brackets,
        "short_lines": spaced & (_share(m.short_lines, m.lines) > rules.max_short_lines),
        "repeated_line_characters": repeated > rules.max_repeated_line_characters,
        "list": spaced & (_share(m.breaks, m.words) > rules.max_breaks_per_word),
    }


def _code(m: Measures, texts: Sequence[str], rules: CodeRules) -> dict[str, Mask]:
    mean_line = _share(m.characters, m.breaks + 1)
    generated = [_GENERATED.search("\n".join(text.split("\n", 5)[:5])) is not None for text in texts]
    return {
        "too_short": m.stripped < rules.min_characters,
        "generated": np.array(generated),
        "long_lines": (m.longest_line > rules.max_line_characters) | (mean_line > rules.max_mean_line_characters),
        "symbol_ratio": _share(m.alphanumeric, m.dense) < rules.min_alphanumeric_share,
        "digit_ratio": _share(m.digits, m.dense) > rules.max_digit_share,
        "repeated_lines": _share(m.duplicate_telling_lines, m.telling_lines) > rules.max_repeated_lines,
    }


def _short(m: Measures, rules: ShortRules) -> dict[str, Mask]:
    return {
        "too_short": m.stripped < rules.min_characters,
        "repeated_lines": _share(m.duplicate_lines, m.lines) > rules.max_repeated_lines,
    }


def _symbols(text: str) -> float:
    """The share of characters that are neither letter nor digit."""
    dense = "".join(text.split())
    return sum(not character.isalnum() for character in dense) / max(1, len(dense))


def _unless(broken: Mask, texts: Sequence[str], explained: Callable[[str], bool]) -> Mask:
    """The documents that break a rule, without those whose form explains it."""
    kept = broken.copy()
    for i in np.flatnonzero(broken).tolist():
        kept[i] = not explained(texts[i])
    return kept


def _first(m: Measures, broken: Mapping[str, Mask]) -> list[str | None]:
    """The name of the first rule each document breaks; an empty one breaks that alone."""
    reasons: list[str | None] = [None] * len(m)
    for name, mask in reversed([("empty", m.dense == 0), *broken.items()]):
        for i in np.flatnonzero(mask):
            reasons[i] = f"quality.{name}"
    return reasons


def _share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share: npt.NDArray[np.float64] = part / np.maximum(whole, 1)
    return share
