"""Chains of runs that share their common steps: each step is trained once, and every run is an ordinary artifact.

    with TreeRunner(session, pool, measures) as runner:
        runner.add(chains)                            # more at any time, as a search does
        while (ended := runner.next()) is not None:   # some steps are committed, or an error ended some chains
            …

Enters: chains of configs, and a pool of lanes. Leaves: their runs, as their commands alone would have made them, and
word of each edge that ended. What is committed is never trained again: the same chains go on from there.

A run that diverges takes along those that need its later steps, whose bits are the same. Another error ends the chains
of that run alone: whoever wanted to adopt from it is placed anew.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from pipelines.config import ClusterConfig
from pipelines.errors import ClusterError, ConfigError, StorageError, TrainingError, TrunklineError
from pipelines.train.checkpoint.committed import committed_steps
from pipelines.train.sharing.chain import Chain, both
from pipelines.train.sharing.order import weights_of, work_left
from pipelines.train.sharing.tree import Tree, TreeRun
from pipelines.train.trials.rows import missing_rows, parse_measures
from workflows.running.claimed import ClaimedRun, Desk
from workflows.running.session import Session

_AHEAD = 2  # runs that are claimed, and opened in MLflow, before a lane asks for them


@dataclass(frozen=True)
class EdgeEnded:
    """Some steps of a run that are committed, or an error that ended chains.

    Attributes:
        chains: names of the chains that it is about: all that these steps belong to; with `last`, those that are over.
        run: folder of the run, e.g. pretrain/lr-0.01.
        step: at which it stands; of an error, its last committed step.
        last: whether these chains are over: their last run is finished (and may have been before), or they were pruned,
            or `error` says why not.
        error: None, or what ended them: a TrainingError of one that has diverged, which is a result; any other is none.
    """

    chains: tuple[str, ...]
    run: str
    step: int
    last: bool
    error: Exception | None = None


class Over(Protocol):
    """What a pool says of an edge that ended."""

    @property
    def key(self) -> str: ...

    @property
    def error(self) -> Exception | None: ...


class Pool(Protocol):
    """Lanes that run a worker on values, as `pipelines.cluster.trial_pool.TrialPool` does."""

    config: ClusterConfig

    @property
    def lanes(self) -> int: ...

    @property
    def wanted(self) -> int:
        """How many more submissions keep every lane busy and one queued each."""
        ...

    def submit(self, key: str, values: dict[str, Any]) -> None: ...

    def next(self, timeout: float | None = None) -> Over | None: ...


class TreeRunner:
    """Trains the edges of a tree on a pool. Used by one thread."""

    def __init__(
        self,
        session: Session,
        pool: Pool,
        measures: Mapping[str, Mapping[str, Any]] | None = None,
        mlflow_parent: str | None = None,
        threads: int | None = None,
        shares: bool = True,
        replaced: Collection[str] = (),
        tell_every_seconds: float | None = None,
    ):
        """Args: measures, along every run; mlflow_parent, id of the MLflow run above them; threads, of torch in each
        process of a lane on a CPU; None: the cores of this machine, shared among all; shares, whether common steps are
        trained once; replaced, folders of runs that are made anew, whatever lies there; tell_every_seconds, at most so
        often a run says how far it is; None: it says what is wrong alone.
        """
        self._storage, self._pool, self._threads = session.store.storage, pool, threads
        self._tell_every_seconds = tell_every_seconds
        self._measures = dict(measures or {})
        self._desk = Desk(session, mlflow_parent)
        self.tree = Tree(lambda folder: () if folder in replaced else committed_steps(self._storage, folder), shares)
        self._over: set[str] = set()
        self._claimed: dict[TreeRun, ClaimedRun] = {}
        self._finished: set[TreeRun] = set()
        self._running: dict[str, tuple[TreeRun, int]] = {}
        self._open: list[TreeRun] = []  # neither finished nor lost; what takes longest first
        self._events: deque[EdgeEnded] = deque()

    def __enter__(self) -> TreeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def done(self) -> bool:
        """Whether all chains are over and all has been told."""
        return not (self._events or self._running) and all(name in self._over for name in self.tree.chains)

    @property
    def work_left(self) -> float:
        """What chains that are not over still need, in tokens times parameters."""
        return work_left(self.tree, self._alive)

    def add(self, chains: Iterable[Chain]) -> None:
        """Add chains. Raises: ConfigError, with nothing added, as `Tree.add`, and for runs of another shape than the
        pool's lanes.
        """
        added = list(chains)
        for chain in added:
            self._refuse(chain)
        self._open += self.tree.add(added)
        weights = weights_of(self.tree)
        self._open.sort(key=lambda run: -weights[run])
        for chain in added:
            last = self.tree.path(chain.name)[-1]
            if last in self._finished:
                self._tell_of_end((chain.name,), last)

    def prune(self, chain: str) -> None:
        """Have a chain end where it stands; what others need of its runs is still trained. Its end is told as any."""
        if self._alive(chain):
            self._tell_of_end((chain,), self.tree.path(chain)[-1])
            self._let_go()

    def next(self, timeout: float | None = None) -> EdgeEnded | None:
        """What ends next; None when all chains are over, or after `timeout` seconds.

        Lanes are filled when this is called, so that who hears of a rung may prune the chain before it goes on.
        Raises: StorageError or ClusterError, with which nothing can go on; all that is committed stays.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._events:
            self._fill()
            if self._events:
                break
            if not self._running:
                if not (stuck := [name for name in self.tree.chains if name not in self._over]):
                    return None
                self._give_up(stuck)
                break
            left = until - time.monotonic()
            if left <= 0:
                return None
            ended = self._pool.next(None if timeout is None else left)
            if ended is not None:
                self._take(*self._running.pop(ended.key), ended.error)
        return self._events.popleft()

    def close(self) -> None:
        """End what is not finished in MLflow, and give all names back; what lanes still run is the pool's."""
        for claimed in self._claimed.values():
            claimed.end("KILLED")
        self._claimed.clear()
        self._desk.close()

    # ── Submitting ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self) -> None:
        """Give the pool as many edges as it wants, and have the next runs claimed before they are asked for."""
        while self._pool.wanted > 0 and (run := next(self._ready(), None)) is not None:
            self._begin(run)
        ahead = [run for run, _ in zip(self._ready(), range(_AHEAD), strict=False) if run not in self._claimed]
        for run in ahead:
            if (claimed := self._claim(run)) is not None:
                claimed.open()

    def _ready(self) -> Iterator[TreeRun]:
        """Runs that can go on now."""
        busy = {run for run, _ in self._running.values()}
        for run in self._open:
            if run in busy or run.lost or run in self._finished:
                continue
            if run.parent is not None and run.parent not in self._finished:
                continue
            donor = run.adopts
            if donor is not None and not run.committed:
                known = donor in self._claimed or donor in self._finished or donor.lost
                if not known or run.adopted_step not in donor.committed:
                    continue
            if any(adopter.parent not in (None, *self._finished) for adopter in self._to_be_claimed(run)):
                continue
            wanted = self._target(run) is not None if run in self._claimed else any(map(self._alive, run.all_chains()))
            if wanted:
                yield run

    def _target(self, run: TreeRun) -> int | None:
        """Where the next edge of a claimed run ends; None where nobody wants more of it now."""
        steps = self._claimed[run].steps
        for cut in self.tree.cuts(run, self._alive):
            if run.first < cut <= steps:
                return cut
        return steps if any(map(self._alive, run.chains)) else None

    def _begin(self, run: TreeRun) -> None:
        claimed = self._claim(run)
        if claimed is None or (step := self._target(run)) is None:
            return
        for adopter in self._to_be_claimed(run):
            self._claim(adopter)
        # where the lanes cannot be made, nothing can go on
        processes = self._pool.lanes * self._pool.config.workers
        threads = self._threads or max(1, len(os.sched_getaffinity(0)) // processes)
        try:
            values = claimed.values(step, self._measures_of(run, step), threads)
            values["tell_every_seconds"] = self._tell_every_seconds
        except TrunklineError as error:
            self._fail(run, error)
            return
        run.aim = step
        key = f"{run.folder}@step-{step}"
        self._running[key] = (run, step)
        self._pool.submit(key, values)

    def _to_be_claimed(self, run: TreeRun) -> list[TreeRun]:
        """Those who adopt where the run stands, and need a claim before it goes on: a rule of retention keeps what
        claims name.
        """
        if run.config.checkpoint.rule.keep_last is None:
            return []
        known = (*self._claimed, *self._finished)
        return [
            adopter
            for adopter in run.adopters
            if adopter.adopted_step <= run.first
            and not (adopter.lost or adopter in known)
            and any(map(self._alive, adopter.all_chains()))
        ]

    def _claim(self, run: TreeRun) -> ClaimedRun | None:
        """Claim a run; None where it is finished, or could not be claimed."""
        if run in self._claimed:
            return self._claimed[run]
        try:
            claimed = self._desk.claim(run)
        except (StorageError, ClusterError):
            raise
        except TrunklineError as error:
            run.committed, run.aim = [], 0  # what lies there is not what this run would have made
            self._fail(run, error)
            return None
        if claimed.finished and not self._unmeasured(run, claimed):
            self._finish(run, claimed.steps)
            return None
        self._claimed[run] = claimed
        for rung in self.tree.cuts(run, self._alive):
            if rung <= run.first and rung < claimed.steps:
                self._tell_of_edge(run, rung)  # of an earlier command
        return claimed

    def _unmeasured(self, run: TreeRun, claimed: ClaimedRun) -> bool:
        """Whether a finished run has not been measured at its end as is now asked."""
        measures = parse_measures(self._measures_of(run, claimed.steps))
        missing = missing_rows(self._storage, run.folder, measures, claimed.steps)
        return any(claimed.steps in steps for steps in missing.values())

    def _measures_of(self, run: TreeRun, step: int) -> dict[str, Mapping[str, Any]]:
        """What is measured along an edge: all that the chains ask for which its steps belong to."""
        measures: dict[str, Mapping[str, Any]] = dict(self._measures)
        for name in run.all_chains(step):
            for measure, settings in self.tree.chains[name].measures.items():
                measures[measure] = both(measures.get(measure), settings)
        return measures

    # ── What ended ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, run: TreeRun, step: int, error: Exception | None) -> None:
        run.committed = committed_steps(self._storage, run.folder)
        if isinstance(error, TrainingError):
            self._diverge(run, error)
        elif error is not None:
            self._fail(run, error)
        elif step >= self._claimed[run].steps:
            self._finish(run, step)
        else:
            self._tell_of_edge(run, step)
        self._let_go()

    def _finish(self, run: TreeRun, step: int) -> None:
        self._finished.add(run)
        run.committed = run.committed or committed_steps(self._storage, run.folder)
        self._close_run(run, "FINISHED")
        ends = tuple(name for name in run.chains if self._alive(name) and self.tree.path(name)[-1] is run)
        self._over |= set(ends)
        self._tell_of_edge(run, step)
        if ends:
            self._over -= set(ends)
            self._tell_of_end(ends, run)

    def _diverge(self, run: TreeRun, error: Exception) -> None:
        """The run has no later steps, nor have those that were to adopt them."""
        stands = run.first
        lost = [run]
        for one in lost:  # it grows
            one.lost = True
            after = stands if one is run else 0
            lost += [adopter for adopter in one.adopters if adopter.adopted_step > after and not adopter.committed]
        self._end_chains(run, [name for one in lost for name in one.chains], error)

    def _fail(self, run: TreeRun, error: Exception) -> None:
        """The run's own chains are over; who was to adopt from it finds another to carry its steps, or none."""
        run.lost = True
        for adopter in sorted(run.adopters, key=lambda adopter: -(adopter.steps or 0)):
            if not adopter.committed and not adopter.lost and adopter.adopted_step not in run.committed:
                self.tree.place(adopter)
        self._end_chains(run, run.chains, error)

    def _end_chains(self, run: TreeRun, chains: Iterable[str], error: Exception) -> None:
        self._close_run(run, "FAILED", str(error))
        ended = tuple(name for name in dict.fromkeys(chains) if self._alive(name))
        self._over |= set(ended)
        if ended:
            self._events.append(EdgeEnded(ended, run.folder, run.first, True, error))

    def _give_up(self, chains: list[str]) -> None:
        """What can never happen, told rather than waited for."""
        error = TrunklineError(
            f"{', '.join(chains[:3])}{' and more' if len(chains) > 3 else ''} cannot go on: a run that they begin from "
            "was ended; run the same command again"
        )
        self._over |= set(chains)
        self._events.append(EdgeEnded(tuple(chains), self.tree.path(chains[0])[-1].folder, 0, True, error))

    def _tell_of_edge(self, run: TreeRun, step: int) -> None:
        if chains := tuple(filter(self._alive, run.all_chains(step))):
            self._events.append(EdgeEnded(chains, run.folder, step, False))

    def _tell_of_end(self, chains: tuple[str, ...], run: TreeRun) -> None:
        self._over |= set(chains)
        self._events.append(EdgeEnded(chains, run.folder, run.first, True))

    def _alive(self, chain: str) -> bool:
        return chain not in self._over

    def _close_run(self, run: TreeRun, status: str, why: str = "") -> None:
        if (claimed := self._claimed.pop(run, None)) is not None:
            claimed.end(status, why)
        if run in self._open:
            self._open.remove(run)

    def _let_go(self) -> None:
        """End the runs of which nobody wants more."""
        busy = {run for run, _ in self._running.values()}
        for run in [run for run in self._claimed if run not in busy]:
            if not any(map(self._alive, run.all_chains())):
                self._close_run(run, "KILLED")

    def _refuse(self, chain: Chain) -> None:
        """Raises: ConfigError for what cannot be trained here."""
        for stage in chain.stages:
            config: Any = stage.config
            if config.on_change == "rebuild" and self.tree.shares:
                raise ConfigError(
                    f"{stage.folder} has on_change=rebuild, and runs that share steps go on with what is there: leave "
                    "share=true out, give them other names, or delete what is to be made anew"
                )
            if not hasattr(config, "checkpoint"):
                continue
            if config.write_spec is not None or config.checkpoint.resume != "latest":
                raise ConfigError(
                    f"{stage.folder} has write_spec={config.write_spec} and checkpoint.resume="
                    f"{config.checkpoint.resume}; runs that are trained together take neither: leave them out, or "
                    "type the command of that run alone, without -m"
                )
            if config.cluster.workers != self._pool.config.workers:
                raise ConfigError(
                    f"{stage.folder} has cluster.workers={config.cluster.workers}, and the lanes here have "
                    f"{self._pool.config.workers}: runs that are trained together take the same number"
                )
