"""Ray for data: shards mapped over tasks. Training workers are `train_group.py`'s; Ray is imported in this room alone.

    with Cluster(config.cluster) as cluster:
        receipts = cluster.map_shards(function, shards, label="clean")
        cluster.train(worker, spec, ready)

Inside a Ray job (`ray job submit`) or with `cluster.address` the cluster is joined; otherwise a private Ray is started
in this machine and stopped at the end. Token authentication stays on either way. A lost worker costs its shard, not the
job.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipelines.cluster.nodes import alive_nodes, answering_nodes, ask_nodes
from pipelines.cluster.private_ray import start_private_ray
from pipelines.cluster.ray_token import ensure_private_token
from pipelines.config import ClusterConfig
from pipelines.display.progress import Progress, say
from pipelines.display.timeline import reached
from pipelines.errors import ClusterError, ConfigError, TrunklineError
from pipelines.store.disk import disk_error, naming_disk_errors, room, temporary_folder
from pipelines.store.storage import FolderStorage, Storage

if TYPE_CHECKING:
    from pipelines.cluster.train_group import TrainGroup
    from pipelines.cluster.train_group_rank import Worker
    from pipelines.cluster.trial_pool import TrialPool

S = TypeVar("S")
R = TypeVar("R")
_PROJECT = Path(__file__).parents[2]
_WINDOW_PER_CPU = 4  # shards submitted at a time: one runs, the others hide the driver's delay
_ALIVE_SECONDS = 2.0  # between looks whether Ray itself still runs
_END_SECONDS = 10.0  # for tasks that were cancelled to be gone; one on a node that does not answer is not waited for
_SHORT_SECONDS = 2.0  # for tasks of a pass that failed to end by themselves, before they are cancelled
_GRACE_SECONDS = 20.0  # for the driver to notice by itself that Ray is gone, and to end in order
_SOCKET_BYTES = 107  # of the path of an AF_UNIX socket; Linux's sun_path has 108 with its end
_SHORT = "/tmp"
_LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
_SHOWN_CHARACTERS = 300  # of a shard that has no words of its own
_ANSWER_SECONDS = 5.0  # for a cluster that is joined to take a connection
_SIZE_SECONDS = 5.0  # how long the cluster's size is taken as known: an autoscaler adds machines while shards run


class ShardMap(Protocol):
    """Applies a pure, idempotent shard function to every shard; results come in the order of `shards`."""

    def __call__(
        self,
        function: Callable[[Any], R],
        shards: Sequence[Any],
        label: str,
        describe: Callable[[R], dict[str, Any]] | None = None,
    ) -> list[R]:
        """Args: function, picklable, one shard in, its result out; label, of the progress line; describe, values of the
        latest result that stand there.
        """
        ...


def serial_map(
    function: Callable[[Any], R],
    shards: Sequence[Any],
    label: str,
    describe: Callable[[R], dict[str, Any]] | None = None,
) -> list[R]:
    """The `ShardMap` without Ray, in this process: for tests and for work too small to spread."""
    return [function(shard) for shard in shards]


def inside_job() -> bool:
    """Whether this process is the entry point of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_JOB_SUBMISSION_ID" in os.environ


class Cluster:
    """A connection to Ray for the length of a `with` block."""

    def __init__(self, config: ClusterConfig):
        self.config = config
        self.embedded = False
        self._watch: _RayWatch | None = None
        self._group: TrainGroup | None = None

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        # Ray announces a new default for tasks without a GPU at every start; workers inherit this
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        address = self.config.address or os.environ.get("RAY_ADDRESS")
        self.embedded = address is None and not inside_job()
        check_answers(self.config)
        path = _python_path()
        short = _short_folder() if self.embedded else None
        handlers = _signal_handlers()
        try:
            if self.embedded:
                ensure_private_token()
                slots = max(2, math.ceil(self.config.workers * self.config.cpus_per_worker), os.cpu_count() or 1)
                start_private_ray(slots, path, short)
            else:
                ray.init(
                    address=address or "auto",
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env=None if inside_job() or not path else {"env_vars": {"PYTHONPATH": path}},
                )
        except Exception as error:  # Ray raises all kinds
            where = f"the Ray cluster at {address}" if address else "Ray"
            if (told := disk_error(error)) is not None:
                raise told from error
            raise ClusterError(
                f"cannot {'start' if self.embedded else 'reach'} {where}: {error}{_ray_advice(error, self.embedded)}"
            ) from error
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reached("Ray")
        if self.embedded:
            self._watch = _RayWatch()
        return self

    def __exit__(self, *exception: Any) -> None:
        import ray

        if self._watch is not None and not self._watch.lost:
            self._watch.stop()  # a shutdown ends Ray's processes too
        if (
            self._watch is None or not self._watch.lost
        ):  # a Ray that was killed has no processes to end, and would not answer
            self._end_group()
        ray.shutdown()
        if self._watch is not None:
            self._watch.stop()

    def map_shards(
        self,
        function: Callable[[Any], R],
        shards: Sequence[Any],
        label: str,
        describe: Callable[[R], dict[str, Any]] | None = None,
    ) -> list[R]:
        """The `ShardMap` over Ray tasks: retried when a worker is lost, failed at once when the function raises.

        A few shards per CPU are submitted at a time, so the driver's work per shard does not grow with their number. A
        shard that says how much memory its task takes (`memory_bytes`) is started where so much is free. One that says
        what it reads (`in_words`) is named by that when its workers are lost, and one that can be split (`parts`) by
        the part that loses them.

        Raises: whatever TrunklineError the function raised; ClusterError, which names the shard, when its workers were
            lost too often.
        """
        self._end_group()  # its processes hold the CPUs that tasks need
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

        task = ray.remote(num_cpus=1, max_retries=self.config.shard_retries)(naming_disk_errors(function))
        waiting = iter(enumerate(shards))
        pending: dict[Any, tuple[int, Any]] = {}
        latest: tuple[int, Any] | None = None
        results: list[Any] = [None] * len(shards)
        progress = Progress(label, len(shards))
        size = _ClusterSize()
        try:
            while True:
                self._check_alive(label)
                for i, shard in itertools.islice(waiting, max(0, size.window() - len(pending))):
                    pending[_submit(task, shard, size)] = (i, shard)
                if not pending:
                    break
                ray.wait(list(pending), num_returns=1, timeout=_ALIVE_SECONDS)
                ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
                for reference in ready:
                    latest = i, _ = pending.pop(reference)
                    results[i] = ray.get(reference)
                    progress.update(**(describe(results[i]) if describe else {}))
        except RayTaskError as error:
            if isinstance(error.cause, TrunklineError):
                raise error.cause from error
            raise
        except RayError as error:
            self._check_alive(label)
            if latest is None or not isinstance(error, (WorkerCrashedError, OutOfMemoryError, NodeDiedError)):
                cause = f"Ray failed ({error}); "
            else:
                i, shard = latest
                cause = (
                    f"a shard's worker was lost {self.config.shard_retries + 1} times ({error}): shard {i + 1:,} of "
                    f"{len(shards):,}, {shard_in_words(_losing_part(task, shard))}: its process was killed or ended "
                    "itself; look at what it reads, leave out a file that is damaged, or free memory; "
                )
            raise ClusterError(f"{label}: {cause}finished shards are kept: run the same command again") from error
        finally:
            if pending:
                _end(list(pending))
        return results

    def prepare(self, ready: Callable[[], None], wait: bool = False) -> None:
        """Begin to form the group of training processes, unless one of the same shape is there from the stage before.

        Args: ready, importable function that each process calls once: imports what `train` will need; wait, until the
            group has formed, rather than returning at once.
        Raises: ConfigError when the cluster is smaller than what was asked for; ClusterError when processes end while
            it waits.
        """
        from pipelines.cluster.train_group import TrainGroup

        if self._group is not None and not (self._group.alive and self._group.fits(self.config)):
            self._end_group()
        if self._group is not None and not self._group.whole():
            say("   a process of the stage before was lost since: the group forms anew")
            self._end_group()
        if self._group is None:
            self._group = TrainGroup(self.config, ready)
        if wait:
            self._group.wait()

    def train(
        self,
        worker: Worker,
        spec: dict[str, Any],
        ready: Callable[[], None] = lambda: None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Run `worker(spec, emit)` on `config.workers` processes joined in a torch process group, until all return.

        A lost worker restarts the whole group, which goes on from its last checkpoint; at most `max_failures` times.
        The processes stay for the next stage, until shards are mapped or the cluster is left.

        Args: worker, importable function; spec, plain data; ready, as for `prepare`; begin, called once, when the
            processes have met and just before they work.
        Raises: the TrunklineError that a worker raised; ClusterError when workers were lost too often; ConfigError when
            the cluster is smaller than what was asked for.
        """
        self.prepare(ready)
        assert self._group is not None
        self._group.run(worker, spec, self.config.max_failures, begin)

    def trial_pool(
        self, lanes: int | None, ready: Callable[[], None], worker: Worker, *, trials_per_gpu: int = 1
    ) -> TrialPool:
        """Lanes for many small runs, in the place of the group of training processes.

        Args, Raises: as of `TrialPool`.
        """
        from pipelines.cluster.trial_pool import TrialPool

        self._end_group()
        return TrialPool(self.config, lanes, ready, worker, trials_per_gpu=trials_per_gpu)

    def _end_group(self) -> None:
        if self._group is not None:
            self._group.end()
            self._group = None

    def check_reach(self, storage: Storage) -> None:
        """Refuse a store that other nodes of this cluster cannot see: their work would be lost in their own folders.

        Raises: ConfigError naming a node that does not see it; ClusterError when a node that is alive could not be
            asked.
        """
        if len(alive_nodes()) < 2 or not isinstance(storage, FolderStorage):
            return
        probe = f".reach-{uuid.uuid4().hex[:8]}"
        storage.write(probe, b"")
        try:
            for node, seen in ask_nodes("it sees the store", _sees, storage, probe):
                if not seen:
                    raise ConfigError(
                        f"store {storage.uri} is a folder that node {node['NodeManagerAddress']} of this cluster does "
                        "not see: use a shared file system at the same path, or store=s3://bucket/prefix"
                    )
        finally:
            storage.delete(probe)

    def _check_alive(self, label: str) -> None:
        """Raises: ClusterError when the private Ray was killed."""
        if self._watch is not None and self._watch.look():
            raise ClusterError(f"{label}: {self._watch.lost}")

    def nodes(self) -> int:
        """How many machines this cluster has now. Several are asked: one that has just died does not count."""
        listed = len(alive_nodes())
        return listed if listed < 2 else len(answering_nodes())


def _signal_handlers() -> dict[int, Any]:
    """What this process does itself when it is asked to end, to be set again once Ray has started.

    Ray's client installs a handler in C++ that prints a page of addresses and ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    return {number: handler for number, handler in handlers.items() if callable(handler)}


def _python_path() -> str:
    """PYTHONPATH for workers: they import this checkout, wherever they start.

    An installed wheel they find by themselves; to name the folder of all installed packages would put these before the
    standard library.
    """
    own = [] if (_PROJECT / "workflows" / "conf").is_dir() else [str(_PROJECT)]
    return os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])])


def _short_folder() -> str | None:
    """Where a private Ray keeps its session if the path of the folder for temporary files is too long; None: there.

    Raises: ConfigError when there is no shorter place.
    """
    own = os.environ.get("RAY_TMPDIR")
    folder = own or str(temporary_folder())
    longest = len(os.fsencode(f"{os.path.realpath(folder)}/{_LONGEST_SOCKET}"))
    if longest <= _SOCKET_BYTES:
        return None
    if own or not os.access(_SHORT, os.W_OK):
        raise ConfigError(
            f"{'RAY_TMPDIR' if own else 'TMPDIR'}={folder} is too long for Ray's sockets: Linux takes paths of "
            f"{_SOCKET_BYTES} bytes, and they would have {longest}: set RAY_TMPDIR to a folder of at most "
            f"{_SOCKET_BYTES - len(_LONGEST_SOCKET) - 1} bytes, e.g. {_SHORT}"
        )
    say(
        f"   Ray's session is in {_SHORT}/ray: TMPDIR={folder} is too long for its sockets ({longest} bytes of "
        f"{_SOCKET_BYTES})"
    )
    return f"{_SHORT}/ray"


def check_answers(config: ClusterConfig) -> None:
    """Ask the cluster that is to be joined whether it is there, without Ray.

    Raises: ClusterError where nobody listens at its address: Ray itself asks on for a minute, a line each time.
    """
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    named_by = "cluster.address" if config.address else "RAY_ADDRESS"
    place = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if place is None:  # none, `auto`, `local`, or one that could not be asked
        return
    try:
        with socket.create_connection((place[1], int(place[2])), timeout=_ANSWER_SECONDS):
            return
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"cannot reach the Ray cluster at {address} ({named_by}): {error}{_ray_advice(error, False)} "
            f"Without {named_by} a Ray of its own is started here"
        ) from error


def _ray_advice(error: Exception, embedded: bool) -> str:
    """What to do about an error of Ray's start, by what the error is about."""
    said = f"{type(error).__name__} {error}".lower()
    if any(word in said for word in ("token", "authent", "unauthorized", "401", "403")):
        return "; is RAY_AUTH_MODE=token set in this shell as it was for `ray start`, with the same token?"
    if "version mismatch" in said:
        return "; use the Python and Ray that the cluster was started with"
    if embedded:
        folder = temporary_folder()
        return f"; is there memory for another Ray on this machine, and room in TMPDIR ({folder} has {room(folder)})?"
    return "; is it running there (`ray status`), and is the address right?"


class _RayWatch:
    """Looks after the private Ray.

    When Ray is killed, its client blocks for a minute and then ends this process without a reason. The driver raises a
    `ClusterError` if it gets to it; where it is stuck in a call of Ray, the process ends with that error.
    """

    def __init__(self) -> None:
        self.lost = ""
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def look(self) -> bool:
        """Whether Ray is gone."""
        import ray

        node = ray._private.worker._global_node
        dead = {name for name, _ in node.dead_processes()} & {"gcs_server", "raylet"} if node is not None else set()
        if dead and not self._over.is_set():
            self.lost = (
                f"Ray itself was killed on this machine ({', '.join(sorted(dead))}; did memory run out?); "
                "finished pieces are kept: run the same command again"
            )
        return bool(self.lost)

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(_ALIVE_SECONDS):
            if self.look() and not self._over.wait(_GRACE_SECONDS):
                print(f"error: {self.lost}", file=sys.stderr, flush=True)
                os._exit(ClusterError.exit_code)


class _ClusterSize:
    """What the cluster has now, asked again every few seconds."""

    def __init__(self) -> None:
        self._asked = -math.inf
        self.cpus = 1.0
        self.largest_memory_bytes = 0.0

    def window(self) -> int:
        """How many shards may be submitted and not yet done."""
        if time.monotonic() - self._asked > _SIZE_SECONDS:
            machines = [node["Resources"] for node in alive_nodes()]
            self.cpus = sum(machine.get("CPU", 0) for machine in machines)
            self.largest_memory_bytes = max((machine.get("memory", 0) for machine in machines), default=0)
            self._asked = time.monotonic()
        return max(_WINDOW_PER_CPU, math.ceil(self.cpus * _WINDOW_PER_CPU))


def _submit(task: Any, shard: Any, size: _ClusterSize) -> Any:
    """Start a shard's task; one that wants more memory than any machine has waits for the largest to be free."""
    wanted = getattr(shard, "memory_bytes", None)
    return (
        task.remote(shard) if not wanted else task.options(memory=min(wanted, size.largest_memory_bytes)).remote(shard)
    )


def _end(tasks: list[Any]) -> None:
    """Return when tasks whose results nobody wants are over, or they publish over what a refused rebuild puts back.

    Only those that take long are cancelled. Ray (2.60) aborts the driver, with a page of C++ in the place of the error,
    when a task is cancelled in the instant in which its answer arrives ("Tried to complete task that was not pending"):
    one pass in 45 where shards took a millisecond. Killing a worker may also hit the task that it began meanwhile. On a
    busy machine Ray says that a cancelled task is over while its process still ends.
    """
    import ray

    _, long = ray.wait(tasks, num_returns=len(tasks), timeout=_SHORT_SECONDS, fetch_local=False)
    for task in long:
        ray.cancel(task, force=True)
    if long:
        ray.wait(long, num_returns=len(long), timeout=_END_SECONDS, fetch_local=False)


def shard_in_words(shard: Any) -> str:
    """What a shard is, for an error: its own words (`in_words`), or those of its fields that are plain."""
    if words := getattr(shard, "in_words", ""):
        return str(words)
    if not dataclasses.is_dataclass(shard):
        return repr(shard)[:_SHOWN_CHARACTERS]
    values = ((field.name, getattr(shard, field.name)) for field in dataclasses.fields(shard))
    keyed = ((name, getattr(value, "key", value)) for name, value in values)
    plain = ", ".join(f"{name}={value}" for name, value in keyed if isinstance(value, (str, int)))
    return f"{type(shard).__name__} {plain[:_SHOWN_CHARACTERS]}".rstrip()


def _losing_part(task: Any, shard: Any) -> Any:
    """The first part of a shard that loses its worker by itself; the shard, where it has no parts or none does."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

    for part in getattr(shard, "parts", ()):
        try:
            ray.get(task.options(max_retries=0).remote(part))
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError):
            return part
        except RayError:  # what the function raises for a part is not what is looked for
            continue
    return shard


def _sees(storage: Storage, key: str) -> bool:
    return storage.exists(key)
