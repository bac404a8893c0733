"""What cleaning needs that no piece holds, made once from the sources and sets that the config names.

Enters: the config. Leaves, committed in the work folder, files that every task of the cleaning opens: the n-grams of
the evaluation sets (see `decontaminate`) and the weights of the quality model (see `classifier`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.cluster.cluster import ShardMap
from pipelines.data.cleaning import classifier, decontaminate
from pipelines.data.cleaning.classifier import Weights
from pipelines.data.cleaning.config import CleaningRecipe, QualityModelConfig
from pipelines.data.cleaning.decontaminate import Lookup
from pipelines.data.sources.config import SourceConfig
from pipelines.store.draft import Draft

_GRAMS, _WEIGHTS = "aids/evaluation-sets.npz", "aids/quality-model.npy"


@dataclass(frozen=True)
class Aids:
    """Which files there are, in the work folder of `work`, and which sources the model scores."""

    work: Draft
    grams: bool = False
    scored: tuple[str, ...] = ()

    def lookup(self) -> Lookup | None:
        """The n-grams of the evaluation sets."""
        return decontaminate.load(self.work.storage.fetch(f"{self.work.folder}/{_GRAMS}")) if self.grams else None

    def weights(self, source: str) -> Weights | None:
        """The quality model, where it scores this source."""
        scored = source in self.scored
        return classifier.load(self.work.storage.fetch(f"{self.work.folder}/{_WEIGHTS}")) if scored else None


@dataclass(frozen=True)
class TrainTask:
    """A quality model to train."""

    work: Draft
    config: QualityModelConfig
    sources: Mapping[str, SourceConfig]

    @property
    def in_words(self) -> str:
        """The examples that it reads, for an error."""
        return "; ".join(f"source {name}: {', '.join(source.reader.paths)}" for name, source in self.sources.items())


def prepare(
    recipe: CleaningRecipe,
    sources: Mapping[str, SourceConfig],
    examples: Mapping[str, SourceConfig],
    work: Draft,
    map_shards: ShardMap,
) -> Aids:
    """Make what is not there yet.

    Args:
        sources: that are read. examples: that the quality model learns from.

    Raises: DataError for an evaluation set that cannot be read or holds nothing to look for, and for too few examples.
    """
    sets, model = recipe.decontaminate, recipe.quality.model
    if sets.sets and work.receipt("evaluation-sets") is None:
        path = work.scratch(_GRAMS)
        grams = decontaminate.gather(sets)
        decontaminate.save(grams, path)
        work.publish("evaluation-sets", {_GRAMS: path}, {"unread": grams.unread})
    if model is None:
        return Aids(work, bool(sets.sets))
    map_shards(train_model, [TrainTask(work, model, examples)], "quality model")
    return Aids(work, bool(sets.sets), tuple(name for name, source in sources.items() if model.scores(name, source)))


def train_model(task: TrainTask) -> dict[str, Any]:
    """Train the model, or return what an earlier run left.

    Returns: the receipt's statistics: how it does on examples it has not seen.
    """
    published = task.work.receipt("quality-model")
    if published is not None:
        return dict(published["statistics"])
    config = task.config
    unread: Counter[str] = Counter()
    good, bad = (classifier.examples(task.sources, names, config, unread) for names in (config.good, config.bad))
    weights, report = classifier.train(good, bad, config)
    report["unread"] = dict(sorted(unread.items()))
    path = task.work.scratch(_WEIGHTS)
    with path.open("wb") as handle:
        np.save(handle, weights)
    task.work.publish("quality-model", {_WEIGHTS: path}, report)
    return report


def unread_items(work: Draft) -> dict[str, dict[str, int]]:
    """By evaluation set, how many of its records could not be read, by reason."""
    published = work.receipt("evaluation-sets")
    return dict(published["statistics"].get("unread", {})) if published else {}


def model_report(work: Draft) -> dict[str, Any]:
    """What `train_model` found."""
    published = work.receipt("quality-model")
    return dict(published["statistics"]) if published else {}
