"""What all training stages share: plan the stage, claim it, run its workers, commit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipelines.config import plain
from pipelines.display.progress import human, say
from pipelines.display.timeline import reached
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifacts import Artifact, ArtifactStore, Draft, Reference, kept
from pipelines.store.storage import Storage
from pipelines.train.checkpoint import committed_steps, open_checkpoint, set_aside_after
from pipelines.train.checkpoint.retention import readers_of
from pipelines.train.objectives import OBJECTIVES, objective_of
from pipelines.train.plan.planning import plan
from pipelines.train.stages import TrainConfig, TrainSpec, stage_named
from pipelines.train.worker import ready, work
from workflows.session import DryRun, Session

# the modules that decide a run's numbers, beside those of its objective; changing one changes its fingerprint
CODE = (
    *(
        f"pipelines.train.network.{module}"
        for module in ("architecture", "roles", "batch", "model", "attention", "losses", "linear_cross_entropy")
    ),
    *(f"pipelines.train.update.{module}" for module in ("engine", "pieces", "step")),
    *(f"pipelines.train.optimizers.{module}" for module in ("contract", "groups", "adamw", "muon")),
    "pipelines.train.plan.schedule",
    "pipelines.train.checkpoint.slices",
    *(f"pipelines.train.run.{module}" for module in ("loop", "stream")),
    *(
        f"pipelines.data.{module}"
        for module in (
            "stream.loader",
            "stream.cuts",
            "stream.interleave",
            "stream.order",
            "stream.preferences",
            "tokens.token_shards",
        )
    ),
)


def train_stage(stage: str, config: TrainConfig, session: Session) -> Artifact:
    """Run one stage to its end, or return it finished; a trunk asked for more steps goes on from its last checkpoint."""
    parent = session.resolve(config.parent) if config.parent else None
    if config.on_change != "rebuild":
        parent = begun_from(session.store, f"{stage}/{config.name}", parent)
    config = dataclasses.replace(config, data=session.resolve(config.data))
    planned = plan(stage, config, session.store, parent, config.cluster.workers)
    storage, back_to = session.store.storage, _back_to(config)
    facts = {**planned.facts, **_losses(storage, f"{stage}/{config.name}", config.on_change)}
    if back_to is not None:
        open_checkpoint(storage, f"{stage}/{config.name}", f"step-{back_to}")  # raises: there is no such step
    _check_place(config.write_spec)
    try:
        code = (*CODE, *OBJECTIVES[planned.spec.objective.name].code())
        held = session.begin(stage, config, facts, planned.inputs, code, identity=planned.identity)
    except DryRun as dry:
        run = dry.held
        if run is not None and not _is_done(run, planned.spec.steps, back_to) and config.on_change != "rebuild":
            refuse_fewer_steps(storage, run.folder, planned.spec.steps, back_to)
        raise
    if isinstance(held, Artifact):
        if _is_done(held, planned.spec.steps, back_to):
            return held
        stands = max([held.statistics["steps"], *committed_steps(storage, held.folder)])
        goes_on = f"goes back to step {back_to} and on" if back_to is not None and back_to < stands else "goes on"
        say(f"   the run stands at step {stands} and {goes_on} to {planned.spec.steps}")
        session.hold(held.folder)
        held = session.store.reopen(held)
        held = dataclasses.replace(
            held, claim={**held.claim, **({"command": session.made_with} if session.made_with else {})}
        )
    # ── everything that can be refused is, before anything is taken down ──
    if not held.replaces:
        refuse_fewer_steps(storage, held.folder, planned.spec.steps, back_to)
    verified = verify_first(storage, None if held.replaces else held.folder, planned.spec, back_to)
    spec = dataclasses.replace(planned.spec, claim=held.claim, verified=verified)

    def take_down() -> None:
        session.start(held)
        if back_to is not None and not held.replaces:
            go_back(storage, held.folder, back_to)

    if config.write_spec:
        take_down()
        if kept(storage, held.folder):
            held.publish(
                "spec", {}
            )  # a piece: until the first checkpoint, another command would put back what was replaced
            session.tell_of_kept(held.folder)
        Path(config.write_spec).write_text(json.dumps(plain(spec), indent=1), encoding="utf-8")
        say(
            f"   wrote {config.write_spec}; run it with: torchrun --nproc_per_node={config.cluster.workers} -m pipelines.train.worker {config.write_spec}"
        )
        raise SystemExit(0)
    reached("plan")
    # a rebuild sets aside what is there once `meanwhile` is done: for workers that have met, and not before
    with session.track(
        held, config, planned.inputs, meanwhile=lambda: session.cluster.prepare(ready, wait=held.replaces)
    ) as tracker:
        reached("run")
        spec = dataclasses.replace(spec, tracking=tracker.run or {})
        session.cluster.train(work, plain(spec), ready, begin=take_down)
    artifact = session.store.get(Reference(stage, config.name).folder)
    return session.done(artifact, *_next_commands(stage, config))


def begun_from(store: ArtifactStore, folder: str, parent: str | None) -> str | None:
    """`@latest` of a run that has begun stays the step it began from, however far its trunk has gone since."""
    if parent is None or "@step-" in parent or not store.storage.exists(f"{folder}/claim.json"):
        return parent
    claimed = store.claim(folder)["identity"]["config"].get("parent") or ""
    return str(claimed) if claimed.split("@")[0] == parent.split("@")[0] else parent


def _losses(storage: Storage, run: str, on_change: str) -> dict[str, str]:
    """Of a rebuild, for the announcement: which artifacts name the checkpoints that it deletes."""
    if on_change != "rebuild" or not committed_steps(storage, run):
        return {}
    try:
        named = readers_of(storage, run)
    except ArtifactError as error:  # damage is what a rebuild is for
        return {"checkpoints named by": f"not known: {error}"}
    readers = sorted({reader for found in named.values() for reader in found if not reader.endswith(run)})
    return {"checkpoints named by": f"{', '.join(readers)}: they stay, their parent goes"} if readers else {}


def _back_to(config: TrainConfig) -> int | None:
    """The step of `checkpoint.resume`, or None for the latest."""
    return None if config.checkpoint.resume == "latest" else int(config.checkpoint.resume.removeprefix("step-"))


def _is_done(held: Artifact | Draft, steps: int, back_to: int | None) -> bool:
    """Whether there is nothing left to do: the run is finished, no earlier step was asked for, and no later one."""
    if not isinstance(held, Artifact):
        return False
    stands = held.statistics["steps"]
    return bool(stands >= steps and (back_to is None or back_to >= stands))


def _check_place(write_spec: str | None) -> None:
    """Raises: ConfigError where the spec could not be written, which would be known only when the run has begun."""
    if write_spec is None:
        return
    path = Path(write_spec)
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"write_spec={write_spec} cannot be written: {path if path.is_dir() else path.parent} is "
            f"{'a folder' if path.is_dir() else 'no folder'}; expected a file in a folder that exists, e.g. write_spec=spec.json"
        )


def go_back(storage: Storage, run: str, step: int) -> None:
    """Have a run go on from an earlier checkpoint: the later ones are set aside, and its manifest goes if it is of a later step."""
    later = [found for found in committed_steps(storage, run) if found > step]
    if later and storage.exists(f"{run}/manifest.json"):
        Draft(storage, run, {}).forget_rebuild()
        storage.delete(f"{run}/manifest.json")  # first: its statistics are those of a checkpoint that will not be there
    for found in set_aside_after(storage, run, step):
        say(f"   set aside the checkpoint at step {found}: the run goes on from step {step}")


def verify_first(storage: Storage, own: str | None, spec: TrainSpec, back_to: int | None) -> tuple[str, ...]:
    """Compare what the workers will load, the checkpoint and what was prepared, before Ray and the workers are started.

    Args: own, the run itself where it may have checkpoints; spec, of which `start` says what it begins with if it has none.
    Returns: the checkpoint's token where all its bytes were read; sizes and headers are compared in any case.
    Raises: CheckpointError when it is damaged, naming the one before it.
    """
    if own is not None and committed_steps(storage, own):
        objective_of(spec.objective).verify_prepared(Draft(storage, own, {}))
        found = open_checkpoint(storage, own, "latest" if back_to is None else f"step-{back_to}")
    elif back_to is not None and own is not None:
        found = open_checkpoint(storage, own, f"step-{back_to}")  # raises: there is none
    elif spec.start.run is not None:
        found = open_checkpoint(storage, spec.start.run, f"step-{spec.start.step}")
    else:
        return ()
    found.glance()
    if not found.small:
        say(
            f"   {found}: sizes and headers of {human(found.size, 'B')} compared; the workers compare its checksums, each a share"
        )
        return ()
    found.verify()
    say(f"   {found}: {human(found.size, 'B')} compared with its checksums")
    return (found.token,)


def refuse_fewer_steps(storage: Storage, run: str, steps: int, back_to: int | None = None) -> None:
    """Refuse to finish a run before the step at which it stands: its manifest would contradict its last checkpoint.

    Args: back_to, the step that it goes back to first.
    Raises: ConfigError naming the checkpoints that it could go on from.
    """
    committed = [step for step in committed_steps(storage, run) if back_to is None or step <= back_to]
    if committed and committed[-1] > steps:
        earlier = [step for step in committed if step <= steps]
        raise ConfigError(
            f"steps is {steps}, but {run} stands at step {committed[-1]} already: set steps={committed[-1]} or more"
            + (f", or checkpoint.resume=step-{earlier[-1]} to go on from there" if earlier else ", or another name")
        )


def _next_commands(stage: str, config: TrainConfig) -> list[str]:
    run, row = f"{stage}/{config.name}", stage_named(stage)
    # the last step of a run that goes on for ever is another one tomorrow, and a branch says which it means
    parent = f"{run}@latest" if row.endless else run
    return [
        f"python -m workflows.evaluate parent={run}",
        f"python -m workflows.{row.followed_by or 'export'} parent={parent} name={config.name}",
    ]
