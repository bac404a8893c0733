"""What a person reads while work runs: announcements, aligned tables and one live line for long jobs.

progress = Progress("clean", len(shards))
describe = tally({"documents": "kept"}, rate="bytes", reasons="dropped")   what the shards' results add up to
progress.update(**describe(result))

   clean                  12/96 shards  kept 41,200  12.1 MB/s  dropped 310 (quality.too_short 310)  ETA 1m10s
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shutil
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from pipelines.errors import StorageError

_PACE_SECONDS = 30.0  # rates and the time left look back so far: shards that an earlier run left come back in no time
_REASONS = 3  # named on the line, the most frequent first
_PIPE_CLOSED = 128 + 13  # the status of a program that SIGPIPE ends
_LOOK_ALIKES = {
    "─": "-", "│": "|", "→": "->", "▶": ">", "…": "...", "✓": "ok", "✗": "x", "⚠": "!", "–": "-", "—": "-", "×": "x",
    "·": ".", "≥": ">=", "≤": "<=", "≈": "~", "−": "-", "±": "+-", "²": "2", "‘": "'", "’": "'", "“": '"', "”": '"',
    "°": " degrees", "µ": "u",
}  # fmt: skip
_hush = threading.local()
_live: TextIO | None = None  # where a live line stands unfinished
_block: LiveBlock | None = None  # what stands above the cursor, to be drawn over
_reword: Callable[[str], str] = str


def say(line: str = "") -> None:
    """Print one line at once, so that logs of jobs and terminals show it without delay.

    A stream that is not UTF-8 gets look-alikes (`->` for an arrow) and `\\u4e2d` for what has none.

    Raises: SystemExit where nobody reads any more (`| head`), as a shell's own programs end there; StorageError where a
        file that output goes to takes no more.
    """
    if getattr(_hush, "on", False):
        return
    end_live_line()
    _write(sys.stdout, _reword(line) + "\n")


def reword(change: Callable[[str], str]) -> None:
    """Have everything that is said go through `change` first: how commands are typed depends on who was started."""
    global _reword
    _reword = change


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Let nothing be heard of what this thread says: of a command that is one of many steps of another."""
    before, _hush.on = getattr(_hush, "on", False), True
    try:
        yield
    finally:
        _hush.on = before


def end_live_line() -> None:
    """Leave an unfinished live line as it stands, so that what is printed next has a line of its own."""
    global _live, _block
    _block = None
    if _live is not None:
        stream, _live = _live, None
        _write(stream, "\n")


def reopen_closed_streams() -> None:
    """Open the standard streams that were closed when the command started (`>&-`); what is written there is lost.

    Ray needs them. Without them the next file that is opened would take their place, and get what a library prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = open(os.devnull, "w" if number else "r", encoding="utf-8")  # noqa: SIM115, as long as the process
            if nowhere.fileno() != number:
                os.dup2(nowhere.fileno(), number)
            os.set_inheritable(number, True)  # Ray's processes need them too
            setattr(sys, name, nowhere)


def shown(text: str, stream: TextIO) -> str:
    """The text as `stream` can write it."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "trunkline").decode(encoding)
    return text


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    """The error handler of `shown`, for one character at a time."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    return _LOOK_ALIKES.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("trunkline", _look_alike)


def _write(stream: TextIO | None, text: str) -> None:
    """Write at once; `stream` is None where the command was started without one."""
    if stream is None:
        return
    try:
        stream.write(shown(text, stream))
        stream.flush()
    except BrokenPipeError:
        # what Python would still write at its end goes nowhere
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        if threading.current_thread() is threading.main_thread():
            raise SystemExit(_PIPE_CLOSED) from None
    except OSError as error:
        if threading.current_thread() is threading.main_thread():
            raise StorageError(
                f"cannot write to the standard output: {error.strerror or error}; what was committed is kept: "
                "send the output elsewhere, and run the same command again"
            ) from error


def announce(title: str, announcement: Mapping[str, Any]) -> None:
    """A ruled heading and aligned `name  value` lines: what is about to happen."""
    say(f"\n── {title} " + "─" * max(4, 76 - width(title)))
    longest = max((width(name) for name in announcement), default=0)
    for name, value in announcement.items():
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
    """One line about a long job: done/total, what the work adds up to, time left.

    On a terminal the line is rewritten in place and cut to the terminal's width. Elsewhere a new line appears at most
    every `every_seconds`, and less often the longer the job runs: at most one a minute, so that a day is 1,500 lines of
    log.
    """

    def __init__(
        self, label: str, total: int, unit: str = "shards", every_seconds: float = 5.0, stream: TextIO | None = None
    ):
        self.label, self.total, self.unit, self.every_seconds = label, total, unit, every_seconds
        self.stream: TextIO = stream or sys.stdout or io.StringIO()  # none where the command was started with `>&-`
        self.done = 0
        self.counts: dict[str, Any] = {}
        self._began = self._shown = time.monotonic()
        self._pace = _Pace()
        if self.total and _is_terminal(self.stream):
            self._show(self._began, live=True)

    def update(self, done: int | None = None, **counts: Any) -> None:
        """Advance to `done` (by one when not given) and show the new counts; one named "" is shown bare."""
        before, self.done = self.done, self.done + 1 if done is None else done
        self.counts.update(counts)
        live = _is_terminal(self.stream)
        now = time.monotonic()
        self._pace.add(now, self.done - before)
        wait = 0.2 if live else max(self.every_seconds, min(60.0, (now - self._began) / 20))
        if self.done >= self.total or now - self._shown >= wait:
            self._shown = now
            self._show(now, live)

    def _show(self, now: float, live: bool) -> None:
        global _live
        rate = self._pace.rate(now)
        left = f"in {duration(now - self._began)}"
        if self.done < self.total:
            left = f"ETA {duration((self.total - self.done) / rate)}" if rate else ""
        counts = (f"{name} {value}".strip() for name, value in self.counts.items() if value != "")
        line = "  ".join(part for part in (f"{self.done:,}/{self.total:,} {self.unit}", *counts, left) if part)
        line = f"   {self.label:<22} {line}"
        if not live:
            _write(self.stream, line + "\n")
        else:
            cut = _cut(shown(line, self.stream), shutil.get_terminal_size().columns - 1)
            _write(self.stream, f"\r\033[K{cut}")
            _live = self.stream
            if self.done >= self.total:
                end_live_line()


class LiveBlock:
    """Some lines that a terminal shows in place of those before; what is said in between leaves them standing."""

    def __init__(self, stream: TextIO | None = None):
        self.stream: TextIO = stream or sys.stdout or io.StringIO()
        self._height = 0

    @property
    def live(self) -> bool:
        """Whether lines can be drawn over there."""
        return _is_terminal(self.stream)

    def show(self, lines: Sequence[str]) -> None:
        """Draw the lines, cut to the terminal's width and height, over the last ones."""
        global _block
        columns, rows = shutil.get_terminal_size()
        cut = [_cut(shown(line, self.stream), columns - 1) for line in lines[: max(1, rows - 2)]]
        up = f"\033[{self._height}F\033[J" if _block is self and self._height else ""
        if not up:
            end_live_line()
        _write(self.stream, up + "".join(f"{line}\n" for line in cut))
        _block, self._height = self, len(cut)


def _is_terminal(stream: TextIO) -> bool:
    """Whether a line can be rewritten in place there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class _Pace:
    """Amount per second over the last half minute, or since the beginning when that is shorter."""

    def __init__(self) -> None:
        self._points = deque([(time.monotonic(), 0.0)])  # (when, amount so far)

    def add(self, now: float, amount: float) -> None:
        self._points.append((now, self._points[-1][1] + amount))
        while len(self._points) > 2 and self._points[1][0] < now - _PACE_SECONDS:
            self._points.popleft()

    def rate(self, now: float) -> float:
        (since, before), (_, total) = self._points[0], self._points[-1]
        return (total - before) / max(now - since, 1e-3)


def tally(
    counts: Mapping[str, str], rate: str | None = None, reasons: str | None = None
) -> Callable[[Mapping[str, Any]], dict[str, str]]:
    """A `describe` for `map_shards`: what the shards' results add up to so far.

    Args:
        counts: fields of a result that are numbers, and the names under which their sums are shown.
        rate: a field in bytes, shown as MB/s over the last half minute.
        reasons: a field that maps reasons to numbers of documents, shown by the most frequent.

    Returns: a function of one shard's result to the counts of the progress line; it remembers the results before.
    """
    total, lost, pace = Counter[str](), Counter[str](), _Pace()

    def describe(result: Mapping[str, Any]) -> dict[str, str]:
        total.update({field: result[field] for field in counts})
        shown_counts = {name: f"{total[field]:,}" for field, name in counts.items()}
        if rate is not None:
            now = time.monotonic()
            pace.add(now, result[rate])
            shown_counts[""] = f"{pace.rate(now) / 1e6:.1f} MB/s"
        if reasons is not None:
            lost.update(result[reasons])
            most = ", ".join(f"{reason} {count:,}" for reason, count in lost.most_common(_REASONS))
            more = f" and {len(lost) - _REASONS} more" if len(lost) > _REASONS else ""
            shown_counts["dropped"] = f"{lost.total():,} ({most}{more})" if lost else "none"
        return shown_counts

    return describe


def _cut(line: str, columns: int) -> str:
    """The beginning of `line` that fits into `columns` of a terminal."""
    if width(line) <= columns:
        return line
    room, kept = columns - 1, ""
    for character in line:
        room -= width(character)
        if room < 0:
            break
        kept += character
    return kept + "…"


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
