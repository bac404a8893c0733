"""Is muP at work? How much a step changes each part of the model at several widths, and where the best learning rate
lies.

    python -m benchmarks.mup coordinates                       # 20 seconds: changes after a few steps, widths 64 to 512
    python -m benchmarks.mup coordinates --widths 128 --layers 2 4 8 16
    python -m benchmarks.mup sweep --widths 64 256             # minutes: held-out loss over learning rates in factors
    of two

Three ways to grow a model from `--base` (at that width they are one and the same model):

    muP      the recipe: logits from h/m, hidden matrices N(0, 0.01/m) at a rate of η/m        m = width / base
    one LR   its initialisation and logits, but η for every parameter (`optimizer.mup_lr=false`)
    off      one initialisation, one rate, no division by m, at every width                    (dim_model_base =
    d_model)

*Coordinates*: the root mean square, over all tokens and components, of how far a value moved on one fixed batch of
random ids since initialisation; then the slope of its logarithm over that of the width, which is 0 where a value moves
alike at every width (Yang et al., arXiv 2203.03466, appendix D.1). *Sweep*: the bytes of Python's standard library, a
tenth of them held out. Each prints a table and writes a PNG.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.display.progress import table
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.optimizers.groups import build, set_learning_rate
from pipelines.train.schedules.schedule import Schedule, learning_rate

ARMS = ("muP", "one LR", "off")
HEAD_WIDTH, VOCABULARY, WINDOW = 16, 128, 64
PARTS = ("embedding", "attention", "feed-forward", "final hidden", "target's logit", "all logits")


def shape(arm: str, width: int, layers: int = 2, base: int = 64) -> ModelConfig:
    """A model of the wind tunnel's proportions: heads of equal width, feed-forward 2.5 × width."""
    return ModelConfig(
        layers=layers, d_model=width, d_ff=5 * width // 2, heads=width // HEAD_WIDTH, kv_heads=width // HEAD_WIDTH,
        vocabulary=VOCABULARY, max_positions=WINDOW, dim_model_base=width if arm == "off" else base,
    )  # fmt: skip


class Trainer:
    """A model and its optimizer; no engine: one process, float32."""

    def __init__(self, config: ModelConfig, arm: str, seed: int):
        self.model = Transformer(config).initialise(seed)
        self.optimizer = build(self.model, config, AdamWSettings(mup_lr=arm != "one LR"))

    def logits(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, T+1) ids → (B, T, V)."""
        inputs = windows[:, :-1]
        out: torch.Tensor = self.model.logits(
            self.model(ModelInput(inputs=inputs, positions=torch.arange(inputs.shape[1]).expand_as(inputs)))
        )
        return out

    def step(self, logits: torch.Tensor, windows: torch.Tensor, lr: float) -> None:
        """One update on the mean cross-entropy, clipped as the recipe does."""
        mean_loss(logits, windows).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()


def mean_loss(logits: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats per token."""
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


# ── coordinates ──────────────────────────────────────────────────────────────────────────────────────────────────────


def changes(config: ModelConfig, arm: str, seed: int, steps: int, lr: float) -> list[dict[str, float]]:
    """How far each of `PARTS` has moved after 1, 2, … `steps` updates on one batch. The target's logit has a sign: it
    rises.
    """
    windows = torch.randint(0, VOCABULARY, (4, 33), generator=torch.Generator().manual_seed(99))
    trainer, seen = Trainer(config, arm, seed), dict[str, list[torch.Tensor]]()

    def watch(module: torch.nn.Module, part: str) -> None:
        def keep(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            seen.setdefault(part, []).append(output.detach())

        module.register_forward_hook(keep)

    watch(trainer.model.embed_tokens, "embedding")
    watch(trainer.model.norm, "final hidden")
    for block in trainer.model.layers:
        watch(block.self_attn.o_proj, "attention")
        watch(block.mlp.down_proj, "feed-forward")
    first: dict[str, torch.Tensor] = {}
    moved: list[dict[str, float]] = []
    for step in range(steps + 1):
        seen.clear()
        logits = trainer.logits(windows)
        now = {part: torch.stack(outputs) for part, outputs in seen.items()}
        now["all logits"] = logits.detach()
        now["target's logit"] = logits.detach().gather(2, windows[:, 1:, None])
        first = first or now
        if step:
            moved.append({part: (now[part] - first[part]).square().mean().sqrt().item() for part in PARTS})
            moved[-1]["target's logit"] = (now["target's logit"] - first["target's logit"]).mean().item()
        trainer.step(logits, windows, lr)
    return moved


def coordinate_check(
    arm: str, shapes: Sequence[tuple[int, int]], base: int = 64, seeds: int = 3, steps: int = 4, lr: float = 0.01
) -> dict[str, NDArray[np.float64]]:
    """Changes by part, [shapes, steps], means over seeds. Args: shapes, (width, layers) of each model."""
    runs = [
        [changes(shape(arm, width, layers, base), arm, seed, steps, lr) for seed in range(seeds)]
        for width, layers in shapes
    ]
    return {part: np.array([[[s[part] for s in r] for r in model] for model in runs]).mean(axis=1) for part in PARTS}


def slope(x: Sequence[int], values: NDArray[np.float64]) -> float:
    """The exponent p of values ∝ x^p, by least squares of logarithms; the change over all of x in powers of x."""
    return float(np.polyfit(np.log(x), np.log(values), 1)[0])


def coordinates(options: argparse.Namespace) -> None:
    """Print slopes and changes, draw them."""
    shapes = [(width, layers) for width in options.widths for layers in options.layers]
    x, name = (options.widths, "width") if len(options.layers) == 1 else (options.layers, "layers")
    found = {}
    for arm in options.arms:
        started = time.perf_counter()
        found[arm] = coordinate_check(arm, shapes, options.base, options.seeds, options.steps, options.lr)
        print(f"\n{arm}: η {options.lr:g}, {options.seeds} seeds, {time.perf_counter() - started:.0f} s")
        rows = [
            [part, *(f"{slope(x, moved[:, step]):+.2f}" for step in range(options.steps)), *moved[:, -1].round(3)]
            for part, moved in found[arm].items()
        ]
        header = [
            f"slope over {name}, step {step + 1}" if not step else f"step {step + 1}" for step in range(options.steps)
        ]
        print(
            table(
                ["part", *header, *(f"change at {name} {value}" if value == x[0] else str(value) for value in x)], rows
            )
        )
    figure = Figure(figsize=(2.6 * len(PARTS), 2.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(PARTS), squeeze=False, sharex=True)
    for row, (arm, moved) in zip(axes, found.items(), strict=True):
        for axis, part in zip(row, PARTS, strict=True):
            for step in range(options.steps):
                axis.plot(x, moved[part][:, step], "o-", ms=3, label=f"step {step + 1}", color=f"C{step}")
            axis.set(xscale="log", yscale="log", title=f"{arm}: {part}")
            axis.set_xticks(x, [str(value) for value in x], minor=False)
            axis.minorticks_off()
            low, high = axis.get_ylim()
            middle, reach = (
                math.sqrt(low * high),
                max(math.sqrt(high / low), 10),
            )  # at least two decades: flat looks flat
            axis.set_ylim(middle / reach, middle * reach)
    axes[0][0].legend(fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel(name)
    save(figure, options.plot)


# ── sweep ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def library_bytes(megabytes: float = 2.0) -> torch.Tensor:
    """The modules of Python's standard library as ids below 128 (bytes beyond ASCII are 127): what every machine
    has.
    """
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    order = np.random.default_rng(0).permutation(len(files))
    held = b"".join(files[i].read_bytes() for i in order)[: int(megabytes * 1e6)]
    return torch.from_numpy(np.minimum(np.frombuffer(held, np.uint8), VOCABULARY - 1).astype(np.int64))


def train(
    ids: torch.Tensor, arm: str, width: int, lr: float, steps: int, base: int = 64, seed: int = 0, layers: int = 2,
    window: int = WINDOW,
) -> float:  # fmt: skip
    """Held-out loss in nats per byte after `steps` of 16 windows: 5 % warmup, the last fifth linear to a tenth."""
    trainer, random = Trainer(shape(arm, width, layers, base), arm, seed), torch.Generator().manual_seed(seed)
    schedule = Schedule(peak_lr=lr, warmup_steps=max(1, steps // 20), decay="linear", decay_steps=steps // 5)
    kept = len(ids) * 9 // 10
    for step in range(steps):
        windows = _draw(ids[:kept], 16, window, random)
        trainer.step(trainer.logits(windows), windows, learning_rate(schedule, step, steps))
    held = _draw(ids[kept:], 128, window, torch.Generator().manual_seed(5))
    with torch.no_grad():
        return mean_loss(trainer.logits(held), held).item()


def _draw(ids: torch.Tensor, count: int, window: int, random: torch.Generator) -> torch.Tensor:
    starts = torch.randint(0, len(ids) - window, (count, 1), generator=random)
    return ids[starts + torch.arange(window + 1)]


def best_exponent(exponents: Sequence[int], losses: Sequence[float]) -> float:
    """Where the parabola through the losses within 0.15 of the lowest has its minimum: less noisy than the lowest
    itself.
    """
    near = [(e, loss) for e, loss in zip(exponents, losses, strict=True) if loss < min(losses) + 0.15]
    lowest = exponents[int(np.argmin(losses))]
    if len(near) < 3:
        return lowest
    curvature, linear, _ = np.polyfit(*zip(*near, strict=True), 2)
    return float(np.clip(-linear / (2 * curvature), lowest - 1, lowest + 1)) if curvature > 0 else lowest


def mean_over_seeds(ids: torch.Tensor, arm: str, width: int, lr: float, options: argparse.Namespace) -> float:
    """The mean held-out loss of `--seeds` runs."""
    seeds = range(options.seeds)
    return sum(train(ids, arm, width, lr, options.steps, options.base, seed) for seed in seeds) / options.seeds


def sweep(options: argparse.Namespace) -> None:
    """Print held-out losses over learning rates and widths, draw them."""
    ids, exponents = library_bytes(), range(options.grid[0], options.grid[1] + 1)
    rows: list[list[Any]] = []
    for arm in options.arms:
        for width in options.widths:
            started = time.perf_counter()
            at_base = [row for row in rows if row[1] == width == options.base]  # there the arms are one model
            if at_base:
                losses = at_base[0][3:]
            else:
                losses = [mean_over_seeds(ids, arm, width, 2.0**exponent, options) for exponent in exponents]
            rows.append([arm, width, f"2^{best_exponent(exponents, losses):.1f}", *(round(x, 3) for x in losses)])
            edge = ", at the edge of --grid" if min(losses) in (losses[0], losses[-1]) else ""
            print(
                f"{arm}, width {width}: best at {rows[-1][2]}{edge}, {time.perf_counter() - started:.0f} s", flush=True
            )
    print(
        "\n"
        + table(
            ["scalings", "width", "best η", *(f"η 2^{e}" if e == exponents[0] else f"2^{e}" for e in exponents)], rows
        )
    )
    figure = Figure(figsize=(4.4 * len(options.arms), 3.6), layout="constrained")
    for axis, arm in zip(
        figure.subplots(1, len(options.arms), squeeze=False, sharey=True)[0], options.arms, strict=True
    ):
        for _, width, _, *losses in (row for row in rows if row[0] == arm):
            line = axis.plot([2.0**e for e in exponents], losses, "o-", ms=3, label=f"width {width}")[0]
            axis.plot(2.0 ** exponents[int(np.argmin(losses))], min(losses), "*", ms=13, color=line.get_color())
        axis.set(xscale="log", title=arm, xlabel="peak learning rate")
        axis.set_xscale("log", base=2)
    lowest = min(min(row[3:]) for row in rows)
    axis.set_ylim(lowest - 0.05, lowest + 1.0)
    figure.axes[0].set_ylabel("held-out loss, nats per byte")
    figure.axes[0].legend(fontsize=8)
    save(figure, options.plot)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"\nplot: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("coordinates", help="changes of each part of the model over width or depth")
    check.add_argument("--layers", type=int, nargs="+", default=[2], help="several of them with one width: over depth")
    check.add_argument("--lr", type=float, default=0.01, help="η")
    check.set_defaults(
        command=coordinates,
        arms=ARMS,
        widths=[64, 128, 256, 512],
        seeds=3,
        steps=4,
        plot=Path("outputs/mup-coordinates.png"),
    )
    best = commands.add_parser("sweep", help="the best learning rate at several widths")
    best.add_argument("--grid", type=int, nargs=2, default=[-8, -3], help="first and last power of two of η")
    best.set_defaults(
        command=sweep, arms=("muP", "off"), widths=[64, 256], seeds=1, steps=100, plot=Path("outputs/mup-sweep.png")
    )
    for command in (check, best):
        command.add_argument("--widths", type=int, nargs="+", help=f"multiples of {HEAD_WIDTH}")
        command.add_argument("--base", type=int, default=64, help="dim_model_base: the width at which m is 1")
        command.add_argument("--arms", nargs="+", choices=ARMS)
        command.add_argument("--seeds", type=int, help="means are over these")
        command.add_argument("--steps", type=int)
        command.add_argument("--plot", type=Path, help="PNG to write")
    options = parser.parse_args(arguments)
    if any(width % HEAD_WIDTH for width in options.widths):
        parser.error(f"--widths {options.widths}: expected multiples of {HEAD_WIDTH}, the width of a head")
    if min(options.steps, options.seeds) < 1:
        parser.error(f"--steps {options.steps} --seeds {options.seeds}: expected 1 or more of each")
    if options.command is coordinates and (len(options.widths) > 1) == (len(options.layers) > 1):
        parser.error(f"--widths {options.widths} --layers {options.layers}: give several of one and one of the other")
    torch.set_num_threads(1)  # models this small lose by more
    options.command(options)


if __name__ == "__main__":
    main()
