"""Ports for servers: one process alone has each, and no connection can come by it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests import ports
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def test_no_port_is_given_twice_or_is_one_that_the_kernel_gives_away() -> None:
    given = ports.free_ports(100)
    assert len(set(given)) == 100
    assert ports.FIRST <= min(given) <= max(given) <= ports.LAST
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        assert chosen.getsockname()[1] > ports.LAST


def test_another_process_has_what_this_one_has_not() -> None:
    mine = ports.free_port()
    code = f"from tests.ports import _claimed; print(_claimed({mine}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert done.stdout == "False\n"


def test_a_port_that_something_listens_on_is_not_free() -> None:
    taken = ports.free_port()
    with socket.create_server(("127.0.0.1", taken)):
        assert not ports._free(taken)
    assert ports._free(taken)
