"""A text as lines or paragraphs that can be told by their hashes, and a text without some of them.

Enters: a text, and what `dedup.lines` counts as a line. Leaves: its lines with the hash of each; or the text as if it
never had those that go.
"""

from __future__ import annotations

import itertools
from collections.abc import Container

import xxhash

from pipelines.data.dedup.config import LinesConfig


def hashed_lines(text: str, lines: LinesConfig) -> list[tuple[int, str]]:
    """The lines of a text with the hash of each, 0 for one that is too short to count."""
    return [
        (xxhash.xxh3_64_intdigest(stripped) if len(stripped := line.strip()) >= lines.min_characters else 0, line)
        for line in text.split(_separator(lines))
    ]


def _separator(lines: LinesConfig) -> str:
    return "\n" if lines.unit == "line" else "\n\n"


def without(text: str, lines: LinesConfig, gone: Container[int]) -> str:
    """A text without the lines (or paragraphs) of these hashes.

    Where something is taken out, the blank lines on its two sides become one run, as long as the longer of them, so
    that the text equals one which never had it; at the beginning and the end none are left. Nothing else changes.
    """
    ending = "\n" if text.endswith("\n") else ""
    items: list[str | None] = []  # lines, None for what goes
    for value, part in hashed_lines(text.removesuffix("\n"), lines):
        if items and lines.unit == "paragraph":
            items.append("")
        inside = part.split("\n")
        items += [line if not line.strip() else None for line in inside] if value in gone else inside
    gaps = [(gap, list(some)) for gap, some in itertools.groupby(items, lambda line: line is None or not line.strip())]
    out: list[str] = []
    for number, (gap, some) in enumerate(gaps):
        if not gap or None not in some:
            out += [line for line in some if line is not None]
        elif 0 < number < len(gaps) - 1:
            runs = (len(list(run)) for blank, run in itertools.groupby(some, lambda line: line is not None) if blank)
            out += [""] * max(runs, default=0)
    return "\n".join(out) + ending if out else ""
