"""Mixtures: weights per source become token budgets, epochs and a plan that the loader follows on the fly.

Enters: a recipe (weights that sum to 1, a token budget, the most epochs a source may be read) and the statistics of
a `tokens` artifact. Leaves: a `MixturePlan`, stored as `mixture.json`. Nothing is copied or shuffled on disk, so an
ablation over weights costs a config, not a rewrite of the tokens.

A weight is a share of *samples*, and every sample is one window, so it is the share of tokens. Repetition: up to
about four epochs of a source are nearly as good as fresh data (Muennighoff et al. 2023, arXiv 2305.16264), hence the
default `max_epochs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pipelines.config import Count, Positive, Share, config_class, plain, runtime
from pipelines.data.stream.interleave import SMALLEST_WEIGHT
from pipelines.errors import ConfigError, DataError

Packing = Literal["windows", "documents"]
_TOLERANCE = 1e-6


@config_class
class MixtureRecipe:
    """What is asked of a mixture."""

    name: str = runtime("")  # of its file conf/mixture/<name>.yaml, for messages
    weights: dict[str, Share]  # source -> share of the samples; sums to 1
    budget_tokens: Count  # tokens that a stage reads of this mixture
    max_epochs: Positive = 4.0  # no source may be read more often than this
    missing: Literal["refuse", "drop"] = "refuse"  # a source that the tokens do not hold: stop, or share its weight out
    no_stand_in: list[str] = field(
        default_factory=list
    )  # weights shared out whatever `missing` says: no open data for them

    def __post_init__(self) -> None:
        file = f"conf/mixture/{self.name or '<name>'}.yaml"
        if self.budget_tokens <= 0 or self.max_epochs <= 0:
            raise ConfigError(
                f"mixture.budget_tokens is {self.budget_tokens} and max_epochs {self.max_epochs}; "
                f"both must be positive: edit {file}"
            )
        if not self.weights:
            raise ConfigError(f"the mixture has no weights; expected source: weight lines that sum to 1.0: edit {file}")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"mixture.weights.{name} is {weight}; expected a share between 0 and 1: edit {file}")
            if 0 < weight < SMALLEST_WEIGHT:
                raise ConfigError(
                    f"mixture.weights.{name} is {weight}; expected 0 or at least {SMALLEST_WEIGHT:g}, one sample in a "
                    f"million million: edit {file}"
                )
        total = math.fsum(self.weights.values())
        if abs(total - 1) > _TOLERANCE:
            raise ConfigError(f"mixture weights sum to {total:.9g}; expected 1.0: edit {file}")
        if unknown := [name for name in self.no_stand_in if name not in self.weights]:
            raise ConfigError(
                f"mixture.no_stand_in names {', '.join(unknown)}, which has no weight; "
                f"expected some of {', '.join(self.weights)}: edit {file}"
            )


@dataclass(frozen=True, kw_only=True)
class PlannedSource:
    """One source's part in a mixture."""

    name: str
    kind: str  # documents | conversations
    weight: float  # share of the samples
    available_tokens: int  # in one epoch
    budget_tokens: int
    epochs: float  # budget_tokens / available_tokens
    packing: Packing  # windows: fixed windows across documents; documents: whole documents, never cut in two


@dataclass(frozen=True, kw_only=True)
class MixturePlan:
    """What the loader follows; the content of `mixture.json`."""

    tokens: str  # reference of the artifact that holds the shards
    tokens_fingerprint: str
    sources: tuple[PlannedSource, ...]
    dropped: dict[str, float]  # sources that were asked for and are absent -> their weight in the recipe

    @property
    def weights(self) -> dict[str, float]:
        """Source -> share of the samples."""
        return {source.name: source.weight for source in self.sources}

    @property
    def budget_tokens(self) -> int:
        """Tokens over all sources."""
        return sum(source.budget_tokens for source in self.sources)

    def to_json(self) -> dict[str, Any]:
        """The plain form that `from_json` reads."""
        return cast(dict[str, Any], plain(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MixturePlan:
        """The plan stored in `mixture.json`."""
        return cls(**{**values, "sources": tuple(PlannedSource(**source) for source in values["sources"])})


def plan_mixture(recipe: MixtureRecipe, tokens: str, fingerprint: str, statistics: Mapping[str, Any]) -> MixturePlan:
    """Turn weights into token budgets and epochs.

    Args:
        recipe: what is asked.
        tokens: reference of the tokens artifact, with its `fingerprint` and `statistics`.

    Raises: ConfigError for a source that the tokens do not hold, that cannot be mixed, or that would be read more than
        `max_epochs` times (with the largest weight and budget that fit).
    """
    available = {
        name: source
        for name, source in statistics["sources"].items()
        if source["kind"] != "preferences" and source["train"]["tokens"] and source["train"].get("loss_tokens", 1)
    }
    asked = {name: weight for name, weight in recipe.weights.items() if weight > 0}
    absent = {name: weight for name, weight in asked.items() if name not in available}
    refused = [name for name in absent if recipe.missing == "refuse" and name not in recipe.no_stand_in]
    if refused or len(absent) == len(asked):
        refused = refused or list(absent)
        preferences = [name for name in refused if name in statistics["sources"]]
        why = (
            f" ({', '.join(preferences)} cannot be mixed: preference pairs, or no training token that counts in the "
            "loss)"
            if preferences
            else ""
        )
        raise ConfigError(
            f"mixture {recipe.name} asks for {', '.join(refused)}, which {tokens} does not hold{why}; "
            f"it holds {', '.join(sorted(available))}: "
            f"edit conf/mixture/{recipe.name or '<name>'}.yaml, or mixture.missing=drop to share their weight out"
        )
    share = math.fsum(
        weight for name, weight in asked.items() if name not in absent
    )  # so that the plan's weights sum to 1
    planned = []
    for name, weight in asked.items():
        if name in absent:
            continue
        source = available[name]
        planned.append(_source(name, source["kind"], weight / share, source["train"]["tokens"], recipe.budget_tokens))
    for planned_source in planned:
        if planned_source.epochs > recipe.max_epochs:
            raise ConfigError(_too_often(planned_source, recipe, planned))
    return MixturePlan(tokens=tokens, tokens_fingerprint=fingerprint, sources=tuple(planned), dropped=absent)


def foreseen(recipe: MixtureRecipe) -> tuple[dict[str, float], dict[str, float]]:
    """The mixture as far as the recipe alone tells, before there are tokens.

    Returns: source -> share of the samples after what has no stand-in is left out; and what is left out -> its weight.
    """
    absent = {name: weight for name, weight in recipe.weights.items() if name in recipe.no_stand_in and weight > 0}
    share = 1 - math.fsum(absent.values())
    return {n: w / share for n, w in recipe.weights.items() if w > 0 and n not in absent}, absent


def plan_conversations(
    tokens: str, fingerprint: str, statistics: Mapping[str, Any], epochs: float = 1.0
) -> MixturePlan:
    """The plan of supervised fine-tuning: every conversation source, each in proportion to its tokens.

    In proportion to tokens, all sources end their epochs together: every conversation is read equally often.

    Raises: DataError when the tokens hold no conversations.
    """
    conversations = {
        name: source
        for name, source in statistics["sources"].items()
        if source["kind"] == "conversations" and source["train"]["tokens"]
    }
    if not conversations:
        raise DataError(
            f"{tokens} holds no conversations; it holds {', '.join(sorted(statistics['sources']))}: "
            "add a source of kind conversations to its corpus"
        )
    total = sum(source["train"]["tokens"] for source in conversations.values())
    planned = (
        _source(
            name, source["kind"], source["train"]["tokens"] / total, source["train"]["tokens"], round(total * epochs)
        )
        for name, source in sorted(conversations.items())
    )
    return MixturePlan(tokens=tokens, tokens_fingerprint=fingerprint, sources=tuple(planned), dropped={})


def rows(mixture_plan: MixturePlan) -> list[list[Any]]:
    """Table rows under `HEADER`, the heaviest source first, and their sum."""
    lines: list[list[Any]] = [
        [s.name, s.kind, s.packing, _percent(s.weight), s.budget_tokens, s.available_tokens, round(s.epochs, 2)]
        for s in sorted(mixture_plan.sources, key=lambda s: (-s.weight, s.name))
    ]
    return [
        *lines,
        [
            "total",
            "",
            "",
            "100.0%",
            mixture_plan.budget_tokens,
            sum(s.available_tokens for s in mixture_plan.sources),
            None,
        ],
    ]


HEADER = ("source", "kind", "packing", "weight", "budget tokens", "available", "epochs")


def _percent(weight: float) -> str:
    """One decimal, and two digits of what that would round to nothing."""
    return f"{weight:.1%}" if weight >= 0.0005 else f"{100 * weight:.2g}%"


def _source(name: str, kind: str, weight: float, available: int, budget: int) -> PlannedSource:
    return PlannedSource(
        name=name, kind=kind, weight=weight, available_tokens=available, budget_tokens=round(weight * budget),
        epochs=weight * budget / available, packing="documents" if kind == "conversations" else "windows",
    )  # fmt: skip


def _too_often(source: PlannedSource, recipe: MixtureRecipe, sources: list[PlannedSource]) -> str:
    fits = recipe.max_epochs * source.available_tokens
    largest = min(recipe.max_epochs * s.available_tokens / s.weight for s in sources)
    return (
        f"source {source.name} would be read {source.epochs:.2f} times "
        f"({source.budget_tokens:,} tokens asked of {source.available_tokens:,}); "
        f"mixture.max_epochs is {recipe.max_epochs:g}: "
        f"lower its weight from {source.weight:.4g} to {_floor(fits / recipe.budget_tokens):g}, "
        f"or mixture.budget_tokens to {int(largest)}, or raise max_epochs"
    )


def _floor(value: float) -> float:
    """`value` cut to three significant digits."""
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
