"""What the recipe should show, and whether this run does.

A claim whose numbers are missing says so; nothing is claimed that the numbers do not show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.display.report.results import StageResult, run_of

_NO_RUN = "no run to compare with"
Rival = Callable[[Sequence[StageResult], StageResult], StageResult | None]


@dataclass(frozen=True)
class Claim:
    """Something that the recipe should show, and whether this run does."""

    text: str
    holds: bool | None  # None: the numbers to tell are missing
    numbers: str

    @property
    def compares(self) -> bool:
        """Whether the recipe has the stages that the claim is about."""
        return self.numbers != _NO_RUN


def claims(results: Sequence[StageResult]) -> list[Claim]:
    """Every claim, computed for the last result of its stage."""
    return [_claim(results, *claimed) for claimed in _CLAIMED]


def _claim(results: Sequence[StageResult], text: str, kind: str, name: str, rival_of: Rival) -> Claim:
    """Args: name, of the number that must be better than the rival's, by its own direction."""
    ours = next((result for result in reversed(results) if result.kind == kind), None)
    theirs = rival_of(results, ours) if ours else None
    number = ours.number(name) if ours else None
    mine, other = (result.value(name) if result else None for result in (ours, theirs))
    if ours is None or theirs is None or number is None or mine is None or other is None:
        return Claim(text, None, _NO_RUN if theirs is None else "not evaluated")
    if ours.heldout != theirs.heldout:
        sets = f"{ours.reference} on {ours.heldout}, {theirs.reference} on {theirs.heldout}"
        return Claim(text, None, f"measured on different held-out sets: {sets}")
    form = ".1%" if number["share"] else ".4f"
    numbers = (
        f"{ours.reference} {mine:{form}}, {theirs.reference} {other:{form}} {number['unit']} ({mine - other:+{form}})"
    )
    return Claim(text, mine < other if number["better"] == "lower" else mine > other, numbers)


def _trunk_beside(results: Sequence[StageResult], branch: StageResult) -> StageResult | None:
    """The evaluated pretrain result nearest to the branch's tokens, within 1 %."""
    trunks = [result for result in results if result.kind == "pretrain" and result.evaluation]
    nearest = min(trunks, key=lambda result: abs(result.tokens_end - branch.tokens_end), default=None)
    if nearest is None or abs(nearest.tokens_end - branch.tokens_end) > 0.01 * branch.tokens_end:
        return None
    return nearest


def _parent(results: Sequence[StageResult], child: StageResult) -> StageResult | None:
    """The result of the very checkpoint that it began from, or else of its run."""
    if child.parent is None:
        return None
    exact = [result for result in results if result.reference == child.parent]
    of_run = [result for result in results if run_of(result.reference) == run_of(child.parent)]
    return next(iter([*exact, *of_run]), None)


_CLAIMED: tuple[tuple[str, str, str, Rival], ...] = (
    (
        "The annealed branch ends below the trunk trained on at stable LR for the same tokens",
        "anneal",
        "bits_per_byte",
        _trunk_beside,
    ),
    ("SFT lowers held-out assistant loss", "sft", "assistant_loss", _parent),
    ("DPO raises held-out preference accuracy above SFT's", "dpo", "preference_accuracy", _parent),
)
