"""A sweep (`-m`): every turn is composed, named and planned before the first starts; then they run.

Enters: a command line with several values for a key. Leaves: what the turns' own commands would have made, under the
same names; a table of the arms, and what differs between them. In MLflow they are one group.

Turns of a training stage run side by side, on as many lanes as the cluster has room for: the planner and the workers of
the wind tunnel. With `share=true` steps that they have in common are trained once; without it each trains all of its
own. Turns of other workflows run one after another in one session, so in one Ray.

One arm's failure does not stop the others; the command ends with the exit code of the first. What would fail the rest
as well, a lost store or cluster, ends it. The same command again finds what is finished, and goes on with the rest.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.config import WorkflowConfig
from pipelines.train.stages import STAGES
from workflows.command_line import places
from workflows.command_line.turns import compose_turns, group_of
from workflows.running.session import Session
from workflows.running.sweeps.shared import experiment_of


def run_sweep(
    config_class: type[WorkflowConfig],
    run: Callable[[Any, Session], Any],
    workflow: str,
    uses_store: bool,
    typed: Sequence[str],
) -> None:
    """Compose, plan and run all turns of a command line. Args: run, of the workflow, for one turn.

    Raises: one error with the mistakes of all turns, before anything starts; DryRun; at the end the first error of an
        arm.
    """
    turns = compose_turns(workflow, config_class, typed)
    # the private Ray of a command is made for it
    widest = max(turns, key=lambda turn: turn.config.cluster.workers * turn.config.cluster.cpus_per_worker)
    command = shlex.join(["python", "-m", f"workflows.{workflow}", *places.words(), *typed])
    with Session(widest.config, experiment_of(turns), uses_store, command) as session:
        session.group = group_of(workflow, turns)
        if workflow in STAGES:  # which begins by importing torch
            from workflows.running.sweeps.side_by_side import sweep_stage

            sweep_stage(workflow, turns, session)
        else:
            from workflows.running.sweeps.in_turn import sweep_in_turn

            sweep_in_turn(workflow, turns, session, run)
