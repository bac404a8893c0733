"""The rank processes of a training stage, in Ray Train: started, restarted together, listened to.

Enters: an importable worker and a plain spec. Leaves: nothing but what the worker committed; its lines are printed as they come,
and an error that would repeat itself ends the group at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.config import ClusterConfig
from pipelines.errors import ClusterError, ConfigError, StorageError, TrunklineError
from pipelines.progress import say

_QUIET_SECONDS = 10.0  # without a line from the workers, before it is looked whether machines are missing
_POLL_SECONDS = 0.5  # a look costs 2 ms of CPU in the driver and the channel


def run_group(
    config: ClusterConfig,
    worker: Callable[[dict[str, Any], Callable[[str], None]], None],
    spec: dict[str, Any],
) -> None:
    """What `Cluster.train` says, in the Ray that this process is connected to."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    _check_size(config)
    check_kinds(config, ray.nodes())
    # beside the driver, so that a lost worker node cannot take it along
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Channel).remote()
    per_worker = {"CPU": config.cpus_per_worker}
    if config.gpus_per_worker:
        per_worker["GPU"] = config.gpus_per_worker
    # Ray's own bookkeeping. Its controller runs beside the driver, and workers report nothing that would be kept there
    scratch = tempfile.mkdtemp(prefix="trunkline-ray-")
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"worker": worker, "spec": spec, "channel": channel},
        torch_config=_torch_config("nccl" if config.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=bool(config.gpus_per_worker),
            resources_per_worker=per_worker,
            accelerator_type=config.accelerator if config.gpus_per_worker else None,
        ),
        run_config=RunConfig(
            name=f"{spec['kind']}-{spec['name']}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    listener = _Listener(channel, config)
    try:
        trainer.fit()
    except SystemExit as stop:  # how Ray Train answers Ctrl-C
        raise KeyboardInterrupt from stop
    except Exception as error:
        listener.stop()
        if listener.fatal is not None:
            raise listener.fatal from error
        raise ClusterError(
            f"training workers failed more than {config.max_failures} times; the last checkpoint is kept, run the same command to go on. Cause: {_cause(error)}"
        ) from error
    finally:
        listener.stop()
        ray.kill(channel)
        shutil.rmtree(scratch, ignore_errors=True)
    if listener.fatal is not None:
        raise listener.fatal


def _torch_config(backend: str) -> Any:
    """Ray Train's set-up of a process group, with the interface named first.

    Left alone, gloo listens where the host's own name resolves to. On many machines that is the loopback (`127.0.1.1 myhost` in
    /etc/hosts), and ranks on two machines would never meet.
    """
    from ray.train.torch import TorchConfig

    class Backend(TorchConfig(backend).backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_name_interface)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return Backend

    return Config(backend)


def _name_interface() -> None:
    """Let gloo use the interface that has this node's address in Ray, unless GLOO_SOCKET_IFNAME says another."""
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
    """An actor that carries lines and a fatal error from rank processes to the driver, across restarts."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fatal: TrunklineError | None = None
        self.starts = 0

    def put(self, line: str) -> None:
        self.lines.append(line)

    def fail(self, error: TrunklineError) -> None:
        self.fatal = self.fatal or error

    def begin(self, rank: int) -> TrunklineError | None:
        """Note that a rank starts; after a user's mistake the restarted group ends at once instead of repeating it."""
        if rank == 0:
            self.starts += 1
            if self.starts > 1 and self.fatal is None:
                self.lines.append(
                    f"   a worker was lost: the group restarts from the last checkpoint (restart {self.starts - 1})"
                )
        return self.fatal

    def drain(self) -> tuple[list[str], TrunklineError | None]:
        lines, self.lines = self.lines, []
        return lines, self.fatal


class _Listener:
    """Prints what the channel carries, from a thread beside the blocking `fit`."""

    def __init__(self, channel: Any, config: ClusterConfig):
        self.channel, self.config = channel, config
        self.fatal: TrunklineError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _listen(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        quiet_since: float | None = time.monotonic()  # None: what is lacking was told, and nothing has come since
        while True:
            last = self._stop.wait(_POLL_SECONDS)
            try:
                lines, self.fatal = ray.get(self.channel.drain.remote(), timeout=10)
            except GetTimeoutError:  # a machine with much to do: the lines are not lost, the next look brings them
                if last:
                    return
                continue
            except RayError:
                return
            for line in lines:
                say(line)
            if last:
                return
            if lines:
                quiet_since = time.monotonic()
            elif quiet_since is not None and time.monotonic() - quiet_since > _QUIET_SECONDS:
                quiet_since = self._tell_of_waiting()

    def _tell_of_waiting(self) -> float | None:
        """Say what the group waits for, if machines are missing: Ray waits for them without end and without a word."""
        lacking = [
            f"{need:g} {resource}, of which there are {have:g}" for resource, _, need, have in _lacking(self.config)
        ]
        if not lacking:
            return time.monotonic()
        say(
            f"   waiting for machines: the workers need {' and '.join(lacking)}; training goes on by itself once they are there"
        )
        return None


def _train_loop(loop_config: dict[str, Any]) -> None:
    import ray
    import ray.train

    channel, rank = loop_config["channel"], ray.train.get_context().get_world_rank()
    if ray.get(channel.begin.remote(rank)) is not None:
        return
    os.environ["LOCAL_RANK"] = str(ray.train.get_context().get_local_rank())

    def emit(line: str) -> None:
        channel.put.remote(line)

    try:
        loop_config["worker"](loop_config["spec"], emit)
    except TrunklineError as error:
        if not isinstance(
            error, StorageError
        ):  # storage may come back: the group restarts; a mistake would repeat itself
            ray.get(channel.fail.remote(error))
        raise


def _cause(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
