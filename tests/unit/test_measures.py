"""The kernel's counts are what datatrove's functions and plain Python say of the same text, on real and on awkward
text.
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)
from datatrove.utils.text import TERMINAL_PUNCTUATION

from pipelines.data.cleaning.measures import DUPLICATE_NGRAMS, TOP_NGRAMS, measure
from pipelines.data.sources import problems_zh
from pipelines.data.text.packed import pack

ROOT = Path(__file__).parents[2]
AWKWARD = [
    "",
    "\n \n\t",
    "one",
    "a b c d",
    "x\n\n\n\nx\n\nx \n x\n",
    "...... …. . .. end...",
    "- one\n* two\n• three…\n-four?\n",
    "naïve café re\u0301sume\u0301 ﬀ ٣٤ Ⅷ ² _under_ don't ’tis x-y -z ''",
    "İstanbul THE K 𝒽𝑒𝓁𝓁𝑜 😀😀 𠀀𠀁 the\u3000The\xa0tHE of Of",
    "ab c a bc abc ab c a bc " * 9,
    "the cat sat on the mat and then it ran. " * 30,
    "哈哈哈哈哈" * 20 + "。\n话说天下大势，分久必合！\n",
    "a\u2028b\x85c\r\nd",
    "tab\there {x} # #hash",
    "सभी मनुष्यों को गौरव। बুদ্ধি, தமிழ் মানুষ; שָׁלוֹם عَلَيْكُم",
    "می\u200cخواهم ex\u00adample \u200d क\u094d\u200dष ❤\ufe0f 葛\U000e0100 \u0301x",
    "3.14 1,000,000.5 1.a 2,b v1.2. 5,",
    "The end.[3]\nThe end. [^1]\nIt ended (see 4).²\nIt ended! — A. Poet\nIt ended! never\nno end [3]\nbut what is "
    "cited so [3, 4]\nend.\u200f",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。——李白\n低头思故乡。（1）\n低头思故乡。 李白\n首页 新闻",
    "举头望明月，低头思故乡①\n举头望明月，低头思故乡［12］\n举头望明月，低头思故乡【3】②\n举头望明月，低头思故乡〔４〕\n头条①\n举头望明月，低头思故乡！⑪",
]
MARKS = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "M" and c < "\U000e0000")
FORMATS = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c) == "Cf")
FORMATS += "".join(map(chr, range(0xE0100, 0xE01F0)))  # variation selectors, which change no letter
WORD = re.compile(rf"\w(?:[\w'’{MARKS}-]|(?<=\d)[.,](?=[0-9]))*")
TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s{MARKS}]")
# behind the end of a sentence: closing marks, references, and a signature after a dash; white space taken out
_OPEN, _CLOSE, _DASH = (
    re.escape(marks)
    for marks in ("[(［（【〔〈《<", "])］）】〕〉》>”’\"'」』*†‡§¹²³⁰⁴⁵⁶⁷⁸⁹①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳", "—―–─-~～")
)
_BEHIND = (
    rf"(?:[{_CLOSE}]|[{_OPEN}][^{_CLOSE}]{{0,40}}[{_CLOSE}])*(?:[{_OPEN}][^{_CLOSE}]{{0,40}}|[{_DASH}].{{0,40}})?$"
)
TAIL = re.compile(rf"[{re.escape(''.join(TERMINAL_PUNCTUATION))}]{_BEHIND}")
# a figure in square brackets or in a circle, behind ten characters, ends a sentence without a full stop too
CITES = re.compile(rf"^.{{10,}}(?:[\[［【〔][\^.,\s{_DASH}]*\d[\^.,\d\s{_DASH}]*[{_CLOSE}]|[①-⑳]){_BEHIND}")


def real() -> list[str]:
    files = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("pipelines/data/**/*.py")])
    texts = [path.read_text(encoding="utf-8") for path in files]
    chinese = Path(problems_zh.__file__).read_text(encoding="utf-8")
    return texts + re.findall(r'"[^"]*[\u4e00-\u9fff][^"]*"', chinese)[:50] + [chinese]


def scrambled(count: int) -> list[str]:
    """Short texts over a small vocabulary, so that lines, paragraphs and n-grams of every length repeat and tie."""
    chooser = random.Random(7)
    parts = ["the", "ab", "a", "b", "ba", "和", "。", "…", "...", "\n", "\n\n", " \n", "x-", "9", "é", "-", "*", " \t"]
    return [" ".join(chooser.choice(parts) for _ in range(chooser.randrange(1, 90))) for _ in range(count)]


TEXTS = AWKWARD + real() + scrambled(150)


def without_formats(text: str) -> str:
    """Without what only the renderer reads."""
    return text.translate(dict.fromkeys(map(ord, FORMATS)))


def figures(text: str) -> int:
    """Numbers and the marks that touch one."""
    tokens = list(TOKEN.finditer(text))
    number = [re.match(r"\w", t[0]) is not None and not any(c.isalpha() for c in t[0]) for t in tokens]
    count = sum(number)
    for i, token in enumerate(tokens):
        if not re.match(r"\w", token[0]):
            before = i > 0 and number[i - 1] and tokens[i - 1].end() == token.start()
            behind = i + 1 < len(tokens) and number[i + 1] and tokens[i + 1].start() == token.end()
            count += before or behind
    return count


def ends(line: str) -> bool:
    """Whether a line ends a sentence: as datatrove says, or with a reference or a signature behind."""
    seen = without_formats(line)
    return TAIL.search("".join(seen.split())) is not None or CITES.search(seen) is not None


def test_lines_paragraphs_and_words_are_counted_as_datatrove_counts_them() -> None:
    found = measure(pack(TEXTS), "words")
    for d, text in enumerate(TEXTS):
        seen = without_formats(text)
        tokens = TOKEN.findall(seen)
        words = [token for token in tokens if re.match(r"\w", token)]
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        dense = "".join(text.split())
        telling = [line for line in lines if len(line) >= 5]
        expected = {
            "characters": len(text),
            "stripped": len(text.strip()),
            "dense": len(dense),
            "alphanumeric": sum(c.isalnum() or c in MARKS for c in dense),
            "digits": sum(c.isdigit() for c in dense),
            "hashes": text.count("#"),
            "ellipses": text.count("...") + text.count("…"),
            "braces": text.count("{"),
            "tokens": len(tokens),
            "words": len(words),
            "word_characters": sum(map(len, words)),
            "alphabetic_words": sum(any(c.isalpha() for c in word) for word in words),
            "figures": figures(seen),
            "stop_words": len({word.lower() for word in words} & set(STOP_WORDS)),
            "breaks": text.count("\n"),
            "longest_line": max(map(len, text.split("\n"))),
            "lines": len(lines),
            "bullet_lines": sum(line.startswith(("•", "-", "*")) for line in lines),
            "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines),
            "short_lines": sum(len(line) <= 30 for line in lines),
            "telling_lines": len(telling),
            "duplicate_telling_lines": len(telling) - len(set(telling)),
            "paragraphs": len(paragraphs),
        }
        expected["duplicate_lines"], expected["duplicate_line_characters"] = find_duplicates(lines)
        expected["duplicate_paragraphs"], expected["duplicate_paragraph_characters"] = find_duplicates(paragraphs)
        assert {name: int(getattr(found, name)[d]) for name in expected} == expected, repr(text[:200])
        plain = sum(line.endswith(tuple(TERMINAL_PUNCTUATION)) for line in lines)
        if "import " in text:  # the brackets of code may be taken for references
            assert plain <= int(found.ended_lines[d]) <= len(lines), repr(text[:200])
        else:
            assert int(found.ended_lines[d]) == sum(ends(line) for line in lines), repr(text[:200])


@pytest.mark.parametrize("units", ["words", "characters"])
def test_ngrams_repeat_as_datatrove_says(units: str) -> None:
    scale, joint = (1, 1) if units == "words" else (2, 0)
    found = measure(pack(TEXTS), units, scale)  # type: ignore[arg-type]
    for d, text in enumerate(TEXTS):
        seen = without_formats(text)
        parts = WORD.findall(seen) if units == "words" else list("".join(seen.split()))
        top = []
        for n in TOP_NGRAMS:
            n *= scale
            grams = get_n_grams(parts, n) if len(parts) > 3 * n else []
            # get_n_grams joins by spaces, which a text without spaces does not have: they are taken out again
            most = max(Counter(grams).values(), default=0)
            # unlike datatrove's, ours counts what occurs twice or more: once is no repetition, however short the text;
            # and of characters the occurrences after the first
            whole = find_top_duplicate(grams) - (0 if joint else (n - 1) * most) if most > 1 else 0
            top.append(whole if joint or not whole else whole * (most - 1) // most)
        assert found.top_ngrams[d].tolist() == top, repr(text[:200])
        repeated = [find_all_duplicate(parts, n * scale) for n in DUPLICATE_NGRAMS]
        assert found.duplicate_ngrams[d].tolist() == repeated, repr(text[:200])


def test_a_document_measures_the_same_alone_and_in_a_batch() -> None:
    together = measure(pack(TEXTS), "words")
    for d in range(0, len(TEXTS), 7):
        alone = measure(pack([TEXTS[d]]), "words")
        assert all(
            np.array_equal(getattr(alone, name)[0], getattr(together, name)[d])
            for name in together.__dataclass_fields__
        )
