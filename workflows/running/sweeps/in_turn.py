"""Turns of a workflow that trains nothing, one after another in one session, so in one Ray."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines.display.progress import duration, hushed, say
from pipelines.errors import ClusterError, StorageError, TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.tracking.tracker import join_group
from workflows.command_line.turns import Turn, tell_all
from workflows.running.arms import Outcome, outcome_table, planned_table
from workflows.running.session import DryRun, Session
from workflows.running.sweeps.shared import at_the_end, experiment_of, fault_of, in_a_line, rebuild_of

# workflows that say what they would refuse without doing anything (`dry_run=true`); a corpus tries a sample for it
_PLANS = (
    "average", "corpus", "cost", "evaluate", "export", "fit", "mixture", "publish", "quantize", "recipe", "sandbox",
    "tokenize",
)  # fmt: skip
_TRIES = ("corpus", "recipe")  # of those, the ones that try a sample


def sweep_in_turn(
    workflow: str, turns: Sequence[Turn], session: Session, run: Callable[[Any, Session], Any]
) -> list[Artifact]:
    """Run the turns one after another, in one session. Returns: what they left.

    Raises: one error with all that their own dry runs refuse; DryRun; at the end the first error.
    """
    began = time.monotonic()
    rebuild, turns = rebuild_of(workflow, turns, session)
    if workflow in _PLANS and not session.config.dry_run:
        mistakes: dict[int, TrunklineError] = {}
        to_come: set[str] = set()
        if workflow in _TRIES:
            say(f"   planning {len(turns)} turns, each of which tries a sample of its sources")
        for i, turn in _each(turns, session):
            if _reads(turn) & to_come:  # planned when its turn comes
                continue
            own = f"{'tokens' if workflow == 'tokenize' else workflow}/{turn.config.name}"
            if not session.store.storage.exists(f"{own}/manifest.json"):
                to_come.add(own)
            try:
                with hushed():
                    run(dataclasses.replace(turn.config, dry_run=True), session)
            except DryRun as dry:
                if dry.refused is not None:
                    mistakes[i] = dry.refused
            except TrunklineError as error:
                mistakes[i] = error
        tell_all(mistakes, [turn.varied for turn in turns])
    outcomes: list[Outcome] = []
    failed: dict[int, TrunklineError] = {}
    for i, turn in _each(turns, session):
        since = f"  ({duration(time.monotonic() - began)} since the start)" if i else ""
        say(f"\n━━ {turn.label.replace(' ', f' {workflow} ', 1)}{since}")
        artifact: Any = None
        try:
            artifact = run(turn.config, session)
            rebuild.done(f"{workflow}/{turn.config.name}")
        except DryRun as dry:
            artifact = dry.foreseen
            if dry.refused is not None:
                failed[i] = dry.refused
        except (StorageError, ClusterError):
            say(f"   {len(outcomes) - len(failed)} of {len(turns)} arms are finished; the others would fail alike")
            raise
        except TrunklineError as error:
            failed[i] = error
        except Exception as error:
            failed[i] = fault_of(error)
        if i in failed:
            say(f"   {turn.label} ended with an error: {in_a_line(failed[i])}")
        there = artifact if isinstance(artifact, Artifact) else None
        outcomes.append(Outcome(turn, there, in_a_line(failed[i]) if i in failed else ""))
    if session.config.dry_run:
        rows = [[_state(outcome)] for outcome in outcomes]
        say("\n" + planned_table(turns, ["there already"], rows, workflow) + "\n")
        tell_all(failed, [turn.varied for turn in turns])
        raise DryRun
    if not failed:
        rebuild.over()
    if session.group is not None:  # those that were finished before as well
        made = [outcome.artifact.folder for outcome in outcomes if outcome.artifact is not None]
        join_group(session.config.tracking, session.store, made, session.group)
    if any(outcome.artifact is not None for outcome in outcomes) or failed:
        text, _, ranking = outcome_table(outcomes, session.store, trained=False)
        say("\n" + text + "\n")
        if ranking.why:
            say(f"   {ranking.why}")
        done = [outcome.artifact.folder for outcome in outcomes if outcome.artifact is not None]
        session.tell_group(done if workflow == "evaluate" else ())
    if failed:
        first = next(iter(failed))
        raise at_the_end(
            failed[first],
            f"{len(failed)} of {len(turns)} turns ended with an error; the same command again goes on with them. First "
            f"{turns[first].label}: {failed[first]}",
        )
    return [outcome.artifact for outcome in outcomes if outcome.artifact is not None]


def _each(turns: Sequence[Turn], session: Session) -> Iterator[tuple[int, Turn]]:
    """The turns, for each of which the session is as its own command would have it."""
    for i, turn in enumerate(turns):
        session.config, session.made_with = turn.config, turn.command
        session.experiment = experiment_of([turn])
        session.within_recipe, session.foreseen_bytes = False, None
        yield i, turn


def _reads(turn: Turn) -> set[str]:
    """The artifacts that a turn names as what it reads."""
    named: list[Any] = [getattr(turn.config, key, None) for key in ("data", "tokens", "parent")]
    named += getattr(turn.config, "known", ())
    return {value.partition("@")[0] for value in named if isinstance(value, str)}


def _state(outcome: Outcome) -> str:
    return outcome.error or ("finished already" if outcome.artifact is not None else "")
