"""What a person reads while work runs: announcements, aligned tables and one live line for long jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


def say(line: str = "") -> None:
    """Print one line at once, so that logs of jobs and terminals show it without delay."""
    print(line, flush=True)


def announce(title: str, facts: Mapping[str, Any]) -> None:
    """A ruled heading and aligned `name  value` lines: what is about to happen."""
    say(f"\n── {title} " + "─" * max(4, 76 - width(title)))
    longest = max((width(name) for name in facts), default=0)
    for name, value in facts.items():
        say(f"   {name}{' ' * (longest - width(name))}  {value}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns padded to their widest cell (a Chinese character counts as two); numbers to the right."""
    text = [[_cell(cell) for cell in row] for row in rows]
    widths = [max([width(name), *(width(row[i]) for row in text)]) for i, name in enumerate(header)]
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            " " * (w - width(c)) + c if r else c + " " * (w - width(c))
            for c, w, r in zip(cells, widths, right, strict=True)
        )
        return "   " + "  ".join(padded).rstrip()

    return "\n".join([line(list(header)), line(["─" * w for w in widths]), *(line(row) for row in text)])


def human(count: float, unit: str = "") -> str:
    """`1234567` as `1.23M`; with a unit, `1.23 MB`."""
    for limit, suffix in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.3g}{' ' if unit else ''}{suffix}{unit}"
    return (
        f"{count:.3g}{' ' if unit else ''}{unit}" if isinstance(count, float) else f"{count}{' ' if unit else ''}{unit}"
    )


def duration(seconds: float) -> str:
    """`3725` as `1h02m`, `65` as `1m05s`, `4.2` as `4.2s`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """One line about a long job: done/total, rate, extra facts, time left.

    On a terminal the line is rewritten in place; elsewhere a new line appears at most every `every_seconds`.
    """

    def __init__(
        self, label: str, total: int, unit: str = "shards", every_seconds: float = 5.0, stream: TextIO | None = None
    ):
        self.label, self.total, self.unit, self.every_seconds = label, total, unit, every_seconds
        self.stream = stream or sys.stdout
        self.done = 0
        self.facts: dict[str, Any] = {}
        self._began = time.monotonic()
        self._shown = 0.0

    def update(self, done: int | None = None, **facts: Any) -> None:
        """Advance to `done` (by one when not given) and show the new facts."""
        self.done = self.done + 1 if done is None else done
        self.facts.update(facts)
        live = self.stream.isatty()
        now = time.monotonic()
        if self.done < self.total and now - self._shown < (0.2 if live else self.every_seconds):
            return
        self._shown = now
        took = now - self._began
        left = (
            f"ETA {duration(took / self.done * (self.total - self.done))}"
            if 0 < self.done < self.total
            else f"in {duration(took)}"
        )
        facts_text = "  ".join(f"{name} {value}" for name, value in self.facts.items())
        line = f"   {self.label:<22} {self.done}/{self.total} {self.unit}  {facts_text}  {left}"
        self.stream.write(f"\r\033[K{line}" if live else line + "\n")
        if live and self.done >= self.total:
            self.stream.write("\n")
        self.stream.flush()


def width(text: str) -> int:
    """Columns that a terminal gives to `text`: two for a wide East Asian character."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
