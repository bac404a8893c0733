"""What study `lr` reads from its trials: the losses of each width, their parabolas, the drift of their minima.

Enters: trials that ended. Leaves: a cell for each arm and width, with the losses of each seed; and numbers by name, of
all seeds or of a sample of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.train.studies.parabola import Parabola, parabola
from pipelines.train.trials.result import TrialResult

ON, OFF = "muP on", "muP off"

Cell = tuple[str, int]  # arm, width
Losses = Mapping[float, float]  # of one seed: peak LR -> loss at the end
Cells = Mapping[Cell, Sequence[Losses]]


def common_base(trials: Sequence[TrialResult]) -> int:
    """The dim_model_base that most trials have: another one, of a model that is as wide, turns the scalings off."""
    bases = [trial.model.dim_model_base for trial in trials]
    return min(set(bases), key=lambda base: (-bases.count(base), base)) if bases else 0


def arms_of_trial(trial: TrialResult, base: int) -> tuple[str, ...]:
    """With muP, without, or both: at the base's own width they are one model. Args: base, `common_base`."""
    model = trial.model
    if model.dim_model_base == base == model.d_model:
        return (ON, OFF)
    scaled = model.dim_model_base == base and trial.runs[0].config["optimizer"].get("mup_lr", True)
    return (ON,) if scaled else (OFF,)


def cells_of(trials: Sequence[TrialResult]) -> dict[Cell, list[Losses]]:
    """Arm and width -> for each seed, its loss at each learning rate."""
    base = common_base(trials)
    by_seed: dict[Cell, dict[int, dict[float, float]]] = {}
    for trial in trials:
        loss = trial.loss()
        if loss is not None and math.isfinite(loss):
            for arm in arms_of_trial(trial, base):
                cell = by_seed.setdefault((arm, trial.model.d_model), {})
                cell.setdefault(trial.seed, {})[trial.peak_lr] = loss
    return {cell: list(by_seed[cell].values()) for cell in sorted(by_seed, key=lambda cell: (cell[0] == OFF, cell[1]))}


def mean_losses(seeds: Sequence[Losses]) -> dict[float, float]:
    """Peak LR -> mean loss, of the rates at which every seed has one: where one diverged, no mean is told."""
    rates = set.intersection(*(set(losses) for losses in seeds)) if seeds else set()
    return {rate: float(np.mean([losses[rate] for losses in seeds])) for rate in sorted(rates)}


def numbers(cells: Cells, reach: float) -> dict[str, float]:
    """What is asked about, by name: `optimum ARM WIDTH` in log2, `drift ARM`, `price ARM`, `level ARM`."""
    read: dict[str, float] = {}
    for arm in dict.fromkeys(arm for arm, _ in cells):
        curves: dict[int, Parabola] = {}
        for (own_arm, width), seeds in cells.items():
            curve = parabola(mean_losses(seeds), reach) if own_arm == arm else None
            if curve is not None:
                curves[width] = curve
                read[f"optimum {arm} {width}"] = math.log2(curve.at)
        if len(curves) > 1:
            smallest, largest = min(curves), max(curves)
            octaves = np.log2(list(curves))
            slope, level = np.polyfit(octaves, [math.log2(curve.at) for curve in curves.values()], 1).tolist()
            read[f"drift {arm}"] = slope
            read[f"level {arm}"] = level
            # in percent of the loss: what the smallest one's rate costs the largest
            least = curves[largest].least
            read[f"price {arm}"] = 100 * (curves[largest].value(curves[smallest].at) - least) / least
    return read


def arms_of(cells: Cells) -> list[str]:
    return list(dict.fromkeys(arm for arm, _ in cells))
