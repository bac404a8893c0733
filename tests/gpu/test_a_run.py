"""What a run of some size asks of the device: graphs compiled, waits of the host, memory.

One engine of 0.1B takes all the steps, as a run would: compiled, bfloat16, micro-batches of 8,192 tokens.
"""

from __future__ import annotations

import collections
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks.gpu.record import CUDA, TINY
from pipelines.config import parse
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.plan.memory import GIB, Setup, predict
from pipelines.train.update.engine import Engine
from pipelines.train.update.zero import ZeroConfig
from tests.gpu.cases import batches, case, start

ROOT = Path(__file__).parents[2]
SHAPE = {
    "layers": 12,
    "d_model": 768,
    "d_ff": 1920,
    "heads": 12,
    "kv_heads": 6,
    "vocabulary": 49_153,
    "max_positions": 2048,
    "dim_model_base": 256,
}
if TINY:
    SHAPE |= {"d_model": 64, "d_ff": 160, "heads": 2, "kv_heads": 1, "vocabulary": 515, "max_positions": 128}
ONE = case(
    model=SHAPE, compute={"compile": "on", "loss_chunk": None}, micro=2 if TINY else 4, longest=SHAPE["max_positions"]
)


class Run:
    """The engine, what was allocated before it was made, and its next step."""

    def __init__(self) -> None:
        self.before = torch.cuda.memory_allocated() if CUDA else 0
        self.engine: Engine = start(ONE)
        self.steps = 0
        self.graphs: list[int] = []

    def step(self, longest: int | None = None, number: int | None = None) -> Any:
        """Take a step. Args: longest, tokens of its longest documents; number, of the batches."""
        one = {**ONE, "longest": longest or ONE["longest"]}
        number = self.steps if number is None else number
        ready = batches(one, number, self.engine.deepspeed.module.model)
        self.steps += 1
        return self.engine.step(ready, 1e-3)


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    made = Run()
    yield made
    made.engine.close()


def _graphs() -> tuple[int, dict[str, int]]:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], dict(counters["graph_break"])


@pytest.mark.skipif(TINY and not CUDA, reason="compiling on a CPU takes a minute")
def test_twelve_blocks_share_what_is_compiled(run: Run, note: Callable[..., None]) -> None:
    """Blocks and steps of ever other documents run the same few graphs: a compilation takes seconds, a step less."""
    before, _ = _graphs()
    run.step()
    first = _graphs()[0] - before
    grew = []
    for longest in (2048, 1500, 1025, 900, 600, 300, 200, 100, 2048):
        run.step(longest)
        grew.append(_graphs()[0] - before)
    note(first_step=first, after_each=grew, breaks=_graphs()[1])
    assert not _graphs()[1]
    assert first <= 4
    assert grew[-1] <= 8, f"graphs after each step: {grew}"


@pytest.mark.cuda
def test_the_host_waits_nowhere_in_a_step(run: Run, note: Callable[..., None]) -> None:
    """Stage 1, one worker. A wait leaves the device with nothing to do for as long as the next launches take."""
    run.step()
    run.step(number=0)
    ready = batches(ONE, 1, run.engine.deepspeed.module.model)
    torch.cuda.synchronize()
    with _waits() as found:
        result = run.engine.step(ready, 1e-3)
    loss = result.loss
    note(waits=dict(found))
    assert loss == loss
    assert not found, dict(found)


def test_waits_are_counted_by_their_lines() -> None:
    """Of the counting itself, which needs no GPU."""
    with mock.patch.object(torch.cuda, "synchronize"), mock.patch.object(torch.cuda, "set_sync_debug_mode") as mode:
        with _waits() as found:
            for _ in range(2):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
            torch.cuda.synchronize()
        torch.cuda.synchronize()
    assert sorted(found.values()) == [1, 2]
    assert [call.args for call in mode.call_args_list] == [("warn",), ("default",)]


@pytest.mark.cuda
def test_the_peak_is_what_the_plan_says(run: Run, note: Callable[..., None]) -> None:
    """Bytes that torch has allocated at most in a step, beside the plan's without the process itself: within 10 %."""
    for _ in range(2):
        run.step().loss  # noqa: B018
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run.step().loss  # noqa: B018
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - run.before
    reserved = torch.cuda.max_memory_reserved()
    planned = _plan("cuda")
    free, total = torch.cuda.mem_get_info()
    bytes_planned = planned.total - planned.process
    note(
        peak_gib=peak / GIB,
        planned_gib=bytes_planned / GIB,
        off=bytes_planned / peak - 1,
        plan=str(planned),
        reserved_gib=reserved / GIB,
        between_steps_gib=(torch.cuda.memory_allocated() - run.before) / GIB,
        beside_torch_gib=(total - free - torch.cuda.memory_reserved()) / GIB,  # of all processes on this GPU
    )
    assert bytes_planned == pytest.approx(peak, rel=0.1)


def _plan(kind: Any) -> Any:
    model = ModelConfig(**ONE["model"])
    setup = Setup(
        model=model, rows=ONE["micro"], sequence_length=model.max_positions, accumulates=True,
        zero=parse(ZeroConfig, ONE["zero"]), compute=parse(ComputeConfig, ONE["compute"]), workers=1, device=kind,
    )  # fmt: skip
    return predict(setup, BlockPolicy(all=model.layers))


def test_the_plan_takes_this_run() -> None:
    """The other side of the comparison, which needs no GPU."""
    assert _plan("cuda").total > _plan("cuda").process


class _waits:
    """Counts, by source line, where the host waits for the device."""

    def __enter__(self) -> collections.Counter[str]:
        self.found: collections.Counter[str] = collections.Counter()
        self._patches = [mock.patch.object(warnings, "showwarning", self._warned)]
        # waits for the whole device, or for a stream or event, are calls, of which torch's mode does not tell
        for owner, name in (
            (torch.cuda, "synchronize"), (torch.cuda.Stream, "synchronize"), (torch.cuda.Event, "synchronize"),
        ):  # fmt: skip
            self._patches.append(mock.patch.object(owner, name, self._counted(getattr(owner, name), name)))
        for patch in self._patches:
            patch.start()
        self._catch = warnings.catch_warnings()
        self._catch.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self.found

    def __exit__(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._catch.__exit__(None, None, None)
        for patch in self._patches:
            patch.stop()

    def _warned(self, message: Any, *_: Any, **__: Any) -> None:
        # not torch's word that this mode itself is a prototype
        if "called a synchronizing" in str(message):
            self.found[_place()] += 1

    def _counted(self, plain: Any, name: str) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.found[f"{name}() {_place()}"] += 1
            return plain(*arguments, **named)

        return counted


def _place() -> str:
    """The innermost three callers outside this file and the machinery of warnings."""
    frames = [f for f in traceback.extract_stack() if f.filename not in (__file__, warnings.__file__)]
    named = [f"{Path(f.filename).parent.name}/{Path(f.filename).name}:{f.lineno}" for f in frames[-3:]]
    return " < ".join(reversed(named))
