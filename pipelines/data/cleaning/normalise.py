"""Text in one canonical form, so that equal texts are equal bytes.

Enters: any string a reader decoded. Leaves: the same text with `\\n` line ends, NFC characters, and neither control
characters nor invisible marks; it always encodes to UTF-8.

Prose also loses spaces at line ends and blank lines beyond one: layout that differs between copies of one text and
would hide a duplicate. Code and worked problems keep their layout; code keeps its characters too (NFC could change what
a string literal means) and the form feeds that divide old Python modules.

NFC rather than NFKC: NFKC would turn ，into , and ² into 2, i.e. rewrite Chinese typography and formulas.

Most texts need little of this, and the expressions below read 30 MB/s: a look at the bytes tells which of them a text
of a batch needs at all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import pack

_LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
# C0 but for tab and newline, C1, BOM and the non-characters of the BMP, zero-width space and joiner-less marks, lone
# surrogates
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff\u200b\u2060\ud800-\udfff]")
_FORM_FEED = re.compile("\x0c")
_TRAILING = re.compile(r"[ \t\u3000\xa0]+(?=\n|$)")
_LOOSE = ("prose", "web", "dialogue", "verse")  # kinds of content whose layout says nothing
_BLANK_LINES = re.compile(r"\n{3,}")


# what a text may need
_CONTROL, _COMPOSE, _SPACES, _LINES = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)


def normalise_all(texts: Sequence[str], content: str) -> list[str]:
    """`normalise` of every text of a batch."""
    batch = pack(texts)
    needs = np.zeros(len(texts), np.uint8)
    _needs(batch.data, batch.offsets, needs)
    prose = content in _LOOSE
    out = []
    for text, need in zip(texts, needs.tolist(), strict=True):
        if need & _CONTROL:
            text = normalise(text, content)
        elif content != "code":
            if need & _COMPOSE:
                text = unicodedata.normalize("NFC", text)
            if prose and need & _SPACES:
                text = _TRAILING.sub("", text)
            if prose and need & (_SPACES | _LINES):
                text = _BLANK_LINES.sub("\n\n", text)
            text = text.strip("\n")
        out.append(text)
    return out


def normalise(text: str, content: str = "prose") -> str:
    """The canonical form of `text`.

    Args:
        text: any string; a lone surrogate (JSON can hold one) is removed because UTF-8 cannot.
        content: "prose", "web", "dialogue" and "verse" also lose layout noise; "math" and "code" keep their layout, and
            "code" its characters as they are.
    """
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    if content == "code":
        return text
    text = unicodedata.normalize("NFC", _FORM_FEED.sub("\n", text))
    if content in _LOOSE:
        text = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text))
    return text.strip("\n")


@compiled
def _needs(data: Any, offsets: Any, out: Any) -> None:
    """Which of the flags above each text has; rather one too many than one too few."""
    for d in range(len(offsets) - 1):
        flags, space, newlines = np.uint8(0), False, 0
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            byte = data[i]
            if byte == 10:
                if space:
                    flags |= _SPACES
                newlines += 1
                if newlines == 3:
                    flags |= _LINES
                space = False
                i += 1
                continue
            newlines = 0
            if byte < 0x80:
                space = byte == 32 or byte == 9
                if (byte < 32 and byte != 9) or byte == 0x7F:
                    flags |= _CONTROL
                i += 1
                continue
            space = False
            if byte < 0xE0:
                space = byte == 0xC2 and data[i + 1] == 0xA0
                if byte == 0xC2 and data[i + 1] < 0xA0:
                    flags |= _CONTROL
                if byte >= 0xCC:  # from U+0300 on; everything before is composed
                    flags |= _COMPOSE
                i += 2
            elif byte < 0xF0:
                flags |= _COMPOSE
                second = data[i + 1]
                space = byte == 0xE3 and second == 0x80 and data[i + 2] == 0x80
                # U+200x to U+206x, U+FDxx, U+FEFx and U+FFFx, and the surrogates have what is removed among them
                if (
                    (byte == 0xE2 and second <= 0x81)
                    or (byte == 0xEF and second >= 0xB7)
                    or (byte == 0xED and second >= 0xA0)
                ):
                    flags |= _removed(byte, second, data[i + 2])
                i += 3
            else:
                flags |= _COMPOSE
                i += 4
        out[d] = flags | (_SPACES if space else np.uint8(0))


@compiled
def _removed(first: Any, second: Any, third: Any) -> Any:
    """`_CONTROL` for a three-byte character that `_INVISIBLE` or `_LINE_ENDS` match."""
    if first == 0xED:
        return _CONTROL
    if first == 0xEF:
        inside = second == 0xB7 and 0x90 <= third <= 0xAF  # U+FDD0 to U+FDEF
        last = (second == 0xBB and third == 0xBF) or (second == 0xBF and third >= 0xBE)
        return _CONTROL if inside or last else np.uint8(0)
    if second == 0x80:
        return _CONTROL if third == 0x8B or third == 0xA8 or third == 0xA9 else np.uint8(0)
    return _CONTROL if second == 0x81 and third == 0xA0 else np.uint8(0)
