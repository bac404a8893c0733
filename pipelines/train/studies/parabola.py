"""Where a curve is least: a parabola through the points around its lowest, over the binary logarithm of what varies.

MiniCPM reads the best batch so (arXiv 2404.06395 §3.2); the best learning rate is read alike here. Over learning rates
of more than some octaves a loss is no parabola, it rises faster where they are too large, so points further away from
the lowest than `reach` octaves are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parabola:
    """y = least + bend·(log2(x / at))², bend above 0."""

    at: float
    least: float
    bend: float

    def value(self, x: float) -> float:
        """y at an x."""
        return self.least + self.bend * math.log2(x / self.at) ** 2


def parabola(points: Mapping[float, float], reach: float) -> Parabola | None:
    """Least squares through the points within `reach` octaves of the lowest, three at least.

    Args: points, x -> y.
    Returns: None where it opens downwards, or where the least lies outside of the points: then the best x is not among
        those that were tried.
    """
    if len(points) < 3:
        return None
    lowest = min(points, key=lambda x: points[x])
    near = sorted(points, key=lambda x: (abs(math.log2(x / lowest)), x))
    # three at least, so that coarse steps still have a parabola
    near = [x for place, x in enumerate(near) if place < 3 or abs(math.log2(x / lowest)) <= reach + 1e-9]
    away = np.array([math.log2(x / lowest) for x in near])
    bend, slope, level = np.polyfit(away, [points[x] for x in near], 2).tolist()
    if bend <= 0:
        return None
    vertex = -slope / (2 * bend)
    every = [math.log2(x / lowest) for x in points]
    if not min(every) <= vertex <= max(every):
        return None
    return Parabola(lowest * 2.0**vertex, level - bend * vertex**2, bend)
