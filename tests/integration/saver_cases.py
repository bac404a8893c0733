"""Cases of the saver on two real processes (`ranks.py`): slow and broken stores, what is loaded and what is refused.

tests/integration/test_checkpoints.py asserts on what they return.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.config import parse
from pipelines.errors import CheckpointError, StorageError, TrainingError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint import Rule, Saver, committed_steps, load, open_checkpoint, read_weights
from pipelines.train.checkpoint.saver import _give_way
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.optimizers import OPTIMIZERS
from pipelines.train.run.loop import read_metrics, train
from pipelines.train.spec import TrainSpec
from pipelines.train.update.engine import Engine
from pipelines.train.update.zero import ZeroConfig
from tests import tiny
from tests.integration.conftest import claimed_spec, train_config

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=80, heads=4, kv_heads=2, vocabulary=128, max_positions=64, dim_model_base=16
)
SLOW_SECONDS = 0.5


class Told:
    """Keeps what the saver tells."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.alarms: list[str] = []
        self.values: list[dict[str, float]] = []

    def saving(self, step: int) -> None: ...

    def saved(self, step: int, problem: str) -> None: ...

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def alarm(self, message: str) -> None:
        self.alarms.append(message)

    def points(self, values: Any, step: int) -> None:
        self.values.append({"step": step, **values})


class SlowStorage(FolderStorage):
    """A disk that takes its time to make a file durable."""

    def put(self, source: Path, key: str) -> None:
        if key.endswith(".safetensors"):
            time.sleep(SLOW_SECONDS)
        _put(self, source, key)


_put = FolderStorage.put


class GatedStorage(FolderStorage):
    """A disk that takes until its gate is opened to make a file of a step durable."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gates = {step: threading.Event() for step in (1, 2, 3)}

    def put(self, source: Path, key: str) -> None:
        if key.endswith(".safetensors"):
            self.gates[int(key.split("/step-")[1][:6])].wait()
        super().put(source, key)


class Awaited(threading.Event):
    """Opens a gate a moment after somebody began to wait for what is written behind it."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self._gate = gate

    def wait(self, timeout: float | None = None) -> bool:
        threading.Timer(SLOW_SECONDS, self._gate.set).start()
        return super().wait(timeout)


class BrokenStorage(FolderStorage):
    """A disk that one rank cannot write to while `broken`."""

    broken = False

    def put(self, source: Path, key: str) -> None:
        if self.broken and "rank-00001" in key and key.endswith(".safetensors"):
            raise StorageError("no space left on device")
        super().put(source, key)


class LateStorage(FolderStorage):
    """The store as a machine sees it that is cut off when it is about to commit, and comes back later."""

    waits = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.goes_on = threading.Event()

    def create(self, key: str, data: bytes) -> bool:
        self.waits = True
        self.goes_on.wait()
        return super().create(key, data)


def engine(stage: int = 1, seed: int = 0, kind: str = "adamw") -> Engine:
    model = Transformer(MODEL).initialise(seed)
    zero = ZeroConfig(stage=stage, precision="float32")  # type: ignore[arg-type]
    return Engine(model, NextToken(), zero, OPTIMIZERS[kind].Settings(), 2, 1, 1)


def step(trained: Engine, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed + dist.get_rank())
    tokens = torch.randint(128, (2, 33), generator=generator)
    ones = torch.ones(2, 32)
    return trained.step(
        [Batch.shifted(tokens, torch.arange(32).expand(2, 32), ones, torch.zeros(2, dtype=torch.int64))], 0.01
    ).loss


def slow(folder: Path) -> dict[str, Any]:
    """Three saves in a row into a store that ends no write before the next save waits for it."""
    told, trained, storage = Told(), engine(), GatedStorage(folder)
    step(trained, 0)
    saver = Saver(storage, "pretrain/x", told)
    held, during, waited = [], [], []
    for number in (1, 2, 3):
        held.append(saver.save(trained, number, {}, f"{number}\n".encode()))
        waited.append(number > 1 and storage.gates[number - 1].is_set())
        saver._written = Awaited(storage.gates[number])
        weights = {name: p.detach().clone() for name, p in trained.deepspeed.module.model.named_parameters()}
        if number == 1:
            at_first = weights
            step(trained, 1)  # while the first is written
        during.append(saver.writing)
    saver.wait(final=True)
    saved = read_weights(open_checkpoint(saver.storage, "pretrain/x", "step-1"))
    return {
        "held": held,
        "during": during,
        "waited": waited,
        "stall": saver.stall_seconds,
        "wait_seconds": saver.wait_seconds,
        "warnings": told.warnings,
        "steps": committed_steps(saver.storage, "pretrain/x"),
        "points": told.values,
        "as it was": all(torch.equal(saved[name], at_first[name]) for name in at_first),
    }


def broken(folder: Path) -> dict[str, Any]:
    """A save that fails, one that succeeds, two that fail, one that succeeds; then the last of a run fails."""
    told, trained = Told(), engine()
    step(trained, 0)
    storage = BrokenStorage(folder)
    saver = Saver(storage, "pretrain/x", told)
    seen = []
    for number, fails in enumerate([True, False, True, True, False], start=1):
        saver.wait()
        storage.broken = fails
        saver.save(trained, number, {}, f"{number}\n".encode() if dist.get_rank() == 0 else None)
        saver.wait()
        # all but the warning that a save was waited for, as every one is here
        told.warnings = [message for message in told.warnings if message.startswith("checkpoint at step")]
        seen.append([len(told.warnings), len(told.alarms)])
    storage.broken, last = True, ""
    saver.save(trained, 6, {}, b"6\n" if dist.get_rank() == 0 else None)
    try:
        saver.wait(final=True)
    except StorageError as error:
        last = str(error)
    rows = {key: storage.read(key).decode() for key in storage.keys("pretrain/x/metrics")}
    failures = [each["checkpoint_failures_in_a_row"] for each in told.values if "checkpoint_failures_in_a_row" in each]
    return {
        "seen": seen,
        "warnings": told.warnings,
        "alarms": told.alarms,
        "last": last,
        "rows": rows,
        "failures": failures,
        "steps": committed_steps(storage, "pretrain/x"),
    }


def strange(folder: Path) -> dict[str, Any]:
    """A run that is `nice` already, as an ordinary user; and an error that comes without words."""
    told, trained = Told(), engine()
    step(trained, 0)
    saver = Saver(FolderStorage(folder), "pretrain/x", told)
    lowered, os.setpriority = os.setpriority, _forbidden
    try:
        saver.save(trained, 1, {})
        saver.wait(final=True)
    finally:
        os.setpriority = lowered
    write, saver.storage.put = saver.storage.put, _no_room  # type: ignore[method-assign]
    saver.save(trained, 2, {})
    saver.wait()
    saver.storage.put = write  # type: ignore[method-assign]
    return {"steps": committed_steps(saver.storage, "pretrain/x"), "warnings": told.warnings, "niceness": _niceness()}


def _forbidden(which: int, who: int, priority: int) -> None:
    raise PermissionError("Permission denied")  # as the kernel answers an ordinary user who asks for less niceness


def _no_room(source: Path, key: str) -> None:
    raise MemoryError


def _niceness() -> list[int]:
    """Of a thread that gave way, in a process at 15: root could lower it again, and must not."""
    found: list[int] = []

    def look() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, 15)
        _give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, thread))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found


def fenced(folder: Path) -> dict[str, Any]:
    """Two groups at the same step, as when one was given up for dead and lives: the late one has other weights and
    changes nothing.
    """
    trained, late = engine(), engine(seed=1)
    first, second = (LateStorage(folder), FolderStorage(folder))
    saver = Saver(first, "pretrain/x", Told())
    saver.save(late, 1, {})
    while not first.waits and dist.get_rank() == 0:  # all its files are there, and its manifest is about to be written
        time.sleep(0.01)
    dist.barrier()
    winner = Saver(second, "pretrain/x", Told())
    winner.save(trained, 1, {})
    winner.wait(final=True)
    first.goes_on.set()
    saver.wait(final=True)
    checkpoint = open_checkpoint(second, "pretrain/x")
    checkpoint.verify()
    saved = read_weights(checkpoint)
    weights = {name: p.detach() for name, p in trained.deepspeed.module.model.named_parameters()}
    return {
        "same": all(torch.equal(saved[name], weights[name]) for name in weights),
        "attempts": [checkpoint.state["attempt"] == each.attempt for each in (winner, saver)],
        "files": second.keys("pretrain/x/checkpoints")
        == sorted(f"{checkpoint.folder}/{name}" for name in [*checkpoint.files, "manifest.json"]),
    }


def run_of(folder: Path, **changes: Any) -> tuple[ArtifactStore, dict[str, Any]]:
    """A tiny store, and the spec of a run in it that saves every step."""
    made: list[Any] = [None]
    if dist.get_rank() == 0:
        config = train_config(**{"checkpoint.every_steps": 1, **changes})
        made = [claimed_spec("pretrain", config, tiny.build(str(folder / "store")))]
    dist.broadcast_object_list(made, src=0)
    return ArtifactStore(str(folder / "store")), made[0]


def diverged(folder: Path) -> dict[str, Any]:
    """A loss that is no number in the step after a save, while that is being written into a slow store."""
    store, values = run_of(folder, schedule={"peak_lr": 1e30})
    put, said = FolderStorage.put, ""
    FolderStorage.put = SlowStorage.put  # type: ignore[method-assign, assignment]
    try:
        train(parse(TrainSpec, values), lambda line: None)
    except TrainingError as error:
        said = str(error)
    finally:
        FolderStorage.put = put  # type: ignore[method-assign]
    return {"said": said, "steps": committed_steps(store.storage, "pretrain/run")}


def lagging(folder: Path) -> dict[str, Any]:
    """A run goes on while one rank does not see its last checkpoint yet, as behind the cache of a network file
    system.
    """
    store, values = run_of(folder, steps=2, **{"schedule.warmup_steps": 0})
    lines: list[str] = []
    train(parse(TrainSpec, values), lines.append)
    keys = FolderStorage.keys
    if dist.get_rank() == 1:
        FolderStorage.keys = lambda self, prefix="": [  # type: ignore[method-assign]
            key for key in keys(self, prefix) if not key.endswith("step-000002/manifest.json")
        ]
    try:
        train(parse(TrainSpec, {**values, "steps": 4}), lines.append)
    finally:
        FolderStorage.keys = keys  # type: ignore[method-assign]
    rows = [row["step"] for row in read_metrics(store.storage, "pretrain/run")]
    return {"lines": lines, "steps": committed_steps(store.storage, "pretrain/run"), "rows": rows}


def kept(folder: Path) -> dict[str, Any]:
    """The rule is applied after each commit, behind training."""
    trained, storage = engine(stage=3), FolderStorage(folder)
    saver = Saver(storage, "pretrain/x", Told(), Rule(keep_last=1, keep_every_steps=2))
    storage.write("anneal/a/claim.json", b'{"parent": "pretrain/x@step-1"}')
    for number in range(1, 6):
        step(trained, number)
        saver.save(trained, number, {})
    saver.wait(final=True)
    return {"steps": committed_steps(storage, "pretrain/x")}


def loads(folder: Path) -> dict[str, Any]:
    """Before any update moments are zero wherever they are loaded; another optimizer's state is refused, its weights
    are not.
    """
    storage, found = FolderStorage(folder), {}
    fresh = engine(stage=2)
    saver = Saver(storage, "pretrain/x", Told())
    saver.save(fresh, 0, {})
    saver.wait(final=True)
    expected = [step(fresh, number) for number in range(3)]
    for stage in (0, 1, 3):
        other = engine(stage, seed=1)
        step(other, 9)  # what it has learnt goes, moments and all
        load(other, open_checkpoint(storage, "pretrain/x"), optimizer_state=stage != 1)
        found[f"from zero updates into {stage}"] = [expected, [step(other, number) for number in range(3)]]
    muon = engine(stage=1, seed=1, kind="muon")
    try:
        load(muon, open_checkpoint(storage, "pretrain/x"), optimizer_state=True)
    except CheckpointError as error:
        found["refused"] = str(error)
    load(muon, open_checkpoint(storage, "pretrain/x"), optimizer_state=False)
    found["weights alone"] = [expected[:1], [step(muon, 0)]]
    return found


def run_all(folder: Path) -> dict[str, Any]:
    """Every case on this rank, by its name."""
    cases = (slow, broken, strange, fenced, diverged, lagging, kept, loads)
    return {case.__name__: case(folder / case.__name__) for case in cases}
