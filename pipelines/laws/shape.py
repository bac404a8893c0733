"""A row of `LAWS`: a formula, its columns, and how it is fitted; and the curve that most of them are.

`PowerSum` is y = Σ C_k·x_k^(s_k·a_k) + c, a sum of powers of the columns and a constant, as `chinchilla`, `minicpm`,
`power` and `batch` are. Its parameters are searched as log C_k, a_k and log c, where the sum is a log-sum-exp: the form
of Hoffmann et al. 2022 (arXiv 2203.15556, D.3), in which no term changes its sign.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipelines.laws.law import Estimate
from pipelines.laws.minimise import Array
from pipelines.laws.points import Points

if TYPE_CHECKING:
    from pipelines.laws.regression import Fit, FitSettings

_EXPONENTS = (0.05, 0.2, 0.5, 1.0, 2.0)
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of a term in what is left of y beside the constant
_CONSTANTS = (0.02, 0.3, 0.6, 0.9, 0.99)  # of the smallest y
_NO_CONSTANT = -60.0  # a logarithm: 1e-26


class Shape(Protocol):
    """A curve that `regression.py` fits. S parameter vectors, n points, p parameters."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in the order of the search."""

    @property
    def predicts(self) -> str:
        """The column that the curve goes through."""

    def curve(self, columns: Mapping[str, Array]) -> Callable[[Array], tuple[Array, Array]]:
        """Parameter vectors (S, p) -> log of the prediction at the points, (S, n), and its derivatives, (S, n, p)."""

    def starts(self, columns: Mapping[str, Array]) -> Array:
        """Where the search begins, (starts, p)."""

    def public(self, parameters: Array) -> dict[str, Array]:
        """Name -> its values (S,), of vectors of the search, where some parameters are logarithms."""

    def searched(self, values: Mapping[str, Array]) -> Array:
        """The inverse of `public`."""

    def doubts(self, estimates: Mapping[str, Estimate], columns: Mapping[str, Array]) -> tuple[str, ...]:
        """What speaks against trusting the estimates, a sentence each."""


@dataclass(frozen=True)
class Term:
    """C·x^(sign·a): the column x, the names of C and a."""

    column: str
    factor: str
    exponent: str
    sign: float
    scale: float = 1.0  # the column is divided by it


@dataclass(frozen=True)
class PowerSum:
    """The terms, the column that they sum up to, and the constant's name, "" without one."""

    terms: tuple[Term, ...]
    predicts: str
    constant: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Factors and exponents by turns, then the constant."""
        pairs = [name for term in self.terms for name in (term.factor, term.exponent)]
        return (*pairs, *((self.constant,) if self.constant else ()))

    def logs(self, columns: Mapping[str, Array]) -> Array:
        """sign·log x of each term, (terms, n)."""
        return np.stack([term.sign * np.log(columns[term.column] / term.scale) for term in self.terms])

    def curve(self, columns: Mapping[str, Array]) -> Callable[[Array], tuple[Array, Array]]:
        """Log of the sum; a term's derivatives are its share of the sum."""
        logs = self.logs(columns)
        count = len(self.terms)

        def at(parameters: Array) -> tuple[Array, Array]:
            parts = [
                parameters[:, 2 * k, None] + parameters[:, 2 * k + 1, None] * logs[k][None, :] for k in range(count)
            ]
            if self.constant:
                parts.append(np.broadcast_to(parameters[:, 2 * count, None], parts[0].shape))
            stacked = np.stack(parts)
            top = stacked.max(0)
            raised = np.exp(stacked - top)
            total = raised.sum(0)
            shares = raised / total
            slopes = [shares[k] * factor for k in range(count) for factor in (1.0, logs[k][None, :])]
            slopes += [shares[count]] if self.constant else []
            return top + np.log(total), np.stack(slopes, -1)

        return at

    def starts(self, columns: Mapping[str, Array]) -> Array:
        """A grid of starts in the way of Hoffmann et al., laid over the share that each term has in y at the centre of
        the data rather than over its factor, which depends on units."""
        logs = self.logs(columns)
        centre = np.median(logs, axis=1)
        values = columns[self.predicts]
        typical, least = float(np.median(values)), float(values.min())
        constants = [share * least for share in _CONSTANTS] if self.constant else [0.0]
        splits: list[tuple[float, ...]] = [(1.0,)]
        if len(self.terms) > 1:
            splits = [(share, 1 - share) for share in _SHARES]
        rows = []
        for constant, split in itertools.product(constants, splits):
            for exponents in itertools.product(_EXPONENTS, repeat=len(self.terms)):
                row: list[float] = []
                for k, exponent in enumerate(exponents):
                    amount = max(typical - constant, 0.01 * typical) * split[k]
                    row += [float(np.log(amount) - exponent * centre[k]), exponent]
                rows.append([*row, float(np.log(constant))] if self.constant else row)
        if len(self.terms) == 1:  # also a curve that falls where the law's sign says that it rises
            falling = [[row[0] + 2 * row[1] * float(centre[0]), -row[1], *row[2:]] for row in rows]
            rows += falling
        return np.asarray(rows)

    def public(self, parameters: Array) -> dict[str, Array]:
        """Factors and constant are no logarithms any more."""
        plain = {}
        for place, name in enumerate(self.names):
            is_exponent = place % 2 == 1 and place < 2 * len(self.terms)
            plain[name] = parameters[:, place] if is_exponent else np.exp(np.clip(parameters[:, place], -700.0, 700.0))
        return plain

    def searched(self, values: Mapping[str, Array]) -> Array:
        """Factors and constant as logarithms."""
        rows = []
        for place, name in enumerate(self.names):
            is_exponent = place % 2 == 1 and place < 2 * len(self.terms)
            value = np.atleast_1d(np.asarray(values[name], np.float64))
            rows.append(value if is_exponent else np.log(np.maximum(value, 1e-300)))
        return np.stack(rows, -1)

    def doubts(self, estimates: Mapping[str, Estimate], columns: Mapping[str, Array]) -> tuple[str, ...]:
        """Of a law of several terms: exponents that may be 0."""
        if len(self.terms) == 1:
            return ()
        return tuple(
            f"{term.exponent} may be 0 or below ({estimates[term.exponent]}): the points do not show that "
            f"{self.predicts} depends on {term.column}"
            for term in self.terms
            if estimates[term.exponent].low <= 0
        )


@dataclass(frozen=True, kw_only=True)
class Law:
    """A row of `LAWS`.

    Attributes:
        title: what it is, in a few words. formula: as a person writes it. source: where it is from.
        columns: name -> what it is, of those that it needs; optional, of those that it can use.
        predicts: the column that is predicted.
        fewest_points; fewest_values: column -> how many different values of it.
        fit: the fit of checked points. predict: parameters (each (S,)), inputs -> values (S,).
        inputs: the columns that a prediction needs. shape: the curve, where it is one.
        derived: parameters -> what follows from them, name -> (S,).
    """

    title: str
    formula: str
    source: str
    columns: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    predicts: str
    fewest_points: int
    fewest_values: Mapping[str, int]
    fit: Callable[[Points, FitSettings], Fit]
    predict: Callable[[Mapping[str, Array], Mapping[str, float]], Array]
    inputs: tuple[str, ...]
    shape: Shape | None = None
    derived: Callable[[Mapping[str, Array]], dict[str, Array]] = lambda parameters: {}
