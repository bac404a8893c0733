"""A run's checkpoints: list them, read every byte of them, delete those that a rule lets go.

    python -m workflows.checkpoints list                                    every run that has checkpoints
    python -m workflows.checkpoints list run=pretrain/demo                  step, date, size, LR, tokens, why it stays
    python -m workflows.checkpoints verify run=pretrain/demo                or one: run=pretrain/demo@step-200
    python -m workflows.checkpoints prune run=pretrain/demo keep_last=3 keep_every_steps=100 dry_run=true

`prune` without a rule takes that of the run's own config. Whatever the rule, the latest stays, and so does what another
artifact names: a branch's parent, a step that was evaluated, exported or averaged. While a run trains, its own rule
(`checkpoint.keep_last=…` of the stage) is applied after every commit.
"""

from __future__ import annotations

import sys
from typing import Literal

from pipelines.config import Count, WorkflowConfig, config_class
from pipelines.display.progress import human, say, table
from pipelines.errors import CheckpointError, ConfigError
from pipelines.store.references import Reference
from pipelines.store.storage import Storage
from pipelines.train.checkpoint.committed import committed_steps, open_checkpoint, passed_over, recorded_steps
from pipelines.train.checkpoint.retention import Rule, prune, readers_of
from pipelines.train.stages import TRAINED
from workflows.entry import entry
from workflows.running.session import Session


@config_class
class CheckpointsConfig(WorkflowConfig):
    """What to do with which run."""

    action: Literal["list", "verify", "prune"] = "list"
    run: str | None = None  # pretrain/demo; verify also takes pretrain/demo@step-200; list without a run shows all
    keep_last: Count | None = None  # prune, and list to see what a rule would do
    keep_every_steps: Count | None = None


def run(config: CheckpointsConfig, session: Session) -> None:
    """Do what `action` says. Raises: CheckpointError when `verify` finds damage or there is nothing to act on."""
    storage = session.store.storage
    ruled = config.keep_last is not None or config.keep_every_steps is not None
    if ruled and (config.action == "verify" or config.run is None):
        raise ConfigError(
            f"keep_last and keep_every_steps say what to keep of one run; `{config.action}` takes them "
            + ("not: leave them out" if config.action == "verify" else "with run=pretrain/demo")
        )
    if config.run is None:
        if config.action != "list":
            raise ConfigError(f"{config.action} needs a run: run=pretrain/demo; `list` shows those there are")
        show_runs(storage)
        return
    reference = Reference.parse(session.resolve(config.run))
    folder = reference.folder
    if reference.kind not in TRAINED:
        raise ConfigError(f"run={config.run} is of kind {reference.kind}; checkpoints are in {', '.join(TRAINED)}")
    if reference.at is not None and config.action != "verify":
        raise ConfigError(f"run={config.run} names one checkpoint; {config.action} takes a run: run={folder}")
    steps = committed_steps(storage, folder)
    if not steps:
        raise CheckpointError(
            f"{folder} has no committed checkpoint in {storage.uri}{passed_over(storage, folder)}; `list` shows the "
            "runs that have"
        )
    if config.action == "verify":
        verify(storage, folder, _chosen(reference, steps))
    elif config.action == "list":
        show(storage, folder, _rule(config, session))
    else:
        delete_surplus(storage, folder, _rule(config, session), config.dry_run)


def _chosen(reference: Reference, steps: list[int]) -> list[int]:
    """The steps that a reference names: all of them without an `@`."""
    if reference.at is None:
        return steps
    if reference.at == "latest":
        return steps[-1:]
    step = int(reference.at.removeprefix("step-"))
    if step not in steps:
        raise CheckpointError(
            f"{reference.folder} has no committed checkpoint of step {step}; it has {', '.join(map(str, steps))}: "
            f"run={reference.folder}@step-{steps[-1]} or run={reference.folder}@latest"
        )
    return [step]


def show_runs(storage: Storage) -> None:
    """One line for each run of the store that has checkpoints."""
    rows = []
    for kind in TRAINED:
        names = {
            key.split("/")[1] for key in storage.keys(kind) if key.endswith("/manifest.json") and "/checkpoints/" in key
        }
        for name in sorted(names):
            if steps := committed_steps(storage, f"{kind}/{name}"):
                rows.append([f"{kind}/{name}", len(steps), steps[0], steps[-1]])
    if not rows:
        raise CheckpointError(f"there is no checkpoint in {storage.uri}: `python -m workflows.pretrain` makes some")
    say(table(("run", "checkpoints", "first step", "last step"), rows))


def show(storage: Storage, run: str, rule: Rule) -> None:
    """One line for each checkpoint of a run: what it is, and why it stays or that it goes."""
    steps = committed_steps(storage, run)
    reasons = rule.reasons(steps, readers_of(storage, run))
    rows, total = [], 0
    for step in steps:
        try:
            checkpoint = open_checkpoint(storage, run, f"step-{step}")
        except CheckpointError as error:
            rows.append([step, "", "", "", "", f"DAMAGED: {_problem(error)}"])
            continue
        total += checkpoint.size
        state = checkpoint.state
        rows.append(
            [
                step,
                (checkpoint.created or "").replace("T", " ").removesuffix("+00:00"),
                human(checkpoint.size, "B"),
                f"{state['learning_rate']:.3g}",
                human(state["tokens"]),
                "; ".join(reasons[step]) or "goes with `prune`",
            ]
        )
    say(table(("step", "saved (UTC)", "size", "LR", "tokens", "stays because"), rows))
    say(f"   {len(steps)} checkpoints, {human(total, 'B')}{passed_over(storage, run)}")
    if gone := sorted({*recorded_steps(storage, run)} - {*steps}):
        say(f"   deleted by a rule: {len(gone)}, of steps {gone[0]} to {gone[-1]}")


def verify(storage: Storage, run: str, steps: list[int]) -> None:
    """Read every byte of some checkpoints. Raises: CheckpointError naming every damaged file, after all were read."""
    damaged = {}
    for step in steps:
        try:
            checkpoint = open_checkpoint(storage, run, f"step-{step}")
            problems, size = checkpoint.damaged(), checkpoint.size
        except CheckpointError as error:  # the manifest itself
            problems, size = [_problem(error)], 0
        if problems:
            damaged[step] = problems
        say(
            f"   step {step}: "
            f"{'DAMAGED: ' + '; '.join(problems) if problems else f'{human(size, chr(66))} read, as it was written'}"
        )
    if damaged:
        whole = [step for step in committed_steps(storage, run) if step not in damaged]
        raise CheckpointError(
            f"{run}: damaged at step {', '.join(map(str, damaged))}; nothing of it will be loaded; "
            + (
                f"whole: {', '.join(map(str, whole))} (checkpoint.resume=step-{whole[-1]} goes on from the last)"
                if whole
                else "no other is there"
            )
        )


def delete_surplus(storage: Storage, run: str, rule: Rule, dry_run: bool) -> None:
    """Delete what the rule lets go, or only say what that would be."""
    if rule.keep_last is None:
        raise ConfigError(
            f"{run} was trained without a rule, so everything stays: name one, e.g. keep_last=3 keep_every_steps=1000"
        )
    reasons = rule.reasons(committed_steps(storage, run), readers_of(storage, run))
    going = {step: open_checkpoint(storage, run, f"step-{step}").size for step, why in reasons.items() if not why}
    for step, why in reasons.items():
        say(f"   step {step}: " + (f"stays ({'; '.join(why)})" if why else f"goes ({human(going[step], 'B')})"))
    freed = human(sum(going.values()), "B")
    if dry_run:
        say(f"   dry run: nothing was deleted; {len(going)} of {len(reasons)} checkpoints would go, {freed}")
        return
    prune(storage, run, rule)
    say(f"   deleted {len(going)} of {len(reasons)} checkpoints, {freed}; their rows of metrics stay in the curve")


def _rule(config: CheckpointsConfig, session: Session) -> Rule:
    """The rule on the command line, else that of the run's own config, where it has finished."""
    if config.keep_last is not None or config.keep_every_steps is not None:
        return Rule(config.keep_last, config.keep_every_steps)
    assert config.run is not None
    artifact = session.store.find(Reference.parse(session.resolve(config.run)).folder)
    own = artifact.config.get("checkpoint", {}) if artifact is not None else {}
    return Rule(own.get("keep_last"), own.get("keep_every_steps"))


def _problem(error: CheckpointError) -> str:
    """What is wrong, out of a refusal to open a checkpoint."""
    return str(error).partition(": ")[2].partition(";")[0]


def main() -> None:
    """`list`, `verify` or `prune` as a plain word first, or `action=…` as any other key."""
    word = next(iter(sys.argv[1:]), "-")
    if word[0:1] != "-" and "=" not in word:  # a wrong one too: then the config says which there are
        sys.argv[1] = f"action={word}"
    entry(CheckpointsConfig, run, "checkpoints")()


if __name__ == "__main__":
    main()
