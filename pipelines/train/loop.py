"""The one training loop of all stages.

Enters: a `TrainSpec`. Leaves: committed checkpoints, metrics beside them, and at the end the run's manifest.

Sample i is a pure function, so a step needs no iterator state: step s reads samples `start + s·global_batch + …`. Metrics
of an interval are published with the checkpoint that ends it; a restart repeats the steps after the last checkpoint and
the joined curve equals that of an uninterrupted run exactly.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipelines.artifacts import ArtifactStore, Draft
from pipelines.config import plain
from pipelines.progress import duration
from pipelines.storage import Storage
from pipelines.tracking import Tracker
from pipelines.train import checkpoint as checkpoints
from pipelines.train.engine import Engine, StepResult, device
from pipelines.train.losses import LanguageModelling, Preference
from pipelines.train.model import Transformer, flops_per_token
from pipelines.train.reference import reference_logps
from pipelines.train.schedule import learning_rate
from pipelines.train.stages import TrainSpec
from pipelines.train.stream import Stream

_BF16_PEAK_FLOPS = {"A100": 312e12, "H100": 989.4e12, "H200": 989.4e12, "B200": 2250e12}


def train(spec: TrainSpec, emit: Callable[[str], None]) -> None:
    """Run a stage on this rank, from wherever its own checkpoints stand to its last step.

    Args: emit, called on rank zero with one line for people at a time.
    Raises: CheckpointError for a damaged or foreign checkpoint; StorageError when the last checkpoint cannot be saved.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    store = ArtifactStore(spec.store)
    data = Stream(spec, store)
    # ── Weights: resume self, branch from parent, initialise from parent, or fresh ────────────────────────────────────
    _seed_everything(spec.seed + rank)
    model = Transformer(spec.model).initialise(spec.seed)
    objective = Preference(spec.beta) if spec.kind == "dpo" else LanguageModelling()
    accumulation = spec.batch.global_batch // (spec.batch.micro_batch * world)
    engine = Engine(model, objective, spec.zero, spec.optimizer, spec.batch.micro_batch, accumulation, len(data.names))
    step, where = _load_weights(spec, store.storage, engine, data)
    tracker = (
        Tracker(spec.tracking["uri"], spec.tracking["run_id"]) if rank == 0 and spec.tracking else Tracker("", None)
    )
    if rank == 0 and data.warning:
        emit(f"   WARNING {data.warning}")
    if rank == 0:
        emit(f"   weights: {where}; {world} workers, {device()}, first step {step + 1} of {spec.steps}")
    # ── Steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    log = _Log(spec, data, emit, tracker, world)
    saver = checkpoints.Saver(store.storage, spec.run, log)
    rows: list[dict[str, Any]] = []
    for batches in data.steps(step, rank, world):
        rate = learning_rate(spec.schedule, step, spec.steps)
        result = engine.step(batches, rate)
        step += 1
        if rank == 0:
            rows.append(log.step(step, rate, result))
        if step % spec.checkpoint.every_steps == 0 or step == spec.steps:
            state = {
                "kind": spec.kind, "name": spec.name, "fingerprint": spec.claim["fingerprint"], "model": plain(spec.model),
                "schedule": plain(spec.schedule), "learning_rate": rate, "tokens": data.tokens_after(step),
                "samples": data.samples_after(step), "segments": list(spec.segments), "seed": spec.seed,
                "sequence_length": spec.batch.sequence_length, "tokenizer": spec.tokenizer,
            }  # fmt: skip
            saver.save(engine, step, state, _jsonl(rows) if rank == 0 else None)
            rows = []
    saver.wait(final=True)
    # ── Commit ────────────────────────────────────────────────────────────────────────────────────────────────────────
    if rank == 0:
        curve = read_metrics(store.storage, spec.run)
        statistics = {
            "steps": spec.steps, "tokens": data.tokens_after(spec.steps), "stage_tokens": data.tokens_after(spec.steps) - spec.start.tokens,
            "learning_rate": {"first": curve[0]["learning_rate"], "last": curve[-1]["learning_rate"]},
            "loss": {"first": curve[0]["loss"], "last": float(np.mean([row["loss"] for row in curve[-20:]]))},
            "train_seconds": round(sum(row["step_duration_s"] for row in curve), 3), "checkpoint_stall_s": round(saver.stall_seconds, 3),
            "delivered": data.delivered(spec.steps), "start": plain(spec.start), "workers": world,
        }  # fmt: skip
        Draft(store.storage, spec.run, spec.claim).commit(spec.config, statistics)
        tracker.close()
    dist.barrier()


def read_metrics(storage: Storage, run: str) -> list[dict[str, Any]]:
    """The run's curve: one row per step, joined over its committed checkpoints."""
    rows: dict[int, dict[str, Any]] = {}
    for step in checkpoints.committed_steps(storage, run):
        text = storage.read(f"{run}/metrics/step-{step:06d}.jsonl").decode()
        rows.update((row["step"], row) for row in map(json.loads, text.splitlines()))
    return [rows[step] for step in sorted(rows)]


def _load_weights(spec: TrainSpec, storage: Storage, engine: Engine, data: Stream) -> tuple[int, str]:
    """Completed steps, and a phrase saying where the weights came from."""
    if checkpoints.committed_steps(storage, spec.run):
        own = checkpoints.open_checkpoint(storage, spec.run)
        checkpoints.load(engine, own, optimizer_state=True)
        checkpoints.load_random_states(own)
        phrase = f"resumed from {spec.run}@step-{own.step}"
        step = own.step
    elif spec.start.mode == "fresh":
        phrase, step = f"fresh from seed {spec.seed}", 0
    else:
        assert spec.start.run is not None
        parent = checkpoints.open_checkpoint(storage, spec.start.run, f"step-{spec.start.step}")
        checkpoints.load(engine, parent, optimizer_state=spec.start.mode == "branch")
        phrase, step = f"{spec.start.mode} from {spec.start.run}@step-{spec.start.step}", 0
    if spec.kind == "dpo":
        # the frozen reference is the parent: computed before the first step, then read back after any restart
        data.reference = reference_logps(spec, storage, engine, data.preferences, fresh=step == 0)
    return step, phrase


class _Log:
    """Rank zero's aligned line, MLflow points and metrics rows."""

    def __init__(self, spec: TrainSpec, data: Stream, emit: Callable[[str], None], tracker: Tracker, world: int):
        self.spec, self.data, self.emit, self.tracker, self.world = spec, data, emit, tracker, world
        self.began = self.last = time.perf_counter()
        self.first: int | None = None
        self.source_loss = torch.zeros(len(data.names), dtype=torch.float64)
        self.source_count = torch.zeros(len(data.names), dtype=torch.float64)
        self.peak_flops = next(
            (
                flops
                for name, flops in _BF16_PEAK_FLOPS.items()
                if torch.cuda.is_available() and name in torch.cuda.get_device_name()
            ),
            None,
        )

    def warning(self, message: str) -> None:
        """Say what training survives without harm."""
        self.emit(f"   WARNING {message}")

    def points(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step that are not about the step itself, such as those of its checkpoint."""
        self.tracker.metrics(values, step)

    def alarm(self, message: str) -> None:
        """Say that something failed which training survives, in the log and on the run's page."""
        self.emit(f"   ALARM {message}")
        self.tracker.tags({"trunkline.alarm": message})

    def step(self, step: int, rate: float, result: StepResult) -> dict[str, Any]:
        """Note one finished step; print and track every `log_every_steps`."""
        spec, now = self.spec, time.perf_counter()
        seconds, self.last = now - self.last, now
        self.first = step - 1 if self.first is None else self.first
        tokens = self.data.tokens_after(step)
        speed = (tokens - self.data.tokens_after(step - 1)) / seconds
        row: dict[str, Any] = {
            "step": step, "tokens": tokens, "samples": self.data.samples_after(step), "loss": result.loss, "learning_rate": rate,
            "gradient_norm": result.gradient_norm, "counted": result.count, **result.extras, "step_duration_s": round(seconds, 4),
            "data_wait_s": round(self.data.wait_seconds, 4),
        }  # fmt: skip
        self.source_loss += result.source_loss
        self.source_count += result.source_count
        if step % spec.log_every_steps and step != spec.steps:
            return row
        flops = flops_per_token(spec.model, spec.batch.sequence_length) * speed / self.world
        mfu = f"MFU {flops / self.peak_flops:.1%}" if self.peak_flops else f"{flops / 1e9:.1f} GFLOP/s/worker"
        eta = (now - self.began) / (step - self.first) * (spec.steps - step)
        extras = "".join(f"  {name} {value:.3f}" for name, value in result.extras.items())
        self.emit(
            f"   {spec.kind} {step:>{len(str(spec.steps))}}/{spec.steps}  loss {result.loss:.4f}{extras}  lr {rate:.3e}  grad {result.gradient_norm:6.3f}  "
            f"{speed:,.0f} tok/s  {mfu}  {_peak_gib():.2f} GiB  ETA {duration(eta)}"
        )
        points = {name: value for name, value in row.items() if name not in ("step", "counted")}
        points["tokens_per_s"] = speed
        for name, loss, count in zip(
            self.data.names, self.source_loss.tolist(), self.source_count.tolist(), strict=True
        ):
            if count:
                points[f"loss_by_source/{name}"] = loss / count
                row.setdefault("loss_by_source", {})[name] = loss / count
        self.source_loss.zero_()
        self.source_count.zero_()
        row["tokens_by_source"] = self.data.tokens_by_source(step)
        points.update({f"tokens_by_source/{name}": tokens for name, tokens in row["tokens_by_source"].items()})
        self.tracker.metrics(points, step)
        self.tracker.metrics({"loss_by_tokens": result.loss}, tokens)
        return row


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _peak_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
