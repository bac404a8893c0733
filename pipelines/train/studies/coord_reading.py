"""Trials of the coordinate check as series: models that differ in one direction alone, and slopes over it.

Enters: results with `coordinates` measured. Leaves: series, the changes of each part at each size, and the slope of
their logarithms.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.train.studies.bootstrap import Bootstrapped, bootstrap
from pipelines.train.studies.contract import StudySettings
from pipelines.train.trials.result import TrialResult

FEWEST_SIZES = 3
MEASURE = "coordinates"
Along = Literal["width", "layers"]


@dataclass(frozen=True)
class Series:
    """Trials of one way to grow the model along one direction: at least three sizes."""

    along: Along
    arm: str
    peak_lr: float
    trials: tuple[TrialResult, ...]

    @property
    def sizes(self) -> list[int]:
        return sorted({self.size_of(trial) for trial in self.trials})

    def size_of(self, trial: TrialResult) -> int:
        """Its width, or its number of layers."""
        return trial.model.d_model if self.along == "width" else trial.model.layers

    @functools.cached_property
    def steps(self) -> list[int]:
        """Steps at which all trials were measured."""
        measured = [{row.step for row in trial.measured if row.measure == MEASURE} for trial in self.trials]
        return sorted(set.intersection(*measured)) if measured else []

    def changes(self, step: int) -> dict[int, list[Mapping[str, float]]]:
        """Size -> changes by part, of each seed."""
        by_size: dict[int, list[Mapping[str, float]]] = {size: [] for size in self.sizes}
        for trial in sorted(self.trials, key=lambda trial: trial.seed):
            rows = [row for row in trial.measured if row.measure == MEASURE and row.step == step]
            by_size[self.size_of(trial)].append(rows[0].values)
        return by_size


def series_of(results: Sequence[TrialResult]) -> list[Series]:
    """Trials put together that differ in one direction alone, and in how the model is grown along it."""
    found: list[Series] = []
    for trials in _alike(results, lambda r: (r.model.layers, _residual_scale(r), r.peak_lr)):
        bases = Counter(trial.model.dim_model_base for trial in trials if trial.model.width_multiplier != 1)
        base = bases.most_common(1)[0][0] if bases else None
        scaled = [trial for trial in trials if trial.model.dim_model_base == base]
        arms = {
            "muP": [trial for trial in scaled if _mup_lr(trial) or trial.model.d_model == base],
            "one LR": [trial for trial in scaled if not _mup_lr(trial) or trial.model.d_model == base],
            "off": [trial for trial in trials if trial.model.width_multiplier == 1],
        }
        found += [Series("width", arm, trials[0].peak_lr, tuple(some)) for arm, some in arms.items()]
    for trials in _alike(results, lambda r: (r.model.d_model, r.model.dim_model_base, _mup_lr(r), r.peak_lr)):
        for arm, key in (("scale_depth/√L", _scale_depth), ("off", _residual_scale)):
            found += [Series("layers", arm, trials[0].peak_lr, tuple(some)) for some in _alike(trials, key)]
    return [series for series in found if len(series.sizes) >= FEWEST_SIZES]


def _alike(results: Sequence[TrialResult], key: Callable[[TrialResult], Hashable]) -> list[list[TrialResult]]:
    groups: dict[Hashable, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.values())


def _scale_depth(result: TrialResult) -> float:
    return result.model.scale_depth


def _residual_scale(result: TrialResult) -> float:
    return round(result.model.residual_scale, 4)


def _mup_lr(result: TrialResult) -> bool:
    return bool(result.runs[0].config.get("optimizer", {}).get("mup_lr", True))


def slopes(series: Series, step: int, settings: StudySettings) -> Bootstrapped:
    """The exponent of each part's change in the size, by least squares of logarithms.

    A part that did not move up in every trial (the target's logit can fall) has none.
    """
    changes = {size: members for size, members in series.changes(step).items() if members}
    rows = [values for members in changes.values() for values in members]
    parts = [part for part in rows[0] if all(math.isfinite(row.get(part, 0)) and row.get(part, 0) > 0 for row in rows)]
    logs = {size: [np.log([row[part] for part in parts]) for row in members] for size, members in changes.items()}
    x = np.log(list(logs))
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()

    def numbers(groups: Mapping[int, Sequence[NDArray[np.float64]]]) -> dict[str, float]:
        means = np.stack([np.mean(members, axis=0) for members in groups.values()])
        return dict(zip(parts, (weights @ means).tolist(), strict=True))

    return bootstrap(numbers, logs, level=settings.level, samples=settings.bootstrap)


def words_of(part: str) -> str:
    """A part as a person says it."""
    if part == "target_logit":
        return "logit of the target"
    return part.replace("weights/", "weights, ").replace("layer_", "layer ").replace("/", " ").replace("_", " ")
