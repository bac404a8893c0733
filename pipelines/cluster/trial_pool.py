"""Trials in processes that live on: lanes of rank processes that run one small run after another.

    with TrialPool(config, lanes=None, ready=ready, worker=work_trial) as pool:
        while trials or pool.outstanding:
            for trial in itertools.islice(trials, pool.wanted):
                pool.submit(trial.key, trial.values)
            if (ended := pool.next(timeout=1.0)) is not None:
                …

Enters: an importable worker and the plain values of each trial. Leaves: what the workers committed, and for each trial
an `Ended`, in the order in which they end.

A start of a process with torch, DeepSpeed and a process group takes longer than a small run trains. So a lane is a
`TrainGroup` of `config.workers` ranks, which is given its next trial before the one that it runs is over: between two
trials it asks nobody. A trial that fails stops nobody else. A lane whose process is lost forms anew, and its trial is
run again, from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pipelines.cluster.train_group import LostError, TrainGroup, gathered, open_channel
from pipelines.cluster.train_group_lines import Listener
from pipelines.cluster.train_group_rank import Worker, goes_on_after
from pipelines.cluster.train_group_room import check_size
from pipelines.config import ClusterConfig
from pipelines.display.progress import say
from pipelines.errors import ClusterError, ConfigError, StorageError

_DEPTH = 2  # trials that a lane has: one runs, the next waits in the process
_LOOK_SECONDS = 0.2  # between two looks whether a lane has formed
_CPU_STEP = 1e-4  # of Ray's amounts


@dataclass(frozen=True)
class Ended:
    """A trial that is over.

    Attributes:
        key: as it was submitted.
        error: what its worker raised, or why its processes were lost too often; None: it has ended well.
        seconds: that it took in its lane, at its last try.
        lane: number of its lane.
    """

    key: str
    error: Exception | None
    seconds: float
    lane: int


@dataclass
class _Trial:
    key: str
    values: dict[str, Any]
    failures: int = 0
    references: list[Any] = field(default_factory=list)  # of each rank's answer
    launched: float = 0.0


@dataclass
class _Lane:
    number: int
    group: TrainGroup
    trials: deque[_Trial] = field(default_factory=deque)  # the first one runs
    latest_end: float = 0.0
    failures: int = 0  # to form, in a row


class TrialPool:
    """Lanes of long-lived processes. Used by one thread, in a `with` block or until `end`."""

    def __init__(
        self,
        config: ClusterConfig,
        lanes: int | None,
        ready: Callable[[], None],
        worker: Worker,
        *,
        trials_per_gpu: int = 1,
        most: int | None = None,
        tell: Callable[[str], None] = say,
    ):
        """Begin to form the lanes in the Ray that this process is connected to.

        Args: config, `workers` ranks make a lane; lanes, None: as many as the cluster has room for; ready, importable
            function that each process calls once; worker, importable, called with a trial's values; trials_per_gpu, how
            many lanes share a GPU; most, trials that there will be: no lane is formed that would have none, and a
            cluster that grows is asked for room for all of them; tell, takes what workers say.
        Raises: ConfigError when the cluster has no room for that, or workers of one trial would share a GPU.
        """
        import ray

        config = shared_config(config, trials_per_gpu)
        resources = ray.cluster_resources()
        count = lanes_in(config, resources) if lanes is None else lanes
        if most is not None:
            # what a cluster that has grown to its end has no room for waits, and the other lanes do its work
            count = most if config.grows else min(count, most)
        will_grow = most is not None and config.grows
        self.config = config if will_grow else fitted(config, count, resources)
        self._ready, self._worker = ready, worker
        self._tell = tell
        self._channel = open_channel()
        self._listener = Listener(self._channel, tell)
        self._waiting: deque[_Trial] = deque()
        self._over: deque[Ended] = deque()
        self._lanes: list[_Lane] = []
        try:
            self._lanes.extend(_Lane(number, self._group()) for number in range(count))
        except BaseException:
            self.end()
            raise

    @property
    def lanes(self) -> int:
        """How many trials run at once."""
        return len(self._lanes)

    def wait(self) -> None:
        """Until a first lane has formed. Raises: ClusterError where it could not."""
        self._lanes[0].group.wait()

    @property
    def outstanding(self) -> int:
        """Trials that were submitted and that `next` has not given back."""
        return len(self._waiting) + len(self._over) + sum(len(lane.trials) for lane in self._lanes)

    @property
    def wanted(self) -> int:
        """How many more trials keep every lane busy with one, and the next at hand."""
        return max(0, _DEPTH * self.lanes - self.outstanding + len(self._over))

    def submit(self, key: str, values: dict[str, Any]) -> None:
        """Have the worker run with these values on some lane. Args: key, names the trial; values, plain data."""
        self._waiting.append(_Trial(key, values))
        self._launch()

    def next(self, timeout: float | None = None) -> Ended | None:
        """The next trial that is over; None after `timeout` seconds without one, or where none is outstanding.

        Raises: ClusterError when a lane could not be formed again and again.
        """
        import ray

        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            self._launch()
            if self._over:
                return self._over.popleft()
            left = until - time.monotonic()
            if not self.outstanding or left <= 0:
                return None
            running = [reference for lane in self._lanes if lane.trials for reference in lane.trials[0].references]
            seconds = min(left, _LOOK_SECONDS) if self._forming else min(left, 1.0)
            if running:
                ray.wait(running, num_returns=1, timeout=seconds)
            else:
                time.sleep(min(seconds, _LOOK_SECONDS))
            for lane in self._lanes:
                self._look(lane)

    def end(self) -> None:
        """End the processes, whatever they run, and give their places back."""
        import ray

        self._listener.stop()
        for lane in self._lanes:
            lane.group.end_and_wait()
        self._lanes.clear()
        ray.kill(self._channel)

    def __enter__(self) -> TrialPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def _forming(self) -> bool:
        return not all(lane.group.formed for lane in self._lanes)

    def _group(self) -> TrainGroup:
        return TrainGroup(self.config, self._ready, self._channel)

    def _launch(self) -> None:
        """Give waiting trials to lanes: to those that have none first, and a second one where every lane has its
        first.
        """
        for depth in range(_DEPTH):
            for lane in self._lanes:
                free = sum(1 for other in self._lanes if not other.trials)  # of them some may still be forming
                enough = len(self._waiting) > (free if depth else 0)
                if enough and len(lane.trials) == depth and lane.group.formed and self._sound(lane):
                    trial = self._waiting.popleft()
                    trial.references, trial.launched = lane.group.launch(self._worker, trial.values), time.monotonic()
                    lane.trials.append(trial)

    def _sound(self, lane: _Lane) -> bool:
        """Whether the lane has formed well; else it begins anew. Raises: ClusterError when it did so too often."""
        try:
            lane.group.wait()
            lane.failures = 0
            return True
        except ClusterError as error:
            lane.failures += 1
            if lane.failures > self.config.max_failures:
                raise ClusterError(
                    f"lane {lane.number} of the trials could not be started {lane.failures} times; what was committed "
                    f"is kept, run the same command to go on. Cause: {error}"
                ) from error
            lane.group = self._group()
            return False

    def _look(self, lane: _Lane) -> None:
        """Take what is over from the head of a lane."""
        import ray

        while lane.trials:
            trial = lane.trials[0]
            done, pending = ray.wait(trial.references, num_returns=len(trial.references), timeout=0)
            if pending and not any(_failed(reference) for reference in done):
                return
            error: Exception | None = None
            seconds = time.monotonic() - max(trial.launched, lane.latest_end)
            fit, again = True, False
            try:
                seconds = max(gathered(trial.references))
            except LostError as lost:
                trial.failures += not lost.preempted
                again = trial.failures <= self.config.max_failures
                fit = lost.ends_as is StorageError and self.config.workers == 1
                error = lost.ends_as(
                    f"its workers failed more than {self.config.max_failures} times; what was committed is kept, run "
                    f"the same command to go on. Cause: {lost.cause}"
                )
                if again:
                    self._tell(f"   {trial.key}: {lost}: it goes on from its last checkpoint ({trial.failures})")
            except Exception as raised:
                error, fit = raised, goes_on_after(raised, self.config.workers)
            lane.trials.popleft()
            lane.latest_end = time.monotonic()
            if again:
                self._waiting.appendleft(trial)
            else:
                self._over.append(Ended(trial.key, error, seconds, lane.number))
            if not fit:
                self._renew(lane)

    def _renew(self, lane: _Lane) -> None:
        """Form a lane anew; what waited in its processes waits here again."""
        lane.group.end_and_wait()
        self._waiting.extendleft(reversed(lane.trials))
        lane.trials.clear()
        lane.group = self._group()


def check_room(configs: Iterable[ClusterConfig]) -> None:
    """Raises: ConfigError for ranks that this Ray has no room for, even with one lane at a time."""
    for config in configs:
        check_size(config)


def shared_config(config: ClusterConfig, trials_per_gpu: int) -> ClusterConfig:
    """What each rank asks for where several trials share a GPU. Raises: ConfigError where ranks of one trial would."""
    if trials_per_gpu == 1 or not config.gpus_per_worker:
        return config
    if config.workers > 1 or config.gpus_per_worker != 1:
        raise ConfigError(
            f"trials_per_gpu={trials_per_gpu} with cluster.workers={config.workers} and cluster.gpus_per_worker="
            f"{config.gpus_per_worker:g}: trials share a GPU only where each has one worker and one GPU: set "
            "trials_per_gpu=1, or cluster.workers=1"
        )
    return dataclasses.replace(config, gpus_per_worker=1 / trials_per_gpu)


def lanes_in(config: ClusterConfig, resources: dict[str, float]) -> int:
    """How many lanes a cluster has room for, at least one. Args: resources, as `ray.cluster_resources()` has them."""
    asked = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    # 1/3 of a GPU three times is a little less than one
    rooms = [
        int(resources.get(resource, 0.0) / (amount * config.workers) + 1e-6)
        for resource, amount in asked.items()
        if amount
    ]
    return max(1, min(rooms, default=1))


def fitted(config: ClusterConfig, lanes: int, resources: dict[str, float]) -> ClusterConfig:
    """The same, where more lanes are asked for than there are cores: each rank then takes its share of them.

    A lane that Ray finds no room for would wait for ever.
    """
    share = resources.get("CPU", 0.0) / (lanes * config.workers)
    return (
        config
        if config.cpus_per_worker <= share
        else dataclasses.replace(config, cpus_per_worker=math.floor(share / _CPU_STEP) * _CPU_STEP)
    )


def _failed(reference: Any) -> bool:
    import ray

    try:
        ray.get(reference)
    except Exception:
        return True
    return False
