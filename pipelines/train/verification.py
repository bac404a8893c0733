"""Training processes that are watched and killed: the workers of `workflows.verify_resume`.

    torchrun --standalone --nproc_per_node=N -m pipelines.train.verification job.json

Enters: runs to train one after another, and checkpoints to load. Leaves, beside the job file: what every optimizer step
was given (`Record`s, a file for each rank), and what each load found (`Load`s). Starting processes costs some ten
seconds, an engine in them a fraction of one, so a job does many things; but a run that is to die takes its processes
with it.
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
from pipelines.store.storage import Storage
from pipelines.train.checkpoint import Checkpoint, committed_steps, load, open_checkpoint
from pipelines.train.checkpoint.committed import Index
from pipelines.train.checkpoint.slices import random_states
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer
from pipelines.train.objectives import objective_of
from pipelines.train.run.stream import Stream
from pipelines.train.schedules.schedule import learning_rate
from pipelines.train.spec import TrainSpec
from pipelines.train.update.engine import Engine, device
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
    sha256 = hashlib.sha256()
    for tensor in tensors:
        sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()[:16]


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


class Recorder:
    """An `Observer` of a run: it writes a `Record` before each step, and kills its process where it is told to."""

    def __init__(self, spec: TrainSpec, folder: Path, die_after: int | None) -> None:
        self.spec, self.die_after = spec, die_after
        self.storage = ArtifactStore(spec.store).storage
        first = max(committed_steps(self.storage, spec.run), default=0)
        self.path = folder / f"{spec.name}-from{first}-rank{os.environ['RANK']}.jsonl"

    def __call__(self, step: int, rate: float, engine: Engine, batches: Sequence[Batch]) -> None:
        """Write down what step `step` (from 1) is given."""
        if self.die_after is not None and step - 1 > self.die_after and int(os.environ["RANK"]) == engine.world - 1:
            _die_once_committed(self.storage, self.spec.run, self.die_after)
        record = Record(step, rate, digests(self.spec, step - 1, batches), digest(*random_states().values()))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def _die_once_committed(storage: Storage, run: str, step: int) -> None:
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
        model,
        objective_of(spec.objective),
        spec.zero,
        spec.optimizer,
        spec.batch.micro_batch,
        accumulation,
        len(data.names),
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
    index, unequal = Index(checkpoint), []
    for name, p in engine.deepspeed.module.model.named_parameters():
        for key in index.states(name):
            if stage == 0:
                gathered = p.data if key == "fp32" else engine.optimizer.state[p][key]
            elif key == "fp32":
                gathered = safe_get_full_fp32_param(p)
            else:
                gathered = safe_get_full_optimizer_state(p, key)
            whole = torch.empty(gathered.numel())
            index.fill(name, key, 0, whole)
            if not torch.equal(gathered.detach().cpu().view(-1), whole):
                unequal.append(f"{name} ({key})")
    return unequal


def main(arguments: Sequence[str]) -> None:
    """Entry point of each process: the runs of the job, then its loads."""
    path = Path(arguments[0])
    job = json.loads(path.read_text(encoding="utf-8"))
    for values in job["runs"]:
        spec = parse(TrainSpec, values)
        work(values, lambda line: None, Recorder(spec, path.parent, job["die_after"]))
        gc.collect()
    loads = []
    if job["loads"]:
        from pipelines.train.update.engine import start_distributed

        start_distributed()
    for values in job["loads"]:
        spec = parse(TrainSpec, values)
        for loaded in _loads(spec, job["sources"], job["step"]):
            loads.append(asdict(loaded))
            if dist.get_rank() == 0:
                say(f"loaded {loaded.source} into ZeRO-{loaded.stage} × {loaded.world}")
        gc.collect()
    if loads and dist.get_rank() == 0:
        path.with_suffix(".loads.json").write_text(json.dumps(loads), encoding="utf-8")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
