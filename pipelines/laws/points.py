"""The points that a law is fitted to: checked, what cannot be used left out by name and count.

Enters: columns of numbers, the run of each point. Leaves: `Points`, or a ConfigError that says what is missing and what
to do. Diverged runs (a loss that is no number) say nothing about a curve through those that did not: they are left
out, and named. Refused is what no fit could answer: too few points, one size only, a column that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import ConfigError
from pipelines.laws.minimise import Array

_TOGETHER = 0.998
_NAMED = 5  # points that a sentence names before it counts the rest


@dataclass(frozen=True)
class Points:
    """n points. Attributes: columns, name -> (n,); runs, the run of each point; groups, likewise, where a law has any;
    left_out, reason -> the names of the points; warnings, a sentence each."""

    columns: Mapping[str, Array]
    runs: tuple[str, ...]
    groups: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...]
    runs_named: bool

    def __len__(self) -> int:
        return len(self.runs)

    def within(self, places: Sequence[int]) -> Points:
        """Those at some places alone."""
        chosen = np.asarray(places, int)
        return Points(
            {name: values[chosen] for name, values in self.columns.items()},
            tuple(self.runs[place] for place in places),
            tuple(self.groups[place] for place in places),
            self.left_out,
            self.warnings,
            self.runs_named,
        )


def joined(parts: Sequence[Points]) -> Points:
    """Parts of the same points, one after another."""
    first = parts[0]
    return Points(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        tuple(run for part in parts for run in part.runs),
        tuple(group for part in parts for group in part.groups),
        first.left_out,
        first.warnings,
        first.runs_named,
    )


def check_columns(law: str, needed: Mapping[str, str], optional: Mapping[str, str], given: Sequence[str]) -> None:
    """Raises: ConfigError for a column that is missing, or that the law has no use for."""
    accepted = ", ".join(f"{name} ({meaning})" for name, meaning in needed.items())
    more = "".join(f"; optional: {name} ({meaning})" for name, meaning in optional.items())
    missing = [name for name in needed if name not in given]
    unknown = [name for name in given if name not in needed and name not in optional]
    if missing:
        raise ConfigError(
            f"law {law} needs the columns {accepted}{more}; there are {', '.join(given) or 'none'}, so "
            f"{', '.join(missing)} is missing: name it, on a command line as columns.{missing[0]}=<name in the data>"
        )
    if unknown:
        raise ConfigError(
            f"law {law} has no column {', '.join(unknown)}; it takes {accepted}{more}: leave it out or choose its law"
        )


def read_points(
    law: str,
    columns: Mapping[str, Sequence[float]],
    runs: Sequence[str] | None,
    groups: Sequence[str] | None,
    predicts: str,
) -> Points:
    """The usable points. Args: predicts, the column that is predicted: where it is no number, the run diverged.

    Raises: ConfigError for columns of different lengths, or text where a number is due.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    lengths |= {"runs": len(runs)} if runs is not None else {}
    lengths |= {"groups": len(groups)} if groups is not None else {}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ConfigError(f"law {law}: columns of different lengths ({told}); expected one value a point in each")
    arrays = {name: _numbers(law, name, values) for name, values in columns.items()}
    count = next(iter(lengths.values()), 0)
    names = [str(run) for run in runs] if runs is not None else [f"point {place + 1}" for place in range(count)]
    labels = [str(group) for group in groups] if groups is not None else [""] * count
    kept: list[int] = []
    left_out: dict[str, list[str]] = {}
    seen: dict[tuple[object, ...], int] = {}
    twins: list[str] = []
    for place in range(count):
        values = {name: float(array[place]) for name, array in arrays.items()}
        key = (*values.values(), labels[place], names[place] if runs is not None else "")
        reason = _unusable(values, predicts)
        if reason is None and key in seen:
            reason = "is there twice with the very same values, counted once"
        if reason is not None:
            left_out.setdefault(reason, []).append(names[place])
            continue
        twin = seen.get((*values.values(), labels[place]))
        if runs is not None and twin is not None and names[twin] != names[place]:
            twins.append(f"{names[place]} and {names[twin]}")
        seen.setdefault(key, place)
        seen.setdefault((*values.values(), labels[place]), place)
        kept.append(place)
    warnings = [
        f"{len(points)} of {count} points left out: {reason}: {_listed(points)}" for reason, points in left_out.items()
    ]
    if twins:
        warnings.append(
            f"different runs with the very same values ({_listed(twins)}): if it is one run under two names, name it "
            "once, or the intervals are too narrow"
        )
    chosen = np.asarray(kept, int)
    return Points(
        {name: array[chosen] for name, array in arrays.items()},
        tuple(names[place] for place in kept),
        tuple(labels[place] for place in kept),
        {reason: tuple(points) for reason, points in left_out.items()},
        tuple(warnings),
        runs is not None,
    )


def check_enough(law: str, points: Points, fewest_points: int, fewest_values: Mapping[str, int]) -> None:
    """Raises: ConfigError for fewer points, or fewer different values of a column, than the law can be fitted to."""
    without = f" ({'; '.join(points.warnings)})" if points.left_out else ""
    for name, fewest in fewest_values.items():
        values = sorted({float(f"{value:.9g}") for value in points.columns[name]})
        if len(values) < fewest and len(points):
            told = ", ".join(f"{value:.6g}" for value in values)
            one = "one value only" if len(values) == 1 else f"{len(values)} different values"
            raise ConfigError(
                f"law {law} needs at least {fewest} different values of {name}; there is {one} ({told}){without}: add "
                f"runs at other values of {name}, or, where {name} shall not vary, fit law=power to the other column"
            )
    if len(points) < fewest_points:
        raise ConfigError(
            f"law {law} needs at least {fewest_points} points; {len(points)} can be used{without}: add runs"
        )


def check_apart(law: str, points: Points, first: str, second: str) -> None:
    """Raises: ConfigError where two columns rise together in all points, so that nobody could tell them apart."""
    together = float(np.corrcoef(np.log(points.columns[first]), np.log(points.columns[second]))[0, 1])
    if abs(together) > _TOGETHER:
        raise ConfigError(
            f"law {law}: {first} and {second} rise together in all points (correlation {together:.4f} of their "
            f"logarithms), so what one does cannot be told from what the other does: add points with other {second} at "
            f"the same {first}, or fit law=power to one of them"
        )


def _numbers(law: str, name: str, values: Sequence[float]) -> Array:
    numbers = []
    for place, value in enumerate(values):
        if value is None or str(value).strip() == "":
            numbers.append(math.nan)
            continue
        try:
            numbers.append(float(value))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"law {law}: {name} of point {place + 1} is {value!r}; expected a number: is it the right column?"
            ) from error
    return np.asarray(numbers, np.float64)


def _unusable(values: Mapping[str, float], predicts: str) -> str | None:
    """Why a point cannot be used."""
    for name, value in values.items():
        if not math.isfinite(value):
            shown = "is missing or no number" if math.isnan(value) else "is infinite"
            return f"{name} {shown}" + (", a run that diverged" if name == predicts == "loss" else "")
        if value <= 0:
            return f"{name} is not above 0, and has no logarithm"
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
