"""What the quality rules judge, measured for a whole batch in one pass over its UTF-8 bytes.

Enters: normalised texts. Leaves: `Measures`, one number per document and field: counts of characters, words and lines, and
how much of the text repeats itself.

The definitions are those of Gopher's filters as datatrove writes them (find_duplicates, find_top_duplicate,
find_all_duplicate), and the tests compare with these; their Python counters read 6 MB/s, this kernel some 60. Two
documents' parts are equal here when 64-bit hashes are, where datatrove compares strings.

Repetition is counted over units: the words of a spaced script, or every single character of a text written without spaces,
with n-grams twice as long, because two characters are about one word.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import TERMINAL_PUNCTUATION

from pipelines.data.batch import Packed, compiled

Units = Literal["words", "characters", "none"]

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
SHORT_LINE = 30  # characters; FineWeb's
TELLING_LINE = 5  # characters: a shorter line of code (a brace, `else:`) repeats without meaning anything

MOST_PARTS = (
    2_000_000  # lines, paragraphs or units of one document that are compared: bounds the kernel's memory at 200 MB
)

_ALNUM, _ALPHA, _SPACE, _DIGIT, _JOINER, _HAN, _END, _CHINESE_END = (np.uint8(1 << i) for i in range(8))
_CHINESE_ENDS = "。！？…；：”’」』）" + "".join(TERMINAL_PUNCTUATION)
_TABLE = 0x20000  # code points with an entry of their own; those above are rare Han, or belong to no rule
_STOP_WORDS = tuple(sorted(word.lower() for word in STOP_WORDS))


@dataclass(frozen=True)
class Measures:
    """(documents,) int64 each, in characters unless the name says otherwise; lines and paragraphs are stripped, empty ones left out."""

    characters: npt.NDArray[np.int64]
    stripped: npt.NDArray[np.int64]  # without white space at either end
    dense: npt.NDArray[np.int64]  # that are not white space
    alphanumeric: npt.NDArray[np.int64]
    digits: npt.NDArray[np.int64]
    han: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.int64]  # '#'
    ellipses: npt.NDArray[np.int64]  # '...' and '…'
    braces: npt.NDArray[np.int64]  # '{'
    tokens: npt.NDArray[np.int64]  # words, and marks that belong to none
    words: npt.NDArray[np.int64]
    word_characters: npt.NDArray[np.int64]
    alphabetic_words: npt.NDArray[np.int64]  # with a letter in them
    stop_words: npt.NDArray[np.int64]  # distinct ones among Gopher's eight
    breaks: npt.NDArray[np.int64]  # newlines
    longest_line: npt.NDArray[np.int64]  # not stripped
    lines: npt.NDArray[np.int64]
    bullet_lines: npt.NDArray[np.int64]
    ellipsis_lines: npt.NDArray[np.int64]
    ended_lines: npt.NDArray[np.int64]  # that end a sentence
    chinese_ended_lines: npt.NDArray[np.int64]  # or with Chinese punctuation
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
    ]  # (documents, 3): characters of the commonest 2-, 3-, 4-gram; 0 in texts too short to tell
    duplicate_ngrams: npt.NDArray[np.int64]  # (documents, 6): characters in 5- to 10-grams that occurred before

    def __len__(self) -> int:
        return len(self.characters)


_SCALARS = 30  # fields before the n-grams


def measure(batch: Packed, units: Units) -> Measures:
    """Measure every document of a batch.

    Args:
        units: what n-grams are made of; "none" leaves out the repetition of n-grams and of paragraphs.
    """
    out = np.zeros((len(batch), _SCALARS + len(TOP_NGRAMS) + len(DUPLICATE_NGRAMS)), np.int64)
    mode = {"none": 0, "words": 1, "characters": 2}[units]
    _measure(batch.data, batch.offsets, _classes(), _stop_keys(), mode, out)
    top = _SCALARS + len(TOP_NGRAMS)
    parts = [*np.ascontiguousarray(out[:, :_SCALARS].T), out[:, _SCALARS:top], out[:, top:]]
    return Measures(**{field.name: part for field, part in zip(dataclasses.fields(Measures), parts, strict=True)})


@functools.cache
def _classes() -> npt.NDArray[np.uint8]:
    """What a code point is to the rules: the bits above."""
    table = np.zeros(_TABLE, np.uint8)
    for code in range(_TABLE):
        character = chr(code)
        if character.isalnum():
            table[code] = _ALNUM | (_ALPHA if character.isalpha() else 0) | (_DIGIT if character.isdigit() else 0)
        elif character.isspace():
            table[code] = _SPACE
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)):
        table[first : last + 1] |= _HAN
    for characters, bit in (("'’-", _JOINER), (TERMINAL_PUNCTUATION, _END), (_CHINESE_ENDS, _CHINESE_END)):
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
    """Characters of the commonest n-gram times its count; of equally common ones the first counts, as in a Counter."""
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
def _measure(data: Any, offsets: Any, classes: Any, stop_keys: Any, mode: int, out: Any) -> None:
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    longest = min(longest, MOST_PARTS)
    size = _mask(longest) + 1
    keys, stamps, stamp = np.empty(size, np.uint64), np.zeros(size, np.int32), 0
    tally, first = np.empty(size, np.int32), np.empty(size, np.int32)
    line_hash, line_length = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    part_hash, part_length = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    # of unit i: characters before it, the sum of c·BASE^k over them, and BASE^-k to bring a difference of sums back to zero
    places, sums, inverse = (
        np.zeros(longest + 2, np.int64),
        np.zeros(longest + 2, np.uint64),
        np.ones(longest + 2, np.uint64),
    )
    for d in range(len(offsets) - 1):
        row = out[d]
        characters, dense, alphanumeric, digits, han, hashes, ellipses, braces = 0, 0, 0, 0, 0, 0, 0, 0
        first_dense, last_dense, dots = -1, -1, 0
        tokens, words, word_characters, alphabetic = 0, 0, 0, 0
        breaks, raw_line, longest_line = 0, 0, 0
        bullets, elliptic, ended, chinese_ended, short_lines, telling = 0, 0, 0, 0, 0, 0
        lines, parts, units = 0, 0, 0
        stop_seen = 0
        in_word, word_alpha, word_key, word_length = False, False, np.uint64(0), 0
        power, back, total, placed = np.uint64(1), np.uint64(1), np.uint64(0), 0
        # the line and the paragraph being read: length and hash up to the last character that is not white space
        line_now, line_kept, line_at, line_kept_at = np.uint64(0), np.uint64(0), 0, 0
        line_end, line_dots, line_bullet = np.uint8(0), 0, False
        part_now, part_kept, part_at, part_kept_at = np.uint64(0), np.uint64(0), 0, 0
        newlines = 0
        i, stop = offsets[d], offsets[d + 1]
        while i <= stop:
            if i == stop:
                code, size_of = np.uint32(10), 1  # the text ends as if by a newline
            else:
                byte = np.uint32(data[i])
                if byte < 0x80:
                    code, size_of = byte, 1
                elif byte < 0xE0:
                    code, size_of = ((byte & np.uint32(0x1F)) << np.uint32(6)) | np.uint32(data[i + 1] & 0x3F), 2
                elif byte < 0xF0:
                    code = (
                        ((byte & np.uint32(0x0F)) << np.uint32(12))
                        | (np.uint32(data[i + 1] & 0x3F) << np.uint32(6))
                        | np.uint32(data[i + 2] & 0x3F)
                    )
                    size_of = 3
                else:
                    code = (
                        ((byte & np.uint32(0x07)) << np.uint32(18))
                        | (np.uint32(data[i + 1] & 0x3F) << np.uint32(12))
                        | (np.uint32(data[i + 2] & 0x3F) << np.uint32(6))
                        | np.uint32(data[i + 3] & 0x3F)
                    )
                    size_of = 4
            if code < np.uint32(_TABLE):
                what = classes[code]
            else:
                what = _ALNUM | _ALPHA | _HAN if code < np.uint32(0x32000) else np.uint8(0)
            if i < stop:
                characters += 1
            # ── words ──
            word = (what & _ALNUM) != 0 or code == np.uint32(95)
            if in_word and not word and (what & _JOINER) == 0:
                in_word = False
                alphabetic += word_alpha
                if word_length <= 8:
                    for s in range(len(stop_keys)):
                        if stop_keys[s] == word_key:
                            stop_seen |= 1 << s
                if mode == 1 and units < longest:
                    units += 1
                    places[units], sums[units], inverse[units] = placed, total, back
            if word or in_word:
                if not in_word:
                    in_word, word_alpha, word_key, word_length = True, False, np.uint64(0), 0
                    words += 1
                    tokens += 1
                word_characters += 1
                word_length += 1
                if (what & _ALPHA) != 0:
                    word_alpha = True
                lower = code | np.uint32(32) if np.uint32(65) <= code <= np.uint32(90) else min(code, np.uint32(255))
                word_key = (word_key << np.uint64(8)) | np.uint64(lower)
            elif (what & _SPACE) == 0:
                tokens += 1
            # ── characters, and what n-grams are made of ──
            if (what & _SPACE) == 0:
                symbol = _mix(np.uint64(code) + _ODD)
                if (mode == 1 and in_word) or mode == 2:
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
                alphanumeric += (what & _ALNUM) != 0
                digits += (what & _DIGIT) != 0
                han += (what & _HAN) != 0
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
                line_end = what
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
                ended += (line_end & _END) != 0
                chinese_ended += (line_end & _CHINESE_END) != 0
                short_lines += line_kept_at <= SHORT_LINE
                telling += line_kept_at >= TELLING_LINE
            line_now, line_kept, line_at, line_kept_at = np.uint64(0), np.uint64(0), 0, 0
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
        row[4], row[5], row[6], row[7], row[8], row[9] = digits, han, hashes, ellipses, braces, tokens
        row[10], row[11], row[12], row[13] = words, word_characters, alphabetic, stop_words
        row[14], row[15], row[16], row[17] = breaks, longest_line, lines, bullets
        row[18], row[19], row[20], row[21], row[22] = elliptic, ended, chinese_ended, short_lines, telling
        stamp += 1
        row[23], row[25] = _repeats(line_hash, line_length, min(lines, longest), 0, keys, stamps, stamp)
        stamp += 1
        row[24], _ = _repeats(line_hash, line_length, min(lines, longest), TELLING_LINE, keys, stamps, stamp)
        row[26], row[29] = parts, units
        if mode == 0:
            continue
        stamp += 1
        row[27], row[28] = _repeats(part_hash, part_length, min(parts, longest), 0, keys, stamps, stamp)
        for k in range(len(TOP_NGRAMS)):
            n = TOP_NGRAMS[k] * mode
            if units > 3 * n:
                stamp += 1
                row[30 + k] = _top(sums, inverse, places, units, n, 2 - mode, keys, stamps, tally, first, stamp)
        for k in range(len(DUPLICATE_NGRAMS)):
            stamp += 1
            row[33 + k] = _duplicates(sums, inverse, places, units, DUPLICATE_NGRAMS[k] * mode, keys, stamps, stamp)
