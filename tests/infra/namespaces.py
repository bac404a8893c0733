"""Machines that are network namespaces: each with its own address, loopback, ports and /tmp, joined by a bridge to this
one.

    with network(folder) as lan:
        head, worker = lan.host("head"), lan.host("worker")
        head.run("ray", "start", "--head", f"--node-ip-address={head.address}")
        worker.cut()          # the cable is pulled: packets vanish, no connection is told
        worker.mend()
        worker.kill()         # power off: SIGKILL to every process on it

Nothing leaves the bridge: there is no route from it, and what listens at `lan.address` on this machine is seen by the
hosts alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.infra.tools import missing, need
from tests.waits import PATIENCE_SECONDS

_ROOT = Path(__file__).parents[2]
# $0: the host's /tmp, $1: this checkout, which stays to be seen where it lies under /tmp itself
_OWN_TMP = """
case "$1" in
/tmp/*) mkdir -p "$0/${1#/tmp/}" && mount --bind "$1" "$0/${1#/tmp/}" || exit ;;
esac
mount --rbind "$0" /tmp && shift && exec "$@"
"""


@dataclass
class Host:
    """A machine of the network."""

    namespace: str
    address: str
    folder: Path  # its /tmp, seen from here
    environment: dict[str, str]
    _cable: str  # this machine's end of its cable

    def run(self, *command: str, timeout: float = PATIENCE_SECONDS, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end. Raises: AssertionError with what it said when it fails, unless
        check=False.
        """
        check = options.pop("check", True)
        done = subprocess.run(
            self._there(command), capture_output=True, text=True, timeout=timeout, env=self.environment, **options
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command there; `kill` ends it at the latest."""
        return subprocess.Popen(
            self._there(command), text=True, env=self.environment, start_new_session=True, **options
        )

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self._cable, "up")

    def kill(self) -> None:
        """Power off: every process there is killed at once, none is told before."""
        end = time.monotonic() + PATIENCE_SECONDS
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < end, f"{self.namespace} still has processes {pids}"
            time.sleep(0.05)

    def _pids(self) -> list[int]:
        pids = map(int, _ip("netns", "pids", self.namespace).split())
        return [pid for pid in pids if not _ended(pid)]

    def _there(self, command: tuple[str, ...]) -> list[str]:
        return [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "unshare",
            "--mount",
            "sh",
            "-c",
            _OWN_TMP,
            str(self.folder),
            str(_ROOT),
            *command,
        ]


@dataclass
class Network:
    """A bridge on this machine and the hosts that hang on it."""

    folder: Path
    name: str
    prefix: str
    cleanup: contextlib.ExitStack  # each step is tried, whatever became of the others
    hosts: list[Host] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where the hosts see this machine."""
        return f"{self.prefix}.254"

    def host(self, name: str, environment: Mapping[str, str]) -> Host:
        """Add a machine. Args: environment, all that its processes know, beside PATH."""
        number = len(self.hosts) + 1
        namespace, cable, folder = f"{self.name}{name}", f"{self.name}{number}", self.folder / name
        folder.mkdir()
        host = Host(
            namespace,
            f"{self.prefix}.{number}",
            folder,
            {"PATH": os.environ["PATH"], "HOME": "/tmp", **environment},
            cable,
        )
        _ip("netns", "add", namespace)
        self.hosts.append(host)
        self.cleanup.callback(_ip, "netns", "delete", namespace)  # its cable goes with it
        self.cleanup.callback(host.kill)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "lan0", "netns", namespace)
        _ip("link", "set", cable, "master", self.name, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "address", "add", f"{host.address}/24", "dev", "lan0")
        _ip("-n", namespace, "link", "set", "lan0", "up")
        return host


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network of its own; at the end its processes, namespaces and cables are gone, whatever happened."""
    need("ip")
    if os.geteuid() != 0:
        missing("only root can make network namespaces: run the tests as root")
    number = os.getpid() % 250
    with contextlib.ExitStack() as cleanup:
        lan = Network(folder, f"tl{os.getpid()}", f"10.77.{number}", cleanup)
        try:
            _ip("link", "add", lan.name, "type", "bridge")
        except subprocess.CalledProcessError as error:
            missing(f"this kernel makes no bridges ({error.stderr.strip()}): load the module bridge")
        cleanup.callback(_ip, "link", "delete", lan.name)
        _ip("address", "add", f"{lan.address}/24", "dev", lan.name)
        _ip("link", "set", lan.name, "up")
        yield lan


def _ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout


def _ended(pid: int) -> bool:
    """Whether a process is gone, or dead and only not yet looked at by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
