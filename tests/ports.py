"""Ports for the servers that tests start: each is given to one process alone, and no connection can take it before its
server does.

A port that the kernel chose (a bind to 0) and that is free again is one of those that it gives to outgoing connections:
until the server listens, and while a killed server is down, any connection on the machine may get it. So ports come
from below those. A name in the kernel's table of abstract sockets says that one is taken; it goes with the process that
holds it.
"""

from __future__ import annotations

import secrets
import socket

# after the ports that Ray gives to its workers (10002 to 19999), before those that Linux gives to connections (32768
# and up)
FIRST, LAST = 20000, 32767
_claims: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, on any address, and that no other test process on this machine is given while this
    one lives.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)  # not `random`, which a test may have seeded
        if _claimed(port) and _free(port):
            ports.append(port)
    return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def _claimed(port: int) -> bool:
    """Whether this process has the port for itself from now on."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0trunkline-test-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
