"""What pretrain, anneal, sft and dpo share: plan the stage, claim it, run its workers, commit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipelines.artifacts import Artifact, ArtifactStore, Reference
from pipelines.config import plain
from pipelines.errors import ConfigError
from pipelines.progress import say
from pipelines.storage import Storage
from pipelines.train.checkpoint import committed_steps, set_aside_after
from pipelines.train.plan.planning import plan
from pipelines.train.stages import StageName, TrainConfig
from pipelines.train.worker import ready, work
from workflows.session import Session

# the modules that decide a run's numbers; changing one changes its fingerprint
CODE = (
    *(f"pipelines.train.network.{module}" for module in ("model", "attention", "losses", "linear_cross_entropy")),
    *(f"pipelines.train.update.{module}" for module in ("optimizer", "adamw", "muon", "engine", "step")),
    "pipelines.train.plan.schedule",
    "pipelines.train.run.reference",
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


def train_stage(stage: StageName, config: TrainConfig, session: Session) -> Artifact:
    """Run one stage to its end, or return it finished; a trunk asked for more steps goes on from its last checkpoint."""
    parent = session.resolve(config.parent) if config.parent else None
    if config.on_change != "rebuild":
        parent = begun_from(session.store, f"{stage}/{config.name}", parent)
    config = dataclasses.replace(config, data=session.resolve(config.data))
    planned = plan(stage, config, session.store, parent, config.cluster.workers)
    held = session.begin(stage, config, planned.facts, planned.inputs, CODE, what=planned.identity)
    if isinstance(held, Artifact):
        if held.statistics["steps"] >= planned.spec.steps:
            return held
        say(f"   the trunk stands at step {held.statistics['steps']} and goes on to {planned.spec.steps}")
        session.hold(held.folder)
        held = session.store.reopen(held)
    if config.checkpoint.resume != "latest":
        step = int(config.checkpoint.resume.removeprefix("step-"))
        for later in set_aside_after(session.store.storage, held.folder, step):
            say(f"   set aside the checkpoint at step {later}: the run goes on from step {step}")
    refuse_fewer_steps(session.store.storage, held.folder, planned.spec.steps)
    spec = dataclasses.replace(planned.spec, claim=held.claim)
    if config.write_spec:
        Path(config.write_spec).write_text(json.dumps(plain(spec), indent=1))
        say(
            f"   wrote {config.write_spec}; run it with: torchrun --nproc_per_node={config.cluster.workers} -m pipelines.train.worker {config.write_spec}"
        )
        raise SystemExit(0)
    with session.track(held, config, planned.inputs, meanwhile=lambda: session.cluster.prepare(ready)) as tracker:
        spec = dataclasses.replace(spec, tracking=tracker.run or {})
        session.cluster.train(work, plain(spec), ready)
    artifact = session.store.get(Reference(stage, config.name).folder)
    return session.done(artifact, *_next(stage, config))


def begun_from(store: ArtifactStore, folder: str, parent: str | None) -> str | None:
    """`@latest` of a run that has begun stays the step it began from, however far its trunk has gone since."""
    if parent is None or "@step-" in parent or not store.storage.exists(f"{folder}/claim.json"):
        return parent
    claimed = store.claim(folder)["identity"]["config"].get("parent") or ""
    return str(claimed) if claimed.split("@")[0] == parent.split("@")[0] else parent


def refuse_fewer_steps(storage: Storage, run: str, steps: int) -> None:
    """Refuse to finish a run before the step at which it stands: its manifest would contradict its last checkpoint.

    Raises: ConfigError naming the checkpoints that it could go on from.
    """
    committed = committed_steps(storage, run)
    if committed and committed[-1] > steps:
        earlier = [step for step in committed if step <= steps]
        raise ConfigError(
            f"steps is {steps}, but {run} stands at step {committed[-1]} already: set steps={committed[-1]} or more"
            + (f", or checkpoint.resume=step-{earlier[-1]} to go on from there" if earlier else ", or another name")
        )


def _next(stage: StageName, config: TrainConfig) -> list[str]:
    here = f"{stage}/{config.name}"
    following = {"pretrain": "anneal", "anneal": "sft", "sft": "dpo", "dpo": "export"}[stage]
    at = "@latest" if stage == "pretrain" else ""
    return [
        f"python -m workflows.evaluate parent={here}",
        f"python -m workflows.{following} parent={here}{at} name={config.name}",
    ]
