"""The rank processes of training: Ray actors with torch and DeepSpeed ready, joined in a process group, kept for the
next stage.

    group = TrainGroup(config, ready)       # begins to form at once, beside whatever its maker does next
    group.run(worker, spec)                 # the same processes again and again; a lost one restarts the whole group
    group.end()

Enters: an importable worker and a plain spec. Leaves: nothing but what the worker committed; its lines are printed as
they come.

Ray Train would start new processes for every run, and a controller beside them. What a training group needs of it is
little, and stands here: places in a placement group, ranks that lie together on a node, the address where they meet,
and a restart when one is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipelines.cluster.nodes import alive_nodes, answering_nodes
from pipelines.cluster.train_group_lines import Channel, Listener, finish_save
from pipelines.cluster.train_group_rank import Place, TrainWorker, Worker, seats, until_gone
from pipelines.cluster.train_group_room import check_kinds, check_size, lacking
from pipelines.config import ClusterConfig
from pipelines.display.progress import say
from pipelines.display.timeline import reached
from pipelines.errors import ClusterError, ConfigError, StorageError, TrunklineError

_QUIET_SECONDS = 10.0  # without ranks, before it is looked whether machines are missing
_LOOK_SECONDS = 0.5  # between two looks whether processes have their places
_END_SECONDS = 10.0  # for ranks that were killed to be gone; one on a node that does not answer is not waited for
_GRACE_SECONDS = 5.0  # after an error that may be the echo of another rank's end: for that end to be known
# how a rank is told that another one is gone; gloo raises plain RuntimeErrors
_PEER_IS_GONE = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL", "uncorrectable ECC")


class TrainGroup:
    """`config.workers` processes that train one stage after another."""

    def __init__(self, config: ClusterConfig, ready: Callable[[], None], channel: Any = None):
        """Begin to form the group in the Ray that this process is connected to.

        Args: ready, importable function that each rank calls once, beside the forming of the group: imports what will
            be needed; channel, of somebody else (`open_channel`), which this group shares and leaves alone.
        Raises: ConfigError for a group that this cluster cannot hold, or that would mix kinds of GPU.
        """
        check_size(config)
        check_kinds_here(config)
        self.config, self.ready = config, ready
        self._shares_channel = channel is not None
        self._channel = open_channel() if channel is None else channel
        self._pool = ThreadPoolExecutor(1, "train-group")
        self._ended = threading.Event()
        self._actors: list[Any] = []
        self._places: list[Place] = []
        self._room: Any = None
        self._formed_seconds: float | None = None  # what forming took, until that was told
        self._forming: Future[list[Any]] = self._pool.submit(self._form)

    @property
    def alive(self) -> bool:
        """Whether it was not ended, by itself or by its maker."""
        return not self._ended.is_set()

    def fits(self, config: ClusterConfig) -> bool:
        """Whether another stage that asks for `config` can have these processes."""
        return _shape(self.config) == _shape(config)

    def whole(self) -> bool:
        """Whether none of its processes was lost while it had nothing to do; True as long as it forms."""
        import ray
        from ray.exceptions import RayError

        if not self._forming.done() or self._forming.exception() is not None:
            return True  # `run` and `wait` tell of what went wrong
        try:
            ray.get([actor.__ray_ready__.remote() for actor in self._forming.result()])
        except RayError:
            return False
        return True

    def run(
        self, worker: Worker, spec: dict[str, Any], max_failures: int, begin: Callable[[], None] = lambda: None
    ) -> None:
        """Run `worker(spec, emit)` on every rank, until all return.

        A lost process restarts the whole group, and the worker goes on from its last checkpoint, at most `max_failures`
        times.
        Ctrl-C (or SIGTERM, of which Ray makes a SystemExit) ends the processes once the checkpoint that is being
        written is committed.
        Args: begin, called once, when the ranks have met: what must not happen for a group that never forms.
        Raises: the TrunklineError that a worker raised, or whatever else it raised that would repeat itself;
            ClusterError when processes were lost too often, StorageError when it was the storage.
        """
        failures, restarts, begun = 0, 0, False
        running: list[Any] = []
        listener = Listener(self._channel)
        try:
            while True:
                try:
                    ranks = self._formed()
                    if not begun:
                        begin()
                        begun = True
                    self._tell_of_ranks(len(ranks))
                    self._channel.saving.remote(None)  # what ranks that are lost were writing
                    running[:] = [actor.run.remote(worker, spec, self._channel) for actor in ranks]
                    gathered(running)
                    return
                except LostError as lost:
                    running.clear()
                    self._clear()
                    failures += not lost.preempted
                    restarts += 1
                    if failures > max_failures:
                        raise lost.ends_as(
                            f"training workers failed more than {max_failures} times; what was committed is kept, run "
                            f"the same command to go on. Cause: {lost.cause}"
                        ) from lost
                    listener.say(f"   {lost}: the group restarts from the last checkpoint (restart {restarts})")
                    self._forming = self._pool.submit(self._form)
        except (KeyboardInterrupt, SystemExit):
            try:
                listener.stop()
                if running:
                    finish_save(self._channel, running[0])
            finally:
                self.end_and_wait()
            raise
        except BaseException:
            listener.stop()
            self.end_and_wait()
            raise
        finally:
            listener.stop()

    def wait(self) -> None:
        """Until the ranks have met. Raises: ClusterError when one of them was lost before that."""
        try:
            self._formed()
        except LostError as lost:
            self.end()
            raise ClusterError(
                f"the training workers could not be started, and nothing was touched. Cause: {lost.cause}"
            ) from lost
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the processes and give their places back."""
        import ray

        self._ended.set()
        self._clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._clear()  # what was made meanwhile, by a group that was still forming
        if not self._shares_channel:
            ray.kill(self._channel)

    def end_and_wait(self) -> None:
        """End the processes, and wait until they write nothing any more."""
        self.end()
        _await_ends(self._places)

    @property
    def formed(self) -> bool:
        """Whether forming is over: the ranks have met, or `launch` tells what went wrong."""
        return self._forming.done()

    def launch(self, worker: Worker, spec: dict[str, Any]) -> list[Any]:
        """Have every rank run the worker once it has done what it was given before; waits for nothing but the ranks'
        meeting. Returns: a reference of each rank's answer, for `gathered`.
        """
        return [actor.run_next.remote(worker, spec, self._channel) for actor in self._formed()]

    def _form(self) -> list[Any]:
        """Actors in their places, joined: rank zero first."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        config, began = self.config, time.monotonic()
        bundle = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
        if config.gpus_per_worker and config.accelerator:
            bundle[f"accelerator_type:{config.accelerator}"] = (
                0.001  # how Ray labels a node; a sliver of it asks for the kind
            )
        bundle = {resource: amount for resource, amount in bundle.items() if amount}
        self._room = placement_group([bundle] * config.workers, strategy="PACK")
        other_resources = {resource: amount for resource, amount in bundle.items() if resource not in ("CPU", "GPU")}
        actor = ray.remote(
            num_cpus=config.cpus_per_worker, num_gpus=config.gpus_per_worker, resources=other_resources, max_restarts=0
        )
        self._actors = [
            actor(TrainWorker).options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=i)
            ).remote()
            for i in range(config.workers)
        ]  # fmt: skip
        self._places = places = self._wait_for_places([actor.place.remote() for actor in self._actors])
        reached("processes")
        seated = seats(places)
        backend = "nccl" if config.gpus_per_worker else "gloo"
        joined = [a.join.remote(seat, backend, self.ready) for a, seat in zip(self._actors, seated, strict=True)]
        gathered(joined)
        reached("workers")
        self._formed_seconds = time.monotonic() - began
        return [self._actors[i] for i in sorted(range(len(seated)), key=lambda i: seated[i].rank)]

    def _wait_for_places(self, asked: list[Any]) -> list[Place]:
        """The actors' places, once there is room for all; what is missing is told once, since Ray waits without a
        word.
        """
        import ray

        quiet_since: float | None = time.monotonic()
        while len(ray.wait(asked, num_returns=len(asked), timeout=_LOOK_SECONDS)[0]) < len(asked):
            if self._ended.is_set():
                raise ClusterError("the group of training workers was ended while it formed")
            if quiet_since is not None and time.monotonic() - quiet_since > _QUIET_SECONDS:
                quiet_since = self._tell_of_waiting()
        return gathered(asked)

    def _tell_of_waiting(self) -> float | None:
        missing = [
            f"{need:g} {resource}, of which there are {have:g}" for resource, _, need, have in lacking(self.config)
        ]
        if not missing:
            return time.monotonic()
        say(
            f"   waiting for machines: the workers need {' and '.join(missing)}; training goes on by itself once they "
            "are there"
        )
        return None

    def _tell_of_ranks(self, count: int) -> None:
        if self._formed_seconds is None:
            say(f"   workers: the {count} processes of the stage before")
        else:
            say(f"   workers: {count} processes, ready in {self._formed_seconds:.1f} s")
        self._formed_seconds = None

    def _formed(self) -> list[Any]:
        """The ranks, once they have met."""
        while not self._forming.done():  # in short waits, so that Ctrl-C is answered
            futures.wait([self._forming], timeout=1)
        return self._forming.result()

    def _clear(self) -> None:
        """Kill the ranks; Ray frees their places when they are gone."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._room is not None:
            remove_placement_group(self._room)
            self._room = None


def open_channel() -> Any:
    """A channel beside the driver, so that a lost worker node cannot take it along."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    beside_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=beside_driver)(Channel).remote()


def check_kinds_here(config: ClusterConfig) -> None:
    """`check_kinds` of the nodes that are alive; before it refuses, without those that have just died."""
    try:
        check_kinds(config, alive_nodes())
    except ConfigError:
        check_kinds(config, answering_nodes())


def _shape(config: ClusterConfig) -> tuple[Any, ...]:
    return config.workers, config.cpus_per_worker, config.gpus_per_worker, config.accelerator, config.address


class LostError(Exception):
    """Processes, a link or the storage went away: a new group can go on from the last checkpoint."""

    def __init__(
        self,
        message: str,
        cause: str,
        preempted: bool = False,
        ends_as: type[ClusterError | StorageError] = ClusterError,
    ):
        """Args: ends_as, the kind of error when it happens too often."""
        super().__init__(message)
        self.cause, self.preempted, self.ends_as = cause, preempted, ends_as


def gathered(references: Sequence[Any]) -> list[Any]:
    """All results; or the error that explains the others, as soon as it is known.

    When a rank fails, the others wait for it in a collective or fail in its wake. So an error that may be an echo waits
    a moment for the end of another process; a mistake of the user's or the end of a process waits for nobody.
    Raises: LostError, a TrunklineError, or the exception of a rank.
    """
    import ray

    pending, failed = list(references), []
    until: float | None = None
    while pending and (until is None or time.monotonic() < until):
        done, pending = ray.wait(
            pending, num_returns=1, timeout=1.0 if until is None else max(0.0, until - time.monotonic())
        )
        for reference in done:
            try:
                ray.get(reference)
            except Exception as error:
                failed.append(error)
                if _explains(error):
                    raise _verdict(error) from error
                until = until or time.monotonic() + _GRACE_SECONDS
    if failed:
        raise _verdict(failed[0]) from failed[0]
    return list(ray.get(list(references)))


def _await_ends(places: Sequence[Place]) -> None:
    """Wait for ranks that were killed to be gone: Ray answers before that, and what they still write would be mixed
    with what is put back in its place."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node, by_node = ray.get_runtime_context().get_node_id(), dict[str, list[int]]()
    for place in places:
        by_node.setdefault(place.node, []).append(place.process)
    processes_here = by_node.pop(this_node, [])
    task = ray.remote(num_cpus=0, max_retries=0)(until_gone)
    elsewhere = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            processes, _END_SECONDS
        )
        for node, processes in by_node.items()
    ]
    until_gone(processes_here, _END_SECONDS)
    if elsewhere:
        ray.wait(elsewhere, num_returns=len(elsewhere), timeout=_END_SECONDS, fetch_local=False)


def _explains(error: Exception) -> bool:
    from ray.exceptions import RayTaskError

    return not isinstance(error, RayTaskError) or isinstance(error.cause, TrunklineError)


def _verdict(error: Exception) -> Exception:
    """What to raise for a rank's error: where a new group may fare better a `LostError`, else the error itself.

    An exception of the worker's code would come again at the same step, with every restart.
    """
    from ray.exceptions import RayTaskError, TaskCancelledError, UnserializableException

    if not isinstance(error, RayTaskError | UnserializableException):  # the process, or its machine, is gone
        return LostError("a worker was lost", _last_line(error), bool(getattr(error, "preempted", False)))
    # one that cannot be made again here is an exception like any other
    cause: BaseException = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, TaskCancelledError):  # a signal to that process alone
        return LostError("a worker was interrupted", _last_line(cause))
    if isinstance(cause, StorageError):  # storage may come back
        return LostError(
            f"a worker could not reach its storage ({_last_line(cause)})", str(cause), ends_as=StorageError
        )
    if not isinstance(cause, TrunklineError) and any(sign in str(cause) for sign in _PEER_IS_GONE):
        return LostError("a worker lost the others", _last_line(cause))
    return cause if isinstance(cause, Exception) else error


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
