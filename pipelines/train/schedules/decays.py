"""Shapes of the learning rate's decay, by name: what is left of the way down after each part of it.

A shape takes the decay's progress, above 0 up to 1, and gives what is left of the way from `peak_lr` to
`final_ratio · peak_lr`: 1 at progress 0, 0 at progress 1. To try another, add a line here and set
`schedule.decay=<name>`. Runs of the other shapes stay as they are: a fingerprint holds its own shape's values, not this
file.
"""

from __future__ import annotations

import math
from collections.abc import Callable

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,  # to 10 %: the published BMTrain snippet of MiniCPM's author
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),  # Hägele et al. (arXiv 2405.18392)
    # to a tenth, as final_ratio 0.1 has it: MiniCPM's exponential decay with a half-life of 0.301 of its length, in a
    # run of any length (published: 5,000 of 18,500 steps, 0.27)
    "geometric": lambda progress: (0.1**progress - 0.1) / 0.9,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),  # the baseline that MiniCPM compares with
}
