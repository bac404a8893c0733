"""AdamW or Muon? Held-out loss of a model of the demo's size over learning rates, each optimizer at its own best.

    python -m benchmarks.optimizers                                    # fifteen runs of 200 steps, each some 15 seconds
    of a core python -m benchmarks.optimizers --steps 400 --rates 0.005 0.01 0.02 --seeds 3

Text: the bytes of Python's standard library, a tenth held out (as `benchmarks.mup sweep`). All arms see the same
windows in the same order, with 5 % warmup and the last fifth linear to a tenth. "muon, fused" orthogonalises query, key
and value (gate and up) as one matrix: what parting them is worth. A comparison is only as fair as its grid: look
whether each best lies inside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import numpy as np
import torch

from benchmarks.mup import VOCABULARY, WINDOW, library_bytes, mean_loss
from pipelines.display.progress import table
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import roles
from pipelines.train.optimizers import OPTIMIZERS, row_of
from pipelines.train.optimizers.groups import build, set_learning_rate
from pipelines.train.optimizers.pieces import Slice
from pipelines.train.schedules.schedule import Schedule, learning_rate

ARMS = ("adamw", "muon", "muon, fused")


def build_whole(model: Transformer, arm: str) -> torch.optim.Optimizer:
    """An arm's optimizer in a process that holds every matrix whole: no engine, no process group."""
    settings = OPTIMIZERS[arm.split(",")[0]].Settings()
    optimizer = build(model, model.config, settings)
    whole = [Slice(name, 0, p.numel(), p, 0) for name, p in model.named_parameters()]
    named = roles(model.config)
    if arm == "muon, fused":  # as if a fused product were one map
        named = {name: dataclasses.replace(role, parts=()) for name, role in named.items()}
    row_of(settings).bind(optimizer, whole, named, torch.device("cpu"))
    return optimizer


def train(ids: torch.Tensor, arm: str, rate: float, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Held-out loss in nats per byte, and milliseconds per step, of one run."""
    config = ModelConfig(
        layers=options.layers,
        d_model=options.width,
        d_ff=5 * options.width // 2,
        heads=options.width // 32,
        kv_heads=options.width // 64,
        vocabulary=VOCABULARY,
        max_positions=WINDOW,
        dim_model_base=64,
    )
    model = Transformer(config).initialise(seed)
    optimizer = build_whole(model, arm)
    steps, random, kept = options.steps, torch.Generator().manual_seed(seed), len(ids) * 9 // 10
    schedule = Schedule(peak_lr=rate, warmup_steps=max(1, steps // 20), decay="linear", decay_steps=steps // 5)
    positions, began = torch.arange(WINDOW).repeat(options.batch, 1), time.perf_counter()
    for step in range(steps):
        windows = _windows(ids[:kept], options.batch, random)
        loss = mean_loss(model.logits(model(ModelInput(inputs=windows[:, :-1], positions=positions))), windows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_learning_rate(optimizer, learning_rate(schedule, step, steps))
        optimizer.step()
    seconds = time.perf_counter() - began
    held = _windows(ids[kept:], 128, torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits = model.logits(model(ModelInput(inputs=held[:, :-1], positions=torch.arange(WINDOW).repeat(128, 1))))
    return mean_loss(logits, held).item(), 1e3 * seconds / steps


def _windows(ids: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    starts = torch.randint(0, len(ids) - WINDOW, (count, 1), generator=random)
    return ids[starts + torch.arange(WINDOW + 1)]


def main() -> None:
    """Print a table of held-out losses: arms by learning rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0025, 0.005, 0.01, 0.02, 0.04])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16, help=f"windows of {WINDOW} bytes a step")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    ids = library_bytes()
    rows: list[list[Any]] = []
    for arm in options.arms:
        found = [[train(ids, arm, rate, options, seed) for seed in range(options.seeds)] for rate in options.rates]
        losses, speed = np.array(found)[..., 0], np.array(found)[..., 1]
        best = int(losses.mean(axis=1).argmin())
        spread = f" ± {losses[best].std():.4f}" if options.seeds > 1 else ""
        rows.append(
            [
                arm,
                *(f"{loss:.4f}" for loss in losses.mean(axis=1)),
                f"{losses.mean(axis=1)[best]:.4f}{spread} at {options.rates[best]:g}",
                f"{np.median(speed):.0f}",
            ]
        )
        print("  ".join(map(str, rows[-1])), flush=True)
    print()
    print(table(["nats per byte at LR", *(f"{rate:g}" for rate in options.rates), "best", "ms per step"], rows))


if __name__ == "__main__":
    main()
