"""What study `wsd` reads from its trials: which schedule each had, and its loss beside another's of the same seed.

Enters: trials over schedules, horizons (tokens until the end) and seeds. Leaves: for each horizon and seed the losses
of its arms, and numbers by name: differences between arms in percent of the loss, each seed compared with itself.

Two arms are read along other trials: a longer cosine looked at on its way (T above S), and the average of a trunk's
checkpoints, which measure `averages` leaves beside the trunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.train.trials.result import Measured, TrialResult

AVERAGES = "averages"  # the measure


@dataclass(frozen=True, order=True)
class Arm:
    """A schedule, whatever its horizon.

    Attributes:
        kind: wsd_s decays before, too (`earlier_decays`).
        shape, share: of the last decay, and its part of all steps.
        stretch: of a cosine: the horizon it was made for, in parts of the one it is looked at (T = stretch·S).
    """

    kind: Literal["wsd", "wsd_s", "cosine", "constant", "average"]
    shape: str = ""
    share: float = 0.0
    stretch: float = 1.0

    def __str__(self) -> str:
        """E.g. `WSD, 10 % linear`."""
        if self.kind in ("wsd", "wsd_s"):
            return f"{'WSD' if self.kind == 'wsd' else 'WSD-S'}, {100 * self.share:.3g} % {self.shape}"
        if self.kind == "cosine":
            return "cosine, T = S" if self.stretch == 1 else f"cosine, T = {self.stretch:.3g} S"
        return {"constant": "no decay", "average": "average of the trunk"}[self.kind]


Losses = Mapping[Arm, float]  # of one seed at one horizon
Seed = Mapping[int, Losses]  # horizon, in tokens -> losses
Cells = Mapping[int, Sequence[Losses]]  # horizon -> seeds


def arm_of(trial: TrialResult) -> Arm:
    """The schedule of a chain: that of its last run, over the steps of all."""
    schedule, steps = trial.runs[-1].schedule, sum(run.steps for run in trial.runs)
    if schedule.kind == "cosine":
        return Arm("cosine")
    if schedule.kind == "constant" or schedule.decay == "none":
        return Arm("constant")
    kind: Literal["wsd", "wsd_s"] = "wsd_s" if schedule.earlier_decays else "wsd"
    # as it was asked for, where it was asked for as a part: whole steps of short runs round it
    asked = (trial.runs[0].config.get("schedule") or {}).get("decay_fraction") if len(trial.runs) == 1 else None
    return Arm(kind, schedule.decay, round(asked or schedule.decay_steps / steps, 3))


def seeds_of(trials: Sequence[TrialResult]) -> list[Seed]:
    """The losses of each seed, by horizon. A seed's horizons share their trunk, so seeds are drawn whole."""
    horizons = {trial.tokens for trial in trials}
    losses: dict[int, dict[int, dict[Arm, float]]] = {}
    for trial in trials:
        arm, end = arm_of(trial), trial.loss()
        own = losses.setdefault(trial.seed, {})
        if end is not None:
            own.setdefault(trial.tokens, {})[arm] = end
        for row in trial.measured:
            if row.tokens not in horizons:
                continue
            if row.measure == AVERAGES and arm.kind == "constant" and row.values:
                own.setdefault(row.tokens, {})[Arm("average")] = _mean(row)
            if row.measure == "heldout" and arm.kind == "cosine" and row.tokens < trial.tokens:
                longer = dataclasses.replace(arm, stretch=round(trial.tokens / row.tokens, 3))
                own.setdefault(row.tokens, {})[longer] = _mean(row)
    return [losses[seed] for seed in sorted(losses)]


def cells_of(seeds: Sequence[Seed]) -> dict[int, list[Losses]]:
    """Horizon -> the losses of each seed that has it."""
    horizons = sorted({horizon for seed in seeds for horizon in seed})
    return {horizon: [seed[horizon] for seed in seeds if horizon in seed] for horizon in horizons}


def one_size(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials of the size that most have: losses of two sizes at one horizon are not compared."""
    sizes = [trial.parameters for trial in trials]
    return [
        trial for trial in trials if trial.parameters == max(set(sizes), key=lambda size: (sizes.count(size), size))
    ]


def arms_of(cells: Cells) -> list[Arm]:
    """All arms, in an order that a page can show."""
    order = ("constant", "average", "cosine", "wsd", "wsd_s")
    every = {arm for seeds in cells.values() for losses in seeds for arm in losses}
    return sorted(every, key=lambda arm: (order.index(arm.kind), arm.stretch, arm.shape, arm.share))


def mean_loss(seeds: Sequence[Losses], arm: Arm) -> float | None:
    """Mean over the seeds that have the arm."""
    losses = [seed[arm] for seed in seeds if arm in seed]
    return float(np.mean(losses)) if losses else None


def difference(seeds: Sequence[Losses], arm: Arm, base: Arm) -> float | None:
    """How much higher an arm's loss is than the base's, in percent: mean over seeds that have both."""
    percents = [100 * (seed[arm] / seed[base] - 1) for seed in seeds if arm in seed and base in seed]
    return float(np.mean(percents)) if percents else None


def numbers(cells: Cells, base: Arm) -> dict[str, float]:
    """What is asked about, by name: `ARM` over all horizons and `ARM @HORIZON`, in percent above the base;
    `beside_own_cosine`; `loss ARM @HORIZON`.
    """
    read: dict[str, float] = {}
    for arm in arms_of(cells):
        percents = []
        for horizon, seeds in cells.items():
            if (loss := mean_loss(seeds, arm)) is not None:
                read[f"loss {arm} @{horizon}"] = loss
            if arm != base and (percent := difference(seeds, arm, base)) is not None:
                read[f"{arm} @{horizon}"] = percent
                percents.append(percent)
        if percents:
            read[str(arm)] = float(np.mean(percents))
        if arm.kind == "cosine" and arm.stretch > 1:
            beside = [difference(seeds, arm, Arm("cosine")) for seeds in cells.values()]
            if known := [percent for percent in beside if percent is not None]:
                read[beside_own_cosine(arm)] = float(np.mean(known))
    return read


def beside_own_cosine(arm: Arm) -> str:
    """The name of a longer cosine's difference to that of T = S."""
    return f"{arm}, above T = S"


def _mean(row: Measured) -> float:
    return float(np.mean(list(row.values.values())))
