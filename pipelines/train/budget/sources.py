"""Tokens and epochs of each source that a stage reads, as far as they are known where nothing has been made yet.

Enters: the recipe of a mixture (conf/mixture/), and what the store knows where there is one: the mixture's plan.
Leaves: a row for each source. Without the tokens nobody knows how often a source is read. Then the row says how many
tokens the source must have, so that it is not read more often than the mixture allows.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.data.stream.mixture import MixturePlan, MixtureRecipe, foreseen


@dataclass(frozen=True)
class SourceNeed:
    """What a stage takes of a source.

    Attributes: available, training tokens of one epoch; None: not known here. most_epochs, by the mixture.
    """

    name: str
    weight: float
    tokens: int
    available: int | None
    most_epochs: float | None

    @property
    def epochs(self) -> float | None:
        """How often it is read; None: not known here."""
        return None if self.available is None else self.tokens / self.available

    @property
    def needed_tokens(self) -> float | None:
        """How many it must have."""
        return None if self.most_epochs is None else self.tokens / self.most_epochs


@dataclass(frozen=True)
class SourceNeeds:
    """All of them, with sentences on what is not known."""

    sources: tuple[SourceNeed, ...]
    unknown: tuple[str, ...]


def of_plan(mixture_plan: MixturePlan, tokens: int) -> SourceNeeds:
    """From a mixture that the store holds. Args: tokens, of the stage."""
    needs = (
        SourceNeed(source.name, source.weight, round(source.weight * tokens), source.available_tokens, None)
        for source in mixture_plan.sources
    )
    return SourceNeeds(tuple(sorted(needs, key=lambda need: -need.weight)), ())


def of_recipe(recipe: MixtureRecipe, tokens: int, tokens_reference: str) -> SourceNeeds:
    """From the recipe alone. Args: tokens, of the stage; tokens_reference, what the mixture would be planned over."""
    weights, absent = foreseen(recipe)
    needs = (
        SourceNeed(name, weight, round(weight * tokens), None, recipe.max_epochs) for name, weight in weights.items()
    )
    unknown = [
        f"epochs: {tokens_reference} is not in this store, so nobody knows how many tokens a source has; the mixture "
        f"allows {recipe.max_epochs:g} epochs"
    ]
    if absent:
        share = sum(absent.values())
        unknown.append(f"no open data stands in for {', '.join(absent)} ({share:.1%}): their share goes to the others")
    if tokens > recipe.budget_tokens:
        unknown.append(
            f"the stage reads {tokens:,} tokens, and the mixture is made for {recipe.budget_tokens:,}: "
            "raise mixture.budget_tokens when you make it"
        )
    return SourceNeeds(tuple(sorted(needs, key=lambda need: -need.weight)), tuple(unknown))
