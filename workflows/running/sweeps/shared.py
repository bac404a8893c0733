"""What both kinds of sweep have in common: of several turns, the experiment, the rebuild, and how errors end them."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Sequence

from pipelines.errors import TrainingError, TrunklineError
from pipelines.store.disk import disk_error
from pipelines.uris import without_secrets
from workflows.command_line.composing import experiment_named
from workflows.command_line.turns import Turn
from workflows.running.rebuilding import Rebuild
from workflows.running.session import Session


def experiment_of(turns: Sequence[Turn]) -> str | None:
    """The experiment that all of them name; None where they name several, or none."""
    named = {experiment_named([f"experiment={turn.overrides.get('experiment', '')}"]) for turn in turns}
    return named.pop() or None if len(named) == 1 else None


def rebuild_of(kind: str, turns: Sequence[Turn], session: Session) -> tuple[Rebuild, list[Turn]]:
    """What of a rebuild is done already, and the turns without the rebuild of that."""
    on = any(turn.config.on_change == "rebuild" for turn in turns)
    rebuild = Rebuild(session.store.storage, f"sweep/{session.group}", [turn.command for turn in turns], on)
    configs = (rebuild.once(turn.config, f"{kind}/{turn.config.name}") for turn in turns)
    return rebuild, [dataclasses.replace(turn, config=config) for turn, config in zip(turns, configs, strict=True)]


def in_a_line(error: BaseException) -> str:
    """What a table or a progress line says of an error."""
    word = "diverged: " if isinstance(error, TrainingError) else ""
    return word + (without_secrets(str(error)).strip().splitlines() or [type(error).__name__])[0]


def at_the_end(first: Exception, told: str) -> TrunklineError:
    """The error that ends a sweep, with the exit code of the first of its arms."""
    if not isinstance(first, TrunklineError):
        raised = TrunklineError(told)
        raised.exit_code = 1
        return raised
    raised = type(first)(told)
    raised.exit_code = first.exit_code
    return raised


def fault_of(error: Exception) -> TrunklineError:
    """An error that no user caused: told whole, and the next turn has its chance."""
    if (told := disk_error(error)) is not None:
        return told
    print(without_secrets(traceback.format_exc()), file=sys.stderr)
    fault = TrunklineError(f"this is a fault in Trunkline, not in your input: {in_a_line(error)}")
    fault.exit_code = 1
    return fault
