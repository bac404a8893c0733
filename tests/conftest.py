"""What every test run has: a home of its own, lanes, and campaigns that are left out by name.

`make test` spreads the files over several processes (pytest-xdist); `tests/lanes.py` says which files stay together and
which come first. Run by hand, without `-n`, pytest does everything in one process and nothing here changes that.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests import home, lanes

_LEFT_OUT = pytest.StashKey[int]()
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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Fail the file that leaves behind what would fail another one later in its lane, which no run has to repeat."""
    yield
    if nextitem is not None and nextitem.path == item.path:
        return
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        sys.modules["ray"].shutdown()
        pytest.fail(f"{item.path.name} leaves this process connected to Ray, where the next file cannot start its own")
    if not os.path.samefile(os.getcwd(), item.config.invocation_params.dir):
        os.chdir(item.config.invocation_params.dir)
        pytest.fail(f"{item.path.name} leaves this process in another folder")


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
