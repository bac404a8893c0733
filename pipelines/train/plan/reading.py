"""What a run reads of its data, and how often: by source, in documents, conversations or pairs.

Enters: the data that a config names, opened as batches, and the steps. Leaves: a line for the announcement; or a
refusal of data without what the stage reads, and of a source that would be read more than `max_epochs` times.

Up to about four epochs are nearly as good as fresh data (Muennighoff et al. 2023, arXiv 2305.16264). A mixture states
its own `max_epochs`; over tokens, and where a mixture states none, it is the same number. Over a mixture a source's
epochs are counted in tokens, as the mixture counted them; over tokens in rows, padding among them, as a run reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipelines.data.stream.mixture import MixturePlan, MixtureRecipe
from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.batches import Batches
from pipelines.train.objectives import Objective
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import Stage

# what a batch over `tokens/…` is made of -> the kind of source that has it
_KINDS = {"windows": "conversations", "pairs": "preferences"}
_ROUNDING = 1e-9
_THINGS = {"documents": "documents", "conversations": "conversations", "preferences": "pairs"}


def check_kinds(name: str, stage: Stage, objective: Objective, tokens: Artifact, config: TrainConfig) -> None:
    """Refuse tokens without a source of the kind that is read. Raises: ConfigError saying what there is."""
    kind = _KINDS.get(objective.batches.unit)
    if kind is None or config.data.startswith("mixture/"):
        return
    sources = tokens.statistics["sources"]
    if any(source["kind"] == kind and source["train"]["documents"] for source in sources.values()):
        return
    there = "; ".join(_counted(source_name, source) for source_name, source in sorted(sources.items()))
    mixed = ", or mix what there is (data=mixture/<name>)" if "mixture" in stage.data else ""
    raise ConfigError(
        f"{name} reads {kind} of {config.data}, which holds none; it holds {there or 'no source'}: add a source of "
        f"kind: {kind} to its corpus and encode that{mixed}"
    )


def check_epochs(config: TrainConfig, data: Artifact, batches: Batches, steps: int) -> None:
    """Refuse a run that reads a source more often than `max_epochs`. Raises: ConfigError saying what fits."""
    if config.max_epochs is None and config.data.startswith("mixture/"):
        _check_mixture(config, data, batches, steps)
        return
    limit = MixtureRecipe.max_epochs if config.max_epochs is None else config.max_epochs
    if config.epochs is not None:
        if config.epochs > limit:
            raise ConfigError(
                f"epochs={config.epochs:g} reads {config.data} {config.epochs:g} times; max_epochs is {limit:g}: set "
                f"epochs={limit:g} or less, or max_epochs={config.epochs:g}"
            )
        return
    batch = config.batch.global_batch
    # the source that is read most often
    name, epochs = max(epochs_of(config, batches, steps * batch).items(), key=lambda item: item[1])
    if epochs <= limit:
        return
    most = int(limit * steps / epochs + _ROUNDING)
    fewer = (
        f"set steps={most} or less" if most else f"set batch.global_batch={max(1, int(limit * batch / epochs))} or less"
    )
    other = "" if config.data.startswith("mixture/") else f", or steps=null epochs={min(limit, 1):g}"
    raise ConfigError(
        f"{steps:,} step{'s' * (steps > 1)} of {batch} {batches.unit} would read {name} {epochs:.1f} times; "
        f"max_epochs is {limit:g}: {fewer}{other}, or max_epochs={_above(epochs):g}"
    )


def _check_mixture(config: TrainConfig, data: Artifact, batches: Batches, steps: int) -> None:
    """By the mixture's own number, which its plan was made with."""
    try:
        batches.check_epochs(data, config.batch.global_batch, steps)
    except ConfigError as error:
        most = max(epochs_of(config, batches, steps * config.batch.global_batch).values())
        raise ConfigError(f"{error}; max_epochs={_above(most):g} raises it for this run alone") from None


def epochs_of(config: TrainConfig, batches: Batches, samples: int) -> dict[str, float]:
    """How often so many samples read each source."""
    if not batches.segments:
        return dict.fromkeys(batches.names, samples / batches.epoch_samples)
    mixture = MixturePlan.from_json(batches.segments[-1]["plan"])
    if config.data.startswith("mixture/"):
        tokens = samples * config.batch.sequence_length
        return {source.name: source.weight * tokens / source.available_tokens for source in mixture.sources}
    assert batches.loader is not None
    rows = {source.name: batches.loader.epoch_samples(source.name) for source in mixture.sources}
    return {source.name: source.weight * samples / rows[source.name] for source in mixture.sources}


def describe(config: TrainConfig, tokens: Artifact, batches: Batches, steps: int) -> str:
    """E.g. `chat 60 conversations, 2.31 times (answers count)`; with its share where there are several sources."""
    sources = tokens.statistics["sources"]
    epochs = epochs_of(config, batches, steps * config.batch.global_batch)
    shares = MixturePlan.from_json(batches.segments[-1]["plan"]).weights if batches.segments else {}
    told = []
    for name in sorted(epochs, key=lambda one: (-shares.get(one, 0.0), one)):
        share = f" {shares[name]:.1%}" if len(epochs) > 1 and name in shares else ""
        told.append(f"{name}{share}: {_number(sources[name])}, {_times(epochs[name])}{_counting(sources[name])}")
    return "; ".join(told)


def unusual(stage: Stage, name: str, tokens: Artifact, batches: Batches) -> list[str]:
    """What to say where a stage that is made for answers reads documents: all of their tokens count."""
    kinds = {source: tokens.statistics["sources"][source]["kind"] for source in batches.names}
    documents = [source for source, kind in kinds.items() if kind == "documents"]
    if "tokens" not in stage.data or not documents:
        return []
    return [f"{name} usually reads {stage.reads}; here every token of {', '.join(documents)} counts too"]


def _counted(name: str, source: Mapping[str, Any]) -> str:
    return f"{name} ({_number(source)})"


def _number(source: Mapping[str, Any]) -> str:
    count = source["train"]["documents"]
    things = _THINGS[source["kind"]]
    return f"{count:,} {things if count != 1 else things.removesuffix('s')}"


def _counting(source: Mapping[str, Any]) -> str:
    """What counts in the loss, where that is not every token."""
    return {"conversations": " (answers count)", "preferences": " (both answers)"}.get(source["kind"], "")


def _times(epochs: float) -> str:
    """How often, as it is read: `0.31 times`, `once`."""
    return (
        "once"
        if math.isclose(epochs, 1, abs_tol=0.005)
        else f"{epochs:.2f} times"
        if epochs >= 0.005
        else f"{epochs:.1g} times"
    )


def _above(epochs: float) -> float:
    """The next number that is easily typed."""
    return math.ceil(epochs) if epochs > 1 else math.ceil(epochs * 100) / 100
