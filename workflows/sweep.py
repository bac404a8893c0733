"""A sweep (`-m`) of a training stage whose runs train their common steps once: `share=true`.

Enters: the configs of all turns. Leaves: the runs that the turns would have made one after another, bit by bit, under
the same names; a run that nobody named is called after the keys that vary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import shlex
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from pipelines.cluster.trial_pool import Ended, TrialPool
from pipelines.display.progress import announce, duration, human, say, table
from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint import committed_steps
from pipelines.train.network.architecture import flops_per_token
from pipelines.train.plan import memory
from pipelines.train.plan.checked import setup_of_config
from pipelines.train.sharing.chain import Chain, ChainStage
from pipelines.train.sharing.tree import Tree, TreeRun, plan_tree
from pipelines.train.stages import stage_named
from pipelines.train.trials.worker import ready, work_trial
from workflows.composing import Job
from workflows.plan import device_names, read_device
from workflows.session import DryRun, Session
from workflows.sharing import EdgeEnded, TreeRunner

_SHOWN = 30  # runs in the table


def sweep_stage(stage: str, jobs: Sequence[Job], session: Session) -> list[Artifact]:
    """Train the runs of a sweep. Args: stage, a name in `STAGES`.

    Raises: ConfigError for two runs of one name; at the end the first error, when runs have ended with one.
    """
    chains = chains_of(stage, jobs)
    storage, cluster = session.store.storage, session.config.cluster
    tree = plan_tree(chains, lambda folder: committed_steps(storage, folder))
    announce(f"{stage}: {len(chains)} runs", {**_announcement(tree), **_costs(tree), "store": session.store.uri})
    say(_shown(tree))
    if session.config.dry_run:
        raise DryRun
    if others := sorted({job.config.cluster.workers for job in jobs} - {cluster.workers}):
        raise ConfigError(
            f"cluster.workers varies ({cluster.workers}, {', '.join(map(str, others))}), and runs that share steps are "
            "trained by the same processes: sweep it without share=true"
        )
    failed: dict[str, Exception] = {}
    with PoolWhenNeeded(session) as pool, TreeRunner(session, pool) as runner:
        runner.add(chains)
        over = 0
        while (edge := runner.next()) is not None:
            if edge.last:
                over += len(edge.chains)
                failed.update({name: edge.error for name in edge.chains if edge.error is not None})
            say(_told(edge, over, len(chains)))
    if failed:
        name, error = next(iter(failed.items()))
        raise type(error)(f"{len(failed)} of {len(chains)} runs ended with an error, first {stage}/{name}: {error}")
    follows = stage_named(stage).followed_by or "export"
    say(f"   next: python -m workflows.{follows} parent={stage}/{chains[0].name} name={chains[0].name}")
    return [session.store.get(f"{stage}/{chain.name}") for chain in chains]


class PoolWhenNeeded:
    """Lanes that are made when the first edge is submitted: where all is finished, Ray is not started."""

    def __init__(self, session: Session):
        self._session = session
        self.config = session.config.cluster
        self._made = False

    @functools.cached_property
    def _pool(self) -> TrialPool:
        _ = self._session.cluster  # starts Ray, or joins it
        pool = TrialPool(self.config, None, ready, work_trial)
        self._made = True
        say(f"   lanes: {pool.lanes}, each of {self.config.workers} process{'es' * (self.config.workers > 1)}")
        return pool

    @property
    def lanes(self) -> int:
        return self._pool.lanes

    @property
    def wanted(self) -> int:
        return self._pool.wanted if self._made else 1

    def submit(self, key: str, values: dict[str, Any]) -> None:
        self._pool.submit(key, values)

    def next(self, timeout: float | None = None) -> Ended | None:
        return self._pool.next(timeout)

    def __enter__(self) -> PoolWhenNeeded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made:
            self._pool.end()


def chains_of(stage: str, jobs: Sequence[Job]) -> list[Chain]:
    """A chain for each turn of a sweep, named as its run.

    Raises: ConfigError for two turns of one name.
    """
    every_key = dict.fromkeys(key for job in jobs for key in job.overrides)
    varied = [key for key in every_key if len({job.overrides.get(key) for job in jobs}) > 1]
    chains = []
    for job in jobs:
        name, command = job.config.name, job.command
        if "name" not in varied and varied:
            name = "-".join([name, *(f"{_short(key, varied)}-{job.overrides.get(key, 'none')}" for key in varied)])
            name = re.sub(r"[^\w.]+", "-", name).strip("-.")
            words = [word for word in shlex.split(command) if not word.startswith("name=")]
            command = shlex.join([*words, f"name={name}"])
        config = dataclasses.replace(job.config, name=name)
        chains.append(Chain(name, (ChainStage(stage, config, command),)))
    names = [chain.name for chain in chains]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two turns of this sweep would make {stage}/{twice}: leave one out, or vary name too")
    return chains


def _short(key: str, varied: Sequence[str]) -> str:
    """The last word of a key; all of it where two that vary end alike."""
    last = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == last for other in varied) > 1 else last


def _announcement(tree: Tree) -> dict[str, str]:
    trained, naive = tree.trained_tokens, tree.naive_tokens
    begun = [run for run in tree.runs.values() if run.committed]
    saved = f" ({1 - trained / naive:.0%} saved)" if trained < naive and not begun else ""
    lines = {
        "edges": f"{sum(1 for _ in tree.edges())}, each trained once",
        "tokens": f"{human(trained)} to train; {human(naive)} if each run were trained by itself{saved}",
    }
    if begun:
        there = sum(run.first * run.trajectory.step_tokens for run in begun)
        lines["there already"] = f"{human(there)} tokens of {len(begun)} runs"
    return lines


def _costs(tree: Tree) -> dict[str, str]:
    """Memory, hours and money of what is to be trained, where the runs' own configs have their models.

    A branch has its parent's, and only the store knows that.
    """
    models = {run: run.config.model for run in tree.runs.values()}
    setups = [setup_of_config(run.stage, run.config, model) for run, model in models.items() if model is not None]
    if len(setups) < len(models):
        return {}
    largest = max((memory.predict(setup, memory.plan_keep(setup, math.inf)) for setup in setups), key=lambda m: m.total)
    lines = {"memory": f"{largest.total / memory.GIB:.3g} GiB in each process of a lane, at most"}
    cluster = next(iter(models)).config.cluster
    name = (cluster.accelerator or "").lower() if cluster.gpus_per_worker else "cpu"
    if name not in device_names():
        return {**lines, "hours": "not known of this GPU: cluster.accelerator names a file of conf/device"}
    device, flops = read_device(name), 0.0
    for edge in tree.edges():
        model, length = edge.run.config.model, edge.run.config.batch.sequence_length
        assert model is not None
        flops += edge.tokens * flops_per_token(model, length)
    hours = flops / (device.peak * device.mfu.value) / 3600
    price = "" if device.usd_per_hour is None else f", ${hours * device.usd_per_hour:.2f}"
    how = f"of one {name}{price}, at an MFU of {device.mfu.value:.0%} (conf/device/{name}.yaml)"
    return {**lines, "hours": f"{duration(hours * 3600)} {how}"}


def _shown(tree: Tree) -> str:
    runs = list(tree.runs.values())
    rows: list[list[Any]] = [[run.folder, run.steps, _begins(run), _own_tokens(run)] for run in runs[:_SHOWN]]
    if len(runs) > _SHOWN:
        rest = runs[_SHOWN:]
        rows.append([f"and {len(rest)} more", None, "", sum(map(_own_tokens, rest))])
    return table(["run", "steps", "takes over", "tokens to train"], rows)


def _begins(run: TreeRun) -> str:
    if run.committed:
        return f"its own step {run.first}"
    return "" if run.adopted is None else str(run.adopted)


def _own_tokens(run: TreeRun) -> int:
    return max(0, (run.steps or 0) - run.first) * run.trajectory.step_tokens


def _told(edge: EdgeEnded, over: int, total: int) -> str:
    if edge.error is not None:
        return f"   {edge.run} stands at step {edge.step} and is over ({over} of {total}): {edge.error}"
    if edge.last:
        return f"   {edge.run} is finished at step {edge.step} ({over} of {total})"
    return f"   {edge.run} stands at step {edge.step}, for {len(edge.chains)} runs"
