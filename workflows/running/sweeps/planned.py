"""The turns of a training stage before anything starts: each planned, or why it cannot be.

Enters: turns. Leaves: arms, which know what the store has of them, and chains for the planner of shared steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigError, TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.store.draft import Draft, Making
from pipelines.train.plan.planning import PlannedRun
from pipelines.train.sharing.chain import Chain, ChainStage
from pipelines.train.sharing.trajectory import trajectory_of
from workflows.command_line.turns import Turn
from workflows.running.session import Session
from workflows.running.training import code_of_run, is_done, plan_run, refuse_fewer_steps, told_whole


@dataclass(frozen=True)
class Arm:
    """A turn that is planned.

    Attributes: there, what the store has of it: a finished artifact, or a draft to go on with.
    """

    turn: Turn
    planned: PlannedRun
    there: Artifact | Draft

    @property
    def finished(self) -> bool:
        return is_done(self.there, self.planned.spec.steps, None)

    @property
    def replaces(self) -> bool:
        return isinstance(self.there, Draft) and self.there.replaces


def planned_arms(
    stage: str, turns: Sequence[Turn], session: Session
) -> tuple[list[Turn], list[Chain], list[Arm], dict[int, TrunklineError]]:
    """The turns, with what the data decides of them; the same as chains; those of them that can be run; and why the
    others cannot, by their place.
    """
    turns, chains, arms, mistakes = list(turns), [], [], dict[int, TrunklineError]()
    for i, turn in enumerate(turns):
        try:
            _refuse(turn)
            if not turn.config.sized_by_data:
                chains.append(_chain(stage, turn))  # the table shows it, whatever is refused of it
            arm = _plan(stage, turn, session)
            if turn.config.sized_by_data:
                turns[i] = dataclasses.replace(turn, config=arm.planned.config)
                arm = dataclasses.replace(arm, turn=turns[i])
                chains.append(_chain(stage, turns[i]))
            arms.append(arm)
        except TrunklineError as error:
            mistakes[i] = error
    return turns, chains, arms, mistakes


def _chain(stage: str, turn: Turn) -> Chain:
    """The turn's run as a chain. Raises: ConfigError for what the config alone makes impossible."""
    trajectory_of(stage, turn.config)
    return Chain(turn.config.name, (ChainStage(stage, turn.config, turn.command),))


def _plan(stage: str, turn: Turn, session: Session) -> Arm:
    """Raises: what planning and the store refuse, as of the turn's own command."""
    config, planned = plan_run(stage, turn.config, session)
    making = Making(planned.identity, planned.inputs, code_of_run(planned), turn.command, told_whole(config, planned))
    there = session.store.prepare(stage, config.name, making, config.on_change)
    arm = Arm(turn, planned, there)
    if not (arm.finished or arm.replaces):
        refuse_fewer_steps(session.store.storage, f"{stage}/{config.name}", planned.spec.steps)
    return arm


def _refuse(turn: Turn) -> None:
    """Raises: ConfigError for what one run alone takes."""
    config = turn.config
    if config.write_spec is not None:
        raise ConfigError(
            f"write_spec={config.write_spec} is one file for one run: type the command of one turn alone, without -m"
        )
    if config.checkpoint.resume != "latest":
        raise ConfigError(
            f"checkpoint.resume={config.checkpoint.resume} takes one run back: type the command of that turn alone, "
            "without -m, and then the sweep without checkpoint.resume"
        )
    if config.hours is not None and config.epochs is not None:
        raise ConfigError(
            f"hours={config.hours:g} beside epochs={config.epochs:g}: a sweep plans its arms twice, the second time "
            "with the steps that these give; leave epochs out (mixture.epochs decides as much), or give steps="
        )
    if config.share and config.on_change == "rebuild":
        raise ConfigError(
            "on_change=rebuild makes each arm anew, and with share=true arms go on with what others have: leave "
            "share=true out, or give the arms another name="
        )
