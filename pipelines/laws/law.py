"""What a fit leaves: a law with an interval on every number, as a file that people and `workflows.plan` read.

Enters: the estimates of a fit. Leaves: `FittedLaw`, plain data all through: `{"law": …, "parameters": {"alpha":
{"value": …, "low": …, "high": …}, …}, …}`. The laws themselves are rows of `LAWS` (`pipelines/laws/__init__.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A number and its interval: low ≤ value ≤ high."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """E.g. `0.29 (0.25 to 0.33)`."""
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low


@dataclass(frozen=True)
class Prediction(Estimate):
    """What a law says of a place: an estimate, and what speaks against trusting it.

    Attributes: beyond, column -> how many times the width of the data (in logarithms) it lies outside of them; empty
        within. warnings: a sentence for each such column.
    """

    beyond: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """A law of `LAWS` with its parameters, and what it was fitted to.

    Attributes:
        law: its name in `LAWS`, e.g. `chinchilla`.
        formula: as a person writes it, e.g. `L = C_N·N^-α + C_D·D^-β + L0`.
        parameters: each with its interval.
        level: of the intervals, e.g. 0.95.
        ranges: column -> smallest and largest value that was fitted to; beyond them a prediction says so and widens.
        points: how many points were fitted; runs, how many runs they are of.
        samples: parameter -> its value in each bootstrap sample, all of one length, so that what is derived of several
            parameters has an interval as well.
        residual_spread: standard deviation of the residuals, in logarithms of the value.
        warnings: what speaks against trusting it, a sentence each.
        unit: of the value that it predicts, e.g. `bits per byte`.
        derived: what follows from the parameters, with intervals, e.g. `eta` of MiniCPM's reading of D/N.
        left_out: why points were not fitted -> their names.
    """

    law: str
    formula: str
    parameters: Mapping[str, Estimate]
    level: float
    ranges: Mapping[str, tuple[float, float]]
    points: int
    runs: int
    samples: Mapping[str, list[float]] = field(default_factory=dict)
    residual_spread: float = 0.0
    warnings: tuple[str, ...] = ()
    unit: str = ""
    derived: Mapping[str, Estimate] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def plain(self) -> dict[str, object]:
        """JSON-able; `read` takes it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def read(values: Mapping[str, object]) -> FittedLaw:
        """The law that `plain` wrote."""
        known = {part.name for part in dataclasses.fields(FittedLaw)}
        given: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        given["parameters"] = {name: Estimate(**estimate) for name, estimate in given["parameters"].items()}
        given["derived"] = {name: Estimate(**estimate) for name, estimate in given.get("derived", {}).items()}
        given["ranges"] = {name: (low, high) for name, (low, high) in given["ranges"].items()}
        given["warnings"] = tuple(given.get("warnings", ()))
        given["left_out"] = {reason: tuple(names) for reason, names in given.get("left_out", {}).items()}
        return FittedLaw(**given)
