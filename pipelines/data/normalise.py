"""Text in one canonical form, so that equal texts are equal bytes.

Enters: any string a reader decoded. Leaves: the same text with `\\n` line ends, NFC characters, and neither control
characters nor invisible marks; it always encodes to UTF-8.

Prose also loses spaces at line ends and blank lines beyond one: layout that differs between copies of one text and would
hide a duplicate. Code and worked problems keep their layout; code keeps its characters too (NFC could change what a string
literal means) and the form feeds that divide old Python modules.

NFC rather than NFKC: NFKC would turn ，into , and ² into 2, i.e. rewrite Chinese typography and formulas.
"""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
# C0 but for tab and newline, C1, BOM and non-characters, zero-width space and joiner-less marks, lone surrogates
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff\u200b\u2060\ud800-\udfff]")
_FORM_FEED = re.compile("\x0c")
_TRAILING = re.compile(r"[ \t\u3000\xa0]+(?=\n|$)")
_BLANK_LINES = re.compile(r"\n{3,}")


def normalise(text: str, content: str = "prose") -> str:
    """The canonical form of `text`.

    Args:
        text: any string; a lone surrogate (JSON can hold one) is removed because UTF-8 cannot.
        content: "prose" and "dialogue" also lose layout noise; "math" and "code" keep their layout, and "code" its
            characters as they are.
    """
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    if content == "code":
        return text
    text = unicodedata.normalize("NFC", _FORM_FEED.sub("\n", text))
    if content in ("prose", "dialogue"):
        text = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text))
    return text.strip("\n")
