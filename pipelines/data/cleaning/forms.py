"""Forms of good text that a rule of `quality` would take for junk: verse, refrains, Chinese full of terms.

Enters: a text that broke a rule. Leaves: whether its form explains it. Only such texts are asked about, so plain Python
is fast enough.

| rule | what explains it | what is like it and goes |
|---|---|---|
| `line_punctuation` | Chinese verse in lines of five or of seven characters | menus: four |
| | half of the lines end a clause, clauses are as long as in sentences | lists of keywords |
| `alphabetic_ratio` | Chinese or Japanese grammar around foreign terms | goods, tags, code, English |
| `symbol_ratio` | the signs of formulas, in such Chinese | rows of signs |
| `repeated_…` | stanzas whose lines end clauses, up to half of them heard before | what repeats a short line or block |

What repeats a line or a block is comments and goods; a text that stands twice and a form filled in go too.
"""

from __future__ import annotations

import re

_LINE_5, _LINE_7 = "[\u3400-\u9fff]{5}", "[\u3400-\u9fff]{7}"
# four lines or more of five or of seven characters, or two on a line: verse written without punctuation, under a title
# and an author or over one
_VERSE = re.compile(
    r"(?:.{1,20}\n+){0,3}?(?:"
    + "|".join(
        rf"(?:{one}\n+){{3,}}{one}|(?:{one}[ \u3000]+{one}\n+)+{one}[ \u3000]+{one}" for one in (_LINE_5, _LINE_7)
    )
    + r")(?:\n+.{1,20})?"
)
_COMMAS = ",，、،;；؛"  # colons stand behind the labels of a form
_COMMA = re.compile(f"[{_COMMAS}]")
_CLAUSE_END = re.compile(f"[{_COMMAS}.。．!！?？؟।॥…—–~～][”’\"'」』）)\\]]*$")
# mean length of a clause in Chinese, its comma included: lines of verse have six characters, the names in a menu three
# to five
_LEAST_CLAUSE_CHARACTERS = 5.5
_LEAST_CLAUSE_WORDS = 4.0
_LEAST_RUNNING_LINE = 30  # characters of spaced text
_LEAST_CLAUSE_LINES = 0.5

# what holds a sentence together; names and lists do without
_CHINESE_GRAMMAR = re.compile("[的了在是和与與或用由将將把对對让讓可会會请請再只则則所若为為被从從到它也就都即]")
_JAPANESE_GRAMMAR = re.compile("[のをにはがとでもへ]")
_ENGLISH_GRAMMAR = re.compile(r"\b(?:the|of|and|to|that|with|is|are|this|for|you|your)\b", re.IGNORECASE)
_HAN_OR_KANA = re.compile("[\u3005-\u3007\u3041-\u30ff\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
_HAN_LETTERS = 3  # Latin letters that a Han character or a kana stands for, as in `language`
# a text is Chinese or Japanese that has two different characters of grammar, or three of them at all, at most one
# English word of grammar, and 15 % of its letters in its own script
_LEAST_GRAMMAR, _LEAST_TIMES, _MOST_ENGLISH, _LEAST_SHARE = 2, 3, 1, 0.15
# a formula; rows of signs and foreign words match too
_FORMULA = re.compile(r"[!-~±·×÷′″√∑∏∫∂∞≈≠≤≥→↓↑∈∉⊂∪∩∀∃∇Α-ω²³₀-₉]+")
_FIGURE = re.compile("[A-Za-z0-9]")

_LEAST_STANZAS, _LEAST_STANZA_LINES, _LONGEST_LINE = 2, 3, 80
_MOST_HEARD = 0.55  # of the lines; three stanzas of which eight lines of ten are the same have 0.53
_SHORTEST_REFRAIN = 0.6  # of the mean line
_NUMBER = re.compile(r"\d+")  # a line that differs in its numbers alone has been heard
# classical verse, whose stanzas are lines here, and whose lines are clauses
_CLASSICAL = re.compile("[之其于以也矣兮乎者哉焉彼曰]")
_VERNACULAR = re.compile("[的了是很这這们們]")
_LEAST_CLASSICAL, _LONGEST_CLAUSE = 3, 8


def is_verse(text: str) -> bool:
    """Whether it is Chinese verse in equal lines."""
    return _VERSE.fullmatch(text) is not None


def goes_on(text: str, chinese: bool) -> bool:
    """Whether half of its lines or more end a clause: verse, preambles, a sentence laid out on lines."""
    lines = _lines(text)
    commas = len(_COMMA.findall(text))
    if chinese:
        if len("".join(lines)) < _LEAST_CLAUSE_CHARACTERS * commas:
            return False
    elif len(text.split()) < _LEAST_CLAUSE_WORDS * commas:
        return False
    least = 0 if chinese else _LEAST_RUNNING_LINE
    ending = sum(len(line) > least and _CLAUSE_END.search(line) is not None for line in lines)
    return ending >= max(1, _LEAST_CLAUSE_LINES * len(lines))


def is_chinese_with_terms(text: str) -> bool:
    """Whether what holds the text together is Chinese or Japanese, however many foreign terms there are."""
    own = len(_HAN_OR_KANA.findall(text))
    if not own:
        return False
    foreign = len(_LETTER.findall(text)) - own
    if _HAN_LETTERS * own < _LEAST_SHARE * (_HAN_LETTERS * own + foreign):
        return False
    grammar = max(len(set(words.findall(text))) for words in (_CHINESE_GRAMMAR, _JAPANESE_GRAMMAR))
    own_grammar = grammar >= _LEAST_GRAMMAR or len(_CHINESE_GRAMMAR.findall(text)) >= _LEAST_TIMES
    english = len({word.lower() for word in _ENGLISH_GRAMMAR.findall(text)})
    return own_grammar and english <= _MOST_ENGLISH


def without_formulas(text: str) -> str:
    """A text with each formula as one letter; rows of signs without a letter or a figure stay."""
    return _FORMULA.sub(lambda formula: "x" if _FIGURE.search(formula[0]) else formula[0], text)


def has_refrain(text: str) -> bool:
    """Whether what it repeats is the refrain of a poem or a song: lines among lines of their own length, in stanzas."""
    return _is_classical(text) or _sings([_lines(stanza) for stanza in re.split(r"\n\s*\n", text)])


def _sings(stanzas: list[list[str]]) -> bool:
    stanzas = [stanza for stanza in stanzas if len(stanza) > 1]  # a heading is none
    lines = [line for stanza in stanzas for line in stanza]
    if len(stanzas) < _LEAST_STANZAS or len(lines) < _LEAST_STANZA_LINES * len(stanzas):
        return False
    half = len(lines) // 2
    if lines[:half] == lines[half:]:  # the same text twice
        return False
    heard, met = list[str](), set[str]()
    for line in (_NUMBER.sub("", line) for line in lines):
        (heard.append if line in met else met.add)(line)
    return (
        max(map(len, lines)) <= _LONGEST_LINE
        and 0 < len(heard) <= _MOST_HEARD * len(lines)
        and len("".join(heard)) * len(lines) >= _SHORTEST_REFRAIN * len(heard) * len("".join(lines))
        and sum(_CLAUSE_END.search(line) is not None for line in met) >= _LEAST_CLAUSE_LINES * len(met)
    )


def _is_classical(text: str) -> bool:
    """Whether it is classical Chinese verse with a refrain."""
    if len(_CLASSICAL.findall(text)) < _LEAST_CLASSICAL or _VERNACULAR.search(text):
        return False
    stanzas = [re.findall("[^，。；！？：]+[，。；！？：]?", line) for line in _lines(text)]
    longest = max((len(clause) for stanza in stanzas for clause in stanza), default=0)
    return longest <= _LONGEST_CLAUSE + 1 and _sings([[clause[:-1] + "。" for clause in stanza] for stanza in stanzas])


def _lines(text: str) -> list[str]:
    return [line for line in (line.strip() for line in text.split("\n")) if line]
