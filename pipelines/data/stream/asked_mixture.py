"""A mixture as a YAML asks for it: weights stated, or worked out from the tokens that there are.

Enters: the values of conf/mixture/, and the statistics of a `tokens` artifact. Leaves: a `MixtureRecipe` with every
weight and the budget stated, which is what decides the artifact.

With `weights: auto` nothing depends on the names of sources. Every source of documents weighs what it has of all
tokens, so all of them are read equally often. `conversations` is the share of samples that conversations get beside
them, where there are some: as much as that, and no more than their `max_epochs` give. The budget is then `epochs` of
the documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pipelines.config import Count, Positive, Share, config_class, runtime
from pipelines.data.stream.mixture import MixtureRecipe
from pipelines.errors import ConfigError

_TOLERANCE = 1e-6
_LEAST_TOKENS = 65  # of the largest shard of a source that is read at all: windows are no shorter
REPLACING = (
    "a mapping on the command line is merged into the one that is there; "
    "'~mixture.weights' '+mixture.weights={docs: 0.7, web: 0.3}' replaces it"
)


@config_class
class AskedMixture:
    """What is asked of a mixture."""

    name: str = runtime("")  # of its file conf/mixture/<name>.yaml, for messages
    # source -> share of the samples; sums to 1. auto: by the tokens of the sources
    weights: dict[str, Share] | Literal["auto"]
    budget_tokens: Count | None = None  # tokens that a stage reads of this mixture; or
    epochs: Positive | None = None  # how often the sources of documents are read
    conversations: Share = 0.0  # share of the samples, with weights: auto
    max_epochs: Positive = 4.0  # no source may be read more often than this
    missing: Literal["refuse", "drop"] = "refuse"  # a source that the tokens do not hold: stop, or share its weight out
    no_stand_in: list[str] = field(
        default_factory=list
    )  # weights shared out whatever `missing` says: no open data for them

    def __post_init__(self) -> None:
        """Raises: ConfigError for what no tokens could make right."""
        file = f"conf/mixture/{self.name or '<name>'}.yaml"
        if (self.budget_tokens is None) == (self.epochs is None):
            said = (
                "both are null" if self.epochs is None else f"{self.budget_tokens:,} tokens and {self.epochs:g} epochs"
            )
            raise ConfigError(
                f"mixture.budget_tokens and mixture.epochs: {said}; expected one of them, the other null: edit {file}"
            )
        if self.weights == "auto":
            if self.conversations >= 1:
                raise ConfigError("mixture.conversations is 1; expected a share below 1: documents get the rest")
            if self.epochs is not None and self.epochs > self.max_epochs:
                raise ConfigError(
                    f"mixture.epochs is {self.epochs:g} and mixture.max_epochs {self.max_epochs:g}; no source may be "
                    "read more often than that: lower epochs, or raise max_epochs"
                )
            return
        if self.conversations:
            raise ConfigError(
                f"mixture.conversations={self.conversations:g} is of weights: auto; here weights are stated: give the "
                "sources of conversations weights of their own"
            )
        assert isinstance(self.weights, dict)
        total = math.fsum(self.weights.values())
        if self.weights and abs(total - 1) > _TOLERANCE:
            raise ConfigError(
                f"mixture weights sum to {total:.9g} ("
                f"{', '.join(f'{name} {weight:g}' for name, weight in self.weights.items())}); expected 1.0: edit "
                f"{file}, or change single ones (mixture.weights.{next(iter(self.weights))}=…). {REPLACING}"
            )
        _ = self.stated(1)  # refuses what else is wrong

    @classmethod
    def of(cls, recipe: MixtureRecipe) -> AskedMixture:
        """A recipe in the words of its YAML: what was worked out is then stated, and decides the artifact."""
        return cls(
            name=recipe.name, weights=recipe.weights, budget_tokens=recipe.budget_tokens,
            max_epochs=recipe.max_epochs, missing=recipe.missing, no_stand_in=recipe.no_stand_in,
        )  # fmt: skip

    def stated(self, budget_tokens: int) -> MixtureRecipe:
        """The recipe of stated weights."""
        assert isinstance(self.weights, dict)
        return MixtureRecipe(
            name=self.name, weights=self.weights, budget_tokens=budget_tokens, max_epochs=self.max_epochs,
            missing=self.missing, no_stand_in=self.no_stand_in,
        )  # fmt: skip


def settle(asked: AskedMixture, tokens: str, statistics: Mapping[str, Any]) -> tuple[MixtureRecipe, dict[str, str]]:
    """The recipe with everything stated, and what is said of it: label -> text.

    Args: tokens, reference of the tokens artifact with these `statistics`.
    Raises: ConfigError where the tokens hold nothing that can be mixed.
    """
    sources = statistics["sources"]
    if asked.weights != "auto":
        assert isinstance(asked.weights, dict)
        if asked.budget_tokens is not None:
            return asked.stated(asked.budget_tokens), {}
        assert asked.epochs is not None
        rates = [
            weight / sources[name]["train"]["tokens"]
            for name, weight in asked.weights.items()
            if weight and sources.get(name, {}).get("train", {}).get("tokens")
        ]
        # so many epochs of the source that is read most often
        budget = int(asked.epochs / max(rates)) if rates else 1
        return asked.stated(max(1, budget)), {}
    available = {
        kind: {
            name: source["train"]["tokens"]
            for name, source in sources.items()
            if source["kind"] == kind
            and source["train"].get("loss_tokens", 1)
            and max(source["train"]["shard_tokens"], default=0) >= (_LEAST_TOKENS if kind == "documents" else 1)
        }
        for kind in ("documents", "conversations")
    }
    documents, talk = available["documents"], available["conversations"]
    if not documents:
        raise ConfigError(
            f"{tokens} holds no documents to mix; it holds {', '.join(sorted(sources)) or 'nothing'}: a model is first "
            "trained on text: add a source of kind documents to its corpus"
        )
    of_documents, of_talk = sum(documents.values()), sum(talk.values())
    share = asked.conversations if talk else 0.0
    wanted = asked.epochs * of_documents if asked.epochs is not None else float(asked.budget_tokens or 1)
    read = wanted if asked.epochs is not None else (1 - share) * wanted
    # no source of conversations more than max_epochs times
    share = min(share, asked.max_epochs * of_talk / (read + asked.max_epochs * of_talk))
    budget = int(read / (1 - share)) if asked.epochs is not None else int(wanted)
    weights = {name: (1 - share) * count / of_documents for name, count in documents.items()}
    weights |= {name: share * count / of_talk for name, count in talk.items() if share}
    recipe = MixtureRecipe(
        name=asked.name, weights=weights, budget_tokens=max(1, budget), max_epochs=asked.max_epochs,
        missing=asked.missing, no_stand_in=asked.no_stand_in,
    )  # fmt: skip
    return recipe, _told(asked, sources, documents, talk, share)


def _told(
    asked: AskedMixture, sources: Mapping[str, Any], documents: Mapping[str, int], talk: Mapping[str, int], share: float
) -> dict[str, str]:
    told = {"weights": "by the tokens of each source of documents (weights: auto)"}
    if talk and asked.conversations:
        less = " (all that max_epochs gives)" if share < asked.conversations - _TOLERANCE else ""
        told["weights"] += f", conversations {share:.1%} of the samples{less}"
    small = [name for name, source in sources.items() if source["kind"] == "documents" and name not in documents]
    if small:
        told["not read"] = f"{', '.join(small)}: no training text to speak of (below {_LEAST_TOKENS} tokens)"
    return told
