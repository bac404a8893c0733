"""What the quality rules judge, measured for a whole batch in one pass over its UTF-8 bytes.

Enters: normalised texts. Leaves: `Measures`, one number per document and field: counts of characters, words and lines,
and how much of the text repeats itself.

The definitions are those of Gopher's filters as datatrove writes them (find_duplicates, find_top_duplicate,
find_all_duplicate), and the tests compare with these; their Python counters read 6 MB/s, this kernel some 60. Two
documents' parts are equal here when 64-bit hashes are, where datatrove compares strings.

A word follows Unicode (UAX #29, WB4, WB11 and WB12): the marks on a letter belong to its word (the vowel signs of
Hindi, the points of Hebrew), what is only a sign to the renderer (a zero-width joiner, a soft hyphen) neither ends a
word nor counts in it, and a number is one word with the marks between its digits (3.14, 1,000).

Repetition is counted over units: the words of a spaced script, or every single character of a text written without
spaces, with n-grams as many times longer as a word has characters: 2 in Chinese, 5 in Thai. A repetition is what occurs
twice: an n-gram that occurs once counts nothing, however long it is beside a short text, where datatrove's
`find_top_duplicate` counts the first one too.

A line that ends a sentence may have a reference or a signature behind the full stop: `…[3]`, `…（1）`, `…。——李白`.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import TERMINAL_PUNCTUATION

from pipelines.data.text.code_points import code_point_at
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import Packed

Units = Literal["words", "characters", "none"]

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
SHORT_LINE = 30  # characters; FineWeb's
TELLING_LINE = 5  # characters: a shorter line of code (a brace, `else:`) repeats without meaning anything

MOST_PARTS = (
    2_000_000  # lines, paragraphs or units of one document that are compared: bounds the kernel's memory at 200 MB
)

(
    _ALNUM,
    _ALPHA,
    _SPACE,
    _DIGIT,
    _JOINER,
    _HAN,
    _END,
    _CHINESE_END,
    _MARK,
    _FORMAT,
    _UNSPACED,
    _OPEN,
    _CLOSE,
    _DASH,
    _NUMBER,
    _FULL_STOP,
) = (np.uint16(1 << i) for i in range(16))
_CHINESE_ENDS = "。！？…；：”’」』）" + "".join(TERMINAL_PUNCTUATION)
_TABLE = 0x20000  # code points with an entry of their own; those above are rare Han, or belong to no rule
_RARE_HAN = 0x323B0  # where the last block of Han characters ends
# Han and what Japanese writes beside it: iteration marks, kana of either width; each range with its last
_HAN_AND_KANA = (
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3031, 0x3035),
    (0x3038, 0x303B),
    (0x3041, 0x3096),
    (0x3099, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x3100),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
)
# Thai, Lao, Tibetan, Burmese (with its extensions), Khmer, Javanese
_ALPHABETS_WITHOUT_SPACES = (
    (0x0E00, 0x0E7F),
    (0x0E80, 0x0EFF),
    (0x0F00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0xA980, 0xA9FF),
    (0xAA60, 0xAA7F),
)
_WORD_MARKS = (0x0F0B, 0x0F0C, 0x1361)  # that stand between syllables in Tibetan, between words in older Ethiopic
# what may stand behind the full stop of a line: closing marks, references, a dash and who wrote it
_OPENS, _CLOSES, _DASHES = "[(［（【〔〈《<", "])］）】〕〉》>”’\"'」』*†‡§¹²³⁰⁴⁵⁶⁷⁸⁹①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳", "—―–─-~～"
_FULL_STOPS = (
    "。｡"  # that headlines and menus do not have: a Chinese line with one holds a sentence, whatever is behind it
)
_REFERENCE, _SIGNATURE = 40, 40  # characters, at most
_CITING_LINE = (
    10  # characters, at least, before a reference that stands without a full stop: "[1] [2] [3]" are pages to turn to
)
_STOP_WORDS = tuple(sorted(word.lower() for word in STOP_WORDS))


@dataclass(frozen=True)
class Measures:
    """(documents,) int64 each, in characters unless the name says otherwise.

    Lines and paragraphs are stripped, and empty ones left out.
    """

    characters: npt.NDArray[np.int64]
    stripped: npt.NDArray[np.int64]  # without white space at either end
    dense: npt.NDArray[np.int64]  # that are not white space
    alphanumeric: npt.NDArray[np.int64]  # letters with the marks on them, and digits
    digits: npt.NDArray[np.int64]
    han: npt.NDArray[np.int64]  # and kana
    unspaced: npt.NDArray[np.int64]  # of the alphabets written without spaces: Thai, Lao, Tibetan, Burmese, Khmer
    hashes: npt.NDArray[np.int64]  # '#'
    ellipses: npt.NDArray[np.int64]  # '...' and '…'
    braces: npt.NDArray[np.int64]  # '{'
    tokens: npt.NDArray[np.int64]  # words, and marks that belong to none
    words: npt.NDArray[np.int64]
    word_characters: npt.NDArray[np.int64]
    alphabetic_words: npt.NDArray[np.int64]  # with a letter in them
    figures: npt.NDArray[np.int64]  # words without a letter, and marks that touch one: of "(95%)" all three
    stop_words: npt.NDArray[np.int64]  # distinct ones among Gopher's eight
    breaks: npt.NDArray[np.int64]  # newlines
    longest_line: npt.NDArray[np.int64]  # not stripped
    lines: npt.NDArray[np.int64]
    bullet_lines: npt.NDArray[np.int64]
    ellipsis_lines: npt.NDArray[np.int64]
    ended_lines: npt.NDArray[np.int64]  # that end a sentence, a reference or a signature behind it
    chinese_ended_lines: npt.NDArray[
        np.int64
    ]  # likewise, or with Chinese punctuation, or that hold a Chinese full stop
    short_lines: npt.NDArray[np.int64]
    telling_lines: npt.NDArray[np.int64]
    duplicate_lines: npt.NDArray[np.int64]  # that occurred before
    duplicate_telling_lines: npt.NDArray[np.int64]
    duplicate_line_characters: npt.NDArray[np.int64]
    paragraphs: npt.NDArray[np.int64]
    duplicate_paragraphs: npt.NDArray[np.int64]
    duplicate_paragraph_characters: npt.NDArray[np.int64]
    units: npt.NDArray[np.int64]
    top_ngrams: npt.NDArray[
        np.int64
        # (documents, 3): characters of the commonest 2-, 3-, 4-gram; of characters without its first occurrence; 0
        # where none occurs twice
    ]
    duplicate_ngrams: npt.NDArray[np.int64]  # (documents, 6): characters in 5- to 10-grams that occurred before

    def __len__(self) -> int:
        return len(self.characters)


_NEWLINE = np.uint32(10)
_SCALARS = 32  # fields before the n-grams


def measure(batch: Packed, units: Units, scale: int = 1) -> Measures:
    """Measure every document of a batch.

    Args:
        units: what n-grams are made of; "none" leaves out the repetition of n-grams.
        scale: units of about one word: an n-gram is n times so many.
    """
    out = np.zeros((len(batch), _SCALARS + len(TOP_NGRAMS) + len(DUPLICATE_NGRAMS)), np.int64)
    mode = {"none": 0, "words": 1, "characters": 2}[units]
    _measure(batch.data, batch.offsets, _classes(), _stop_keys(), mode, scale, out)
    top = _SCALARS + len(TOP_NGRAMS)
    parts = [*np.ascontiguousarray(out[:, :_SCALARS].T), out[:, _SCALARS:top], out[:, top:]]
    return Measures(**{field.name: part for field, part in zip(dataclasses.fields(Measures), parts, strict=True)})


@functools.cache
def _classes() -> npt.NDArray[np.uint16]:
    """What a code point is to the rules: the bits above."""
    table = np.zeros(_TABLE, np.uint16)
    for code in range(_TABLE):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isalnum():
            table[code] = _ALNUM | (_ALPHA if character.isalpha() else 0) | (_DIGIT if character.isdigit() else 0)
        elif character.isspace() or code in _WORD_MARKS:
            table[code] = _SPACE
        elif category[0] == "M":
            table[code] = _MARK
        elif category == "Cf":
            table[code] = _FORMAT
    for ranges, bit in ((_HAN_AND_KANA, _HAN), (_ALPHABETS_WITHOUT_SPACES, _UNSPACED)):
        for first, last in ranges:
            letters = (table[first : last + 1] & (_ALNUM | _MARK)) != 0
            table[first : last + 1][letters] |= bit
    for characters, bit in (
        ("'’-", _JOINER), (".,", _NUMBER), (TERMINAL_PUNCTUATION, _END), (_CHINESE_ENDS, _CHINESE_END),
        (_OPENS, _OPEN), (_CLOSES, _CLOSE), (_DASHES, _DASH), (_FULL_STOPS, _FULL_STOP),
    ):  # fmt: skip
        for character in characters:
            table[ord(character)] |= bit
    return table


@functools.cache
def _stop_keys() -> npt.NDArray[np.uint64]:
    return np.array([int.from_bytes(word.encode(), "big") for word in _STOP_WORDS], np.uint64)


_ODD = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD6E8FEB86659FD93)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_32, _29 = np.uint64(32), np.uint64(29)


@compiled
def _mix(value: Any) -> Any:
    value = (value ^ (value >> _32)) * _MIX
    return (value ^ (value >> _29)) * _ODD


@compiled
def _slot(key: Any, keys: Any, stamps: Any, stamp: Any, mask: Any) -> Any:
    """Where `key` is, or belongs, in an open table whose entries of other stamps count as empty."""
    at = np.int64(key & np.uint64(mask))
    while stamps[at] == stamp and keys[at] != key:
        at = (at + 1) & mask
    return at


@compiled
def _repeats(hashes: Any, lengths: Any, count: int, least: int, keys: Any, stamps: Any, stamp: Any) -> tuple[int, int]:
    """(how many, their characters) of the parts that occurred before, among those of at least `least` characters."""
    mask = _mask(count)
    repeated, characters = 0, 0
    for i in range(count):
        if lengths[i] < least:
            continue
        at = _slot(hashes[i], keys, stamps, stamp, mask)
        if stamps[at] == stamp:
            repeated += 1
            characters += lengths[i]
        else:
            stamps[at] = stamp
            keys[at] = hashes[i]
    return repeated, characters


@compiled
def _mask(count: int) -> int:
    size = 16
    while size < 2 * count:
        size *= 2
    return size - 1


@compiled
def _top(
    sums: Any,
    inverse: Any,
    places: Any,
    units: int,
    n: int,
    glue: int,
    keys: Any,
    stamps: Any,
    tally: Any,
    first: Any,
    stamp: Any,
) -> Any:
    """Characters of the commonest n-gram times its count, 0 if that is 1.

    Of equally common ones the first counts, as in a Counter.

    Of single characters the first occurrence does not count: it is no repetition, and in the short texts that Chinese
    has it weighs.
    """
    mask = _mask(units)
    best, leader = 0, 0
    for i in range(units - n + 1):
        if glue == 0:  # of single characters, one difference of sums tells the sequence
            key = _mix((sums[i + n] - sums[i]) * inverse[i])
        else:
            key = _ODD
            for j in range(i, i + n):
                key = _mix(key ^ ((sums[j + 1] - sums[j]) * inverse[j]))
        at = _slot(key, keys, stamps, stamp, mask)
        if stamps[at] == stamp:
            tally[at] += 1
        else:
            stamps[at] = stamp
            keys[at] = key
            tally[at] = 1
            first[at] = i
        if tally[at] > best:
            best, leader = tally[at], first[at]
        elif tally[at] == best and first[at] < leader:
            leader = first[at]
    if best < 2:
        return 0
    if glue == 0:
        best -= 1
    return best * (places[leader + n] - places[leader] + glue * (n - 1))


@compiled
def _duplicates(sums: Any, inverse: Any, places: Any, units: int, n: int, keys: Any, stamps: Any, stamp: Any) -> int:
    """Characters of n-grams that occurred before; after one, the next begins behind it."""
    mask = _mask(units)
    characters, i = 0, 0
    while i < units - n + 1:
        key = _mix((sums[i + n] - sums[i]) * inverse[i])
        at = _slot(key, keys, stamps, stamp, mask)
        if stamps[at] == stamp and keys[at] == key:
            characters += places[i + n] - places[i]
            i += n
        else:
            stamps[at] = stamp
            keys[at] = key
            i += 1
    return characters


@compiled
def _beyond(code: Any) -> Any:
    """What a code point above the table and Han is: variation selectors and tags are signs to the renderer."""
    return _FORMAT if np.uint32(0xE0000) <= code < np.uint32(0xE1000) else np.uint16(0)


@compiled
def _tail_after(tail: int, length: int, bits: Any, code: Any, before: int) -> tuple[int, int]:
    """What a line's end is after one more character that is not white space, and how long that has gone on.

    `tail` is 0 where no sentence has ended, 1 behind its end, 2 inside a reference, 3 inside a signature, and 4 inside
    square brackets that hold nothing but figures, which end a sentence without a full stop too; so does a figure in a
    circle. `before` is how long the line is with this character.
    """
    if tail == 2:
        if (bits & _CLOSE) != 0:
            return 1, 0
        return (2, length + 1) if length < _REFERENCE else (0, 0)
    if tail == 4:
        if (bits & _CLOSE) != 0:
            return (1 if length > 0 else 0), 0
        if (bits & _DIGIT) != 0:
            return 4, 1
        return (4, length) if (bits & (_NUMBER | _DASH)) != 0 or code == np.uint32(94) else (0, 0)
    if (bits & _END) != 0 and tail != 3:
        return 1, 0
    if tail == 3:
        return (3, length + 1) if length < _SIGNATURE else (0, 0)
    if tail == 0 and before > _CITING_LINE:
        # [ ［ 【 〔
        if (
            code == np.uint32(0x5B)
            or code == np.uint32(0xFF3B)
            or code == np.uint32(0x3010)
            or code == np.uint32(0x3014)
        ):
            return 4, 0
        return (1, 0) if np.uint32(0x2460) <= code <= np.uint32(0x2473) else (0, 0)  # ① to ⑳
    if tail == 0:
        return 0, 0
    if (bits & _OPEN) != 0:
        return 2, 0
    if (bits & _CLOSE) != 0:
        return 1, 0
    if (bits & _DASH) != 0:
        return 3, 0
    return 0, 0


@compiled
def _measure(data: Any, offsets: Any, classes: Any, stop_keys: Any, mode: int, scale: int, out: Any) -> None:
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    longest = min(longest, MOST_PARTS)
    size = _mask(longest) + 1
    keys, stamps, stamp = np.empty(size, np.uint64), np.zeros(size, np.int32), 0
    tally, first = np.empty(size, np.int32), np.empty(size, np.int32)
    line_hash, line_length = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    part_hash, part_length = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    # of unit i: characters before it, the sum of c·BASE^k over them, and BASE^-k to bring a difference of sums back to
    # zero
    places, sums, inverse = (
        np.zeros(longest + 2, np.int64),
        np.zeros(longest + 2, np.uint64),
        np.ones(longest + 2, np.uint64),
    )
    for d in range(len(offsets) - 1):
        row = out[d]
        characters, dense, alphanumeric, digits, han, unspaced, hashes, ellipses, braces = 0, 0, 0, 0, 0, 0, 0, 0, 0
        first_dense, last_dense, dots = -1, -1, 0
        tokens, words, word_characters, alphabetic, figures = 0, 0, 0, 0, 0
        mark_before, number_before, mark_at_word = False, False, False
        breaks, raw_line, longest_line = 0, 0, 0
        bullets, elliptic, ended, chinese_ended, short_lines, telling = 0, 0, 0, 0, 0, 0
        lines, parts, units = 0, 0, 0
        stop_seen = 0
        in_word, word_alpha, word_key, word_length, digit_before = False, False, np.uint64(0), 0, False
        power, back, total, placed = np.uint64(1), np.uint64(1), np.uint64(0), 0
        # the line and the paragraph being read: length and hash up to the last character that is not white space
        line_now, line_kept, line_at, line_kept_at = np.uint64(0), np.uint64(0), 0, 0
        line_end, line_dots, line_bullet, full_stop = np.uint16(0), 0, False, False
        tail, tail_length = 0, 0
        part_now, part_kept, part_at, part_kept_at = np.uint64(0), np.uint64(0), 0, 0
        newlines = 0
        i, stop = offsets[d], offsets[d + 1]
        while i <= stop:
            # the text ends as if by a newline
            code, size_of = code_point_at(data, i) if i < stop else (_NEWLINE, 1)
            if code < np.uint32(_TABLE):
                bits = classes[code]
            else:
                bits = _ALNUM | _ALPHA | _HAN if code < np.uint32(_RARE_HAN) else _beyond(code)
            if i < stop:
                characters += 1
            # ── words ──
            word = (bits & _ALNUM) != 0 or code == np.uint32(95)
            unseen = (bits & _FORMAT) != 0
            if in_word and not word and (bits & (_JOINER | _MARK | _FORMAT)) == 0:
                # a number goes on behind a mark between two digits
                word = digit_before and (bits & _NUMBER) != 0 and i + 1 < stop and 48 <= data[i + 1] <= 57
            if in_word and not word and (bits & (_JOINER | _MARK | _FORMAT)) == 0:
                in_word = False
                alphabetic += word_alpha
                figures += 0 if word_alpha else 1 + mark_at_word
                number_before = not word_alpha
                if word_length <= 8:
                    for s in range(len(stop_keys)):
                        if stop_keys[s] == word_key:
                            stop_seen |= 1 << s
                if mode == 1 and units < longest:
                    units += 1
                    places[units], sums[units], inverse[units] = placed, total, back
            if (word or in_word) and not unseen:
                if not in_word:
                    mark_at_word = mark_before
                    in_word, word_alpha, word_key, word_length = True, False, np.uint64(0), 0
                    words += 1
                    tokens += 1
                word_characters += 1
                word_length += 1
                if (bits & _ALPHA) != 0:
                    word_alpha = True
                lower = code | np.uint32(32) if np.uint32(65) <= code <= np.uint32(90) else min(code, np.uint32(255))
                word_key = (word_key << np.uint64(8)) | np.uint64(lower)
                digit_before = (bits & _DIGIT) != 0
                mark_before = number_before = False
            elif (bits & _SPACE) != 0:
                mark_before = number_before = False
            elif (bits & (_MARK | _FORMAT)) == 0:
                tokens += 1
                figures += number_before
                mark_before, number_before = not number_before, False
            # ── characters, and what n-grams are made of ──
            if (bits & _SPACE) == 0:
                symbol = _mix(np.uint64(code) + _ODD)
                if ((mode == 1 and in_word) or mode == 2) and not unseen:
                    total += symbol * power
                    power *= _BASE
                    back *= _INVERSE
                    placed += 1
                    if mode == 2 and units < longest:
                        units += 1
                        places[units], sums[units], inverse[units] = placed, total, back
                dense += 1
                if first_dense < 0:
                    first_dense = characters
                last_dense = characters
                alphanumeric += (bits & (_ALNUM | _MARK)) != 0
                digits += (bits & _DIGIT) != 0
                han += (bits & _HAN) != 0
                unspaced += (bits & _UNSPACED) != 0
                hashes += code == np.uint32(35)
                braces += code == np.uint32(123)
                ellipses += code == np.uint32(0x2026)
                dots = dots + 1 if code == np.uint32(46) else 0
                if dots > 0 and dots % 3 == 0:
                    ellipses += 1
                if line_at == 0:
                    line_bullet = code == np.uint32(0x2022) or code == np.uint32(45) or code == np.uint32(42)
                line_at += 1
                part_at += 1
                line_now = (line_now ^ symbol) * _BASE
                part_now = (part_now ^ symbol) * _BASE
                line_kept, line_kept_at, part_kept, part_kept_at = line_now, line_at, part_now, part_at
                if (bits & (_MARK | _FORMAT)) == 0:
                    line_end = bits
                    tail, tail_length = _tail_after(tail, tail_length, bits, code, line_at)
                    full_stop = full_stop or (bits & _FULL_STOP) != 0
                line_dots = 3 if code == np.uint32(0x2026) else dots
                raw_line += 1
                newlines = 0
                i += size_of
                continue
            # ── white space ──
            dots = 0
            if code != np.uint32(10):
                raw_line += 1
                newlines = 0
                if code == np.uint32(0x1361) and tail < 2:
                    tail, tail_length = 1, 0  # at a line's end, as those have it who type it twice for a full stop
                if line_at > 0:
                    line_at += 1
                    line_now = (line_now ^ np.uint64(code)) * _BASE
                if part_at > 0:
                    part_at += 1
                    part_now = (part_now ^ np.uint64(code)) * _BASE
                i += size_of
                continue
            if i < stop:
                breaks += 1
            newlines += 1
            longest_line = max(longest_line, raw_line)
            raw_line = 0
            if line_kept_at > 0:
                if lines < longest:
                    line_hash[lines], line_length[lines] = _mix(line_kept), line_kept_at
                lines += 1
                bullets += line_bullet
                elliptic += line_dots >= 3
                ended += tail > 0 and tail != 4
                chinese_ended += (line_end & _CHINESE_END) != 0 or (tail > 0 and tail != 4) or full_stop
                short_lines += line_kept_at <= SHORT_LINE
                telling += line_kept_at >= TELLING_LINE
            line_now, line_kept, line_at, line_kept_at = np.uint64(0), np.uint64(0), 0, 0
            tail, tail_length, full_stop = 0, 0, False
            if newlines >= 2 or i == stop:
                if part_kept_at > 0:
                    if parts < longest:
                        part_hash[parts], part_length[parts] = _mix(part_kept), part_kept_at
                    parts += 1
                part_now, part_kept, part_at, part_kept_at = np.uint64(0), np.uint64(0), 0, 0
            elif part_at > 0:
                part_at += 1
                part_now = (part_now ^ np.uint64(10)) * _BASE
            i += size_of
        stop_words = 0
        for s in range(len(stop_keys)):
            stop_words += (stop_seen >> s) & 1
        row[0], row[1], row[2], row[3] = characters, last_dense - first_dense + (dense > 0), dense, alphanumeric
        row[4], row[5], row[6], row[7], row[8], row[9], row[10] = (
            digits,
            han,
            unspaced,
            hashes,
            ellipses,
            braces,
            tokens,
        )
        row[11], row[12], row[13], row[14], row[15] = words, word_characters, alphabetic, figures, stop_words
        row[16], row[17], row[18], row[19] = breaks, longest_line, lines, bullets
        row[20], row[21], row[22], row[23], row[24] = elliptic, ended, chinese_ended, short_lines, telling
        stamp += 1
        row[25], row[27] = _repeats(line_hash, line_length, min(lines, longest), 0, keys, stamps, stamp)
        stamp += 1
        row[26], _ = _repeats(line_hash, line_length, min(lines, longest), TELLING_LINE, keys, stamps, stamp)
        row[28], row[31] = parts, units
        stamp += 1
        row[29], row[30] = _repeats(part_hash, part_length, min(parts, longest), 0, keys, stamps, stamp)
        if mode == 0:
            continue
        for k in range(len(TOP_NGRAMS)):
            n = TOP_NGRAMS[k] * scale
            if units > 3 * n:
                stamp += 1
                row[32 + k] = _top(sums, inverse, places, units, n, 2 - mode, keys, stamps, tally, first, stamp)
        for k in range(len(DUPLICATE_NGRAMS)):
            stamp += 1
            row[35 + k] = _duplicates(sums, inverse, places, units, DUPLICATE_NGRAMS[k] * scale, keys, stamps, stamp)
