"""What a stage's command says before it starts: label -> text.

Enters: a checked run and its spec. Leaves: the lines of the announcement. The line about memory also refuses a
micro-batch that is known not to fit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection

from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.batches import Batches
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.roles import KINDS, numbers
from pipelines.train.plan import context, devices, memory, reading
from pipelines.train.plan.checked import CheckedRun, device_of
from pipelines.train.schedules.schedule import Schedule, learning_rate
from pipelines.train.spec import TrainSpec

# for each token of a fresh run, beyond which the model is another's by mistake
_MOST_PARAMETERS = 100


def announce_run(run: CheckedRun, spec: TrainSpec) -> dict[str, str]:
    """The lines of the announcement. Raises: ConfigError where the micro-batch is known not to fit into memory."""
    lines = {
        "weights": run.stage.weights + (f": {run.parent}" if run.parent else ""),
        "optimizer state": run.stage.optimizer_state,
        "LR begins at": f"{run.stage.rate_begins_at}: {_rates(run)}",
        "data": run.config.data,
        "reads": reading.describe(run.config, run.tokens, run.batches, run.steps),
        **run.sized.announcement,
        "model": _model(run.architecture),
        "batch": _batch(run),
        "objective": str(run.objective),
        "steps": _steps(run),
        "memory": _memory(run, spec),
        "engine": _engine(run),
    }
    if run.stage.trains is not None:
        lines["trains"] = _trains(run.architecture, run.stage.trains)
    lines.update(_branch(run))
    samples = run.steps * run.config.batch.global_batch
    if cuts := _cuts(run.batches, run.tokens):
        lines["cut"] = "; ".join(cuts)
    if run.config.data.startswith("tokens/") and (uneven := run.batches.unevenness(samples)):
        lines["read unevenly"] = uneven
    unusual = reading.unusual(run.stage, run.name, run.tokens, run.batches)
    if notes := unusual + _notes(run) + run.batches.never_read(samples):
        lines["note"] = "; ".join(notes)
    return lines


def _rates(run: CheckedRun) -> str:
    first, last = (learning_rate(run.rates, step, run.steps) for step in (0, run.steps - 1))
    return f"{run.rates.peak_lr:.3g}; first step {first:.3g}, last {last:.3g} ({_shape(run.rates)})"


def _shape(rates: Schedule) -> str:
    if rates.kind != "wsd":
        return rates.kind
    phases = [f"{rates.warmup_steps} warmup"] if rates.warmup_steps else []
    phases += [f"{rates.decay} decay before step {end}, peak again" for end, _ in rates.earlier_decays]
    phases.append("stable" if rates.decay == "none" else f"{rates.decay} decay over {rates.decay_steps} steps")
    return ", ".join(phases)


def _model(architecture: ModelConfig) -> str:
    counts = parameter_counts(architecture)
    return (
        f"{counts['non_embedding']:,} non-embedding + {counts['embedding']:,} embedding parameters, width multiplier "
        f"m = {architecture.width_multiplier:g}"
    )


def _trains(architecture: ModelConfig, kinds: Collection[str]) -> str:
    by_kind, total = numbers(architecture), parameter_counts(architecture)["total"]
    trained = {kind: by_kind[kind] for kind in KINDS if kind in kinds}
    return f"{', '.join(trained)}: {sum(trained.values()):,} of {total:,} parameters; others are frozen"


def _batch(run: CheckedRun) -> str:
    batch = run.config.batch
    accumulation = batch.global_batch // (batch.micro_batch * run.workers)
    return (
        f"{batch.global_batch} × {batch.sequence_length} tokens = {batch.micro_batch} micro-batch × "
        f"{accumulation} accumulation × {run.workers} workers"
    )


def _steps(run: CheckedRun) -> str:
    samples = run.steps * run.config.batch.global_batch
    tokens = samples * run.batches.rows_per_unit * run.config.batch.sequence_length
    epochs = f", {samples / run.epoch_samples:.2f} epochs" if run.epoch_samples else ""
    return f"{run.steps:,} = {'' if run.batches.alike else 'at most '}{tokens:,} tokens{epochs}"


def _engine(run: CheckedRun) -> str:
    zero, checkpoint = run.config.zero, run.config.checkpoint
    return f"DeepSpeed ZeRO-{zero.stage}, {zero.precision}, checkpoint every {checkpoint.every_steps} steps"


def _memory(run: CheckedRun, spec: TrainSpec) -> str:
    """The prediction for one worker; what a GPU elsewhere has, its worker finds out."""
    config, workers, device = run.config, run.workers, device_of(run.config)
    setup = devices.setup_of(spec, workers, device)
    known = devices.known(config.cluster, device) and not config.write_spec
    if not known and config.compute.memory_gib is None:
        predicted = memory.predict(setup, memory.plan_keep(setup, math.inf))
        return (
            f"{predicted}, in each worker that has so much; one that has less computes more again "
            "(compute.memory_gib tells it now)"
        )
    limit, whose = devices.budget(config.compute, device, workers)
    units = config.batch.global_batch // workers
    return memory.check(setup, limit, whose, devices.rows_per_unit(spec), units).of(limit, whose)


def _branch(run: CheckedRun) -> dict[str, str]:
    """What a branch changes of its parent's architecture and windows, and where its sources then go on."""
    lines: dict[str, str] = {}
    if run.parent is None or not run.stage.branches:
        return lines
    before, trained = ModelConfig(**run.parent.state["model"]), run.parent.state["sequence_length"]
    length = run.config.batch.sequence_length
    if length != trained or before != run.architecture:
        lines["context"] = context.describe(before, trained, run.architecture, length)
    if run.carried:
        lines["stream"] = context.describe_stream(
            [source for source in run.carried if source.source in run.batches.names]
        )
    return lines


def _cuts(batches: Batches, tokens: Artifact) -> list[str]:
    """What the windows take away, a sentence for each source that loses something."""
    sentences = []
    for name, cut in batches.cuts.items():
        train = tokens.statistics["sources"].get(name, {}).get("train", {})
        if cut.unit == "shards":
            lost, whole, lost_things = cut.lost_tokens, train.get("tokens"), "tokens"
        else:
            lost, whole, lost_things = cut.lost_targets, train.get("loss_tokens"), "answers"
        share = f" ({lost / whole:.1%} of its {lost_things} are lost)" if whole else ""
        sentences.append(cut.describe(name) + share)
    return sentences


def _notes(run: CheckedRun) -> list[str]:
    """What works, and may not be what was meant."""
    notes = []
    try:
        devices.check_gpus(run.config.cluster)
    except ConfigError as error:  # only a plan, or one that will run elsewhere
        notes.append(str(error))
    cores, here = len(os.sched_getaffinity(0)), devices.here(run.config.cluster) and not run.config.write_spec
    if run.workers > cores and here and device_of(run.config) == "cpu":
        notes.append(
            f"{run.workers} workers take turns on {'the one core' if cores == 1 else f'the {cores} cores'} of this "
            f"machine: cluster.workers={cores} trains as fast, in less memory"
        )
    if run.config.zero.stage == 3 and run.workers == 1:
        notes.append("ZeRO-3 with one worker splits nothing and only costs time: zero=zero1 does the same")
    parameters = parameter_counts(run.architecture)["total"]
    read = run.steps * run.config.batch.global_batch * run.config.batch.sequence_length
    if run.parent is None and parameters > _MOST_PARAMETERS * read:
        notes.append(
            f"the model has {parameters:,} parameters and reads {read:,} tokens, so it learns next to nothing: "
            "+experiment=own hours=0.5, without model=, takes the largest model that the data can feed"
        )
    ids, embeddings = run.tokens.statistics["vocabulary_size"], run.architecture.vocabulary
    if embeddings > ids:
        notes.append(f"{embeddings - ids:,} of {embeddings:,} embeddings are padding: the tokenizer has {ids:,} ids")
    return notes
