"""Charts as inline SVG: columns and curves that take their colours from the page, so that they fit light and dark.

Enters: numbers. Leaves: SVG strings without a script, a font or a link; text scales with the drawing.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_LEFT, _RIGHT, _BOTTOM = 38, 10, 34  # margins, in the drawing's own units
_LEGEND = 16  # of a line of the legend, which stands above the drawing


@dataclass(frozen=True)
class Series:
    """One curve: its name, its (x, y) points, and for each point the range that it may lie in."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = "one"  # a variable of the page's style
    dots: bool = False  # points instead of a line
    ranges: Sequence[tuple[float, float]] = ()


def columns(values: Sequence[float], labels: Sequence[str], title: str, size: tuple[int, int] = (300, 120)) -> str:
    """A histogram. Args: values, one per column; labels, below each column, "" for none."""
    width, height = size
    floor, room = height - 18, height - 18 - 6
    step = (width - 8) / max(1, len(values))
    most = max(values, default=0) or 1
    parts = []
    for place, (value, label) in enumerate(zip(values, labels, strict=True)):
        x, tall = 4 + place * step, room * value / most
        if value:
            parts.append(
                f'<rect x="{x + step * 0.06:.1f}" y="{floor - max(tall, 1):.1f}" width="{step * 0.88:.1f}" '
                f'height="{max(tall, 1):.1f}" fill="var(--one)"/>'
            )
        if label:
            parts.append(
                f'<text x="{x + step / 2:.1f}" y="{height - 4}" text-anchor="middle">{html.escape(label)}</text>'
            )
    parts.append(f'<line x1="4" y1="{floor}" x2="{width - 4}" y2="{floor}" stroke="var(--line)"/>')
    return _drawing(size, title, parts)


@dataclass(frozen=True)
class _Plane:
    """Where shares over x lie in a drawing."""

    size: tuple[int, int]
    across: tuple[float, float]  # x's range
    top: int  # below the legend

    def x_of(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (self.size[0] - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y_of(self, value: float) -> float:
        return self.top + (self.size[1] - self.top - _BOTTOM) * (1 - value)


def curves(
    series: Sequence[Series], across: tuple[float, float], title: str, x_name: str, marker: float | None = None,
    size: tuple[int, int] = (460, 280),
) -> str:  # fmt: skip
    """Shares (0 to 1 upwards) over x. Args: across, x's range; marker, an x to draw a line at."""
    plane = _Plane(size, across, _LEGEND * len(series) + 12)
    parts = _grid(plane, x_name)
    if marker is not None:
        x = plane.x_of(marker)
        parts.append(
            f'<line x1="{x:.1f}" y1="{plane.top}" x2="{x:.1f}" y2="{size[1] - _BOTTOM}" '
            'stroke="var(--soft)" stroke-dasharray="4 4"/>'
        )
    for place, one in enumerate(series):
        parts += [*_curve(plane, one), *_legend(one, _LEGEND * (place + 1) - 4)]
    return _drawing(size, title, parts)


def _grid(plane: _Plane, x_name: str) -> list[str]:
    """Lines and labels of both axes."""
    width, height = plane.size
    parts = []
    for tenth in range(0, 11, 2):
        y = plane.y_of(tenth / 10)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{width - _RIGHT}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tenth * 10} %</text>')
    for tenth in range(round(plane.across[0] * 10), round(plane.across[1] * 10) + 1):
        x = plane.x_of(tenth / 10)
        parts.append(f'<text x="{x:.1f}" y="{height - 18}" text-anchor="middle">{tenth / 10:.1f}</text>')
    parts.append(f'<text x="{(width + _LEFT) / 2}" y="{height - 4}" text-anchor="middle">{html.escape(x_name)}</text>')
    return parts


def _curve(plane: _Plane, one: Series) -> list[str]:
    """A line, or dots with the ranges that they may lie in."""
    colour = f"var(--{one.colour})"
    if not one.dots:
        path = " ".join(f"{plane.x_of(x):.1f},{plane.y_of(y):.1f}" for x, y in one.points)
        return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    parts = []
    for (x, y), (least, most) in zip(one.points, one.ranges or [(y, y) for _, y in one.points], strict=True):
        at = f"{plane.x_of(x):.1f}"
        parts.append(
            f'<line x1="{at}" y1="{plane.y_of(least):.1f}" x2="{at}" y2="{plane.y_of(most):.1f}" '
            f'stroke="{colour}" stroke-width="1.5"/><circle cx="{at}" cy="{plane.y_of(y):.1f}" r="4" fill="{colour}"/>'
        )
    return parts


def _legend(one: Series, y: int) -> list[str]:
    """The line of the legend that ends at height `y`."""
    colour = f"var(--{one.colour})"
    sign = (
        f'<circle cx="{_LEFT + 12}" cy="{y - 4}" r="4" fill="{colour}"/>'
        if one.dots
        else f'<line x1="{_LEFT + 4}" y1="{y - 4}" x2="{_LEFT + 18}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>'
    )
    return [sign, f'<text class="name" x="{_LEFT + 22}" y="{y}">{html.escape(one.name)}</text>']


def _drawing(size: tuple[int, int], title: str, parts: Sequence[str]) -> str:
    width, height = size
    label = html.escape(title)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
