"""`weight_decay`: do weights shrink with the weight decay? A toy study, added by a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.config import config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.outcome import Finding, Outcome, verdict_of
from pipelines.train.trials.result import TrialResult


@config_class
class WeightDecaySettings(StudySettings):
    """Nothing of its own."""

    kind: Literal["weight_decay"] = "weight_decay"


def check_decays(settings: WeightDecaySettings, results: Sequence[TrialResult]) -> None:
    """See `Study`."""
    if len({_decay(result) for result in results}) < 2:
        raise ConfigError("a weight_decay study has one weight decay: vary optimizer.weight_decay")


def analyse_decays(settings: WeightDecaySettings, results: Sequence[TrialResult]) -> Outcome:
    """See `Study`."""
    norms: dict[float, list[float]] = {}
    for result in results:
        for row in result.measured:
            if row.measure == "weight_norm":
                norms.setdefault(_decay(result), []).append(row.values["norm"])
    if len(norms) < 2:
        return Outcome(notes=("Norms of two weight decays are needed.",))
    least, most = norms[min(norms)], norms[max(norms)]
    differences = [float(a - b) for a, b in zip(least, most, strict=True)]
    estimate = Estimate(float(np.mean(differences)), min(differences), max(differences))
    finding = Finding(
        claim="weights shrink with the weight decay", published="arXiv 1711.05101", quantity="fall of the norm",
        estimate=estimate, verdict=verdict_of(estimate.low > 0, len(differences)), reason="every seed has it",
        seeds=len(differences), runs=tuple(result.folder for result in results),
    )  # fmt: skip
    return Outcome(findings=(finding,))


def _decay(result: TrialResult) -> float:
    return float(result.runs[0].config["optimizer"]["weight_decay"])


WEIGHT_DECAY = Study(
    Settings=WeightDecaySettings,
    title="Weight decay",
    question="Do weights shrink with the weight decay?",
    source="arXiv 1711.05101",
    check=check_decays,
    analyse=analyse_decays,
)
