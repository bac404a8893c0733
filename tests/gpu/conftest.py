"""Tests of what a GPU computes. They run wherever there is one; elsewhere they are skipped.

    python -m pytest tests/gpu --confcutdir=tests/gpu -p no:cacheprovider      beside a GPU, without the project's .venv
    TINY=1 OMP_NUM_THREADS=1 python -m pytest tests/gpu …                      the same logic on a CPU, at toy sizes

With $OUT set, what is measured goes into `$OUT/results.json` under `smoke`, for tests that pass too, and each failure
when it happens. $STEP_DEADLINE (Unix time) skips tests that could not end before it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.gpu import record

_RUNS = record.CUDA or record.TINY
# Cheap and telling first; what may spoil the device for others last. A kernel that writes where it should not ends all
# that comes after it in this process, so what others than torch have written comes last of all.
_ORDER = ("test_arithmetic", "test_curves", "test_a_run", "test_checkpoints", "test_wrong_device")
_LAST = ("fp8", "on_the_host", "cudnn")
_LEAST_SECONDS = 8.0
# one process is the whole group: nothing looks for a network
_ALONE = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a GPU also where TINY=1 lets the others run on a CPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent.name == "gpu" and item.path.parent.parent.name == "tests"]
    places = [number for number, item in enumerate(items) if item in own]
    own.sort(key=lambda item: (_last(item), _ORDER.index(item.path.stem)))
    for number, item in zip(places, own, strict=True):
        items[number] = item
        if not _RUNS:
            item.add_marker(pytest.mark.skip(reason="no GPU here (TINY=1 runs the same on a CPU)"))
        elif not record.CUDA and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="of the GPU alone"))


def _last(item: pytest.Item) -> int:
    """0, or the place of what it is about in `_LAST`."""
    return max((number for number, word in enumerate(_LAST, 1) if word in item.name), default=0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _RUNS and record.left() < _LEAST_SECONDS:
        pytest.skip(f"{record.left():.0f} s are left")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and "OUT" in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = f"{crash.path}:{crash.lineno}: {crash.message}" if crash else str(report.longrepr)
        record.put("smoke", f"FAILED {report.nodeid.split('::', 1)[-1]} ({report.when})", text[:1500])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _RUNS and "OUT" in os.environ:
        counts = {"tests": session.testscollected, "failed": session.testsfailed}
        record.put("smoke", "tests", {**counts, "seconds": round(record.time.time() - record.BEGAN, 1)})


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Record numbers under the test's name, so that they are known also when it passes."""
    name = request.node.name.removeprefix("test_")

    def put(**values: Any) -> None:
        if "OUT" in os.environ:
            before = record.findings("smoke").get(name, {})
            record.put("smoke", name, {**before, **values})
        else:
            print(name, values)

    return put


@pytest.fixture(scope="session")
def other() -> Iterator[Any]:
    """A process to which the GPU is hidden (`on_cpu.py`)."""
    from tests.gpu.on_cpu import Other

    process = Other()
    yield process
    process.end()


@pytest.fixture(scope="session")
def tickets(other: Any) -> dict[str, int]:
    """What was asked of it: it computes the references while other tests run."""
    from tests.gpu.references import REFERENCES

    return {name: other.ask(do="curves", cases={name: one}) for name, one in REFERENCES.items()}


@pytest.fixture
def reference(other: Any, tickets: dict[str, int]) -> Callable[[str], dict[str, list[float]]]:
    """The curve of a case of `references.py` in float32 on the CPU."""
    return lambda name: other.answer(tickets[name])[name]  # type: ignore[no-any-return]


@pytest.fixture(scope="session", autouse=True)
def group(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process group of this one process, as a run makes it."""
    if not _RUNS:
        yield
        return
    import torch.distributed as dist

    from pipelines.train.update.engine import start_distributed

    before = dict(os.environ)
    os.environ.update(_ALONE)
    request.getfixturevalue("tickets")
    start_distributed()
    # what was imported is nobody's garbage: every engine that is closed has it looked for, half a second each
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
