"""Personal data replaced by placeholders: `write to <email> or call <phone>`.

Enters: a batch of texts. Leaves: the texts with e-mail addresses, telephone numbers, Chinese identity numbers, public
IP addresses and (when asked) bank cards masked, and how many of each kind every text had.

A kernel looks over the bytes for places where a hit could be (an @ between word characters, seven digits that belong
together, a run of hexadecimal groups), at several hundred MB/s; only there the expressions below are tried. What has a
checksum must pass it (GB 11643-1999 for identity numbers, Luhn for cards), and an address must be one that the internet
routes (`ipaddress`), so that a version such as 1.2.3.4, a local 192.168.0.1 or a time of day stays. Placeholders are
stable: one word per kind, so a model learns that something stood there and nothing about whom.

Precision before recall where a pattern is only digits: a bare ten-digit number is no telephone number here. Names and
addresses are not looked for.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np

from pipelines.config import config_class
from pipelines.data.text.kernels import compiled
from pipelines.data.text.packed import pack

Kind = Literal["email", "phone", "id", "ip", "card"]


@config_class
class PiiConfig:
    """What counts as personal; which sources it is masked in says their `pii`."""

    kinds: list[Kind] = field(
        default_factory=lambda: ["email", "phone", "id", "ip"]
    )  # card: 13 to 19 digits that pass Luhn


def mask(texts: Sequence[str], kinds: Sequence[str]) -> tuple[list[str], list[dict[str, int]]]:
    """Replace personal data of these kinds.

    Returns: the texts, and for each how many replacements of which kind; nothing else of a text changes.
    """
    batch = pack(texts)
    candidates = _candidates(batch.data, batch.offsets)
    out, counts = list(texts), [dict[str, int]() for _ in texts]
    if not len(candidates):
        return out, counts
    for d, first, last in _by_document(candidates[:, 0]):
        start, stop = int(batch.offsets[d]), int(batch.offsets[d + 1])
        data = batch.data[start:stop].tobytes()
        hits = _hits(data, [(sort, a - start, b - start) for sort, a, b in candidates[first:last, 1:].tolist()], kinds)
        if hits:
            out[d] = _replaced(data, hits)
            counts[d] = dict(sorted(Counter(kind for _, _, kind in hits).items()))
    return out, counts


def replaced_within(text: bytes, start: int, stop: int, kinds: Sequence[str]) -> str:
    """Bytes start to stop of a text, where everything personal that reaches into them is replaced whole.

    What is cut from a text that may begin or end within a character shows U+FFFD for it.
    """
    candidates = _candidates(np.frombuffer(text or b"\0", np.uint8), np.array([0, len(text)], np.int64))
    hits = _hits(text, [(sort, first, last) for _, sort, first, last in candidates.tolist()], kinds)
    parts, at = [], start
    for first, last, kind in hits:
        if last > start and first < stop:
            parts += [text[at : max(at, first)], f"<{kind}>".encode()]
            at = last
    return b"".join([*parts, text[at : max(at, stop)]]).decode("utf-8", "replace")


# ── what a hit looks like; bytes, so that \w and \d are ASCII and a Chinese character ends a word ──
_LEFT = rb"(?<![\w.+-])"
_DOMAIN = re.compile(
    rb"@(?!\d+\.\d)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
)
_LOCAL = re.compile(rb"[A-Za-z0-9%&'+_.-]{1,64}\Z")  # without / = ?, which stand before an address in a URL
_PHONES = re.compile(
    rb"(?:"
    + _LEFT + rb"\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{2,5}){2,5}"  # +44 20 7946 0958
    rb"|" + _LEFT + rb"(?:\+?1[ .-]?)?\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}"  # (415) 555-2671
    rb"|" + _LEFT + rb"(?:1[.-])?[2-9]\d\d([.-])[2-9]\d\d\1\d{4}"  # 415-555-2671
    rb"|(?<![\w.,+-])(?:86[ -]?)?1[3-9]\d(?:\d{8}|([ -])\d{4}\2\d{4})"  # 138 1234 5678
    rb"|(?<![\w.,+-])(?:\(0\d{2,3}\)|\xef\xbc\x880\d{2,3}\xef\xbc\x89|0\d{2,3}[- ])[2-9]\d{6,7}"  # 010-62345678
    rb")(?![\w]|[.,-]\d)"
)  # fmt: skip
_IDS = re.compile(rb"(?<!\w)[1-9]\d{5}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)")
_IPV4 = re.compile(rb"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?!\w|[.-]\w)")
_IPV6 = re.compile(rb"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,35}(?![\w:])")
_CARDS = re.compile(rb"(?<![\w.,+-])\d(?:[ -]?\d){12,18}(?![\w]|[.,-]\d)")
_VERSION_BEFORE = re.compile(
    rb"(?:\b(?:v|ver|version|release|rev|revision|build|section|sec|chapter|clause|table|figure|appendix|"
    rb"theorem|lemma|proposition|definition|kernel|linux|chrome|firefox|oid)\.?|[=<>~^\xa7])[ :=]*\Z",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(rb"\+\d{1,3}(?:[ .]\d{3}){2,3}\Z")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _is_id(digits: bytes, before: bytes) -> bool:
    """The checksum of GB 11643-1999: weights modulo 11, 10 written as X."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits[:17].decode(), strict=True))
    return b"10X98765432"[total % 11 : total % 11 + 1] == digits[17:].upper()


def _is_card(number: bytes, before: bytes) -> bool:
    digits = [int(c) for c in number.decode() if c.isdigit()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def _is_ipv4(address: bytes, before: bytes) -> bool:
    """Whether it is a public address and no version.

    Four one-digit parts, a word such as "version" before them, or two one-digit parts in front (Linux 2.6.32.27, the
    object identifier 2.5.29.15) make it a version.
    """
    if len(address) == 7 or address[1:2] == address[3:4] == b"." or _VERSION_BEFORE.search(before):
        return False
    return _is_public(address)


def _is_public(address: bytes, before: bytes = b"") -> bool:
    try:
        return ipaddress.ip_address(address.decode().rstrip(":")).is_global
    except ValueError:
        return False


def _is_phone(number: bytes, before: bytes) -> bool:
    digits = sum(48 <= c <= 57 for c in number)
    if number.endswith(b"00000") or (_THOUSANDS.match(number) and (digits < 10 or b"000" in number)):
        return False  # an amount: +1 000 000, 15000000000
    return 7 <= digits <= 15


# in this order: of overlapping hits the first stays
_PATTERNS: dict[str, tuple[re.Pattern[bytes], Callable[[bytes, bytes], bool]]] = {
    "id": (_IDS, _is_id),
    "card": (_CARDS, _is_card),
    "phone": (_PHONES, _is_phone),
    "ip": (_IPV4, _is_ipv4),
}


def _hits(data: bytes, places: Sequence[tuple[int, int, int]], kinds: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, stop, kind) of what is personal at some places of a text, in order and without overlap."""
    hits: list[tuple[int, int, str]] = []
    for sort, first, last in places:
        if sort == _AT:
            if "email" in kinds and (domain := _DOMAIN.match(data, first, first + 300)):
                local = _LOCAL.search(data, max(0, first - 64), first)
                if local and (begin := first - len(local[0].lstrip(b".-"))) < first and data[first - 1] != ord("."):
                    hits.append((begin, domain.end(), "email"))
        elif sort == _COLONS:
            if "ip" in kinds and (match := _IPV6.match(data, first)) and _is_public(match[0]):
                hits.append((first, first + len(match[0].rstrip(b":")), "ip"))
        else:
            for kind, (pattern, holds) in _PATTERNS.items():
                if kind in kinds:
                    hits += [
                        (match.start(), match.end(), kind)
                        for match in pattern.finditer(data, first, last + 2)
                        if holds(match[0], data[max(0, match.start() - 14) : match.start()])
                    ]
    chosen: list[tuple[int, int, str]] = []
    order = list(_PATTERNS)
    for hit in sorted(hits, key=lambda hit: (hit[0], order.index(hit[2]) if hit[2] in order else -1, -hit[1])):
        if not chosen or hit[0] >= chosen[-1][1]:
            chosen.append(hit)
    return chosen


def _replaced(text: bytes, hits: Sequence[tuple[int, int, str]]) -> str:
    parts, at = [], 0
    for first, last, kind in hits:
        parts += [text[at:first], f"<{kind}>".encode()]
        at = last
    return b"".join([*parts, text[at:]]).decode("utf-8", "surrogatepass")


def _by_document(owners: Any) -> list[tuple[int, int, int]]:
    """(document, first, last) for the runs of equal owners."""
    edges = np.flatnonzero(np.diff(owners)) + 1
    bounds = [0, *edges.tolist(), len(owners)]
    return [(int(owners[a]), a, b) for a, b in itertools.pairwise(bounds)]


_AT, _DIGITS, _COLONS = 0, 1, 2
_LEAST_DIGITS = 7  # of the shortest number looked for: a local landline; an address of three dots may have fewer
_CLASS = np.zeros(256, np.uint8)
_CLASS[48:58] = 1  # digits
_CLASS[[ord(c) for c in " .()-+"]] = 2  # what may stand between digits of one number
_CLASS[[ord(c) for c in "abcdefABCDEF"]] = 4
_CLASS[ord(":")] = 8
_CLASS[ord("@")] = 16


@compiled
def _candidates(data: Any, offsets: Any) -> Any:
    """(candidates, 4) int64: document, what, first and last byte; in the order of the text within each document."""
    room = 1024
    out = np.empty((room, 4), np.int64)
    count = 0
    for d in range(len(offsets) - 1):
        start, stop = offsets[d], offsets[d + 1]
        i = start
        while i < stop:
            sort = _CLASS[data[i]]
            if sort == 0 or sort == 2 or sort == 4 or sort == 8:
                i += 1
                continue
            first, last, kind = i, i, -1
            if sort == 16:
                if i > start and i + 3 < stop and data[i - 1] > 32 and data[i + 1] > 32:
                    kind, last = _AT, i + 1
                i += 1
            else:
                # digits with at most two other characters between them
                digits, dots, gap, j = 0, 0, 0, i
                while j < stop and gap <= 2:
                    inner = _CLASS[data[j]]
                    if inner == 1:
                        digits += 1
                        gap = 0
                        last = j + 1
                    elif inner == 2:
                        dots += data[j] == 46
                        gap += 1
                    elif (
                        data[j] == 0xEF
                        and j + 2 < stop
                        and data[j + 1] == 0xBC
                        and (data[j + 2] == 0x88 or data[j + 2] == 0x89)
                    ):
                        j += 2  # a full-width bracket
                        gap += 1
                    else:
                        break
                    j += 1
                if digits >= _LEAST_DIGITS or dots >= 3:
                    # with what may open it: a bracket or a plus
                    first = max(start, first - 4)
                    kind = _DIGITS
                elif (data[first] == 50 or data[first] == 51) and first + 4 < stop and data[first + 4] == 58:
                    kind = _COLONS
                elif first + 4 < stop:
                    # 2a00:..., whose first group has letters in it
                    k = first
                    while k < first + 4 and (_CLASS[data[k]] & 5) != 0:
                        k += 1
                    if k == first + 4 and data[k] == 58 and (data[first] == 50 or data[first] == 51):
                        kind = _COLONS
                i = max(last, i + 1)
            if kind >= 0:
                if count == room:
                    room *= 2
                    grown = np.empty((room, 4), np.int64)
                    grown[:count] = out[:count]
                    out = grown
                out[count, 0], out[count, 1], out[count, 2], out[count, 3] = d, kind, first, last
                count += 1
    return out[:count]
