"""The second half of planning: build the spec of a run that `checked.py` has looked up, and what decides its result.

Enters: a stage's name, a `TrainConfig` and the store. Leaves: a `PlannedRun`: the `TrainSpec` for the workers, the
inputs, the identity and the announcement. Nothing is written, and nothing is started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.config import plain
from pipelines.errors import ConfigError, TrunklineError
from pipelines.identity import fingerprint, identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import committed_steps
from pipelines.train.checkpoint.lineage import tokenizer_of
from pipelines.train.network.roles import frozen
from pipelines.train.plan import devices
from pipelines.train.plan.announcement import announce_run
from pipelines.train.plan.checked import CheckedRun, check_run
from pipelines.train.schedules import schedule
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.spec import TrainConfig, TrainSpec
from pipelines.train.stages import stage_named

# runs of the store that are looked at for one that can be a parent
_TRIED = 8


@dataclass(frozen=True)
class PlannedRun:
    """A stage's run, before it is claimed.

    Attributes: config, without nulls that the data decides; shapes, those that were compared for the model, under
        `sizing.HEADER`; identity, what decides the result; announcement, label -> text.
    """

    spec: TrainSpec
    config: TrainConfig
    shapes: tuple[list[Any], ...]
    inputs: tuple[Artifact, ...]
    identity: dict[str, Any]
    announcement: dict[str, str]


def plan_stage(name: str, config: TrainConfig, store: ArtifactStore, parent: str | None, workers: int) -> PlannedRun:
    """Plan a stage's run, refusing everything that cannot work before anything starts.

    Args: parent, the resolved parent reference; workers, number of ranks.
    Raises: ConfigError, ArtifactError, CheckpointError or DataError, each saying what to change.
    """
    stage = stage_named(name)
    if not config.dry_run and not config.write_spec:
        devices.check_gpus(config.cluster)
    if stage.parents and not parent:
        raise ConfigError(
            f"{name} needs a parent: pass parent=<{'|'.join(stage.parents)}>/<name>[@step-N]; "
            f"{_parents_here(name, config, store, workers)}"
        )
    run = check_run(name, config, store, parent, workers)
    spec = _build_spec(run, store.uri)
    inputs = (run.data,) if run.data is run.tokens else (run.data, run.tokens)
    if run.parent is not None:
        inputs = (run.parent.artifact, *inputs)
    return PlannedRun(spec, run.config, run.sized.rows, inputs, _identity(run), announce_run(run, spec))


def _build_spec(run: CheckedRun, store_uri: str) -> TrainSpec:
    config = run.config
    return TrainSpec(
        kind=run.name,
        name=config.name,
        store=store_uri,
        claim={},
        config=plain(config),
        model=run.architecture,
        schedule=run.rates,
        optimizer=config.optimizer,
        zero=config.zero,
        compute=config.compute,
        batch=config.batch,
        steps=run.steps,
        seed=config.seed,
        objective=run.objective.settings,
        tokens=run.tokens.folder,
        tokenizer=tokenizer_of(run.tokens),
        segments=run.segments,
        start=run.start,
        checkpoint=config.checkpoint,
        log_every_steps=config.log_every_steps,
        monitor_every_steps=config.monitor_every_steps,
        profile=config.profile,
        profile_steps=config.profile_steps,
        tracking={},
        trains=run.stage.trains,
    )


def _identity(run: CheckedRun) -> dict[str, Any]:
    """What decides the result: the config's own, and what is decided here and in no module whose hash is taken.

    That is what is inherited, and where in which stream the run reads.
    """
    settings = run.objective.settings
    decides: dict[str, Any] = {
        **identity(run.config),
        "parent": run.parent and str(run.parent),
        "model": identity(run.architecture),
        "schedule": {**_told(run.rates), "decay_values": schedule.decay_values(run.rates)},
        "steps": run.steps,
        "objective": {"name": settings.name, **identity(settings)},
        "start": {
            "mode": run.start.mode,
            "samples": run.start.samples,
            "segments": fingerprint(plain(run.segments)),
        },
    }
    if run.sized.tokens is not None:
        decides["sized_tokens"] = run.sized.tokens
    # a trunk goes on: more steps do not change the steps before them
    fixed = run.rates.decay == "none" and run.rates.kind != "cosine" and run.config.schedule.warmup_fraction is None
    if run.stage.endless and fixed:
        del decides["steps"]
    if run.stage.trains is not None:
        frozen_weights = frozen(run.architecture, run.stage.trains)
        decides["trains"] = list(run.stage.trains)
        # named here, so that no rule of retention deletes what this run keeps no copy of
        decides["frozen"] = [] if run.parent is None else run.parent.checkpoint.holders(frozen_weights)
    return decides


def _told(rates: Schedule) -> dict[str, Any]:
    """A schedule without the decays that it had no word for at first: what has none keeps its fingerprint."""
    return {name: value for name, value in plain(rates).items() if name != "earlier_decays" or value}


def _parents_here(name: str, config: TrainConfig, store: ArtifactStore, workers: int) -> str:
    """Which runs of the store this very command would take as its parent: each is tried, up to `_TRIED` of them."""
    kinds = stage_named(name).parents
    candidates = [
        folder if store.find(folder) is not None else f"{folder}@latest"
        for kind in kinds[::-1]  # the stage just before, or one like this, is what is mostly meant
        for folder in (f"{kind}/{run}" for run in store.storage.folders(kind))
        if folder != f"{name}/{config.name}" and committed_steps(store.storage, folder)
    ]
    refusal = ""
    for reference in candidates[:_TRIED]:
        try:
            plan_stage(name, config, store, reference, workers)
        except TrunklineError as error:
            tried = ", ".join(candidates[:_TRIED])
            refusal = refusal or f"{store.uri} has {tried}, but with parent={reference}: {error}"
        else:
            return f"e.g. parent={reference}"
    return refusal or f"{store.uri} has none yet: make one with `python -m workflows.{kinds[0]}`"
