"""What people are shown of a document: the beginning of its text, without personal data, whatever its source keeps.

Enters: a text, whole or as much as its reader kept. Leaves: some hundred characters for a sample, an example or a data
card.

Personal data is masked before the text is cut, so that no half of an address is left at either end; every kind is
masked, also those that a source keeps or that `pii.kinds` leaves out. Readers keep `RAW_EXCERPT` characters of what
they drop for that.
"""

from __future__ import annotations

import re
from typing import get_args

from pipelines.data.cleaning.normalise import normalise
from pipelines.data.cleaning.pii import Kind, replaced_within
from pipelines.data.text.document import EXCERPT, RAW_EXCERPT, utf8

SAMPLES = 10  # dropped documents shown for each reason
_KINDS = get_args(Kind)
_NAME_KINDS = tuple(
    kind for kind in _KINDS if kind != "card"
)  # one in ten long numbers, which names have, passes for a card
_CONTEXT = RAW_EXCERPT - EXCERPT  # characters on either side that are looked at: longer than any address
_WINDOW = 4 * EXCERPT  # of text before masking: placeholders are shorter than what they stand for
_PLACEHOLDER = re.compile(f"<(?:{'|'.join(_KINDS)})>")
# as JSON and Python write them: `\n13812345678` is no number behind a letter
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([bfnrt\"'\\/]))")
_ESCAPED = {"b": "", "f": "\n", "n": "\n", "r": "\n", "t": "\t"}


def excerpt(text: str, characters: int = EXCERPT) -> str:
    """The beginning of a text, masked and then cut; a placeholder at the end stays whole, so it may be longer."""
    window = utf8(text[: _WINDOW + _CONTEXT])
    return _cut(replaced_within(window.encode(), 0, len(window[:_WINDOW].encode()), _KINDS), characters)


def excerpt_of_unread(text: str, characters: int = EXCERPT) -> str:
    """`excerpt` of what a reader dropped: escapes are undone and invisible characters removed, as they would have been.

    Of what the reader may have cut, at `RAW_EXCERPT` bytes or characters, the last third only says how the rest is
    masked.
    """
    plain = normalise(utf8(_ESCAPE.sub(_unescaped, text[:RAW_EXCERPT])), "code").encode()
    was_cut = len(text.encode("utf-8", "surrogatepass")) >= RAW_EXCERPT - 4
    return passage(plain, 0, len(plain) - _CONTEXT // 2 if was_cut else len(plain), characters)


def passage(text: bytes, start: int, stop: int, characters: int) -> str:
    """Bytes start to stop of a text in UTF-8, masked by what stands around them, then cut."""
    before, behind = max(0, start - 4 * _CONTEXT), stop + 4 * _CONTEXT  # a character has four bytes at most
    return _cut(replaced_within(text[before:behind], start - before, stop - before, _KINDS), characters)


def name_shown(name: str) -> str:
    """An id or a place, masked: ids that a record gives may be addresses."""
    data = utf8(name).encode()
    return replaced_within(data, 0, len(data), _NAME_KINDS)


def _cut(text: str, characters: int) -> str:
    across = (m.end() for m in _PLACEHOLDER.finditer(text) if m.start() < characters < m.end())
    return text[: next(across, characters)]


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(match[3], match[3])
