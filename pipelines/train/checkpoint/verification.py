"""Training processes that are watched and killed: the workers of `workflows.verify_resume`.

    torchrun --standalone --nproc_per_node=N -m pipelines.train.checkpoint.verification job.json

Enters: runs to train one after another, and checkpoints to load. Leaves, beside the job file: what every optimizer step was
given (`Record`s, a file for each rank), and what each load found (`Load`s). Starting processes costs some ten seconds, an
engine in them a fraction of one, so a job does many things; but a run that is to die takes its processes with it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.config import parse
from pipelines.data.stream.loader import rank_indices
from pipelines.display.progress import say
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import Checkpoint, committed_steps, load, open_checkpoint
from pipelines.train.checkpoint.committed import Index
from pipelines.train.checkpoint.slices import random_states
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.plan.schedule import learning_rate
from pipelines.train.run import loop
from pipelines.train.run.stream import Stream
from pipelines.train.stages import TrainSpec
from pipelines.train.update.engine import Engine, device
from pipelines.train.update.step import StepResult
from pipelines.train.worker import work

_COMMIT_WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Record:
    """What one rank's optimizer step was given."""

    step: int  # counted from 1
    learning_rate: float
    rows: dict[int, str]  # sample of the stream -> digest of its tokens, positions and mask
    random: str  # digest of the rank's generators


@dataclass(frozen=True)
class Load:
    """What came of loading a checkpoint into a new engine and taking one step."""

    source: str  # name of the run that saved it
    stage: int
    world: int
    unequal: list[str]  # "parameter (state)" that is not bit-equal to the files, as DeepSpeed gathers it
    loss: float
    rows: dict[int, str]


def digest(*tensors: Tensor) -> str:
    """16 hexadecimal digits that equal tensors share."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def digests(spec: TrainSpec, step: int, batches: Sequence[Batch]) -> dict[int, str]:
    """Digest of each row of a step's batches on this rank, by its sample in the stream. Args: step, counted from 0."""
    numbers = rank_indices(
        step,
        global_batch=spec.batch.global_batch,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        micro_batch=spec.batch.micro_batch,
    )
    return {
        spec.start.samples + int(number): digest(
            batch.inputs[i], batch.targets[i], batch.positions[i], batch.loss_mask[i]
        )
        for micro, batch in zip(numbers, batches, strict=True)
        for i, number in enumerate(micro)
    }


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _watched(spec: TrainSpec, folder: Path, die_after: int | None) -> Iterator[None]:
    """Within this block the loop's engine writes a `Record` of each step, and kills its process where it is told to."""
    storage = ArtifactStore(spec.store).storage
    first = max(committed_steps(storage, spec.run), default=0)
    path = (
        folder / f"{spec.name}-from{first}-rank{dist.get_rank() if dist.is_initialized() else os.environ['RANK']}.jsonl"
    )

    class WatchedEngine(Engine):
        steps = first

        def step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
            if die_after is not None and self.steps > die_after and int(os.environ["RANK"]) == self.world - 1:
                _die_once_committed(storage, spec.run, die_after)
            with path.open("a", encoding="utf-8") as file:
                rows = digests(spec, self.steps, batches)
                record = Record(self.steps + 1, learning_rate, rows, digest(*random_states().values()))
                file.write(json.dumps(asdict(record)) + "\n")
            self.steps += 1
            return super().step(batches, learning_rate)

    loop.Engine = WatchedEngine  # type: ignore[attr-defined]
    try:
        yield
    finally:
        loop.Engine = Engine  # type: ignore[attr-defined]


def _die_once_committed(storage: Any, run: str, step: int) -> None:
    deadline = time.monotonic() + _COMMIT_WAIT_SECONDS
    while step not in committed_steps(storage, run) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


# ── Loads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _loads(spec: TrainSpec, sources: Sequence[str], step: int) -> Iterator[Load]:
    """Load the checkpoint at `step` of each run in `sources` into one engine, and take the step after it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    store = ArtifactStore(spec.store)
    data = Stream(spec, store)
    # other weights than any run began with: all of them have to come from the checkpoint
    model = Transformer(spec.model).initialise(spec.seed + 1)
    model.prepare(spec.compute, device=device(), whole_weights=spec.zero.stage < 3)
    accumulation = spec.batch.global_batch // (spec.batch.micro_batch * world)
    engine = Engine(
        model, NextToken(), spec.zero, spec.optimizer, spec.batch.micro_batch, accumulation, len(data.names)
    )
    batches = next(data.steps(step, rank, world, model.locate))
    rows: list[Any] = [None] * world
    dist.all_gather_object(rows, digests(spec, step, batches))
    for source in sources:
        checkpoint = open_checkpoint(store.storage, f"{spec.kind}/{source}", f"step-{step}")
        load(engine, checkpoint, optimizer_state=True)
        unequal = _unequal(engine, checkpoint)
        loss = engine.step(batches, learning_rate(spec.schedule, step, spec.steps)).loss
        together = {number: row for part in rows for number, row in part.items()}
        yield Load(source, spec.zero.stage, world, unequal, loss, together)
    engine.deepspeed.destroy()


def _unequal(engine: Engine, checkpoint: Checkpoint) -> list[str]:
    """What differs in any bit between the files and the engine, gathered by DeepSpeed's own functions, not by ours."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    o, stage = engine.deepspeed.optimizer, engine.deepspeed.zero_optimization_stage()
    if stage in (1, 2):
        o._hp_optimizer_states_linked = False  # DeepSpeed links moments once, after the first group's first step
        o._lazy_init_hp_params_optimizer_state()
    index, found = Index(checkpoint), []
    for name, p in engine.deepspeed.module.model.named_parameters():
        for key in index.states(name):
            if stage == 0:
                held = p.data if key == "fp32" else engine.optimizer.state[p][key]
            elif key == "fp32":
                held = safe_get_full_fp32_param(p)
            else:
                held = safe_get_full_optimizer_state(p, key)
            whole = torch.empty(held.numel())
            index.fill(name, key, 0, whole)
            if not torch.equal(held.detach().cpu().view(-1), whole):
                found.append(f"{name} ({key})")
    return found


def main(arguments: Sequence[str]) -> None:
    """Entry point of each process: the runs of the job, then its loads."""
    path = Path(arguments[0])
    job = json.loads(path.read_text(encoding="utf-8"))
    for values in job["runs"]:
        spec = parse(TrainSpec, values)
        with _watched(spec, path.parent, job["die_after"]):
            work(values, lambda line: None)
        gc.collect()
    found = []
    if job["loads"]:
        from pipelines.train.update.engine import start_distributed

        start_distributed()
    for values in job["loads"]:
        spec = parse(TrainSpec, values)
        for one in _loads(spec, job["sources"], job["step"]):
            found.append(asdict(one))
            if dist.get_rank() == 0:
                say(f"loaded {one.source} into ZeRO-{one.stage} × {one.world}")
        gc.collect()
    if found and dist.get_rank() == 0:
        path.with_suffix(".loads.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
