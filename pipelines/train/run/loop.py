"""The one training loop of all stages.

Enters: a `TrainSpec`. Leaves: committed checkpoints, metrics beside them, and at the end the run's manifest.

Sample i is a pure function, so a step needs no iterator state: step s reads samples `start + s·global_batch + …`.
Metrics of an interval are published with the checkpoint that ends it; a restart repeats the steps after the last
checkpoint and the joined curve equals that of an uninterrupted run exactly.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import record_function

from pipelines.config import plain
from pipelines.display.timeline import reached
from pipelines.errors import CheckpointError, TrainingError, TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.sealed import sealed_lines, unsealed_lines
from pipelines.store.storage import Storage
from pipelines.store.ways_out import how_anew
from pipelines.tracking.tracker import Tracker
from pipelines.train import checkpoint as checkpoints
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import for_shapes, unrepeatable
from pipelines.train.network.model import Transformer
from pipelines.train.objectives import objective_of
from pipelines.train.optimizers.groups import freeze
from pipelines.train.plan import devices
from pipelines.train.run.garbage import garbage_left_lying
from pipelines.train.run.log import Launched, StepLog
from pipelines.train.run.monitor import Monitor, NoiseScale
from pipelines.train.run.profile import StepProfiler
from pipelines.train.run.stream import Stream, to_batch
from pipelines.train.schedules.schedule import learning_rate
from pipelines.train.spec import TrainSpec
from pipelines.train.update.engine import Engine, device

# called before each step with its number (from 1), its LR, the engine and its micro-batches
Observer = Callable[[int, float, Engine, Sequence[Batch]], None]


class Looks(Protocol):
    """What looks at the engine between steps, on every rank alike, and changes nothing of it."""

    def due(self, step: int) -> bool:
        """Whether to look when `step` steps are done; asked also before the first step of a start."""

    def look(self, engine: Engine, step: int, tokens: int) -> None:
        """Look; the checkpoint of this step is saved after it. Args: tokens, trained on by then, as in the curve."""


def train(
    spec: TrainSpec, emit: Callable[[str], None], observer: Observer | None = None, looks: Looks | None = None
) -> None:
    """Run a stage on this rank, from wherever its own checkpoints stand to its last step.

    Nothing of the run stays in the process when it has ended well, has diverged, or has failed on its only rank, so
    that the process can run the next one. After another error it cannot: letting go waits for the device, and that may
    wait for a rank that is lost.

    Args: emit, called on rank zero with one line for people at a time; observer, called on every rank before each step;
        looks, asked after each.
    Raises: CheckpointError for a damaged or foreign checkpoint; StorageError when the last checkpoint cannot be saved;
        TrainingError, on every rank alike, when training has diverged.
    """
    opened: list[Engine | Tracker] = []
    let_go = True
    try:
        _train(spec, emit, observer, looks, opened)
    except BaseException as error:
        let_go = isinstance(error, TrainingError) or dist.get_world_size() == 1
        raise
    finally:
        if let_go:
            for one in reversed(opened):
                one.close()
            gc.collect()


def _train(
    spec: TrainSpec,
    emit: Callable[[str], None],
    observer: Observer | None,
    looks: Looks | None,
    opened: list[Engine | Tracker],
) -> None:
    """Args: opened, which takes what must be closed, as soon as it is there."""
    rank, world = dist.get_rank(), dist.get_world_size()
    store = ArtifactStore(spec.store)
    memory, about_memory = devices.agree(spec)
    data = Stream(spec, store)
    # ── Weights: resume self, branch from parent, initialise from parent, or fresh ────────────────────────────────────
    _seed_everything(spec.seed + rank)
    model = Transformer(spec.model).initialise(spec.seed)
    freeze(model, spec.model, spec.trains)
    objective = objective_of(spec.objective)
    compute = for_shapes(spec.compute, alike=objective.batches.alike)
    model.prepare(compute, memory.policy, device(), whole_weights=spec.zero.stage < 3)
    accumulation = spec.batch.global_batch // (spec.batch.micro_batch * world)
    engine = Engine(model, objective, spec.zero, spec.optimizer, spec.batch.micro_batch, accumulation, len(data.names))
    opened.append(engine)
    beginning = _load_weights(spec, store.storage, engine)
    step = beginning.step
    # a run that others share steps with is trained in several calls (pipelines/train/sharing)
    last = spec.steps if spec.until is None else min(spec.until, spec.steps)
    objective.prepare(
        Draft(store.storage, spec.run, spec.claim),
        data.batches,
        lambda function, arrays: engine.forward(function, to_batch(arrays)),
        fresh=step == 0,
    )
    tracker = Tracker(spec.tracking if rank == 0 else None, tell=emit)
    opened.append(tracker)
    monitor = Monitor(engine, spec.monitor_every_steps)
    noise = NoiseScale()
    earlier = _rows_so_far(spec, store.storage, beginning) if rank == 0 else []
    for row in earlier:
        noise.add(row)  # goes on where it was
    log = StepLog(spec, data, emit, tracker, noise, rank, world)
    if beginning.checkpoint is not None:
        log.go_on(beginning.checkpoint.state, earlier if beginning.adopted else [])
    if rank == 0:
        if data.warning:
            log.warning(data.warning)
        reached("weights")
        emit(f"   weights: {beginning.phrase}; {world} workers, {device()}, first step {step + 1} of {spec.steps}")
        emit(f"   {about_memory}")
        if bits := unrepeatable(spec.compute, device().type, spec.zero.numbers):
            emit(f"   {bits}")
        log.cuts()
        emit(f"   {log.efficiency.formula()}")
        if missing := monitor.missing():
            emit(f"   {missing}")
    # a run that is finished is only looked at
    finished = rank == 0 and step == spec.steps and store.storage.exists(f"{spec.run}/manifest.json")
    # ── Steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    saver = checkpoints.Saver(store.storage, spec.run, log, spec.checkpoint.rule, before_commit=tracker.keep)
    profiler = StepProfiler(
        spec.profile_steps if spec.profile and rank == 0 else None, store.storage, spec.run, emit, tracker
    )

    def save(step: int, rate: float) -> None:
        rows = log.take()
        state = {**_state(spec, data, step, rate), **log.state()}
        with record_function("step/checkpoint"):
            saver.save(engine, step, state, sealed_lines(rows) if rank == 0 else None)
        gc.collect()

    with (
        garbage_left_lying(),
        log,
        _last_checkpoint_committed(saver, store.storage, spec.run),
        contextlib.closing(data.steps(step, rank, world, model.locate)) as steps,
    ):
        _look(looks, engine, step, data, log)
        if beginning.adopted and step == last:  # nothing is left to train
            save(step, learning_rate(spec.schedule, step - 1, spec.steps))
        for batches in itertools.islice(steps, max(0, last - step)):
            rate = learning_rate(spec.schedule, step, spec.steps)
            monitor.begin(step + 1, batches)
            if observer is not None:
                observer(step + 1, rate, engine, batches)
            result = engine.step(batches, rate)
            step += 1
            if step == 1 and rank == 0:
                reached("first step")
            log.launched(Launched(step, rate, result, data.wait_seconds, monitor.end()))
            _look(looks, engine, step, data, log)
            if step % spec.log_every_steps == 0:
                gc.collect(1)  # of what is new: a few milliseconds
            if step % spec.checkpoint.every_steps == 0 or step == last:
                save(step, rate)
            profiler.step()
    profiler.close()
    saver.wait(final=True)
    # ── Commit ────────────────────────────────────────────────────────────────────────────────────────────────────────
    if rank == 0 and last == spec.steps and not finished:
        statistics = _statistics(spec, data, read_metrics(store.storage, spec.run))
        statistics.update(checkpoint_stall_s=round(saver.stall_seconds, 3), workers=world)
        log.cuts(ended=True)
        Draft(store.storage, spec.run, spec.claim).commit(spec.config, statistics)
    tracker.close()
    dist.barrier()


def _look(looks: Looks | None, engine: Engine, step: int, data: Stream, log: StepLog) -> None:
    if looks is not None and looks.due(step):
        # a step that has diverged is told of, not looked at
        log.catch_up()
        looks.look(engine, step, data.tokens_after(step))
        log.leave_out_time()


def _state(spec: TrainSpec, data: Stream, step: int, rate: float) -> dict[str, Any]:
    """What a checkpoint says of the run beside its weights: where it stands, and what a child takes over."""
    return {
        "kind": spec.kind,
        "name": spec.name,
        "fingerprint": spec.claim["fingerprint"],
        "model": plain(spec.model),
        "schedule": plain(spec.schedule),
        "learning_rate": rate,
        "tokens": data.tokens_after(step),
        "samples": data.samples_after(step),
        "segments": list(spec.segments),
        "seed": spec.seed,
        "sequence_length": spec.batch.sequence_length,
        "tokenizer": spec.tokenizer,
    }


def _statistics(spec: TrainSpec, data: Stream, curve: list[dict[str, Any]]) -> dict[str, Any]:
    """What the run's manifest says of it."""
    tokens = data.tokens_after(spec.steps)
    return {
        "steps": spec.steps,
        "tokens": tokens,
        "stage_tokens": tokens - spec.start.tokens,
        "learning_rate": {"first": curve[0]["learning_rate"], "last": curve[-1]["learning_rate"]},
        "loss": {"first": curve[0]["loss"], "last": float(np.mean([row["loss"] for row in curve[-20:]]))},
        "train_seconds": round(sum(row["step_duration_s"] for row in curve), 3),
        "delivered": data.delivered(spec.steps),
        "start": plain(spec.start),
        "cut": plain(data.cuts),
    }


def read_metrics(storage: Storage, run: str, until: int | None = None) -> list[dict[str, Any]]:
    """The run's curve: one row per step, joined over the checkpoints that it committed.

    Args: until, the last of them that is asked for; None: all.
    """
    rows: dict[int, dict[str, Any]] = {}
    for step in checkpoints.recorded_steps(storage, run):
        if until is not None and step > until:
            break
        file = f"{run}/metrics/step-{step:06d}.jsonl"
        try:
            rows.update((row["step"], row) for row in unsealed_lines(storage.read(file), "step"))
        except ValueError as error:
            raise CheckpointError(
                f"{storage.uri}/{file} {error}: the run's curve up to step {step} was changed or damaged after it was "
                "written; go on from a checkpoint before it (checkpoint.resume=step-N), which writes it anew, or "
                f"{how_anew(run, {}, storage.uri)}"
            ) from error
    return [rows[step] for step in sorted(rows)]


@dataclass(frozen=True)
class _Beginning:
    """Where this start of the run goes on.

    Attributes: checkpoint, with which it does: its own, or an adopted one; None at step 0. phrase, for people.
    """

    step: int
    phrase: str
    checkpoint: checkpoints.Checkpoint | None = None
    adopted: bool = False


def _load_weights(spec: TrainSpec, storage: Storage, engine: Engine) -> _Beginning:
    """Fill the engine from the run's own checkpoint, or one it adopts, or its parent's; or leave it as initialised."""
    checkpoint = _own_checkpoint(spec, storage)
    adopted = checkpoint is None and spec.adopts is not None
    if adopted and spec.adopts is not None:
        checkpoint = checkpoints.open_checkpoint(storage, spec.adopts.run, f"step-{spec.adopts.step}")
    if checkpoint is not None:
        # adopted, it is as if the run itself had saved it: frozen parameters, too, stay where the run would have them
        checkpoints.load(engine, checkpoint, optimizer_state=True, verified=spec.verified, own=True)
        checkpoints.load_random_states(checkpoint)
        phrase = f"the common steps of {checkpoint}" if adopted else f"resumed from {checkpoint}"
        return _Beginning(checkpoint.step, phrase, checkpoint, adopted)
    if spec.start.mode == "fresh":
        return _Beginning(0, f"fresh from seed {spec.seed}")
    assert spec.start.run is not None
    parent = checkpoints.open_checkpoint(storage, spec.start.run, f"step-{spec.start.step}")
    checkpoints.load(engine, parent, optimizer_state=spec.start.mode == "branch", verified=spec.verified)
    return _Beginning(0, f"{spec.start.mode} from {spec.start.run}@step-{spec.start.step}")


def _rows_so_far(spec: TrainSpec, storage: Storage, beginning: _Beginning) -> list[dict[str, Any]]:
    """The rows of the curve up to where this start goes on; of an adopted checkpoint those of the run that saved it.

    Raises: CheckpointError when that run has them no more.
    """
    if beginning.checkpoint is None:
        return []
    rows = read_metrics(storage, beginning.checkpoint.run, beginning.step)
    if beginning.adopted and [row["step"] for row in rows] != list(range(1, beginning.step + 1)):
        raise CheckpointError(
            f"{beginning.checkpoint} is there, but of the {beginning.step} rows of its curve {len(rows)} are: "
            f"{spec.run} cannot take over its steps; train it alone (the same config without share=true)"
        )
    return rows


def _own_checkpoint(spec: TrainSpec, storage: Storage) -> checkpoints.Checkpoint | None:
    """The run's latest checkpoint, as rank zero finds it.

    Each rank looking for itself could find another: a writer of a lost group may commit in that very moment, and a
    shared file system may show one machine what it hides from another for a while.
    """
    latest: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            if checkpoints.committed_steps(storage, spec.run):
                latest = [checkpoints.open_checkpoint(storage, spec.run)]
        except TrunklineError as error:
            latest = [error]
    dist.broadcast_object_list(latest, src=0)
    if isinstance(latest[0], TrunklineError):
        raise latest[0]
    checkpoint: checkpoints.Checkpoint | None = latest[0]
    return checkpoint


@contextlib.contextmanager
def _last_checkpoint_committed(saver: checkpoints.Saver, storage: Storage, run: str) -> Iterator[None]:
    """When training cannot go on, commit what is being written; the error says which checkpoint is kept.

    Every rank raises that error, and in the same step; rank zero knows what is committed, and all say the same.
    """
    try:
        yield
    except TrainingError as error:
        saver.wait()
        kept = [checkpoints.committed_steps(storage, run)[-1:] if dist.get_rank() == 0 else []]
        dist.broadcast_object_list(kept, src=0)
        outcome = f"The checkpoint at step {kept[0][0]} is kept" if kept[0] else "No checkpoint was committed"
        raise TrainingError(f"{error}. {outcome}") from error


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
