"""The tree of runs: which steps are trained by which run, so that no step is trained twice.

Enters: chains of configs (`chain.py`), and which steps are committed where there is a store. Leaves: for each run the
checkpoint of another that it adopts, and where each run has to stop on its way so that there is such a checkpoint.

Nothing stands between the runs: no trunk is invented. The longest run that has a step carries it; every other one
adopts that run's checkpoint at the last common step, and trains what is its own. So each run is the artifact that its
config alone would make. Placing runs one after another, each at the longest common beginning with those before it,
builds the trie of their learning rates: m decays off a trunk of T steps cost T and the decays, and not m times T / 2.

Runs may be added at any time, as a search does. A run that has gone on already has no checkpoint at an arbitrary step
any more; then its last one before that is adopted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipelines.config import WorkflowConfig
from pipelines.errors import ConfigError
from pipelines.train.sharing.chain import Chain, ChainStage
from pipelines.train.sharing.trajectory import Trajectory, trajectory_of
from pipelines.train.spec import Adopted, TrainConfig
from pipelines.train.stages import STAGES

# the committed steps of a run, by its folder, ascending
CommittedSteps = Callable[[str], Sequence[int]]


@dataclass(eq=False)
class TreeRun:
    """One run of the tree.

    Attributes:
        config: with its parent filled in. command: as of its `ChainStage`.
        needs: what its chains make before it, e.g. its mixture.
        parent: the run before it in its chain, which has to be finished first.
        chains: names of the chains that it is a stage of.
        adopts, adopted_step: the run that carries its first steps, and how many.
        adopters: the runs that adopt from this one.
        committed: steps at which it has checkpoints of its own, ascending.
        aim: the step at which the edge that was begun last ends; 0 before the first.
        lost: it has failed, so nobody adopts from it.
    """

    stage: str
    config: TrainConfig
    trajectory: Trajectory
    parent: TreeRun | None
    needs: tuple[ChainStage, ...] = ()
    command: str | None = None
    chains: list[str] = field(default_factory=list)
    adopts: TreeRun | None = None
    adopted_step: int = 0
    adopters: list[TreeRun] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    aim: int = 0
    lost: bool = False

    @property
    def folder(self) -> str:
        return f"{self.stage}/{self.config.name}"

    @property
    def steps(self) -> int | None:
        """Of the whole run; None where only its data say."""
        return self.trajectory.steps

    @property
    def first(self) -> int:
        """Steps that are there before the next edge: its own, or adopted."""
        return self.committed[-1] if self.committed else self.adopted_step

    @property
    def adopted(self) -> Adopted | None:
        """What its spec says of that."""
        return None if self.adopts is None else Adopted(run=self.adopts.folder, step=self.adopted_step)

    def holder(self, step: int) -> TreeRun:
        """The run that trains this run's step number `step`."""
        run = self
        while run.adopts is not None and step <= run.adopted_step:
            run = run.adopts
        return run

    def depends_on(self, other: TreeRun) -> bool:
        """Whether it is `other`, or its first steps are, by way of whatever run."""
        run: TreeRun | None = self
        while run is not None and run is not other:
            run = run.adopts
        return run is not None

    def all_chains(self, after: int = 0) -> list[str]:
        """Names of the chains that need the step `after` of this run, its own first."""
        names = dict.fromkeys(self.chains)
        for adopter in self.adopters:
            if adopter.adopted_step >= after:
                names.update(dict.fromkeys(adopter.all_chains()))
        return list(names)


@dataclass(frozen=True)
class Edge:
    """Steps of a run that are trained in one call: those after `first`, up to `last`; None: to its end, wherever that
    is.
    """

    run: TreeRun
    first: int
    last: int | None

    @property
    def tokens(self) -> int:
        """Trained by it; 0 where that is not known."""
        return 0 if self.last is None else (self.last - self.first) * self.run.trajectory.step_tokens

    @property
    def chains(self) -> list[str]:
        """Names of the chains that these steps belong to."""
        return self.run.all_chains(self.last or 0)


def plan_tree(chains: Iterable[Chain], committed: CommittedSteps = lambda folder: (), shares: bool = True) -> Tree:
    """The tree of these chains. Args: committed, where there is a store; shares, as of `Tree`. Raises: ConfigError, as
    `Tree.add` does.
    """
    tree = Tree(committed, shares)
    tree.add(chains)
    return tree


class Tree:
    """Runs, and who carries whose first steps.

    Attributes: chains, by their names; runs, by their folders, in the order in which they were placed.
    """

    def __init__(self, committed: CommittedSteps = lambda folder: (), shares: bool = True):
        """Args: shares, whether common steps are trained once; else every run trains all of its own."""
        self.committed, self.shares = committed, shares
        self.chains: dict[str, Chain] = {}
        self.runs: dict[str, TreeRun] = {}
        self._made: dict[str, ChainStage] = {}
        self._path: dict[str, list[TreeRun]] = {}
        # runs that may share steps: those of one digest and the same first LR
        self._alike: dict[tuple[str, float], list[TreeRun]] = {}

    def add(self, chains: Iterable[Chain]) -> list[TreeRun]:
        """Add chains. Returns: their runs that are new.

        Raises: ConfigError, with nothing added, for a chain whose name is taken, one that trains nothing, or two runs
            of one name with different configs.
        """
        added = list(chains)
        self._refuse(added)
        new: dict[str, TreeRun] = {}
        paths = {chain.name: self._path_of(chain, new) for chain in added}
        # from here on nothing can fail
        self.runs |= new
        for chain in added:
            self.chains[chain.name], self._path[chain.name] = chain, paths[chain.name]
            for run in paths[chain.name]:
                run.chains.append(chain.name)
            for stage in chain.stages:
                if not isinstance(stage.config, TrainConfig):
                    self._made[stage.folder] = stage
        # the longest first: it carries the others; `sorted` keeps the order of those that are as long
        for run in sorted(new.values(), key=lambda run: -(run.steps or 0)):
            run.committed = list(self.committed(run.folder))
            run.aim = run.committed[-1] if run.committed else 0
            self.place(run)
        return list(new.values())

    def place(self, run: TreeRun) -> None:
        """Find who carries the run's first steps; again where whoever did is lost."""
        if run.adopts is not None:
            run.adopts.adopters.remove(run)
        run.adopts, run.adopted_step = None, 0
        rates = run.trajectory.rates
        if not self.shares or rates is None or not len(rates):
            return
        alike = self._alike.setdefault((run.trajectory.decides, float(rates[0])), [])
        if not run.committed:
            for other in alike:
                if other.lost or other.depends_on(run) or any_lost(other):
                    continue
                step = _reachable(other, run.trajectory.common(other.trajectory))
                if step > run.adopted_step:
                    run.adopts, run.adopted_step = other, step
        if run.adopts is not None:
            run.adopts.adopters.append(run)
        if run not in alike:
            alike.append(run)

    def path(self, chain: str) -> list[TreeRun]:
        """The runs of a chain, in order."""
        return self._path[chain]

    def cuts(self, run: TreeRun, wanted: Callable[[str], bool] = lambda chain: True) -> list[int]:
        """The steps at which a run has to stop, its end last if that is known. Args: wanted, of a chain's name."""
        steps = {adopter.adopted_step for adopter in run.adopters if any(map(wanted, adopter.all_chains()))}
        for name in filter(wanted, run.all_chains()):
            last = self._path[name][-1]
            steps |= {rung for rung in self.chains[name].rungs if last.holder(rung) is run}
        if any(map(wanted, run.chains)) and run.steps is not None:
            steps.add(run.steps)
        return sorted(step for step in steps if run.steps is None or step <= run.steps)

    def edges(self) -> Iterator[Edge]:
        """What is still to be trained, a run's edges in order."""
        for run in self.runs.values():
            first = run.first
            if run.steps is None:
                yield Edge(run, first, None)
                continue
            for last in self.cuts(run):
                if last > first:
                    yield Edge(run, first, last)
                    first = last

    @property
    def trained_tokens(self) -> int:
        """Tokens that the edges train on."""
        return sum(edge.tokens for edge in self.edges())

    @property
    def naive_tokens(self) -> int:
        """Tokens that the chains would train on if each were run by itself, from its first stage on."""
        runs = (run for name in self.chains for run in self._path[name])
        return sum((run.steps or 0) * run.trajectory.step_tokens for run in runs)

    def _refuse(self, chains: Sequence[Chain]) -> None:
        names = [*self.chains, *(chain.name for chain in chains)]
        if twice := sorted({name for name in names if names.count(name) > 1}) if len(names) > len(set(names)) else []:
            raise ConfigError(f"two trials are called {twice[0]}: give each another name")
        configs: dict[str, WorkflowConfig] = {run.folder: run.config for run in self.runs.values()}
        configs |= {folder: stage.config for folder, stage in self._made.items()}
        for chain in chains:
            if not any(isinstance(stage.config, TrainConfig) for stage in chain.stages):
                raise ConfigError(
                    f"{chain.name} trains nothing: it has the stages {[s.workflow for s in chain.stages]}; expected "
                    f"one of {', '.join(STAGES)}"
                )
            for stage, config in zip(chain.stages, _filled(chain), strict=True):
                if configs.setdefault(stage.folder, config) != config:
                    raise ConfigError(
                        f"two configs would make {stage.folder}, one of them for {chain.name}: give each another name="
                    )

    def _path_of(self, chain: Chain, new: dict[str, TreeRun]) -> list[TreeRun]:
        """The runs of a chain, in order. Args: new, those that are not in the tree yet; it takes more of them."""
        path: list[TreeRun] = []
        needs: list[ChainStage] = []
        for stage, config in zip(chain.stages, _filled(chain), strict=True):
            if not isinstance(config, TrainConfig):
                needs.append(stage)
                continue
            parent = path[-1] if path else None
            run = self.runs.get(stage.folder) or new.get(stage.folder)
            if run is None:
                trajectory = trajectory_of(stage.workflow, config, None if parent is None else parent.trajectory)
                run = new[stage.folder] = TreeRun(
                    stage.workflow, config, trajectory, parent, tuple(needs), stage.command
                )
            path.append(run)
        return path


def any_lost(run: TreeRun) -> bool:
    """Whether the run needs the steps of one that has failed, and has not got them."""
    while not run.lost and run.adopts is not None and not run.committed:
        if run.adopted_step in run.adopts.committed:
            return False
        run = run.adopts
    return run.lost


def _reachable(run: TreeRun, common: int) -> int:
    """The last step up to `common` at which a run has, or can still have, a checkpoint to adopt."""
    # what lies before its own first step, whoever carries it offers as well
    if common <= run.adopted_step and not run.committed:
        return 0
    if common >= run.aim:
        return common
    return max((step for step in run.committed if step <= common), default=0)


def _filled(chain: Chain) -> list[WorkflowConfig]:
    """The configs of a chain's stages; one that follows a trained stage begins from the last step of that."""
    before: ChainStage | None = None
    configs: list[WorkflowConfig] = []
    for stage in chain.stages:
        config = stage.config
        if isinstance(config, TrainConfig):
            if before is not None:
                assert isinstance(before.config, TrainConfig)
                steps = before.config.steps
                parent = before.folder if steps is None else f"{before.folder}@step-{steps}"
                config = dataclasses.replace(config, parent=parent)
            before = stage
        configs.append(config)
    return configs
