"""Turns of a training stage, trained side by side on as many lanes as the cluster has room for.

The planner and the workers are the wind tunnel's. With `share=true` steps that arms have in common are trained once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from pipelines.cluster.trial_pool import Ended, TrialPool, check_room
from pipelines.config import ClusterConfig, plain
from pipelines.display.progress import say
from pipelines.identity import fingerprint
from pipelines.store.artifact import Artifact
from pipelines.tracking.tracker import join_group
from pipelines.train.sharing.tree import plan_tree
from pipelines.train.stages import stage_named
from pipelines.train.trials.worker import ready, work_trial
from workflows.command_line.turns import Turn, tell_all
from workflows.running import onward
from workflows.running.arms import Outcome, Ranking, outcome_table
from workflows.running.session import DryRun, Session
from workflows.running.sharing import EdgeEnded, TreeRunner
from workflows.running.sweeps.announced import announce_runs
from workflows.running.sweeps.planned import Arm, planned_arms
from workflows.running.sweeps.shared import at_the_end, experiment_of, in_a_line, rebuild_of

_TELL_SECONDS = 10.0  # between two lines of one arm on its steps
_EVALUATED = 12  # arms that a printed command evaluates at once


def sweep_stage(stage: str, turns: Sequence[Turn], session: Session) -> list[Artifact]:
    """Train the arms of a sweep. Args: stage, a name in `STAGES`.

    Raises: one error with all that cannot be planned; DryRun; at the end the first error of an arm.
    """
    shares = bool(turns[0].config.share)
    rebuild, turns = rebuild_of(stage, turns, session)
    turns, chains, arms, mistakes = planned_arms(stage, turns, session)
    replaced = {f"{stage}/{arm.turn.config.name}" for arm in arms if arm.replaces}
    if len(chains) == len(turns):
        committed = functools.partial(_committed, session, replaced)
        announce_runs(stage, plan_tree(chains, committed, shares), turns, arms, session)
    tell_all(mistakes, [turn.varied for turn in turns])
    if not all(arm.finished for arm in arms):
        session.check_cluster()
    if session.config.dry_run:
        raise DryRun
    # ── everything that can be refused is, but for what the cluster itself has no room for ──
    assert session.group is not None
    finished = [f"{stage}/{arm.turn.config.name}" for arm in arms if arm.finished]
    join_group(session.config.tracking, session.store, finished, session.group)
    failed: dict[str, Exception] = {}
    over = 0
    shapes = _by_shape(arms)
    try:
        for cluster, together in shapes.items():
            unfinished = sum(1 for arm in together if not arm.finished)
            with PoolWhenNeeded(session, cluster, unfinished, tuple(shapes)) as pool:
                own = {arm.turn.config.name for arm in together}
                runner = TreeRunner(session, pool, shares=shares, replaced=replaced, tell_every_seconds=_TELL_SECONDS)
                with runner, pool:  # lanes end before names are given back
                    if any(arm.replaces for arm in together):
                        pool.wait()  # a cluster that cannot start must not cost what is there
                    runner.add([chain for chain in chains if chain.name in own])
                    while (edge := runner.next()) is not None:
                        if edge.last:
                            over += len(edge.chains)
                            failed.update({name: edge.error for name in edge.chains if edge.error is not None})
                            for name in edge.chains if edge.error is None else ():
                                rebuild.done(f"{stage}/{name}")
                        say(_told(edge, over, len(turns)))
    except BaseException:
        say(f"   {over - len(failed)} of {len(turns)} arms are finished: the same command again goes on with the rest")
        raise
    if not failed:
        rebuild.over()
    return _conclude(stage, arms, failed, session)


def _committed(session: Session, replaced: set[str], folder: str) -> Sequence[int]:
    from pipelines.train.checkpoint.committed import committed_steps

    return () if folder in replaced else committed_steps(session.store.storage, folder)


def _by_shape(arms: Sequence[Arm]) -> dict[ClusterConfig, list[Arm]]:
    """Arms whose processes are alike train on the same lanes; the largest begin."""
    shapes: dict[ClusterConfig, list[Arm]] = {}
    for arm in arms:
        shapes.setdefault(arm.turn.config.cluster, []).append(arm)
    return dict(sorted(shapes.items(), key=lambda item: -item[0].workers))


def _conclude(stage: str, arms: Sequence[Arm], failed: Mapping[str, Exception], session: Session) -> list[Artifact]:
    """The table of the arms and what to do next. Raises: the first error of an arm."""
    outcomes = []
    for arm in arms:
        name = arm.turn.config.name
        error = failed.get(name)
        told = "" if error is None else in_a_line(error)
        artifact = None if error is not None else session.store.find(f"{stage}/{name}")
        outcomes.append(Outcome(arm.turn, artifact, told, _measured_on(arm)))
    text, best, ranking = outcome_table(outcomes, session.store, trained=True)
    say("\n" + text + "\n")
    if ranking.why:
        say(f"   {ranking.why}")
    if len(best) > 1:
        session.tell_group()
    if best:
        _tell_next(stage, best, ranking, session)
    if failed:
        name, error = next(iter(failed.items()))
        raise at_the_end(
            error,
            f"{len(failed)} of {len(arms)} arms ended with an error; the same command again goes on with them. First "
            f"{stage}/{name}: {error}",
        )
    return [outcome.artifact for outcome in outcomes if outcome.artifact is not None]


def _tell_next(stage: str, best: Sequence[Outcome], ranking: Ranking, session: Session) -> None:
    """What follows the best arm, where there is a best; and one evaluation of all, unless they have it."""
    turn = best[0].turn
    session.config, session.experiment = turn.config, experiment_of([turn])
    run = f"{stage}/{turn.config.name}"
    lines = onward.after_training(session, run, f"{run}@latest" if stage_named(stage).endless else run)
    if len(best) > 1:
        some = ",".join(f"{stage}/{outcome.turn.config.name}" for outcome in best[:_EVALUATED])
        alone = f"parent={run}"
        lines = [
            line.replace("workflows.evaluate", "workflows.evaluate -m", 1).replace(alone, f"parent={some}", 1)
            if line.startswith("python -m workflows.evaluate")
            else line
            for line in lines
        ]
    evaluates = "python -m workflows.evaluate"
    if ranking.evaluated:
        lines = [line for line in lines if not line.startswith(evaluates)]
    elif ranking.order is None:
        lines = [line for line in lines if line.startswith(evaluates)]
    session.tell_next(*lines)


def _measured_on(arm: Arm) -> str:
    spec = arm.planned.spec
    return fingerprint(
        [arm.turn.config.data, spec.tokens, spec.tokenizer, plain(spec.objective), spec.batch.sequence_length]
    )


class PoolWhenNeeded:
    """Lanes that are made when the first edge is submitted: where all is finished, Ray is not started."""

    def __init__(self, session: Session, config: ClusterConfig, most: int, shapes: Sequence[ClusterConfig]):
        """Args: most, arms that there are to train; shapes, of all lanes of the sweep: they are looked at before the
        first works.
        """
        self._session, self._most, self._shapes = session, max(1, most), shapes
        self.config = config
        self._made = False

    @functools.cached_property
    def _pool(self) -> TrialPool:
        _ = self._session.cluster  # starts Ray, or joins it
        check_room(self._shapes)
        pool = TrialPool(self.config, None, ready, work_trial, most=self._most)
        self._made = True
        workers = self.config.workers
        say(f"   lanes: {pool.lanes}, each of {workers} process{'es' * (workers > 1)}")
        return pool

    @property
    def lanes(self) -> int:
        return self._pool.lanes

    @property
    def wanted(self) -> int:
        return self._pool.wanted if self._made else 1

    def wait(self) -> None:
        """Until the first lane has formed."""
        self._pool.wait()

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
            self._made = False
            self._pool.end()


def _told(edge: EdgeEnded, over: int, total: int) -> str:
    if edge.error is not None:
        return f"   {edge.run} stands at step {edge.step} and is over ({over} of {total}): {in_a_line(edge.error)}"
    if edge.last:
        return f"   {edge.run} is finished at step {edge.step} ({over} of {total})"
    return f"   {edge.run} stands at step {edge.step}, for {len(edge.chains)} runs"
