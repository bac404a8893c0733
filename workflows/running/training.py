"""What all training stages share: plan the stage, claim it, run its workers, commit."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import plain
from pipelines.data.tokens.token_sources import code_beside
from pipelines.display.progress import human, say, table
from pipelines.display.timeline import reached
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.code import chosen_modules
from pipelines.store.draft import Draft
from pipelines.store.references import Reference
from pipelines.store.storage import Storage
from pipelines.store.ways_out import set_aside_clause
from pipelines.train.checkpoint.committed import committed_steps, open_checkpoint, set_aside_after
from pipelines.train.checkpoint.retention import readers_of
from pipelines.train.objectives import objective_of
from pipelines.train.plan import devices
from pipelines.train.plan.planning import PlannedRun, plan_stage
from pipelines.train.plan.sizing import HEADER
from pipelines.train.spec import Adopted, TrainConfig, TrainSpec
from pipelines.train.stages import stage_named
from pipelines.train.worker import ready, work
from workflows.command_line.devices import device_names, read_device
from workflows.running import onward
from workflows.running.session import DryRun, Session

# the modules that decide every run's numbers; its objective, its optimizer and what its tokens carry add theirs
CODE = (
    *(
        f"pipelines.train.network.{module}"
        for module in (
            "architecture",
            "roles",
            "batch",
            "model",
            "attention",
            "losses",
            "linear_cross_entropy",
            "float8",
        )
    ),
    *(f"pipelines.train.update.{module}" for module in ("engine", "one_worker", "step", "zero")),
    *(f"pipelines.train.optimizers.{module}" for module in ("groups", "pieces")),
    "pipelines.train.schedules.schedule",
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
            "stream.rows",
            "stream.source_stream",
            "tokens.megatron",
            "tokens.token_shards",
            "tokens.token_sources",
        )
    ),
)


@functools.cache
def code_of(objective: str, optimizer: str) -> tuple[str, ...]:
    """All modules that decide a run's numbers: a change of one changes its fingerprint.

    Args: the names of the rows that the run chose.
    """
    return (
        *CODE,
        *chosen_modules("pipelines.train.objectives", [objective], beside=["pipelines.train.batches"]),
        *chosen_modules("pipelines.train.optimizers", [optimizer]),
        *chosen_modules("pipelines.data.tokens.sidecars", ["mask"]),
    )


def plan_run(stage: str, config: TrainConfig, session: Session) -> tuple[TrainConfig, PlannedRun]:
    """Plan a stage's run, with what its config names looked up. Returns: the config with that, and the plan."""
    parent = session.resolve(config.parent) if config.parent else None
    if config.on_change != "rebuild":
        parent = begun_from(session.store, Reference(stage, config.name).folder, parent)
    config = dataclasses.replace(config, data=session.resolve(config.data))
    planned = plan_stage(stage, with_speed(config), session.store, parent, config.cluster.workers)
    return planned.config, planned


def with_speed(config: TrainConfig) -> TrainConfig:
    """The config with the speed of a worker as conf/device states it, where hours are to be turned into tokens."""
    if config.hours is None or config.flops_per_second is not None:
        return config
    cluster = config.cluster
    name = (cluster.accelerator or "").lower() if cluster.gpus_per_worker else "cpu"
    if name not in device_names():
        return config  # planning says what to set
    device = read_device(name)
    return dataclasses.replace(config, flops_per_second=device.peak * device.mfu.value)


def told_whole(config: TrainConfig, planned: PlannedRun) -> TrainConfig:
    """The config with the model and the objective that planning found: a difference is told with their defaults."""
    return dataclasses.replace(config, model=planned.spec.model, objective=planned.spec.objective)


def code_of_run(planned: PlannedRun) -> tuple[str, ...]:
    """All modules that decide a run's numbers, those that read its tokens included."""
    chosen = code_of(planned.spec.objective.name, planned.spec.optimizer.kind)
    return (*chosen, *code_beside(planned.inputs))


def adopted_by(store: ArtifactStore, claim: Mapping[str, Any]) -> Adopted | None:
    """The checkpoint that a run which was trained with others was to go on from; None where it is not there any more.

    Args: claim, of the run. It names the checkpoint, and the fingerprint of the run that made it.
    """
    if (named := claim.get("adopted")) is None:
        return None
    reference = Reference.parse(named["checkpoint"])
    step = int(str(reference.at).removeprefix("step-"))
    made_by = store.find_claim(reference.folder)
    if made_by is None or made_by["fingerprint"] != named["fingerprint"]:
        return None
    there = step in committed_steps(store.storage, reference.folder)
    return Adopted(run=reference.folder, step=step) if there else None


def train_stage(stage: str, config: TrainConfig, session: Session) -> Artifact:
    """Run one stage to its end, or return it finished; a trunk asked for more steps goes on from its last checkpoint.

    Args: stage, a name in `STAGES`.
    """
    folder = Reference(stage, config.name).folder
    config, planned = plan_run(stage, config, session)
    storage, steps, back_to = session.store.storage, planned.spec.steps, _back_to(config)
    announcement = {**planned.announcement, **_named_by_others(storage, folder, config.on_change)}
    if back_to is not None:
        open_checkpoint(storage, folder, f"step-{back_to}")  # raises: there is no such step
    _check_place(config.write_spec)
    try:
        whole, code = told_whole(config, planned), code_of_run(planned)
        on_ray = not config.write_spec
        claimed = session.begin(stage, whole, announcement, planned.inputs, code, planned.identity, on_ray)
    except DryRun as dry:
        if planned.shapes:
            say(f"\n   Shapes for {config.data} and {config.hours:g} hours of training\n")
            say(table(list(HEADER), planned.shapes))
        begun = dry.foreseen
        if begun is not None and not is_done(begun, steps, back_to) and config.on_change != "rebuild":
            refuse_fewer_steps(storage, begun.folder, steps, back_to)
        if dry.refused is None and not config.write_spec:
            try:  # the plan of a run for other machines is worth seeing here, and would not run here
                devices.check_gpus(config.cluster)
            except ConfigError as error:
                raise DryRun(begun, error) from error
        raise
    if isinstance(claimed, Artifact) and is_done(claimed, steps, back_to):
        return session.reused(claimed, *_next_commands(stage, config, session))
    draft = reopen(session, claimed, steps, back_to) if isinstance(claimed, Artifact) else claimed
    # ── everything that can be refused is, before anything is taken down ──
    if not draft.replaces:
        refuse_fewer_steps(storage, folder, steps, back_to)
    verified = verify_first(storage, None if draft.replaces else folder, planned.spec, back_to)
    adopts = None if draft.replaces else adopted_by(session.store, draft.claim)
    spec = dataclasses.replace(planned.spec, claim=draft.claim, verified=verified, adopts=adopts)

    def take_down() -> None:
        session.start(draft)
        if back_to is not None and not draft.replaces:
            go_back(storage, folder, back_to)

    if config.write_spec:
        take_down()
        _write_spec(session, draft, spec, config)
        raise SystemExit(0)
    reached("plan")
    # a rebuild sets aside what is there once `meanwhile` is done: for workers that have met, and not before
    with session.track(
        draft,
        whole,
        planned.inputs,
        meanwhile=lambda: session.cluster.prepare(ready, wait=draft.replaces),
        checkpoint=lambda: last_checkpoint(storage, folder),
        **told_of_run(planned),
    ) as tracker:
        reached("run")
        spec = dataclasses.replace(spec, tracking=tracker.run or {})
        session.cluster.train(work, plain(spec), ready, begin=take_down)
    return session.done(session.store.get(folder), *_next_commands(stage, config, session))


def told_of_run(planned: PlannedRun) -> dict[str, Any]:
    """What an MLflow run of a stage says beside its config (`Session.about`)."""
    start = planned.spec.start
    parent = f"{start.run}@step-{start.step}" if start.run else None
    return {"model": planned.spec.model, "parent": parent, "sampled": "worker"}


def last_checkpoint(storage: Storage, run: str) -> str | None:
    """`pretrain/demo@step-240`, or None where none is committed."""
    committed = committed_steps(storage, run)
    return f"{run}@step-{committed[-1]}" if committed else None


def reopen(session: Session, finished: Artifact, steps: int, back_to: int | None) -> Draft:
    """A finished run as one that goes on to `steps`, under the command that asked for it."""
    stands = max([finished.statistics["steps"], *committed_steps(session.store.storage, finished.folder)])
    goes_on = f"goes back to step {back_to} and on" if back_to is not None and back_to < stands else "goes on"
    say(f"   the run stands at step {stands} and {goes_on} to {steps}")
    session.hold(finished.folder)
    draft = session.store.reopen(finished)
    command = {"command": session.made_with} if session.made_with else {}
    return dataclasses.replace(draft, claim={**draft.claim, **command})


def _write_spec(session: Session, draft: Draft, spec: TrainSpec, config: TrainConfig) -> None:
    """Write the workers' spec for torchrun, which trains without this command."""
    assert config.write_spec is not None
    if set_aside_clause(session.store.storage, draft.folder):
        # a piece: until the first checkpoint, another command would put back what was replaced
        draft.publish("spec", {})
        session.tell_of_kept(draft.folder)
    Path(config.write_spec).write_text(json.dumps(plain(spec), indent=1), encoding="utf-8")
    say(
        f"   wrote {config.write_spec}; run it with: torchrun --nproc_per_node={config.cluster.workers} "
        f"-m pipelines.train.worker {config.write_spec}"
    )


def begun_from(store: ArtifactStore, folder: str, parent: str | None) -> str | None:
    """`@latest` of a run that has begun stays the step it began from, however far its trunk has gone since."""
    if parent is None or "@step-" in parent or not store.storage.exists(f"{folder}/claim.json"):
        return parent
    claimed = store.claim(folder)["identity"]["config"].get("parent") or ""
    return str(claimed) if claimed.split("@")[0] == parent.split("@")[0] else parent


def _named_by_others(storage: Storage, run: str, on_change: str) -> dict[str, str]:
    """Of a rebuild, for the announcement: which artifacts name the checkpoints that it deletes."""
    if on_change != "rebuild" or not committed_steps(storage, run):
        return {}
    try:
        readers_by_step = readers_of(storage, run)
    except ArtifactError as error:  # damage is what a rebuild is for
        return {"checkpoints named by": f"not known: {error}"}
    others = {reader for readers in readers_by_step.values() for reader in readers if not reader.endswith(run)}
    return {"checkpoints named by": f"{', '.join(sorted(others))}: they stay, their parent goes"} if others else {}


def _back_to(config: TrainConfig) -> int | None:
    """The step of `checkpoint.resume`, or None for the latest."""
    return None if config.checkpoint.resume == "latest" else int(config.checkpoint.resume.removeprefix("step-"))


def is_done(run: Artifact | Draft, steps: int, back_to: int | None) -> bool:
    """Whether there is nothing left to do: the run is finished, no earlier step was asked for, and no later one."""
    if not isinstance(run, Artifact):
        return False
    stands = run.statistics["steps"]
    return bool(stands >= steps and (back_to is None or back_to >= stands))


def _check_place(write_spec: str | None) -> None:
    """Raises: ConfigError where the spec could not be written, which would be known only when the run has begun."""
    if write_spec is None:
        return
    path = Path(write_spec)
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"write_spec={write_spec} cannot be written: {path if path.is_dir() else path.parent} is "
            f"{'a folder' if path.is_dir() else 'no folder'}; expected a file in a folder that exists, e.g. "
            "write_spec=spec.json"
        )


def go_back(storage: Storage, run: str, step: int) -> None:
    """Have a run go on from an earlier checkpoint: later ones are set aside, and a manifest of a later step goes."""
    later = [committed for committed in committed_steps(storage, run) if committed > step]
    if later and storage.exists(f"{run}/manifest.json"):
        Draft(storage, run, {}).forget_rebuild()
        # first: its statistics are those of a checkpoint that will not be there
        storage.delete(f"{run}/manifest.json")
    for later_step in set_aside_after(storage, run, step):
        say(f"   set aside the checkpoint at step {later_step}: the run goes on from step {step}")


def verify_first(storage: Storage, own: str | None, spec: TrainSpec, back_to: int | None) -> tuple[str, ...]:
    """Compare what the workers will load, the checkpoint and what was prepared, before Ray and the workers are started.

    Args: own, the run itself where it may have checkpoints; spec, of which `start` says what it begins with if it has
        none.
    Returns: the checkpoint's token where all its bytes were read; sizes and headers are compared in any case.
    Raises: CheckpointError when it is damaged, naming the one before it.
    """
    if own is not None and committed_steps(storage, own):
        objective_of(spec.objective).verify_prepared(Draft(storage, own, {}))
        checkpoint = open_checkpoint(storage, own, "latest" if back_to is None else f"step-{back_to}")
    elif back_to is not None and own is not None:
        checkpoint = open_checkpoint(storage, own, f"step-{back_to}")  # raises: there is none
    elif spec.start.run is not None:
        checkpoint = open_checkpoint(storage, spec.start.run, f"step-{spec.start.step}")
    else:
        return ()
    checkpoint.glance()
    if not checkpoint.small:
        say(
            f"   {checkpoint}: sizes and headers of {human(checkpoint.size, 'B')} compared; "
            "the workers compare its checksums, each a share"
        )
        return ()
    checkpoint.verify()
    say(f"   {checkpoint}: {human(checkpoint.size, 'B')} compared with its checksums")
    return (checkpoint.token,)


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


def _next_commands(stage: str, config: TrainConfig, session: Session) -> list[str]:
    run = f"{stage}/{config.name}"
    # the last step of a run that goes on for ever is another one tomorrow, and a branch says which it means
    return onward.after_training(session, run, f"{run}@latest" if stage_named(stage).endless else run)
