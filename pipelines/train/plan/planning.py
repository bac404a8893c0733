"""Plans a stage's run and refuses what cannot work, before anything starts.

Enters: a stage's row, a `TrainConfig` and the store. Leaves: a `Plan`: the `TrainSpec` for the workers, the inputs, what
decides the result, and the facts of the announcement. Every refusal says what came, what is accepted and what to change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.config import plain
from pipelines.data.stream.loader import Carried
from pipelines.data.stream.mixture import MixturePlan
from pipelines.errors import ArtifactError, ConfigError, TrunklineError
from pipelines.identity import difference, fingerprint, identity
from pipelines.store.artifacts import Artifact, ArtifactStore, Reference
from pipelines.train.batches import Batches
from pipelines.train.checkpoint import Checkpoint, committed_steps, open_checkpoint
from pipelines.train.checkpoint.lineage import named_step
from pipelines.train.checkpoint.slices import check_optimizer
from pipelines.train.network.architecture import ModelConfig, check_shapes, parameter_counts
from pipelines.train.network.roles import KINDS, frozen, numbers
from pipelines.train.objectives import OBJECTIVES, Objective, objective_of
from pipelines.train.plan import context, devices, memory, schedule
from pipelines.train.plan.schedule import Schedule, learning_rate
from pipelines.train.stages import AVERAGE, STAGES, BatchConfig, Stage, Start, TrainConfig, TrainSpec, stage_named
from pipelines.train.update import engine

_MOST_PADDING = 2  # times as many embeddings as ids: beyond that it is another tokenizer's model, not padding
_TRIED = 8  # runs of the store that are looked at for one that can be a parent


@dataclass(frozen=True)
class Plan:
    """A stage's run, before it is claimed."""

    spec: TrainSpec
    inputs: tuple[Artifact, ...]
    identity: dict[str, Any]
    facts: dict[str, Any]  # what the announcement shows


def plan(name: str, config: TrainConfig, store: ArtifactStore, parent: str | None, workers: int) -> Plan:
    """Resolve a stage's run, refusing everything that cannot work before anything starts.

    Args: parent, the resolved parent reference; workers, number of ranks.
    Raises: ConfigError, ArtifactError or CheckpointError, each saying what to change.
    """
    stage = stage_named(name)
    if not config.dry_run and not config.write_spec:
        devices.check_gpus(config.cluster)
    if stage.parents and not parent:
        raise ConfigError(
            f"{name} needs a parent: pass parent=<{'|'.join(stage.parents)}>/<name>[@step-N]; {_parents_here(name, config, store, workers)}"
        )
    objective = chosen_objective(name, config)
    _check_fields(name, stage, config, parent)
    ancestor = _parent(name, stage, store, parent) if parent else None
    architecture = _architecture(name, stage, config, ancestor)
    data, tokens = _data(config, store)
    if ancestor is not None and ancestor.state.get("tokenizer") != tokenizer_of(tokens):
        raise ConfigError(
            f"{tokens.folder} was encoded with another tokenizer than {ancestor} was trained on: encode it with "
            "`python -m workflows.tokenize tokenizer.reuse=tokens/<the parent's>`"
        )
    _check_vocabulary(architecture, tokens)
    length, rows = config.batch.sequence_length, config.batch.global_batch
    batches = objective.batches.of_data(data, tokens, config.seed, length, config.epochs or 1.0)
    steps, per_epoch = _steps(config, batches.epoch_samples)
    rates = _schedule(name, stage, config, ancestor, steps)
    _check_batch(config, architecture, workers, ancestor)
    engine.check(config.zero)
    devices.check(config.compute, config.zero, _device(config))
    start, segments, carried = _start(stage, config, ancestor, batches)
    batches.check_epochs(data, rows, steps)
    inputs = (*([ancestor.artifact] if ancestor else []), data, *([] if tokens is data else [tokens]))
    what = identity(config)
    planned_rates = {**plain(rates), "decay_values": schedule.decay_values(rates)}
    what.update(parent=parent and str(ancestor), model=identity(architecture), schedule=planned_rates, steps=steps)
    what["objective"] = {"name": objective.settings.name, **identity(objective.settings)}
    # what is decided here and not in a module whose hash is taken: what is inherited, and where in which stream the run reads
    what["start"] = {"mode": start.mode, "samples": start.samples, "segments": fingerprint(plain(segments))}
    if stage.endless and rates.decay == "none" and rates.kind != "cosine" and config.schedule.warmup_fraction is None:
        del what["steps"]  # a trunk goes on: more steps do not change the steps before them
    if stage.trains is not None:
        what["trains"] = list(stage.trains)
        # named here, so that no rule of retention deletes what this run keeps no copy of
        what["frozen"] = [] if ancestor is None else ancestor.checkpoint.holders(frozen(architecture, stage.trains))
    spec = TrainSpec(
        kind=name, name=config.name, store=store.uri, claim={}, config=plain(config), model=architecture, schedule=rates,
        optimizer=config.optimizer, zero=config.zero, compute=config.compute, batch=config.batch, steps=steps, seed=config.seed, objective=objective.settings,
        tokens=tokens.folder, tokenizer=tokenizer_of(tokens), segments=segments, start=start, checkpoint=config.checkpoint, log_every_steps=config.log_every_steps,
        monitor_every_steps=config.monitor_every_steps, profile=config.profile, profile_steps=config.profile_steps, tracking={}, trains=stage.trains,
    )  # fmt: skip
    counts = parameter_counts(architecture)
    facts = {
        "weights": f"{stage.weights}" + (f": {ancestor}" if ancestor else ""),
        "optimizer state": stage.optimizer_state,
        "LR begins at": f"{stage.rate_begins_at}: {rates.peak_lr:.3g}; first step {learning_rate(rates, 0, steps):.3g}, last {learning_rate(rates, steps - 1, steps):.3g} ({_shape(rates)})",
        "data": f"{stage.reads}: {config.data}",
        "model": f"{counts['non_embedding']:,} non-embedding + {counts['embedding']:,} embedding parameters, width multiplier m = {architecture.width_multiplier:g}",
        "batch": f"{rows} × {config.batch.sequence_length} tokens = {config.batch.micro_batch} micro-batch × {rows // (config.batch.micro_batch * workers)} accumulation × {workers} workers",
        "objective": str(objective),
        "steps": f"{steps:,} = {'' if batches.alike else 'at most '}{steps * rows * batches.rows_per_unit * length:,} tokens"
        + (f", {steps * rows / per_epoch:.2f} epochs" if per_epoch else ""),
        "memory": _memory(spec, config, workers),
        "engine": f"DeepSpeed ZeRO-{config.zero.stage}, {config.zero.precision}, checkpoint every {config.checkpoint.every_steps} steps",
    }
    if stage.trains is not None:
        by_kind = numbers(architecture)
        trained = {kind: by_kind[kind] for kind in KINDS if kind in stage.trains}
        facts["trains"] = (
            f"{', '.join(trained)}: {sum(trained.values()):,} of {counts['total']:,} parameters; others are frozen"
        )
    if ancestor is not None and stage.branches:
        before, length = ModelConfig(**ancestor.state["model"]), config.batch.sequence_length
        if length != ancestor.state["sequence_length"] or before != architecture:
            facts["context"] = context.describe(before, ancestor.state["sequence_length"], architecture, length)
        if carried:
            facts["stream"] = context.describe_stream([part for part in carried if part.source in batches.names])
    if cuts := _cuts(batches, tokens):
        facts["cut"] = "; ".join(cuts)
    if config.data.startswith("tokens/") and (uneven := batches.unevenness(steps * rows)):
        facts["read unevenly"] = uneven
    if notes := _notes(config, architecture, tokens, workers) + batches.never_read(steps * rows):
        facts["note"] = "; ".join(notes)
    return Plan(spec, inputs, what, facts)


def _notes(config: TrainConfig, architecture: ModelConfig, tokens: Artifact, workers: int) -> list[str]:
    """What works, and may not be what was meant."""
    notes = []
    size = tokens.statistics["vocabulary_size"]
    try:
        devices.check_gpus(config.cluster)
    except ConfigError as error:  # only a plan, or one that will run elsewhere
        notes.append(str(error))
    if config.zero.stage == 3 and workers == 1:
        notes.append("ZeRO-3 with one worker splits nothing and only costs time: zero=zero1 does the same")
    if architecture.vocabulary > size:
        notes.append(
            f"{architecture.vocabulary - size:,} of {architecture.vocabulary:,} embeddings are padding: the tokenizer has {size:,} ids"
        )
    return notes


def _parents_here(name: str, config: TrainConfig, store: ArtifactStore, workers: int) -> str:
    """Which runs of the store this very command would take as its parent: each is tried, up to `_TRIED` of them."""
    kinds = STAGES[name].parents
    runs = {"/".join(key.split("/")[:2]) for kind in kinds for key in store.storage.keys(kind)}
    candidates = [
        run if store.find(run) is not None else f"{run}@latest"
        for kind in kinds[::-1]  # the stage just before, or one like this, is what is mostly meant
        for run in sorted(runs)
        if run.startswith(f"{kind}/") and run != f"{name}/{config.name}" and committed_steps(store.storage, run)
    ]
    refusal = ""
    for reference in candidates[:_TRIED]:
        try:
            plan(name, config, store, reference, workers)
        except TrunklineError as error:
            refusal = (
                refusal or f"{store.uri} has {', '.join(candidates[:_TRIED])}, but with parent={reference}: {error}"
            )
        else:
            return f"e.g. parent={reference}"
    return refusal or f"{store.uri} has none yet: make one with `python -m workflows.{kinds[0]}`"


@dataclass(frozen=True)
class _Ancestor:
    artifact: Artifact
    checkpoint: Checkpoint

    @property
    def state(self) -> Mapping[str, Any]:
        return self.checkpoint.state

    def __str__(self) -> str:
        return f"{self.artifact.folder}@step-{self.checkpoint.step}"


def _check_fields(name: str, stage: Stage, config: TrainConfig, parent: str | None) -> None:
    if not stage.parents and parent:
        branching = " or ".join(f"workflows.{other}" for other in _branching())
        raise ConfigError(
            f"{name} starts fresh, but parent={parent} was given: use {branching} to branch, or remove parent"
        )
    kind = Reference.parse(config.data).kind
    if kind not in stage.data:
        raise ConfigError(
            f"data={config.data} is of kind {kind}; {name} reads {' or '.join(stage.data)}: set data={stage.data[0]}/<name>"
        )
    if (config.steps is None) == (config.epochs is None):
        raise ConfigError(f"got steps={config.steps} and epochs={config.epochs}; expected exactly one of them")
    if config.epochs is not None and kind == "mixture":
        raise ConfigError(
            f"epochs={config.epochs} over {config.data}; a mixture counts steps: set steps and leave epochs null"
        )
    if not re.fullmatch(r"latest|step-\d+", config.checkpoint.resume):
        raise ConfigError(
            f"checkpoint.resume is {config.checkpoint.resume!r}; expected latest or step-N, e.g. step-200"
        )
    if config.checkpoint.resume != "latest" and config.on_change == "rebuild":
        raise ConfigError(
            f"checkpoint.resume={config.checkpoint.resume} goes on from a checkpoint that on_change=rebuild deletes: leave one of them out"
        )
    first, last = config.profile_steps
    if first > last:
        raise ConfigError(
            f"profile_steps is [{first}, {last}]; expected the first and the last step to trace, e.g. [10, 13]"
        )


def _branching() -> list[str]:
    """The stages that go on in their parent's line."""
    return [name for name, stage in STAGES.items() if stage.branches]


def _parent(name: str, stage: Stage, store: ArtifactStore, reference: str) -> _Ancestor:
    parsed = Reference.parse(reference)
    if parsed.kind == AVERAGE and stage.branches:
        onward = " or ".join(other for other, row in STAGES.items() if AVERAGE in row.parents)
        raise ConfigError(
            f"parent={reference} holds weights alone, and {name} goes on with its parent's optimizer state and LR: branch "
            f"from one of the checkpoints that were averaged ({stage.parents[0]}/<name>@step-N), or go on to {onward}"
        )
    if parsed.kind not in stage.parents:
        raise ConfigError(f"parent={reference} is of kind {parsed.kind}; {name} takes {' or '.join(stage.parents)}")
    # a trunk that goes on has no manifest yet, but its committed checkpoints can be branched from
    artifact = store.find(parsed.folder)
    if artifact is None:
        if parsed.at is None or not committed_steps(store.storage, parsed.folder):
            artifact = store.get(reference)
        else:
            artifact = Artifact(store.storage, parsed.folder, store.claim(parsed.folder))
    return _Ancestor(artifact, open_checkpoint(store.storage, parsed.folder, named_step(artifact, parsed.at)))


def _architecture(name: str, stage: Stage, config: TrainConfig, ancestor: _Ancestor | None) -> ModelConfig:
    if ancestor is None:
        if config.model is None:
            raise ConfigError("model is null; a fresh run needs one: choose model=<name in conf/model>")
        check_shapes(config.model)
        if config.rope_base != "keep":
            raise ConfigError(f"rope_base={config.rope_base}; a fresh run's is model.rope_base: leave rope_base=keep")
        return config.model
    theirs = ModelConfig(**ancestor.state["model"])
    trained, length = ancestor.state["sequence_length"], config.batch.sequence_length
    if not stage.branches:
        if config.rope_base != "keep":
            raise ConfigError(
                f"rope_base={config.rope_base}; only {' or '.join(_branching())} changes it: {name} takes its parent's"
            )
        expected = theirs
    else:
        expected = (
            context.extend(theirs, trained, length, config.rope_base)
            if length != trained or config.rope_base != "keep"
            else theirs
        )
    if config.model is not None and config.model not in (theirs, expected):
        raise ConfigError(
            f"parent {ancestor} is of another architecture ({'; '.join(difference(plain(theirs), plain(config.model)))}): leave model null to take the parent's"
            + (", and change its positions with rope_base" if stage.branches else "")
        )
    return expected


def _data(config: TrainConfig, store: ArtifactStore) -> tuple[Artifact, Artifact]:
    """What `config.data` names, and the tokens that hold its shards: the same artifact where no mixture lies between."""
    data = store.get(config.data)
    if data.folder.startswith("tokens/"):
        return data, data
    mixture = MixturePlan.from_json(data.json("mixture.json"))
    tokens = store.get(mixture.tokens)
    if tokens.fingerprint != mixture.tokens_fingerprint:
        raise ArtifactError(
            f"{config.data} was planned over another version of {mixture.tokens} ({mixture.tokens_fingerprint}, now "
            f"{tokens.fingerprint}): plan it again with `python -m workflows.mixture` and on_change=rebuild"
        )
    return data, tokens


def tokenizer_of(tokens: Artifact) -> str | None:
    """Checksum of the tokenizer that made a tokens artifact; None for ids that come without one."""
    checksum: str | None = tokens.manifest["files"].get("tokenizer/tokenizer.json", {}).get("sha256")
    return checksum


def _check_vocabulary(architecture: ModelConfig, tokens: Artifact) -> None:
    size = tokens.statistics["vocabulary_size"]
    if architecture.vocabulary < size:
        raise ConfigError(
            f"model.vocabulary is {architecture.vocabulary}, but the tokenizer of {tokens.folder} has {size} ids: set model.vocabulary={size} or more"
        )
    if architecture.vocabulary > _MOST_PADDING * size:
        raise ConfigError(
            f"model.vocabulary is {architecture.vocabulary}, but the tokenizer of {tokens.folder} has {size} ids: most of the embedding "
            f"would never be trained: set model.vocabulary={size} (or up to {int(_MOST_PADDING * size)}), or encode with a larger tokenizer"
        )


def chosen_objective(name: str, config: TrainConfig) -> Objective:
    """The objective of a stage's run: its own where the config chooses none.

    Raises: ConfigError for one that reads what the stage does not.
    """
    own = OBJECTIVES[stage_named(name).objective]
    if config.objective is None:
        return own()
    reads = OBJECTIVES[config.objective.name].batches
    if reads is not own.batches:
        fitting = [row for row, objective in OBJECTIVES.items() if objective.batches is own.batches]
        raise ConfigError(
            f"objective={config.objective.name} learns from {reads.unit}, and {name} reads {own.batches.unit}: "
            f"set objective={' or '.join(fitting)}"
        )
    return objective_of(config.objective)


def _cuts(batches: Batches, tokens: Artifact) -> list[str]:
    """What the windows take away, a sentence for each source that loses something."""
    told = []
    for name, cut in batches.cuts.items():
        train = tokens.statistics["sources"].get(name, {}).get("train", {})
        lost, whole, what = (
            (cut.lost_tokens, train.get("tokens"), "tokens")
            if cut.unit == "shards"
            else (cut.lost_targets, train.get("loss_tokens"), "answers")
        )
        told.append(cut.describe(name) + (f" ({lost / whole:.1%} of its {what} are lost)" if whole else ""))
    return told


def _steps(config: TrainConfig, epoch_samples: int) -> tuple[int, int | None]:
    """Optimizer steps; and samples in one epoch, where a run counts epochs."""
    if config.data.startswith("mixture/"):
        assert config.steps is not None
        return config.steps, None
    if config.steps is not None:
        return config.steps, epoch_samples
    assert config.epochs is not None
    return max(1, math.ceil(config.epochs * epoch_samples / config.batch.global_batch)), epoch_samples


def _schedule(name: str, stage: Stage, config: TrainConfig, ancestor: _Ancestor | None, steps: int) -> Schedule:
    inherited = ancestor.state["learning_rate"] if ancestor is not None and stage.learning_rate != "own" else None
    rates = schedule.resolve(config.schedule, steps, inherited)
    if stage.learning_rate == "trunk":
        assert ancestor is not None
        stable, reached = ancestor.state["schedule"]["peak_lr"], ancestor.state["learning_rate"]
        parent = STAGES[Reference.parse(ancestor.artifact.folder).kind]
        if parent.endless and not math.isclose(stable, reached, rel_tol=1e-9):
            raise ConfigError(
                f"{ancestor} was saved at LR {reached:g}, outside its stable phase ({stable:g}): branch from a stable checkpoint"
            )
        if not math.isclose(rates.peak_lr, reached, rel_tol=1e-9):
            raise ConfigError(
                f"schedule.peak_lr is {rates.peak_lr:g}, but {ancestor} stands at {reached:g}: {name} goes on where the trunk is: set schedule.peak_lr=null"
            )
        if rates.warmup_steps:
            raise ConfigError(
                f"schedule.warmup_steps is {rates.warmup_steps}; {name} goes on at the trunk's LR: set it to 0"
            )
    return rates


def check_division(batch: BatchConfig, workers: int) -> None:
    """Refuse a batch that does not divide over its workers. Raises: ConfigError with the micro-batches that would."""
    if min(batch.global_batch, batch.micro_batch, batch.sequence_length, workers) <= 0:
        raise ConfigError(f"batch {plain(batch)} with {workers} workers; expected positive whole numbers")
    if batch.global_batch % (batch.micro_batch * workers):
        fit = [
            size for size in range(1, batch.global_batch // workers + 1) if batch.global_batch % (size * workers) == 0
        ]
        advice = (
            f"set batch.micro_batch to one of {', '.join(map(str, fit))}"
            if fit
            else f"set batch.global_batch to a multiple of {workers}"
        )
        raise ConfigError(
            f"batch.global_batch {batch.global_batch} does not divide into micro-batches of {batch.micro_batch} on {workers} workers: {advice}"
        )


def _check_batch(config: TrainConfig, architecture: ModelConfig, workers: int, ancestor: _Ancestor | None) -> None:
    batch = config.batch
    check_division(batch, workers)
    if batch.sequence_length > architecture.max_positions:
        raised = (
            "raise max_positions"
            if ancestor is None
            else f"take a parent that a branch extended (workflows.{_branching()[0]} batch.sequence_length={batch.sequence_length})"
        )
        raise ConfigError(
            f"batch.sequence_length {batch.sequence_length} exceeds model.max_positions {architecture.max_positions}: lower it, or {raised}"
        )


def _start(
    stage: Stage, config: TrainConfig, ancestor: _Ancestor | None, batches: Batches
) -> tuple[Start, tuple[dict[str, Any], ...], Sequence[Carried]]:
    """Where weights come from, the segments of the stream, and where each source goes on under windows of another length."""
    if ancestor is None:
        return Start(mode="fresh"), batches.segments, ()
    where = {"run": ancestor.artifact.folder, "step": ancestor.checkpoint.step, "tokens": ancestor.state["tokens"]}
    if not stage.branches:
        return Start(mode="initialise", **where), batches.segments, ()
    check_optimizer(ancestor.checkpoint, config.optimizer.kind, stage.trains)
    further = batches.go_on(ancestor.state, config.seed)
    return Start(mode="branch", samples=further.first_sample, **where), further.segments, further.carried


def _shape(rates: Schedule) -> str:
    if rates.kind != "wsd":
        return rates.kind
    phases = [f"{rates.warmup_steps} warmup"] if rates.warmup_steps else []
    phases.append("stable" if rates.decay == "none" else f"{rates.decay} decay over {rates.decay_steps} steps")
    return ", ".join(phases)


def _device(config: TrainConfig) -> memory.DeviceKind:
    return "cuda" if config.cluster.gpus_per_worker else "cpu"


def _memory(spec: TrainSpec, config: TrainConfig, workers: int) -> str:
    """The prediction for one worker, refused where it is known not to fit; what a GPU elsewhere has, its worker finds out."""
    device = _device(config)
    setup = devices.setup_of(spec, workers, device)
    known = devices.here(config.cluster) and not config.write_spec and (device == "cpu" or torch.cuda.is_available())
    if not known and config.compute.memory_gib is None:
        predicted = memory.predict(setup, memory.plan_keep(setup, math.inf))
        return f"{predicted}, in each worker that has so much; one that has less computes more again (compute.memory_gib tells it now)"
    limit, whose = devices.budget(config.compute, device, workers)
    units = config.batch.global_batch // workers
    return memory.check(setup, limit, whose, devices.rows_per_unit(spec), units).of(limit, whose)
