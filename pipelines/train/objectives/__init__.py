"""The objectives, by the name that a config gives: `objective=dpo`. A new one is a file here, a row below and a YAML of settings."""

from __future__ import annotations

from pipelines.train.objectives.dpo import Dpo
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.objectives.objective import Objective, ObjectiveSettings

__all__ = ["OBJECTIVES", "Objective", "ObjectiveSettings", "objective_of"]

OBJECTIVES: dict[str, type[Objective]] = {
    "next_token": NextToken,
    "dpo": Dpo,
}

for _name, _row in OBJECTIVES.items():
    for _entry in ("Settings", "unit", "batches", "count", "sums"):
        if not hasattr(_row, _entry) or _entry in getattr(_row, "__abstractmethods__", ()):
            raise TypeError(f"objective {_name} says no `{_entry}`: see pipelines/train/objectives/objective.py")


def objective_of(settings: ObjectiveSettings) -> Objective:
    """The objective that a config chose."""
    return OBJECTIVES[settings.name](settings)
