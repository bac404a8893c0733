"""What a study says: laws, findings beside the published ones, plots with a sentence each, proposals for the big run.

Every number has an interval, or the finding says that it cannot be told at this size. At least three seeds stand
behind a claim; `Finding.verdict_of` never calls fewer reproduced or contradicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipelines.laws.law import Estimate, FittedLaw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["reproduced", "contradicted", "cannot be told at this size"]
FEWEST_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the findings table.

    Attributes:
        claim: what was published, as a sentence that can be false, e.g. `the best learning rate does not move with
            the width`.
        published: the published number or words, with its source, e.g. `0.01 at 0.04B to 0.5B (§4.2, Fig. 3)`.
        quantity: what was measured here, e.g. `drift of the optimum per doubling of the width, in powers of two`.
        estimate: here, with its interval; None where there is none.
        verdict, reason: in words; the reason says what decides, e.g. `the interval holds 0 and is narrower than ±0.5`.
        seeds: how many are behind it. runs: folders of the runs that it comes from.
    """

    claim: str
    published: str
    quantity: str
    estimate: Estimate | None
    verdict: Verdict
    reason: str
    seeds: int
    runs: tuple[str, ...]


def verdict_of(agrees: bool | None, seeds: int) -> Verdict:
    """The verdict. Args: agrees, whether the interval lies where the claim says; None: it does not decide."""
    if agrees is None or seeds < FEWEST_SEEDS:
        return "cannot be told at this size"
    return "reproduced" if agrees else "contradicted"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture and the sentence that says what to see in it. Drawn late: matplotlib is imported by `draw`."""

    name: str  # a file name without ending
    title: str
    sentence: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A value for the big run's config, and where it comes from.

    Attributes:
        key: of the config, e.g. `schedule.peak_lr`; or `mixture.weights`, `batch_tokens`, `decay_fraction`.
        value: for a target of any size; None where `law` gives it for each size.
        law: name in `Outcome.laws` that gives the value (or explains it); "" without one.
        sentence: why, with the interval, for the comment beside the value.
        runs: folders of the runs that it comes from.
    """

    key: str
    value: Any
    estimate: Estimate | None
    law: str
    sentence: str
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a study says. What it could not say stands in `notes`, a sentence each."""

    laws: Mapping[str, FittedLaw] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    plots: tuple[Plot, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    # rows of a table: heading -> text; shown under the plots
    tables: Mapping[str, tuple[tuple[str, ...], ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """JSON-able, without the pictures' drawing."""
        return {
            "laws": {name: law.plain() for name, law in self.laws.items()},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "plots": [{"name": plot.name, "title": plot.title, "sentence": plot.sentence} for plot in self.plots],
            "proposals": [dataclasses.asdict(proposal) for proposal in self.proposals],
            "tables": {heading: [list(row) for row in rows] for heading, rows in self.tables.items()},
            "notes": list(self.notes),
        }
