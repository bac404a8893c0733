"""What every test run has: a home of its own, lanes, and campaigns that are left out by name.

`make test` spreads the files over several processes (pytest-xdist); `tests/lanes.py` says which files stay together and
which come first. Run by hand, without `-n`, pytest does everything in one process and nothing here changes that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests import home, lanes
from tests.processes import below, send
from tests.waits import wait_until

ENDING_SECONDS = 120.0  # for a process that was told to end with what had started it
_LEFT_OUT = pytest.StashKey[int]()
_VARIABLES = pytest.StashKey[dict[str, str]]()
# of the environment, what decides what a later test's command does; libraries set a dozen others for themselves
_DECIDES = ("TRUNKLINE_", "AWS_", "MLFLOW_TRACKING_", "RAY_ADDRESS", "RAY_API_", "HOME", "PATH", "PYTHONPATH", "CI")
_SPENT = pytest.StashKey[Counter[tuple[str, str]]]()  # seconds by ("lane", its name) and ("file", its path)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaigns", action="store_true", help="run the tests marked `campaign` too (make test-full)")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module, and with it any library that looks for its settings, is imported."""
    config.stash[_LEFT_OUT], config.stash[_SPENT] = 0, Counter()
    if not hasattr(config, "workerinput"):  # the lanes inherit the home of the process that starts them
        config.add_cleanup(home.move_in())
        config.pluginmanager.register(_Clock(config.stash[_SPENT]), "clock")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes in a test's name would be unreadable, and must not differ between lanes, as compressed ones with a date in
    them do.
    """
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out campaigns unless they were asked for; sort for the lanes, where there are any."""
    if not (config.getoption("--campaigns") or "campaign" in config.getoption("markexpr")):
        campaigns = [item for item in items if item.get_closest_marker("campaign")]
        config.stash[_LEFT_OUT] = len(campaigns)
        config.hook.pytest_deselected(items=campaigns)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: lanes.place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Files, or groups of files, are handed to whichever lane is free."""
    return lanes.scheduler(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_VARIABLES] = dict(os.environ)  # with what imports of the test modules have set


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End what a group of files shares with the group, and fail the file that leaves behind what would fail another.

    Fixtures of the session would live on otherwise, in this lane beside tests that know nothing of them: a Ray head
    whose processes were counted as the next file's own. Which files follow in a lane is chance, and no run repeats it.
    """
    group_ends = nextitem is None or lanes.group(nextitem.nodeid) != lanes.group(item.nodeid)
    try:
        yield
    finally:
        if group_ends:
            item.session._setupstate.teardown_exact(None)
    if nextitem is not None and nextitem.path == item.path:
        return
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        sys.modules["ray"].shutdown()
        pytest.fail(f"{item.path.name} leaves this process connected to Ray, where the next file cannot start its own")
    if group_ends and (left := _processes_left()):
        send(left, signal.SIGKILL)
        pytest.fail(f"{item.path.name}, or its group, leaves running: {'; '.join(map(str, left))}")
    if not os.path.samefile(os.getcwd(), item.config.invocation_params.dir):
        os.chdir(item.config.invocation_params.dir)
        pytest.fail(f"{item.path.name} leaves this process in another folder")
    before = item.config.stash[_VARIABLES]
    if changed := sorted(
        name
        for name in {*before, *os.environ}
        if before.get(name) != os.environ.get(name) and name.startswith(_DECIDES)
    ):
        for name in changed:
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in changed if name in before})
        pytest.fail(f"{item.path.name} leaves other values in the environment: {', '.join(changed)}")


def _processes_left() -> list[psutil.Process]:
    """What this process has started and not ended, though it had time to."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not below(), "processes to end", seconds=ENDING_SECONDS)
    return below()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["campaigns"] = session.config.stash[_LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every lane collects everything, so each counts the same."""
    stash = node.config.stash
    stash[_LEFT_OUT] = max(stash[_LEFT_OUT], getattr(node, "workeroutput", {}).get("campaigns", 0))


class _Clock:
    """Adds up what tests, with their fixtures, took in each lane and file."""

    def __init__(self, spent: Counter[tuple[str, str]]):
        self._spent = spent

    def pytest_runtest_logreport(self, report: Any) -> None:
        lane = getattr(getattr(report, "node", None), "gateway", None)
        if lane is not None:
            self._spent["lane", lane.id] += report.duration
        self._spent["file", report.nodeid.split("::")[0]] += report.duration


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    yield
    spent = config.stash[_SPENT]
    for what, most in (("lane", 99), ("file", 12)):
        found = [(name, seconds) for (kind, name), seconds in spent.most_common() if kind == what and seconds >= 1]
        if found and sum(spent.values()) > 60:
            line = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found[:most])
            terminalreporter.write_line(f"{what}s: {line}")
    if count := config.stash[_LEFT_OUT]:
        terminalreporter.write_line(
            f"{count} campaign tests were left out: `make test-full`, or --campaigns, runs them"
        )
