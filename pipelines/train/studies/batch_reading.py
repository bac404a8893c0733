"""What study `batch` reads from its trials: tokens until a loss was reached, for each batch size; their least; the law.

Enters: trials measured along their way. Leaves: for each model size and seed the curves of all batch sizes, and numbers
by name, of all seeds or of a sample of them. The losses asked about are chosen once, from all seeds.

Source: MiniCPM (arXiv 2404.06395 §3.2 and appendix A.2): equal-loss points in the plane of batch and tokens, a parabola
through those of one loss in logarithms, its minimum, a line through the minima in log space.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.train.studies.parabola import Parabola, parabola
from pipelines.train.trials.result import TrialResult

FEWEST_BATCHES = 4  # that reach a loss, for a parabola with its minimum inside

Curve = tuple[tuple[float, float], ...]  # (tokens, value), tokens ascending


@dataclass(frozen=True)
class SeedCurves:
    """One seed of one model size. Attributes: losses, noise: tokens of a step -> curve over tokens trained on."""

    losses: Mapping[int, Curve]
    noise: Mapping[int, Curve]


Cells = Mapping[int, Sequence[SeedCurves]]  # non-embedding parameters -> seeds
Levels = Mapping[int, Sequence[float]]  # non-embedding parameters -> losses asked about, falling


def cells_of(trials: Sequence[TrialResult], measure: str) -> dict[int, list[SeedCurves]]:
    """Non-embedding parameters -> for each seed, its curves at each batch size."""
    losses: dict[int, dict[int, dict[int, Curve]]] = {}
    noise: dict[int, dict[int, dict[int, Curve]]] = {}
    for trial in trials:
        means = [(float(tokens), float(np.mean(list(row.values())))) for tokens, row in trial.losses(measure).items()]
        scales = [(float(row["tokens"]), float(row["noise_scale"])) for row in trial.curve if row.get("noise_scale")]
        size = trial.parameters
        losses.setdefault(size, {}).setdefault(trial.seed, {})[trial.batch_tokens] = tuple(sorted(means))
        noise.setdefault(size, {}).setdefault(trial.seed, {})[trial.batch_tokens] = tuple(sorted(scales))
    return {
        size: [SeedCurves(curves, noise[size][seed]) for seed, curves in sorted(losses[size].items())]
        for size in sorted(losses)
    }


def tokens_to(curve: Curve, loss: float) -> float | None:
    """Tokens until a curve first reached a loss, between two of its points in log tokens; None where it did not, or
    where it was below from its first point on.
    """
    for (before, above), (after, below) in itertools.pairwise(curve):
        if above > loss >= below:
            share = (above - loss) / (above - below)
            return float(before * (after / before) ** share)
    return None


def mean_tokens(seeds: Sequence[SeedCurves], loss: float) -> dict[float, float]:
    """Batch -> binary logarithm of the tokens until a loss, mean over the seeds; of batches at which all reached it."""
    batches = set.intersection(*(set(seed.losses) for seed in seeds)) if seeds else set()
    means = {}
    for batch in sorted(batches):
        reached = [tokens_to(seed.losses[batch], loss) for seed in seeds]
        if all(tokens is not None for tokens in reached):
            means[float(batch)] = float(np.mean([math.log2(tokens) for tokens in reached if tokens is not None]))
    return means


def levels_of(cells: Cells, count: int) -> dict[int, list[float]]:
    """The losses asked about: `count`, evenly in logarithms, down to the lowest that enough batch sizes reached.

    From the lowest first point of any curve on: above it, some batch size was not looked at early enough.
    """
    levels = {}
    for size, seeds in cells.items():
        ends: dict[int, list[float]] = {}
        firsts = []
        for seed in seeds:
            for batch, curve in seed.losses.items():
                if len(curve) > 1:
                    ends.setdefault(batch, []).append(min(loss for _, loss in curve))
                    firsts.append(curve[0][1])
        reached = sorted(max(own) for own in ends.values() if len(own) == len(seeds))
        if len(reached) < FEWEST_BATCHES:
            continue
        low, high = reached[FEWEST_BATCHES - 1], min(firsts)
        if low < high:
            levels[size] = [high * (low / high) ** (part / count) for part in range(1, count + 1)]
    return levels


def least_tokens(seeds: Sequence[SeedCurves], loss: float, reach: float) -> Parabola | None:
    """The parabola of log2 tokens over log2 batch; None where its minimum is not among the batch sizes."""
    means = mean_tokens(seeds, loss)
    return parabola(means, reach) if len(means) >= FEWEST_BATCHES else None


def noise_at(seeds: Sequence[SeedCurves], loss: float) -> float | None:
    """Binary logarithm of the gradient noise scale (tokens) when a loss is reached, median over batches and seeds."""
    scales = []
    for seed in seeds:
        for batch, curve in seed.noise.items():
            tokens = tokens_to(seed.losses[batch], loss)
            if tokens is not None and len(curve) > 1 and curve[0][0] <= tokens:
                known, values = zip(*curve, strict=True)
                scales.append(float(np.interp(math.log(tokens), np.log(known), np.log2(values))))
    return float(np.median(scales)) if scales else None


def numbers(cells: Cells, levels: Levels, reach: float) -> dict[str, float]:
    """What is asked about, by name: `batch SIZE NUMBER` and `noise SIZE NUMBER` in log2 at each loss; `exponent`,
    `factor` (ln a) of batch = a / L^b; `noise exponent`; `ratio`, of batch to noise scale in log2.
    """
    read: dict[str, float] = {}
    optima, scales, ratios = [], [], []
    for size, seeds in cells.items():
        for number, loss in enumerate(levels.get(size, ())):
            curve, scale = least_tokens(seeds, loss, reach), noise_at(seeds, loss)
            if curve is not None:
                read[f"batch {size} {number}"] = math.log2(curve.at)
                optima.append((loss, math.log2(curve.at)))
            if scale is not None:
                read[f"noise {size} {number}"] = scale
                scales.append((loss, scale))
            if curve is not None and scale is not None:
                ratios.append(math.log2(curve.at) - scale)
    if (line := _line(optima)) is not None:
        read["exponent"], read["factor"] = -line[0], line[1]
    if (line := _line(scales)) is not None:
        read["noise exponent"] = -line[0]
    if ratios:
        read["ratio"] = float(np.mean(ratios))
    return read


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Slope and level of ln batch over ln loss. Args: points (loss, log2 batch), three losses at least."""
    if len({loss for loss, _ in points}) < 3:
        return None
    losses, octaves = zip(*points, strict=True)
    slope, level = np.polyfit(np.log(losses), np.array(octaves) * math.log(2), 1).tolist()
    return slope, level
