"""The objectives, by the name that a config gives: `objective=dpo`.

    objective.py    what an objective says of itself
    preference.py   what those over preference pairs share: the frozen reference and its log-probabilities

To add one: write its file, a row here, and a YAML in `conf/objective/`. Loop, stream, planning, memory and engine
ask the row.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.train.objectives.dpo import Dpo
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.objectives.objective import Objective, ObjectiveSettings

__all__ = ["OBJECTIVES", "Objective", "ObjectiveSettings", "check_table", "objective_of"]

OBJECTIVES: dict[str, type[Objective]] = {
    "next_token": NextToken,
    "dpo": Dpo,
}


def check_table(objectives: Mapping[str, type[Objective]]) -> None:
    """Refuse a row that misses an entry. Raises: TypeError naming row and entry."""
    for name, row in objectives.items():
        for entry in ("Settings", "unit", "batches", *sorted(Objective.__abstractmethods__)):
            if not hasattr(row, entry) or entry in row.__abstractmethods__:
                raise TypeError(f"OBJECTIVES[{name!r}] has no `{entry}`: see pipelines/train/objectives/objective.py")
        if row().settings.name != name:
            raise TypeError(f"OBJECTIVES[{name!r}].Settings says that its name is {row().settings.name!r}")


check_table(OBJECTIVES)


def objective_of(settings: ObjectiveSettings) -> Objective:
    """The objective that a config chose."""
    return OBJECTIVES[settings.name](settings)
