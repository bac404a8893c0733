"""Which run of a tree is begun first: the one that keeps others, or its own chain, waiting longest.

Enters: a tree. Leaves: a number for each run. Lanes are filled by it, so that none is left alone at the end with a
trunk that was begun last.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.train.network.architecture import parameter_counts
from pipelines.train.sharing.tree import Tree, TreeRun


def weights_of(tree: Tree) -> dict[TreeRun, float]:
    """Of each run what is to be computed, one after another, from its next step to the end of the last that needs it:
    what takes longest begins first, so that no lane is left alone with it at the end.
    """
    children: dict[TreeRun, list[TreeRun]] = {}
    for run in tree.runs.values():
        if run.parent is not None:
            children.setdefault(run.parent, []).append(run)
    weights: dict[TreeRun, float] = {}

    def weight(run: TreeRun) -> float:
        if run not in weights:
            cost, first = _step_cost(run), run.first
            own = ((run.steps or 0) - first) * cost
            own += max(map(weight, children.get(run, ())), default=0.0)
            others = ((adopter.adopted_step - first) * cost + weight(adopter) for adopter in run.adopters)
            weights[run] = max(own, *others) if run.adopters else own
        return weights[run]

    for run in tree.runs.values():
        weight(run)
    return weights


def work_left(tree: Tree, alive: Callable[[str], bool]) -> float:
    """What is still to be trained, in the same unit for all runs: tokens times parameters.

    Args: alive, whether a chain is not over: a pruned one is trained no further.
    """
    edges = (edge for edge in tree.edges() if edge.last is not None and any(map(alive, edge.chains)))
    return sum((edge.tokens / edge.run.trajectory.step_tokens) * _step_cost(edge.run) for edge in edges)


def _step_cost(run: TreeRun) -> float:
    """Of a step, in no unit: tokens times parameters, those of the first run of its chain where it has its parent's."""
    first = run
    while first.config.model is None and first.parent is not None:
        first = first.parent
    parameters = 1 if first.config.model is None else parameter_counts(first.config.model)["total"]
    return float(parameters * run.trajectory.step_tokens)
