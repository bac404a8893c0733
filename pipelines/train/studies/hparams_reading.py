"""Trials of a search as points: values of the hyper-parameters, and the loss of each seed there.

Enters: results. Leaves: points that every seed has finished, the noise between seeds, and how wide a valley is within
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.train.studies.evidence import end_losses, measured_trials
from pipelines.train.studies.surface import Valley
from pipelines.train.trials.result import TrialResult


@dataclass(frozen=True)
class Point:
    """Values that were tried. Attributes: by_seed, seed -> bits per byte, mean over the held-out sets."""

    values: Mapping[str, float]
    by_seed: Mapping[int, float]

    @property
    def loss(self) -> float:
        """The mean over the seeds."""
        return sum(self.by_seed.values()) / len(self.by_seed)


def points_of(results: Sequence[TrialResult], keys: Sequence[str]) -> list[Point]:
    """Points of which every seed that was begun has finished, in the order of the results."""
    grouped: dict[tuple[float, ...], list[TrialResult]] = {}
    for result in results:
        if all(key in result.settings for key in keys):
            grouped.setdefault(tuple(float(result.settings[key]) for key in keys), []).append(result)
    points = []
    for values, trials in grouped.items():
        losses = {trial.seed: end_losses(trial) for trial in measured_trials(trials)}
        if len(losses) == len(trials) and keys:
            by_seed = {seed: sum(sets.values()) / len(sets) for seed, sets in losses.items()}
            points.append(Point(dict(zip(keys, values, strict=True)), by_seed))
    # points with fewer seeds than others are still under way
    most = max((len(point.by_seed) for point in points), default=0)
    return [point for point in points if len(point.by_seed) == most]


def same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two points are one, up to the rounding of what a search proposes."""
    return set(one) == set(other) and all(math.isclose(one[key], other[key], rel_tol=1e-3) for key in one)


def noise_of(points: Sequence[Point]) -> float:
    """The standard deviation of a loss between seeds, in bits per byte; NaN for one seed.

    What a seed has in common at all points (its data, its first weights) is taken out: it falls out of a comparison.
    """
    losses = [[point.by_seed[seed] for seed in sorted(point.by_seed)] for point in points]
    if not losses or len(losses[0]) < 2 or any(len(row) != len(losses[0]) for row in losses):
        return math.nan
    table = np.array(losses)
    left = table - table.mean(axis=1, keepdims=True)
    left = left - left.mean(axis=0, keepdims=True)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return float(np.sqrt(np.square(left).sum() / freedom)) if freedom else math.nan


def flat_range(valley: Valley | None, noise: float, tried: tuple[float, float]) -> tuple[float, float] | None:
    """Values at which the loss is higher than on the floor by no more than two seeds differ: √2 times the noise.

    Args: tried, the lowest and highest value; the range ends there.
    """
    if valley is None or valley.at is None or not math.isfinite(noise) or valley.bend <= 0:
        return None
    reach = math.sqrt(math.sqrt(2) * noise / valley.bend)
    return max(tried[0], valley.at * 2.0**-reach), min(tried[1], valley.at * 2.0**reach)
