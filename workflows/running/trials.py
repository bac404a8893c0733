"""Run the trials of a sandbox: chains into the tree of common steps, edges out of its lanes, results into the ledger.

Enters: studies with their trials, of which some may have ended in an earlier command. Leaves: every trial ended, with a
receipt each; a live table and a page that grows meanwhile. A trial that diverges or fails stops nobody.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

from pipelines.config import plain
from pipelines.errors import TrainingError
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking.tracker import Tracker
from pipelines.train.budget.device import DeviceConfig
from pipelines.train.plan.planning import plan_stage
from pipelines.train.sandbox.config import SandboxConfig
from pipelines.train.sandbox.costs import Costs, flops_of, measured_speed, priced
from pipelines.train.sandbox.expand import Trial
from pipelines.train.sandbox.ledger import Ledger, StudyState
from pipelines.train.sandbox.results import Curve, result_of
from pipelines.train.sandbox.searching import StudySearch
from pipelines.train.sandbox.table import TrialTable
from pipelines.train.sandbox.writing import Writer
from pipelines.train.sharing.chain import Chain, ChainStage
from pipelines.train.sharing.tree import plan_tree
from pipelines.train.trials.result import Status, TrialResult
from workflows.command_line.devices import read_device
from workflows.running.session import Session
from workflows.running.sharing import EdgeEnded, TreeRunner

_ESTIMATE_SECONDS = 5.0  # between two estimates of what is left: each walks over the whole tree
_LOOK_SECONDS = 1.0  # between two looks at the table and the page while no edge ends


class TrialRun:
    """The trials of one command."""

    def __init__(
        self, session: Session, states: Sequence[StudyState], ledger: Ledger, tracker: Tracker, writer: Writer,
        costs: Costs,
    ):  # fmt: skip
        self._session, self._states, self._ledger = session, states, ledger
        self._tracker, self._writer, self._planned = tracker, writer, costs
        self._table = TrialTable({state.name: len(state.trials) for state in states})
        # chain's name -> trials that it is: equal ones, of two studies, are one chain
        self._open: dict[str, list[tuple[StudyState, Trial]]] = {}
        self._pruned: set[str] = set()
        self._searches: dict[str, StudySearch] = {}
        self._ended = 0

    def run_all(self, config: SandboxConfig) -> None:
        """Make the lanes and run what has not ended yet."""
        from pipelines.cluster.trial_pool import TrialPool
        from pipelines.train.trials.worker import ready, work_trial

        _ = self._session.cluster  # Ray is there from here on
        with (
            TrialPool(config.cluster, config.lanes, ready, work_trial, trials_per_gpu=self._per_gpu(config)) as pool,
            TreeRunner(self._session, pool, mlflow_parent=self._tracker.run_id, threads=config.threads) as runner,
        ):
            self.run(runner, pool.lanes)

    def _per_gpu(self, config: SandboxConfig) -> int:
        """How many trials share a GPU: as the config says, or measured with the run of most FLOPs a token."""
        from pipelines.cluster.trials_per_gpu import measured_trials_per_gpu
        from pipelines.train.trials.probe import probe_trial
        from pipelines.train.trials.worker import ready

        if not config.cluster.gpus_per_worker:
            return 1
        if config.trials_per_gpu != "auto":
            return config.trials_per_gpu
        begun = [(runs[0], trial.stages[0]) for state in self._states for trial, runs in state.foreseen]
        fresh = [(run, stage.config) for run, stage in begun if stage.workflow == run.stage]
        if not fresh:  # every chain begins with a mixture that is not made yet
            return 1
        run, first = max(fresh, key=lambda pair: pair[0].flops / pair[0].tokens)
        planned = plan_stage(run.stage, first, self._session.store, first.parent, config.cluster.workers)
        return measured_trials_per_gpu(config.cluster, ready, probe_trial, {"spec": plain(planned.spec)})

    def run(self, runner: TreeRunner, lanes: int) -> None:
        """Run what has not ended yet."""
        for state in self._states:
            if state.config.search is not None:
                receipts = list(self._ledger.of_search(state.name))
                self._searches[state.name] = StudySearch(state, self._session.store, self._ledger.folder, receipts)
                proposals = self._searches[state.name].left
                self._table.more(state.name, len(state.trials) + proposals * len(state.config.seed_list))
        for state in self._states:
            self._begin(runner, state, state.trials)
        self._feed(runner, lanes)
        estimated = time.monotonic()
        while self._open:
            edge = runner.next(_LOOK_SECONDS)
            if edge is not None:
                if time.monotonic() - estimated > _ESTIMATE_SECONDS:
                    self._table.progressed(runner.work_left)
                    estimated = time.monotonic()
                self._take(runner, edge)
                self._feed(runner, lanes)
            self._table.show(len(self._open))
            self._writer.while_running(self._states, self.costs)
        self._table.show(last=True)

    # ── beginning ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, runner: TreeRunner, state: StudyState, trials: Sequence[Trial]) -> None:
        """Hand over those trials that have not ended in an earlier command."""
        chains: list[Chain] = []
        for trial in list(trials):
            result = self._ledger.find(state, trial)
            if result is not None:
                state.results[trial.name] = result
                self._table.found(state.name, result)
                self._tell_search(state, trial, result)
            elif trial.key in self._open:
                self._open[trial.key].append((state, trial))
            else:
                self._open[trial.key] = [(state, trial)]
                search = self._searches.get(state.name)
                # the second round is no part of the search: nobody ends it early
                rungs = search.rungs() if search is not None and trial.round == 0 else ()
                chains.append(chain_of(state, trial, rungs))
        if chains:
            runner.add(chains)
            self._table.progressed(runner.work_left, more=True)

    def _feed(self, runner: TreeRunner, lanes: int) -> None:
        """Ask searches for as many proposals as lanes want, and studies for their second round."""
        for state in self._states:
            search = self._searches.get(state.name)
            while search is not None and search.left and len(self._of(state)) < 2 * lanes:
                self._begin(runner, state, search.ask())
            if not (search and search.left) and (more := state.further(self._session.store)):
                self._table.more(state.name, len(more))
                self._begin(runner, state, more)

    def _of(self, state: StudyState) -> list[Trial]:
        return [trial for pairs in self._open.values() for own, trial in pairs if own is state]

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, runner: TreeRunner, edge: EdgeEnded) -> None:
        """What an edge's end means for its chains."""
        for name in edge.chains:
            if name not in self._open:
                continue
            if edge.last:
                self._end(name, edge.error)
            elif name not in self._pruned:
                self._look(runner, name, edge)

    def _look(self, runner: TreeRunner, name: str, edge: EdgeEnded) -> None:
        """Compare a chain at a rung, and end those that are behind."""
        for state, trial in self._open[name]:
            search = self._searches.get(state.name)
            if search is None or edge.step not in search.rungs():
                continue
            # the rows lie with the run that trained these steps, which may be another trial's
            there = dataclasses.replace(state.runs[trial.name][-1], folder=edge.run)
            curve = Curve(self._session.store.storage, (there,))
            for behind in search.reached(trial, edge.step, curve):
                # what another study wants as well goes on
                if behind.key in self._open and len(self._open[behind.key]) == 1 and behind.key not in self._pruned:
                    self._pruned.add(behind.key)
                    runner.prune(behind.key)

    def _end(self, name: str, error: Exception | None) -> None:
        status: Status = "finished"
        if error is not None:
            status = "diverged" if isinstance(error, TrainingError) else "failed"
        elif name in self._pruned:
            status = "pruned"
        for state, trial in self._open.pop(name):
            reason = "" if error is None else str(error) or type(error).__name__
            result = result_of(trial, state.runs[trial.name], self._session.store.storage, status, reason)
            state.results[trial.name] = result
            if status != "failed":
                self._ledger.note(trial, result)
            self._tell_search(state, trial, result)
            self._table.ended(state.name, result)
            self._ended += 1
            loss = result.loss()
            counts = {f"{state.name}.ended": float(len(state.results))}
            self._tracker.metrics(counts | ({f"{state.name}.loss": loss} if loss is not None else {}), self._ended)

    def _tell_search(self, state: StudyState, trial: Trial, result: TrialResult) -> None:
        if state.name in self._searches:
            self._searches[state.name].ended(trial, result)

    # ── costs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def costs(self) -> Costs:
        """What all trials known by now take, at the speed of those that have finished."""
        return costs_of(self._session.config, self._states, self._session.store, self._planned.lanes)  # type: ignore[arg-type]


def chain_of(state: StudyState, trial: Trial, rungs: Sequence[int] = ()) -> Chain:
    """A trial as a chain, with what its study measures."""
    return Chain(
        name=trial.key,
        stages=tuple(ChainStage(stage.workflow, stage.config) for stage in trial.stages),
        rungs=tuple(rungs),
        measures={name: plain(settings) for name, settings in state.config.measures.items()},
    )


def costs_of(config: SandboxConfig, states: Sequence[StudyState], store: ArtifactStore, lanes: int) -> Costs:
    """What the trials of the studies take."""
    pairs = [(state, trial) for state in states for trial in state.trials]
    planned = {run.folder: run for state, trial in pairs for run in state.runs[trial.name]}
    tree = plan_tree({trial.key: chain_of(state, trial) for state, trial in pairs}.values())
    edges = list(tree.edges())
    naive = [run for state, trial in pairs for run in state.runs[trial.name]]
    device = _device(config.price.gpu)
    stated = device.peak * device.mfu.value if config.cluster.gpus_per_worker else config.flops_per_second
    speed = measured_speed(store, planned.values())
    return Costs(
        trials=len(pairs),
        runs=len(tree.runs),
        edges=len(edges),
        tokens_naive=sum(run.tokens for run in naive),
        tokens_shared=sum(edge.tokens for edge in edges),
        flops_naive=sum(run.flops for run in naive),
        flops_shared=sum(flops_of(planned[edge.run.folder], edge.tokens) for edge in edges),
        flops_per_second=speed or stated,
        measured=speed is not None,
        lanes=lanes,
        **priced(config.price, device),
    )


@functools.cache
def _device(name: str) -> DeviceConfig:
    """A device of conf/device: the page asks for its price again and again. Raises: ConfigError with those there."""
    return read_device(name)
