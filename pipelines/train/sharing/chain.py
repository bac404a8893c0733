"""A chain: the commands of one trial, each of which begins from the one before it, as configs alone.

Enters: a name and composed configs. Leaves: plain facts, asked for by the planner of the tree (`tree.py`) and by the
executor (`workflows/running/sharing.py`). No store is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.config import WorkflowConfig
from pipelines.errors import ConfigError
from pipelines.train.measures.measure import WHEN


@dataclass(frozen=True)
class ChainStage:
    """One command of a chain.

    Attributes:
        workflow: its name: a training stage, or another workflow (`mixture`) whose artifact a later stage reads.
        config: of that workflow. `parent` of a stage that follows a trained one in its chain is filled in.
        command: that makes the same artifact alone, for its claim; None: the command that is running.
    """

    workflow: str
    config: WorkflowConfig
    command: str | None = None

    @property
    def folder(self) -> str:
        """`kind/name` of its artifact."""
        return f"{self.workflow}/{self.config.name}"


@dataclass(frozen=True)
class Chain:
    """The stages of one trial, in order.

    Attributes:
        name: unique among the chains of a tree.
        rungs: steps of the last stage's run at which the executor tells how far it is, whoever trained them: where a
            search looks whether the chain is worth its end.
        measures: plain settings of what is measured along its runs, by name (`MEASURES`), beside what the executor
            measures along all.
    """

    name: str
    stages: tuple[ChainStage, ...]
    rungs: tuple[int, ...] = ()
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def both(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a measure that two chains ask for along the same steps. Raises: ConfigError where they differ."""
    if one is None or dict(one) == dict(other):
        return other
    rest = [{name: value for name, value in settings.items() if name not in WHEN} for settings in (one, other)]
    if rest[0] != rest[1]:
        raise ConfigError(
            f"two trials that share steps measure them with different settings, {rest[0]} and {rest[1]}: give both the "
            "same"
        )
    steps = [settings["every_steps"] for settings in (one, other) if settings.get("every_steps")]
    doublings = [settings["per_doubling"] for settings in (one, other) if settings.get("per_doubling")]
    return {
        **rest[0],
        "every_steps": math.gcd(*steps) if steps else None,
        "per_doubling": math.lcm(*doublings) if doublings else None,
    }
