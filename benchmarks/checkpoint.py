"""What a checkpoint costs: our stall against DeepSpeed's own synchronous save of the same engine, in the same run.

    python -m benchmarks.checkpoint                       two processes on a CPU or one a GPU, ZeRO 1 and 3, 110 MB of
                                                          state, some two minutes
    python -m benchmarks.checkpoint --rounds 12 --folder /mnt/disk

Each round takes plain steps, one save of ours with the steps behind which it is written, and one `save_checkpoint` of
DeepSpeed, so that whatever else the machine does falls on all of them. A stall is the time that the slowest rank is
held.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

INTERVAL_STEPS = 100  # CheckpointConfig's default
LAYERS, WIDTH, ROWS, LENGTH, VOCABULARY = 8, 288, 4, 256, 4096  # 9.2 M parameters: 110 MB of weights and moments


class _Watch:
    """Keeps what the saver tells."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def saving(self, step: int) -> None: ...

    def saved(self, step: int, problem: str) -> None: ...

    def warning(self, message: str) -> None:
        print(f"   WARNING {message}", flush=True)

    def alarm(self, message: str) -> None:
        raise SystemExit(message)

    def points(self, values: Any, step: int) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


def measure(stage: int, rounds: int, steps: int, folder: Path) -> list[Any]:
    """One engine, all arms interleaved. Returns: a row of the table (on every rank the same)."""
    import torch
    import torch.distributed as dist

    from pipelines.store.storage import FolderStorage
    from pipelines.train.checkpoint import Saver, load, open_checkpoint
    from pipelines.train.network.architecture import ModelConfig
    from pipelines.train.network.batch import Batch
    from pipelines.train.network.model import Transformer
    from pipelines.train.objectives.next_token import NextToken
    from pipelines.train.optimizers.adamw import AdamWSettings
    from pipelines.train.update.engine import Engine, device
    from pipelines.train.update.zero import ZeroConfig

    config = ModelConfig(
        layers=LAYERS, d_model=WIDTH, d_ff=5 * WIDTH // 2, heads=WIDTH // 32, kv_heads=WIDTH // 32,
        vocabulary=VOCABULARY, max_positions=LENGTH,
    )  # fmt: skip
    model = Transformer(config).initialise(0)
    engine = Engine(model, NextToken(), ZeroConfig(stage=stage, precision="float32"), AdamWSettings(), ROWS, 1, 1)  # type: ignore[arg-type]
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), device=device())
    positions = torch.arange(LENGTH, device=device()).expand(ROWS, LENGTH).contiguous()
    batch = Batch.shifted(
        tokens,
        positions,
        torch.ones(ROWS, LENGTH, device=device()),
        torch.zeros(ROWS, dtype=torch.int64, device=device()),
    )

    def timed(work: Callable[[], Any]) -> float:
        """Seconds of the slowest rank, all of them starting together."""
        dist.barrier()
        began = time.perf_counter()
        work()
        taken = torch.tensor(time.perf_counter() - began, dtype=torch.float64, device=device())
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        return float(taken)

    def step() -> None:
        _ = engine.step([batch], 1e-3).loss  # reading it waits for the device

    def still_writing() -> bool:
        flag = torch.tensor(float(saver.writing), device=device())
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    watch = _Watch()
    saver = Saver(FolderStorage(folder), "pretrain/x", watch)
    for _ in range(3):
        step()
    plain, behind, ours, theirs, loads, their_loads = [], [], [], [], [], []
    for number in range(1, rounds + 2):
        once_plain = [timed(step) for _ in range(steps)]
        once_ours = timed(lambda n=number: saver.save(engine, n, {}, b""))  # type: ignore[misc]
        once_behind = []
        while still_writing():
            once_behind.append(timed(step))
        saver.wait()
        target = str(folder / "deepspeed")
        once_theirs = timed(lambda n=number, t=target: engine.deepspeed.save_checkpoint(t, tag=f"step{n}"))  # type: ignore[misc]
        if number == 1:
            continue  # the first save of either allocates what the others reuse
        plain += once_plain
        behind += once_behind
        ours.append(once_ours)
        theirs.append(once_theirs)
        checkpoint = open_checkpoint(saver.storage, "pretrain/x")
        loads.append(timed(lambda c=checkpoint: load(engine, c, optimizer_state=True)))  # type: ignore[misc]
        their_loads.append(timed(lambda n=number, t=target: engine.deepspeed.load_checkpoint(t, tag=f"step{n}")))  # type: ignore[misc]
        if dist.get_rank() == 0:
            shutil.rmtree(target, ignore_errors=True)
            shutil.rmtree(folder / f"pretrain/x/checkpoints/step-{number:06d}")
        dist.barrier()
    engine.deepspeed.destroy()
    size = sum(p.numel() for p in Transformer(config).parameters()) * 12
    usual = statistics.median(plain)
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    # what one save costs in all: the stall, and what the steps behind it took beyond usual ones
    slower = sum(behind) / len(ours) - usual * len(behind) / len(ours)
    return [
        f"ZeRO-{stage}",
        f"{size / 1e6:.0f} MB",
        _spread(ours, 1e3, "ms"),
        _spread(theirs, 1e3, "ms"),
        f"{statistics.median(ratios):.1f}x ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        f"{statistics.median(ours) / (INTERVAL_STEPS * usual):.3%}",
        _spread(plain, 1e3, "ms"),
        _spread(behind, 1e3, "ms") if behind else "none",
        f"{slower * 1e3:.0f} ms",
        _spread(watch.values.get("checkpoint_write_s", [0.0])[1:] or [0.0], 1, "s"),
        _spread(loads, 1, "s"),
        _spread(their_loads, 1, "s"),
    ]


HEADER = (
    "",
    "state",
    "our stall",
    "DeepSpeed's stall",
    "ratio",
    f"stall, every {INTERVAL_STEPS} steps",
    "a step",
    "a step while writing",
    "all such steps cost",
    "write",
    "our load",
    "DeepSpeed's load",
)


def _spread(values: Sequence[float], scale: float, unit: str) -> str:
    """Median, least and greatest."""
    digits = 0 if scale > 1 and max(values) * scale >= 100 else 2
    return (
        f"{statistics.median(values) * scale:.{digits}f} {unit} ({min(values) * scale:.{digits}f} to "
        f"{max(values) * scale:.{digits}f})"
    )


def worker(options: argparse.Namespace) -> None:
    """One process under torchrun."""
    import torch
    import torch.distributed as dist

    from pipelines.train.update.engine import start_distributed

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["WORLD_SIZE"])))
    start_distributed()
    rows = [
        measure(stage, options.rounds, options.steps, Path(options.folder) / f"zero{stage}") for stage in options.stages
    ]
    if dist.get_rank() == 0:
        width = max(map(len, HEADER))
        for i, name in enumerate(HEADER):
            print(f"   {name:<{width}}  " + "  ".join(f"{row[i]:<28}" for row in rows), flush=True)
    dist.barrier()
    os._exit(0)


def gpus() -> int:
    """How many there are here: NCCL refuses two ranks on one."""
    import torch

    return torch.cuda.device_count()


def main() -> None:
    """Start the processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, help="processes (default: one a GPU, or two on a CPU)")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 3], help="ZeRO stages (default 1 3)")
    parser.add_argument("--rounds", type=int, default=6, help="saves of each kind that are counted (default 6)")
    parser.add_argument("--steps", type=int, default=4, help="plain steps a round (default 4)")
    parser.add_argument("--folder", default=None, help="where to save (default: a temporary folder)")
    options = parser.parse_args()
    if "LOCAL_RANK" in os.environ:
        worker(options)
    ranks = options.ranks or gpus() or 2
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        arguments = [
            "--rounds",
            str(options.rounds),
            "--steps",
            str(options.steps),
            "--folder",
            folder,
            "--stages",
            *map(str, options.stages),
        ]
        done = subprocess.run(
            [*command, "-m", "benchmarks.checkpoint", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        sys.exit(done.stderr[-3000:])


if __name__ == "__main__":
    main()
