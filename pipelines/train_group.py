"""The rank processes of training: Ray actors with torch and DeepSpeed ready, joined in a process group, kept for the next stage.

    group = TrainGroup(config, ready)       # begins to form at once, beside whatever its maker does next
    group.run(worker, spec)                 # the same processes again and again; a lost one restarts the whole group
    group.end()

Enters: an importable worker and a plain spec. Leaves: nothing but what the worker committed; its lines are printed as they come.

Ray Train would start new processes for every run, and a controller beside them. What a training group needs of it is little, and stands here:
places in a placement group, ranks that lie together on a node, the address where they meet, and a restart when one is lost.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pipelines.config import ClusterConfig
from pipelines.errors import ClusterError, ConfigError, StorageError, TrunklineError
from pipelines.progress import say
from pipelines.timeline import reached

Worker = Callable[[dict[str, Any], Callable[[str], None]], None]

_QUIET_SECONDS = 10.0  # without ranks, before it is looked whether machines are missing
_LOOK_SECONDS = 0.5  # how long the channel waits for a line before it answers that there is none
_GRACE_SECONDS = 5.0  # after an error that may be the echo of another rank's end: for that end to be known
_MEETING = timedelta(minutes=30)  # how long ranks wait for each other: a busy machine imports torch for a minute
# how a rank is told that another one is gone; gloo raises plain RuntimeErrors
_PEER_IS_GONE = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL", "uncorrectable ECC")


@dataclass(frozen=True)
class Place:
    """Where an actor was put: what ranks are given by, and where rank zero could be met."""

    node: str
    address: str
    gpus: tuple[str, ...]
    port: int


@dataclass(frozen=True)
class Seat:
    """A rank's place in the group, as the variables of the environment that torch and DeepSpeed read."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str  # of rank zero
    port: int
    visible_gpus: tuple[str, ...]  # of all ranks on the node: NCCL copies between GPUs that both sides see

    def environment(self) -> dict[str, str]:
        """RANK and its companions, as torchrun sets them; GPUs by LOCAL_RANK."""
        values = {
            "RANK": self.rank, "WORLD_SIZE": self.world, "LOCAL_RANK": self.local_rank, "LOCAL_WORLD_SIZE": self.local_world,
            "MASTER_ADDR": self.address, "MASTER_PORT": self.port,
        }  # fmt: skip
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self.visible_gpus)} if self.visible_gpus else {}
        return {name: str(value) for name, value in values.items()} | visible


def seats(places: Sequence[Place]) -> list[Seat]:
    """One seat for each place, in the order of the places: ranks of a node follow one another, by the number of their GPU."""
    order = sorted(
        range(len(places)), key=lambda i: (places[i].node, [int(gpu) for gpu in places[i].gpus if gpu.isdigit()], i)
    )
    by_node: dict[str, list[int]] = {}
    for i in order:
        by_node.setdefault(places[i].node, []).append(i)
    first = places[order[0]]
    seated: dict[int, Seat] = {}
    for together in by_node.values():
        visible = tuple(dict.fromkeys(gpu for i in together for gpu in places[i].gpus))
        for local, i in enumerate(together):
            seated[i] = Seat(len(seated), len(places), local, len(together), first.address, first.port, visible)
    return [seated[i] for i in range(len(places))]


class TrainGroup:
    """`config.workers` processes that train one stage after another."""

    def __init__(self, config: ClusterConfig, ready: Callable[[], None]):
        """Begin to form the group in the Ray that this process is connected to.

        Args: ready, importable function that each rank calls once, beside the forming of the group: imports what will be needed.
        Raises: ConfigError for a group that this cluster cannot hold, or that would mix kinds of GPU.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        _check_size(config)
        check_kinds(config, ray.nodes())
        self.config, self.ready = config, ready
        # beside the driver, so that a lost worker node cannot take it along
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._channel = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Channel).remote()
        self._pool = ThreadPoolExecutor(1, "train-group")
        self._ended = threading.Event()
        self._actors: list[Any] = []
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

    def run(
        self, worker: Worker, spec: dict[str, Any], max_failures: int, begin: Callable[[], None] = lambda: None
    ) -> None:
        """Run `worker(spec, emit)` on every rank, until all return.

        A lost process restarts the whole group, and the worker goes on from its last checkpoint, at most `max_failures` times.
        Args: begin, called once, when the ranks have met: what must not happen for a group that never forms.
        Raises: the TrunklineError that a worker raised, or whatever else it raised that would repeat itself;
            ClusterError when processes were lost too often.
        """
        failures, restarts, begun = 0, 0, False
        listener = _Listener(self._channel)
        try:
            while True:
                try:
                    ranks = self._formed()
                    if not begun:
                        begin()
                        begun = True
                    self._tell_of_ranks(len(ranks))
                    _gather([actor.run.remote(worker, spec, self._channel) for actor in ranks])
                    return
                except _LostError as lost:
                    self._clear()
                    failures += not lost.preempted
                    restarts += 1
                    if failures > max_failures:
                        raise ClusterError(
                            f"training workers failed more than {max_failures} times; what was committed is kept, run the same "
                            f"command to go on. Cause: {lost.cause}"
                        ) from lost
                    listener.say(f"   {lost}: the group restarts from the last checkpoint (restart {restarts})")
                    self._forming = self._pool.submit(self._form)
        except BaseException:
            listener.stop()
            self.end()
            raise
        finally:
            listener.stop()

    def wait(self) -> None:
        """Until the ranks have met. Raises: ClusterError when one of them was lost before that."""
        try:
            self._formed()
        except _LostError as lost:
            self.end()
            raise ClusterError(
                f"the training workers could not be started, and nothing was touched. Cause: {lost.cause}"
            ) from lost

    def end(self) -> None:
        """End the processes and give their places back."""
        import ray

        self._ended.set()
        self._clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._clear()  # what was made meanwhile, by a group that was still forming
        ray.kill(self._channel)

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
        own = {resource: amount for resource, amount in bundle.items() if resource not in ("CPU", "GPU")}
        actor = ray.remote(
            num_cpus=config.cpus_per_worker, num_gpus=config.gpus_per_worker, resources=own, max_restarts=0
        )
        self._actors = [
            actor(TrainWorker).options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=i)
            ).remote()
            for i in range(config.workers)
        ]  # fmt: skip
        places = self._wait_for_places([each.place.remote() for each in self._actors])
        reached("processes")
        seated = seats(places)
        backend = "nccl" if config.gpus_per_worker else "gloo"
        joined = [a.join.remote(seat, backend, self.ready) for a, seat in zip(self._actors, seated, strict=True)]
        _gather(joined)
        reached("workers")
        self._formed_seconds = time.monotonic() - began
        return [self._actors[i] for i in sorted(range(len(seated)), key=lambda i: seated[i].rank)]

    def _wait_for_places(self, asked: list[Any]) -> list[Place]:
        """The actors' places, once there is room for all; what is missing is told once, since Ray waits without a word."""
        import ray

        quiet_since: float | None = time.monotonic()
        while len(ray.wait(asked, num_returns=len(asked), timeout=_LOOK_SECONDS)[0]) < len(asked):
            if self._ended.is_set():
                raise ClusterError("the group of training workers was ended while it formed")
            if quiet_since is not None and time.monotonic() - quiet_since > _QUIET_SECONDS:
                quiet_since = self._tell_of_waiting()
        return _gather(asked)

    def _tell_of_waiting(self) -> float | None:
        lacking = [
            f"{need:g} {resource}, of which there are {have:g}" for resource, _, need, have in _lacking(self.config)
        ]
        if not lacking:
            return time.monotonic()
        say(
            f"   waiting for machines: the workers need {' and '.join(lacking)}; training goes on by itself once they are there"
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


def _shape(config: ClusterConfig) -> tuple[Any, ...]:
    return config.workers, config.cpus_per_worker, config.gpus_per_worker, config.accelerator, config.address


class _LostError(Exception):
    """Processes, a link or the storage went away: a new group can go on from the last checkpoint."""

    def __init__(self, what: str, cause: str, preempted: bool = False):
        super().__init__(what)
        self.cause, self.preempted = cause, preempted


def _gather(references: Sequence[Any]) -> list[Any]:
    """All results; or the error that explains the others, as soon as it is known.

    When a rank fails, the others wait for it in a collective or fail in its wake. So an error that may be an echo waits a
    moment for the end of another process; a mistake of the user's or the end of a process waits for nobody.
    Raises: _LostError, a TrunklineError, or the exception of a rank.
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


def _explains(error: Exception) -> bool:
    from ray.exceptions import RayTaskError

    return not isinstance(error, RayTaskError) or isinstance(error.cause, TrunklineError)


def _verdict(error: Exception) -> Exception:
    """What to raise for a rank's error: where a new group may fare better a `_LostError`, else the error itself.

    An exception of the worker's code would come again at the same step, with every restart.
    """
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):  # the process, or its machine, is gone
        return _LostError("a worker was lost", _last_line(error), bool(getattr(error, "preempted", False)))
    cause = error.cause
    if isinstance(cause, StorageError):  # storage may come back
        return _LostError(f"a worker could not reach its storage ({_last_line(cause)})", str(cause))
    if not isinstance(cause, TrunklineError) and any(sign in str(cause) for sign in _PEER_IS_GONE):
        return _LostError("a worker lost the others", _last_line(cause))
    return cause if isinstance(cause, Exception) else error


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class TrainWorker:
    """One rank's process."""

    def __init__(self) -> None:
        # listens from now on, so that nobody else can take the port before rank zero's store has it
        self._listening = socket.create_server(("", 0))

    def place(self) -> Place:
        """Where this process is."""
        import ray

        context = ray.get_runtime_context()
        gpus = tuple(str(number) for number in context.get_accelerator_ids().get("GPU", []))
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), gpus, self._listening.getsockname()[1])

    def join(self, seat: Seat, backend: str, ready: Callable[[], None]) -> None:
        """Take the seat: the environment, then the process group, while `ready` imports what training needs."""
        os.environ.update(seat.environment())
        _name_interface()
        import torch.distributed as dist
        from torch._C._distributed_c10d import TCPStore

        with ThreadPoolExecutor(1, "ready") as pool:
            readied = pool.submit(ready)
            store = TCPStore(
                seat.address, seat.port, seat.world, is_master=seat.rank == 0, timeout=_MEETING,
                master_listen_fd=self._listening.detach() if seat.rank == 0 else None,
            )  # fmt: skip
            dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.world, timeout=_MEETING)
            readied.result()
        if seat.rank:
            self._listening.close()

    def run(self, worker: Worker, spec: dict[str, Any], channel: Any) -> None:
        """Run the worker; nothing of this run is left behind for the next."""
        try:
            worker(spec, lambda line: channel.put.remote(line))
        finally:
            gc.collect()


def _name_interface() -> None:
    """Let gloo use the interface that has this node's address in Ray, unless GLOO_SOCKET_IFNAME says another.

    Left alone, gloo listens where the host's own name resolves to. On many machines that is the loopback (`127.0.1.1 myhost` in
    /etc/hosts), and ranks on two machines would never meet.
    """
    import psutil
    import ray

    here = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if any(address.address == here for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def _check_size(config: ClusterConfig) -> None:
    """Refuse a group that this cluster cannot hold; one that grows by itself is asked for it by the group's own demand."""
    for resource, each, need, have in () if config.grows else _lacking(config):
        raise ConfigError(
            f"cluster.workers={config.workers} × {each:g} {resource} needs {need:g} {resource}; this Ray cluster has {have:g}: "
            f"lower cluster.workers or cluster.{resource.lower()}s_per_worker, add machines, or set cluster.grows=true where an autoscaler does"
        )


def _lacking(config: ClusterConfig) -> list[tuple[str, float, float, float]]:
    """Each resource of which the cluster has too little now: its name, what a worker takes, what all take, what there is."""
    import ray

    have = ray.cluster_resources()
    asked = (("CPU", config.cpus_per_worker), ("GPU", config.gpus_per_worker))
    needs = [(resource, each, each * config.workers, have.get(resource, 0.0)) for resource, each in asked]
    return [need for need in needs if need[2] > need[3]]


def check_kinds(config: ClusterConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a group that could be spread over GPUs of different kinds: its slowest would set the pace.

    Args: nodes, as `ray.nodes()` lists them; Ray labels a node's GPUs with a resource `accelerator_type:<kind>`.
    Raises: ConfigError naming the nodes of each kind.
    """
    if not config.gpus_per_worker:
        return
    kinds: dict[str, list[str]] = {}
    for node in nodes:
        if node["Alive"] and node["Resources"].get("GPU"):
            for label in (name for name in node["Resources"] if name.startswith("accelerator_type:")):
                kinds.setdefault(label.split(":", 1)[1], []).append(node["NodeManagerAddress"])
    if config.accelerator is not None:
        if kinds and config.accelerator not in kinds:
            raise ConfigError(
                f"cluster.accelerator={config.accelerator}; this Ray cluster has {', '.join(sorted(kinds))}: choose one of them"
            )
    elif len(kinds) > 1:
        listed = "; ".join(f"{kind}: {', '.join(where)}" for kind, where in sorted(kinds.items()))
        raise ConfigError(
            f"this Ray cluster has GPUs of {len(kinds)} kinds ({listed}); a group trains on one, since its slowest sets the pace: "
            f"set cluster.accelerator={' or '.join(sorted(kinds))}"
        )


class _Channel:
    """An actor that carries lines from rank processes to the driver, and outlives both ranks and their machines."""

    def __init__(self) -> None:
        import asyncio

        self.lines: list[str] = []
        self.come = asyncio.Event()

    async def put(self, line: str) -> None:
        self.lines.append(line)
        self.come.set()

    async def drain(self, seconds: float) -> list[str]:
        """The lines since the last call, as soon as there is one, and after `seconds` in any case."""
        import asyncio
        import contextlib

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.come.wait(), seconds)
        self.come.clear()
        lines, self.lines = self.lines, []
        return lines


class _Listener:
    """Prints what the channel carries, from a thread beside the driver's wait for the ranks."""

    def __init__(self, channel: Any):
        self.channel = channel
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Say a line of the driver's own, after what the ranks have said before."""
        self.channel.put.remote(line)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _listen(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        while True:
            last = self._stop.is_set()
            try:
                lines = ray.get(self.channel.drain.remote(0.0 if last else _LOOK_SECONDS), timeout=10)
            except GetTimeoutError:  # a machine with much to do: the lines are not lost, the next look brings them
                lines = []
            except RayError:
                return
            for line in lines:
                say(line)
            if last:
                return
