"""A Ray cluster of its own for a test: a head with a token on free ports, and more nodes that can be killed like
machines.

with ray_cluster(folder) as cluster:
    node = cluster.add_node(resources={"spot": 1})
    node.kill()              # every process of it at once, as when a machine is taken away
    cluster.head.kill()
    cluster.start_head()     # another one at the same address
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.ports import free_port, free_ports
from tests.processes import below, send
from tests.waits import PATIENCE_SECONDS

BIN = Path(sys.executable).parent


@dataclass
class Node:
    """One `ray start --block`, and all that it started."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL to everything at once: no process is left that could notice and tidy up."""
        send(self.stop(), signal.SIGKILL)  # stopped first: a parent that sees its child die would act
        self.process.wait()

    def stop(self) -> list[psutil.Process]:
        """SIGSTOP to everything: a machine that is there and does not answer. Returns: its processes."""
        everything = below(self.process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            everything.append(psutil.Process(self.process.pid))
        send(everything, signal.SIGSTOP)
        return everything


@dataclass
class RayCluster:
    """A running head and its nodes; `environment` is that of a shell that may talk to them."""

    environment: dict[str, str]
    ports: dict[str, int]
    folder: Path
    head: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    temporaries: list[Path] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of the Jobs API."""
        return f"http://127.0.0.1:{self.ports['dashboard-port']}"

    def start_head(self, cpus: int = 2) -> None:
        """A new head at the same ports, which knows nothing of an earlier one."""
        temporary = tempfile.mkdtemp(prefix="tlr", dir="/tmp")  # Ray's sockets lie in it, and their paths must be short
        self.temporaries.append(Path(temporary))
        ports = [f"--{name}={number}" for name, number in self.ports.items()]
        self.head = _start(["--head", f"--num-cpus={cpus}", f"--temp-dir={temporary}", *ports], self)

    def add_node(self, cpus: int = 2, resources: Mapping[str, float] | None = None, apart: bool = False) -> Node:
        """A further node on this machine.

        Args: apart, in a folder of its own: in the head's, the first job of a node has its package unpacked anew over
            the files that the head's processes run from; but the Jobs API finds no log of a driver there.
        """
        where = [f"--address=127.0.0.1:{self.ports['port']}", f"--dashboard-agent-listen-port={free_port()}"]
        if apart:
            temporary = tempfile.mkdtemp(prefix="tlr", dir="/tmp")
            self.temporaries.append(Path(temporary))
            where.append(f"--temp-dir={temporary}")
        node = _start([*where, f"--num-cpus={cpus}", f"--resources={json.dumps(resources or {})}"], self)
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        """Kill all of it, also what outlived the process that had started it."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == self.environment["HOME"]:
                    process.kill()
        for node in [*self.nodes, *([self.head] if self.head else [])]:
            node.kill()
        for temporary in self.temporaries:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def ray_cluster(folder: Path, cpus: int = 2, **variables: str) -> Iterator[RayCluster]:
    """Start a head, and kill all of the cluster at the end. Args: variables, of the environment of head, nodes and
    jobs.
    """
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_TRACKING"))}
    environment = {
        **inherited,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard-port']}",
        **variables,
    }
    cluster = RayCluster(environment, ports, folder)
    try:
        cluster.start_head(cpus)
        yield cluster
    finally:
        cluster.stop()


def _start(arguments: list[str], cluster: RayCluster, again: int = 2) -> Node:
    """`ray start`, again where it gave up on its own raylet after 30 seconds, as it does on a machine with much else to
    do.
    """
    log = cluster.folder / f"node-{len(list(cluster.folder.glob('node-*.log')))}.log"
    with log.open("wb") as output:
        # of log monitors there may be one on a machine, and nobody reads what it sends to the drivers
        command = [str(BIN / "ray"), "start", "--block", "--include-log-monitor=false", *arguments]
        process = subprocess.Popen(
            command, env=cluster.environment, stdout=output, stderr=output, start_new_session=True
        )
    node, end = Node(process), time.monotonic() + PATIENCE_SECONDS
    while b"Ray runtime started" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            node.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a start that gave up leaves running
            if again and b"timed out during startup" in log.read_bytes():
                return _start(arguments, cluster, again - 1)
            raise RuntimeError(f"ray start did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)
    return node
