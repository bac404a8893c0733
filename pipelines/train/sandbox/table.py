"""The live table of trials: on a terminal drawn in place, elsewhere a line for what has ended, every few seconds.

Enters: results as trials end. Leaves: lines. The same counts go onto the page and to MLflow.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.display.progress import LiveBlock, duration, human, say, table
from pipelines.train.trials.result import Status, TrialResult

_LAST = 6  # trials that ended last, below the studies
_LINE_SECONDS = 5.0  # between two lines where nothing can be drawn over
_QUIET_SECONDS = 30.0  # without an end, before a line says how far all is
_DRAW_SECONDS = 0.3
_SIGNS: Mapping[Status, str] = {"finished": "✓", "diverged": "✗", "pruned": "–", "failed": "⚠"}


@dataclass
class Tally:
    """What became of a study's trials so far."""

    trials: int  # in all, those not begun included
    statuses: Counter[Status] = field(default_factory=Counter)
    best: TrialResult | None = None

    @property
    def ended(self) -> int:
        return self.statuses.total()

    def add(self, result: TrialResult) -> None:
        """Count a trial that ended."""
        self.statuses[result.status] += 1
        loss, best = result.loss(), self.best.loss() if self.best else None
        if loss is not None and (best is None or loss < best):
            self.best = result


class TrialTable:
    """Shows how far a sandbox is."""

    def __init__(self, trials: Mapping[str, int], block: LiveBlock | None = None):
        """Args: trials, of each study."""
        self.tallies = {study: Tally(count) for study, count in trials.items()}
        self.block = block or LiveBlock()
        self._began = self._shown = time.monotonic()
        self._last: deque[str] = deque(maxlen=_LAST)
        self._untold: list[str] = []
        self._found = 0  # ended in an earlier command
        # tokens times parameters that are still to be trained, and that this command has trained
        self.work_left = self.work_done = 0.0

    def found(self, study: str, result: TrialResult) -> None:
        """Count a trial of an earlier command."""
        self._found += 1
        self.tallies[study].add(result)

    def ended(self, study: str, result: TrialResult) -> None:
        """Count and show a trial that has just ended."""
        self.tallies[study].add(result)
        loss = result.loss()
        said = f"{loss:.4f} bits/byte" if loss is not None else f"{result.status}: {result.reason.split(': ')[0]}"
        line = f"{_SIGNS[result.status]} {study}: {result.name}  {said}  {human(result.tokens)} tokens"
        self._last.append(line)
        self._untold.append(line)

    def progressed(self, work_left: float, more: bool = False) -> None:
        """Note what is still to be trained. Args: more, whether trials were added, or an edge has ended."""
        if not more:
            self.work_done += max(0.0, self.work_left - work_left)
        self.work_left = work_left

    def more(self, study: str, trials: int) -> None:
        """A study asked for further trials."""
        self.tallies[study].trials += trials

    def show(self, running: int = 0, last: bool = False) -> None:
        """Draw what is known. Args: running, trials that have not ended; last, whatever time has passed since."""
        now = time.monotonic()
        if now - self._shown < (_DRAW_SECONDS if self.block.live else _LINE_SECONDS) and not last:
            return
        if self.block.live:
            self.block.show(self.lines(running))
        elif self._untold or last or now - self._shown > _QUIET_SECONDS:
            for line in self._untold[-3:]:
                say(f"   {line}")
            others = f", {len(self._untold) - 3} more since" if len(self._untold) > 3 else ""
            at_work = f", {running} to go" if running and not self._untold else ""
            say(f"   {self._counts()}{others}{at_work}  {self._left(now)}")
            self._untold.clear()
        else:
            return
        self._shown = now

    def lines(self, running: int) -> list[str]:
        """The table: a row a study, then the trials that ended last."""
        rows = []
        for study, tally in self.tallies.items():
            best = tally.best.loss() if tally.best else None
            counts = [tally.statuses[status] for status in ("finished", "diverged", "pruned", "failed")]
            rows.append([study, f"{tally.ended}/{tally.trials}", *counts, best, tally.best.name if tally.best else ""])
        header = ["study", "ended", "finished", "diverged", "pruned", "failed", "best bits/byte", "of"]
        below = f"   {self._counts()}, {running} to go  {self._left(time.monotonic())}"
        return [*table(header, rows).split("\n"), below, *(f"   {line}" for line in self._last)]

    def _counts(self) -> str:
        ended, trials = (sum(getattr(tally, part) for tally in self.tallies.values()) for part in ("ended", "trials"))
        return f"{ended:,}/{trials:,} trials"

    def _left(self, now: float) -> str:
        spent = now - self._began
        if not self.work_done or not self.work_left:
            return f"in {duration(spent)}"
        return f"in {duration(spent)}, ETA {duration(spent * self.work_left / self.work_done)}"


def finding_rows(findings: Iterable[tuple[str, str, str, str]]) -> str:
    """The findings as a table for the terminal. Args: study, claim, here, verdict."""
    return table(["study", "claim", "here", "verdict"], [list(finding) for finding in findings])
