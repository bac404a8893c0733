"""What a config leaves open and the data decides: window, batch, steps, warmup, and the model for a budget of hours.

Enters: a stage's config with nulls in it, its data, its parent. Leaves: the config with numbers in their place.
The same command finds its own run again: what was worked out is in the run's claim, and is read there once the run has
begun.

    window      by the tokens of an epoch (128 below 0.1M, 256 below 5M, … 4,096); long enough for most conversations,
                and no longer than the largest shard of the smallest source; of a child, its parent's
    tokens      what the mixture's budget allows, or the hours pay for, whichever is less; a step takes its FLOPs at
                `flops_per_second`, and `STEP_SECONDS` besides, which is most of it for the smallest shapes
    model       the largest of `LADDER` that gets `TOKENS_PER_PARAMETER` of these tokens for each of its parameters
    batch       tokens / 300, as a power of two between 512 and 4,096 tokens; above 50M tokens, tokens / 12,000.
                Pairs and conversations: so that a run has some 40 steps, at most 16 of them
    decay       of a branch: a ninth of what its trunk has read, and no more than its mixture's budget
    warmup      a fiftieth of the steps

Why so few tokens for a parameter: 20 is what compute is best spent on (arXiv 2203.15556), and here it is data that is
scarce. `docs/log.md` has the measurement.

The ladder keeps muP's rules: one `dim_model_base` for all widths, heads of 16, 32 or 64, feed-forward 2.5 × width, in
multiples of 32 so that four bits and GGUF take every shape. From width 320 on the depths are those of MiniCPM's wind
tunnel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.stream.mixture import MixturePlan
from pipelines.data.tokens.vocabulary import ids_for
from pipelines.display.progress import duration, human
from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import committed_steps
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.network.architecture import ModelConfig, flops_per_token, parameter_counts
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.spec import BatchConfig, TrainConfig
from pipelines.train.stages import Stage

TOKENS_PER_PARAMETER = 2
STEP_SECONDS = 0.05  # of a step of two workers on a CPU, whatever the model
# layers, width
LADDER = (
    (3, 32), (4, 32), (4, 64), (6, 64), (6, 96), (6, 128), (7, 192), (8, 256), (8, 320), (10, 384), (12, 512),
    (14, 640), (16, 768), (18, 896), (20, 1024), (24, 1344), (28, 1536), (40, 2304),
)  # fmt: skip
HEADER = ("layers × width", "parameters", "reads", "tokens a parameter", "trains for", "")
_WINDOWS = ((100_000, 128), (5_000_000, 256), (200_000_000, 512), (2_000_000_000, 1024), (20_000_000_000, 2048))
_LONGEST = 4096
# foreseen of text that has no tokenizer yet: what small vocabularies reach, and what conf/mixture/own_stable.yaml reads
_BYTES_PER_TOKEN, _EPOCHS = 2.5, 3.6
_SHOWN_ABOVE = 2
_TRUNK_TO_DECAY = 9  # tokens of a trunk for each of its decay (arXiv 2404.06395, §4.2: 10 % is enough)


@dataclass(frozen=True)
class Sized:
    """A config without nulls.

    Attributes: tokens, that a fresh run is to read by its hours; None where nothing was sized by hours. announcement,
        the lines that say why. rows, of the shapes that were compared, under `HEADER`.
    """

    config: TrainConfig
    tokens: int | None = None
    announcement: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[list[Any], ...] = ()


def close(
    name: str, stage: Stage, config: TrainConfig, store: ArtifactStore, data: Artifact, tokens: Artifact,
    parent: Run | None, workers: int,
) -> Sized:  # fmt: skip
    """Work out what is null. Args: name, of the stage. Raises: ConfigError for hours that size nothing."""
    if config.hours is not None and stage.starts != "fresh":
        raise ConfigError(
            f"hours={config.hours:g} chooses the model of a fresh run, and {name} has its parent's: leave hours out"
        )
    begun = _begun(name, config, store)
    mixture = MixturePlan.from_json(data.json("mixture.json")) if data.folder.startswith("mixture/") else None
    batch = config.batch
    length = batch.sequence_length or _recorded(begun, "batch", "sequence_length") or _window(mixture, tokens, parent)
    config = dataclasses.replace(config, batch=dataclasses.replace(batch, sequence_length=length))
    sized = Sized(config)
    if config.hours is not None:
        assert mixture is not None
        sized = _by_hours(config, mixture, tokens, begun, workers)
        config = sized.config
    units = _units(stage, config, mixture, tokens, sized.tokens)
    if stage.branches and parent is not None and config.epochs is None:  # a tenth of trunk and decay together
        units = max(1, min(units, int(parent.state["tokens"]) // _TRUNK_TO_DECAY // length))
    if batch.global_batch is None:
        known = _recorded(begun, "batch", "global_batch") or (_of_parent(parent) if stage.branches else None)
        rows = known or (_rows(units * length, length, workers) if mixture else _few_rows(units, workers))
        config = dataclasses.replace(config, batch=dataclasses.replace(config.batch, global_batch=rows))
    if batch.micro_batch is None:
        config = dataclasses.replace(config, batch=_with_micro_batch(config, workers))
    if mixture is not None and config.steps is None:
        steps = max(1, units // config.batch.global_batch)
        if begun is not None and config.hours is not None:  # typed with more steps since: it does not go back
            steps = max([steps, *committed_steps(store.storage, f"{name}/{config.name}")])
        config = dataclasses.replace(config, steps=steps, epochs=None)
    steps = config.steps or max(1, units // config.batch.global_batch)
    if config.checkpoint.every_steps is None:
        every = max(10, math.ceil(steps / 10))
        config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, every_steps=every))
    schedule = config.schedule
    if config.hours is not None and schedule.warmup_steps is None and schedule.warmup_fraction is None:
        sized_steps = max(1, (sized.tokens or 0) // (config.batch.global_batch * length))
        warmup = _recorded(begun, "schedule", "warmup_steps") or min(steps, max(2, round(sized_steps / 50)))
        config = dataclasses.replace(config, schedule=dataclasses.replace(schedule, warmup_steps=warmup))
    return dataclasses.replace(sized, config=config)


def _by_hours(
    config: TrainConfig, mixture: MixturePlan, tokens: Artifact, begun: Mapping[str, Any] | None, workers: int
) -> Sized:
    """The model, and how many tokens it reads."""
    assert config.hours is not None
    ids = tokens.statistics["vocabulary_size"]
    read = _tokens_asked(config, mixture)
    recorded = begun and begun.get("model")
    if begun is not None and recorded and begun.get("sized_tokens"):
        model = config.model or ModelConfig(**recorded)
        told = {"sized": f"as it was when the run began: {_shape(model)}, {begun['sized_tokens']:,} tokens"}
        return Sized(dataclasses.replace(config, model=model), begun["sized_tokens"], told)
    return _choose(config, read, ids, workers)


def foresee(config: TrainConfig, text_bytes: float, workers: int) -> Sized:
    """What a fresh run would get of so much text, before there are tokens. Args: text_bytes, of documents."""
    wanted = next((length for most, length in _WINDOWS if text_bytes / _BYTES_PER_TOKEN < most), _LONGEST)
    length = config.batch.sequence_length or wanted
    sized = dataclasses.replace(config, batch=dataclasses.replace(config.batch, sequence_length=length))
    read = int((config.epochs or _EPOCHS) * text_bytes / _BYTES_PER_TOKEN)
    return _choose(sized, read, ids_for(text_bytes), workers)


def _choose(config: TrainConfig, read: int, ids: int, workers: int) -> Sized:
    """The largest shape that the tokens and the hours feed. Args: read, tokens that there are to read; ids, of them."""
    assert config.hours is not None
    length = config.batch.sequence_length
    if config.flops_per_second is None:
        raise ConfigError(
            f"hours={config.hours:g}, and how fast a worker is here is not known: set flops_per_second=… (of one "
            "worker; a tenth to a half of what its data sheet says), or cluster.accelerator to a file of conf/device"
        )
    batch_tokens = (config.batch.global_batch or _rows(read, length, workers)) * length
    overhead = STEP_SECONDS / batch_tokens

    def per_token(model: ModelConfig) -> float:
        """Seconds."""
        assert config.flops_per_second is not None
        return flops_per_token(model, length) / (config.flops_per_second * workers) + overhead

    shapes = [config.model] if config.model else [shape(*of, vocabulary=ids, window=length) for of in LADDER]
    fed = [min(read, int(config.hours * 3600 / per_token(model))) for model in shapes]
    enough = [
        index
        for index, model in enumerate(shapes)
        if fed[index] >= TOKENS_PER_PARAMETER * parameter_counts(model)["total"]
    ]
    chosen = max(enough, default=0)
    model, taken = shapes[chosen], max(length, fed[chosen])
    rows = []
    for index, shape_ in enumerate(shapes[: chosen + 1 + _SHOWN_ABOVE]):
        number = parameter_counts(shape_)["total"]
        seconds = fed[index] * per_token(shape_)
        mark = "chosen" if index == chosen else "" if index < chosen else f"below {TOKENS_PER_PARAMETER}"
        ratio = fed[index] / number
        rows.append(
            [_shape(shape_), human(number), f"{human(fed[index])} tokens", f"{ratio:.3g}", duration(seconds), mark]
        )
    told = {"sized": _why(config, model, taken, read, workers, bool(enough))}
    if not enough and config.model is None:
        told["too small"] = _too_small(model, taken, read)
    return Sized(dataclasses.replace(config, model=model), taken, told, tuple(rows))


def shape(layers: int, width: int, vocabulary: int, window: int) -> ModelConfig:
    """A step of the ladder as a model."""
    head = 16 if width < 128 else 32 if width < 320 else 64
    return ModelConfig(
        layers=layers, d_model=width, d_ff=32 * math.ceil(2.5 * width / 32), heads=width // head,
        kv_heads=width // head, vocabulary=vocabulary, max_positions=2 * window, dim_model_base=64,
    )  # fmt: skip


def _why(config: TrainConfig, model: ModelConfig, taken: int, read: int, workers: int, fits: bool) -> str:
    speed = f"{workers} × {(config.flops_per_second or 0) / 1e9:.3g} GFLOP/s (flops_per_second=… where yours differ)"
    if config.model is not None:
        return f"{taken:,} tokens, what {config.hours:g} hours at {speed} and the data allow for the model you chose"
    limit = f"all {read:,} that the mixture allows" if taken >= read else f"what {config.hours:g} hours pay for"
    reason = (
        f"the largest of {len(LADDER)} shapes with {TOKENS_PER_PARAMETER} tokens or more for each parameter"
        if fits
        else "the smallest there is"
    )
    return f"{_shape(model)}, {reason}, of {taken:,} tokens: {limit}; {speed}"


def _too_small(model: ModelConfig, taken: int, read: int) -> str:
    number = parameter_counts(model)["total"]
    needed = TOKENS_PER_PARAMETER * number
    help_ = (
        f"about {needed / max(1, taken):.2g} times as much text: another source in the corpus beside yours"
        if taken >= read
        else "more hours="
    )
    return (
        f"{taken:,} tokens are too few for a useful model: even the smallest shape has {number:,} parameters and wants "
        f"{needed:,}. It will learn spelling and little else, and trains all the same. What helps: {help_}"
    )


def _shape(model: ModelConfig) -> str:
    return f"{model.layers} × {model.d_model}"


def _begun(name: str, config: TrainConfig, store: ArtifactStore) -> Mapping[str, Any] | None:
    """The recorded config of this very run, where it has begun under the same hours."""
    if config.on_change == "rebuild":
        return None
    claim = store.find_claim(f"{name}/{config.name}")
    recorded: Mapping[str, Any] = (claim or {}).get("identity", {}).get("config", {})
    return recorded if claim is not None and recorded.get("hours") == config.hours else None


def _recorded(begun: Mapping[str, Any] | None, group: str, key: str) -> int | None:
    value = ((begun or {}).get(group) or {}).get(key)
    return None if value is None else int(value)


def _of_parent(parent: Run | None) -> int | None:
    return (
        None if parent is None else _recorded(parent.artifact.manifest["identity"]["config"], "batch", "global_batch")
    )


def _tokens_asked(config: TrainConfig, mixture: MixturePlan) -> int:
    """Tokens that steps of a mixture are worked out from: its budget, or so many epochs of its sources."""
    if config.epochs is None:
        return mixture.budget_tokens
    return int(config.epochs * sum(source.available_tokens for source in mixture.sources))


def _units(
    stage: Stage, config: TrainConfig, mixture: MixturePlan | None, tokens: Artifact, sized_tokens: int | None
) -> int:
    """Windows, or pairs, that the run is to read in all."""
    length = config.batch.sequence_length
    if mixture is not None:
        return max(1, (sized_tokens or _tokens_asked(config, mixture)) // length)
    sources = tokens.statistics["sources"].values()
    pairs = sum(source["train"]["documents"] for source in sources if source["kind"] == "preferences")
    talk = sum(source["train"]["tokens"] for source in sources if source["kind"] == "conversations")
    objective = OBJECTIVES[stage.objective if config.objective is None else config.objective.name]
    once = pairs if objective.batches.unit == "pairs" else math.ceil(talk / length)
    return max(1, int((config.epochs or 1.0) * once))


def _window(mixture: MixturePlan | None, tokens: Artifact, parent: Run | None) -> int:
    """Tokens of a window."""
    if parent is not None:
        return int(parent.state["sequence_length"])
    sources = tokens.statistics["sources"]
    read = [source.name for source in mixture.sources] if mixture else list(sources)
    epoch = sum(sources[name]["train"]["tokens"] for name in read)
    wanted = next((length for most, length in _WINDOWS if epoch < most), _LONGEST)
    for source in sources.values():
        if source["kind"] != "documents" and source["train"]["documents"]:
            sides = 2 if source["kind"] == "preferences" else 1
            mean = source["train"]["tokens"] / source["train"]["documents"] / sides
            wanted = max(wanted, min(1024, 2 ** math.ceil(math.log2(max(1.0, 2 * mean)))))
    largest = [max(sources[name]["train"]["shard_tokens"], default=2) - 1 for name in read]
    return max(1, min(wanted, _power(min(largest))))


def _rows(tokens: int, length: int, workers: int) -> int:
    """Windows of a batch."""
    wanted = tokens / 300 if tokens < 50_000_000 else tokens / 12_000
    batch_tokens = max(512, _power(wanted)) if tokens >= 50_000_000 else min(4096, max(512, _power(wanted)))
    each = max(1, _power(batch_tokens / length / workers))
    return int(each * workers)


def _few_rows(units: int, workers: int) -> int:
    """Pairs, or windows of conversations, of a batch: some 40 steps in all."""
    return workers * max(1, min(_power(16 / workers), _power(units / 40 / workers)))


def _with_micro_batch(config: TrainConfig, workers: int) -> BatchConfig:
    """The largest micro-batch that divides, and is small: what a step computes is alike, and so is what it keeps."""
    batch = config.batch
    most = max(1, (16_384 if config.cluster.gpus_per_worker else 1024) // batch.sequence_length)
    each = batch.global_batch // workers
    divisors = [size for size in range(1, min(most, each) + 1) if batch.global_batch % (size * workers) == 0]
    return dataclasses.replace(batch, micro_batch=max(divisors, default=1))


def _power(value: float) -> int:
    """The largest power of two that is not above it; at least 1."""
    return int(2 ** math.floor(math.log2(max(1.0, value))))
