"""One rank's process in a group of training processes: where it was put, what its seat is, how it joins the others.

Enters: a seat (rank, world, the address of rank zero) and importable functions. Leaves: what the worker committed.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pipelines.cluster.train_group_lines import Voice
from pipelines.errors import TrainingError, TrunklineError

Worker = Callable[[dict[str, Any], Callable[[str], None]], None]

_LINE_SECONDS = 10.0  # for a line to come through: more on a machine with much to do
_MEETING = timedelta(minutes=30)  # how long ranks wait for each other: a busy machine imports torch for a minute


@dataclass(frozen=True)
class Place:
    """Where an actor was put: what ranks are given by, and where rank zero could be met."""

    node: str
    address: str
    gpus: tuple[str, ...]
    port: int
    process: int = 0  # its number on that node


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
            "RANK": self.rank,
            "WORLD_SIZE": self.world,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
        }
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self.visible_gpus)} if self.visible_gpus else {}
        return {name: str(value) for name, value in values.items()} | visible


def seats(places: Sequence[Place]) -> list[Seat]:
    """One seat for each place, in the order of the places: ranks of a node follow one another, by the number of their
    GPU.
    """
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


class UnfitError(Exception):
    """The process does nothing any more, after an error."""


def goes_on_after(error: BaseException, ranks: int) -> bool:
    """Whether processes may run the next worker after one that raised `error`.

    All ranks raise a TrainingError, in the same step. After any other one of several ranks cannot know where the others
    are; and what is no mistake of the input's may have left this process damaged.
    """
    return isinstance(error, TrainingError) or (ranks == 1 and isinstance(error, TrunklineError))


class TrainWorker:
    """One rank's process."""

    def __init__(self) -> None:
        # listens from now on, so that nobody else can take the port before rank zero's store has it
        self._listening = socket.create_server(("", 0))
        self._unfit = False

    def place(self) -> Place:
        """Where this process is."""
        import ray

        context = ray.get_runtime_context()
        gpus = tuple(str(number) for number in context.get_accelerator_ids().get("GPU", []))
        return Place(
            context.get_node_id(), ray.util.get_node_ip_address(), gpus, self._listening.getsockname()[1], os.getpid()
        )

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
        """Run the worker; nothing of this run is left behind for the next, and all its lines are with the channel."""
        voice = Voice(channel)
        try:
            worker(spec, voice)
        finally:
            gc.collect()
            voice.wait(_LINE_SECONDS)

    def run_next(self, worker: Worker, spec: dict[str, Any], channel: Any) -> float:
        """Run the worker in a row of many, the next of which may wait already. Returns: seconds it took.

        Raises: what the worker raises; UnfitError, from then on, where this process may not go on after an error: other
            ranks may still be in the middle of it.
        """
        if self._unfit:
            raise UnfitError
        began = time.monotonic()
        try:
            self.run(worker, spec, channel)
        except BaseException as error:
            self._unfit = not goes_on_after(error, int(os.environ["WORLD_SIZE"]))
            raise
        return time.monotonic() - began


def until_gone(processes: Sequence[int], seconds: float) -> None:
    """Wait until processes of this node have ended, but no longer than `seconds`."""
    import psutil

    def lives(process: int) -> bool:
        try:
            return bool(psutil.Process(process).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
        except psutil.Error:
            return False

    until = time.monotonic() + seconds
    while any(map(lives, processes)) and time.monotonic() < until:
        time.sleep(0.02)


def _name_interface() -> None:
    """Let gloo use the interface that has this node's address in Ray, unless GLOO_SOCKET_IFNAME says another.

    Left alone, gloo listens where the host's own name resolves to. On many machines that is the loopback (`127.0.1.1
    myhost` in
    /etc/hosts), and ranks on two machines would never meet.
    """
    import psutil
    import ray

    address_here = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if any(address.address == address_here for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
