"""A chain: the commands of one trial, each of which begins from the one before it, as configs alone.

Enters: a name and composed configs. Leaves: plain facts, asked for by the planner of the tree (`tree.py`) and by the
executor (`workflows/sharing.py`). No store is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config import WorkflowConfig


@dataclass(frozen=True)
class ChainStage:
    """One command of a chain.

    Attributes:
        workflow: its name: a training stage, or another workflow (`mixture`) whose artifact a later stage reads.
        config: of that workflow. `parent` of a stage that follows a trained one in its chain is filled in.
    """

    workflow: str
    config: WorkflowConfig

    @property
    def folder(self) -> str:
        """`kind/name` of its artifact."""
        return f"{self.workflow}/{self.config.name}"


@dataclass(frozen=True)
class Chain:
    """The stages of one trial, in order.

    Attributes: name, unique among the chains of a tree; rungs, steps of the last stage's run at which the executor
        tells how far it is, whoever trained them: where a search looks whether the chain is worth its end.
    """

    name: str
    stages: tuple[ChainStage, ...]
    rungs: tuple[int, ...] = ()
