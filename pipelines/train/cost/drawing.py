"""The pictures of a comparison as inline SVG, which take their colours from the page.

Enters: numbers with their ranges. Leaves: SVG strings without a script, a font or a link.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 70, 20, 14, 44
_HEIGHT = 300
_LABEL, _BAR, _GAP = 250, 14, 5  # of bars: room for names, height, room below


@dataclass(frozen=True)
class Point:
    """One format: its number in the legend, where it lies, the range of y, and whether its weights are floats."""

    number: int
    x: float
    y: float
    low: float
    high: float
    is_float: bool


@dataclass(frozen=True)
class Bar:
    """One speed and the range of its rounds."""

    name: str
    value: float
    low: float
    high: float
    colour: str = "one"


def scatter(points: Sequence[Point], title: str, x_name: str, y_name: str) -> str:
    """Numbered points with ranges."""
    most_x = 1.08 * max(point.x for point in points) or 1.0
    low_y, high_y = min(0.0, *(point.low for point in points)), max(0.0, *(point.high for point in points))
    room = 0.08 * (high_y - low_y) or 1.0
    low_y, high_y = low_y - room, high_y + room

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / most_x
        return across, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high_y - y) / (high_y - low_y)

    parts = []
    for value in ticks(low_y, high_y):
        y = at(0, value)[1]
        colour = "soft" if value == 0 else "line"
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="var(--{colour})"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(0, most_x):
        x = at(value, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 24}" text-anchor="middle">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_name)}</text>')
    up = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{up}" text-anchor="middle" transform="rotate(-90 14 {up})">{html.escape(y_name)}</text>'
    )
    for point in points:
        (x, y), top, foot = at(point.x, point.y), at(0, point.high)[1], at(0, point.low)[1]
        colour = f"var(--{'one' if point.is_float else 'two'})"
        parts.append(f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{foot:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>')
        parts.append(f'<text class="name" x="{x + 7:.1f}" y="{y - 6:.1f}">{point.number}</text>')
    return _svg(_WIDTH, _HEIGHT, title, parts)


def bars(rows: Sequence[Bar], title: str, unit: str) -> str:
    """Horizontal bars with the range of each."""
    most = max((bar.high for bar in rows), default=1.0) or 1.0
    width, room = 760, 760 - _LABEL - 90
    parts = []
    for place, bar in enumerate(rows):
        y = _TOP + place * (_BAR + _GAP)
        long, low, high = (room * value / most for value in (bar.value, bar.low, bar.high))
        middle = y + _BAR / 2
        parts += [
            f'<text class="name" x="{_LABEL - 6}" y="{y + 11}" text-anchor="end">{html.escape(bar.name)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{long:.1f}" height="{_BAR}" fill="var(--{bar.colour})" opacity="0.8"/>',
            f'<line x1="{_LABEL + low:.1f}" y1="{middle}" x2="{_LABEL + high:.1f}" y2="{middle}" stroke="var(--ink)" '
            'stroke-width="1.5"/>',
            f'<text x="{_LABEL + max(long, high) + 6:.1f}" y="{y + 11}">{bar.value:,.0f} {html.escape(unit)}</text>',
        ]
    return _svg(width, _TOP + len(rows) * (_BAR + _GAP) + 6, title, parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values within a range."""
    raw = (high - low) / about
    if raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [float(f"{number * step:.12g}") for number in range(first, math.floor(high / step) + 1)]


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    label = html.escape(title)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
