"""Checkpoints as safetensors slices: no pickle, no collectives, any ZeRO stage and world size reads any other's.

Each rank writes the 1-D slices of float32 weights and AdamW moments that it owns, keyed `parameter@state@offset`, and its
random-number states. A checkpoint exists once `manifest.json` does, and that is written by
rank zero when every rank's file is durable.

    checkpoints/step-000200/rank-00000.safetensors … rank-00000.json (receipt) … manifest.json (with the run's state)

The training thread only copies to host memory; files are written by a thread behind it. This replaces DeepSpeed's own
format, which cannot change stage or world size, and its universal one, which copies the first group's learning rate and
decay onto all (docs/design.md). It reads private attributes of DeepSpeed, hence the exact pin and the round-trip tests.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.errors import CheckpointError, StorageError
from pipelines.storage import Storage, sha256
from pipelines.train.engine import Engine, device

STATES = ("fp32", "exp_avg", "exp_avg_sq")
_COMMIT_WAIT_SECONDS = 1800.0


@dataclass(frozen=True)
class Checkpoint:
    """One committed checkpoint: `state` is what rank zero recorded, `files` what the manifest vouches for."""

    storage: Storage
    folder: str  # <kind>/<name>/checkpoints/step-000200
    step: int
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]

    def verify(self, only: slice = slice(None)) -> None:
        """Compare every file (or a share of them) with its checksum. Raises: CheckpointError naming file and predecessor."""
        for name in sorted(self.files)[only]:
            path = self.storage.fetch(f"{self.folder}/{name}")
            if path.stat().st_size != self.files[name]["bytes"] or sha256(path) != self.files[name]["sha256"]:
                run = self.folder.split("/checkpoints/")[0]
                earlier = [step for step in committed_steps(self.storage, run) if step < self.step]
                before = (
                    f"the one before it is {run}@step-{earlier[-1]}: name that one (checkpoint.resume=step-{earlier[-1]} to go on from it)"
                    if earlier
                    else "there is none before it: start over with on_change=rebuild"
                )
                raise CheckpointError(
                    f"{run}@step-{self.step}: {name} does not match its checksum; it is damaged and was not loaded; {before}"
                )


def committed_steps(storage: Storage, run: str) -> list[int]:
    """Steps of the committed checkpoints of `kind/name`, ascending."""
    keys = storage.keys(f"{run}/checkpoints")
    return sorted(int(key.split("/")[-2].removeprefix("step-")) for key in keys if key.endswith("/manifest.json"))


def set_aside_after(storage: Storage, run: str, step: int) -> list[int]:
    """Take back the commits of a run's checkpoints after `step`, so that the run goes on from there.

    Their files stay, and each manifest as `manifest.superseded.json`. Returns: the steps set aside.
    """
    open_checkpoint(storage, run, f"step-{step}")
    later = [found for found in committed_steps(storage, run) if found > step]
    for found in later:
        folder = f"{run}/checkpoints/step-{found:06d}"
        storage.write(f"{folder}/manifest.superseded.json", storage.read(f"{folder}/manifest.json"))
        storage.delete(f"{folder}/manifest.json")
    return later


def open_checkpoint(storage: Storage, run: str, at: str | None = "latest") -> Checkpoint:
    """The checkpoint `at` ("latest" or "step-200") of `kind/name`.

    Raises: CheckpointError when there is none, naming those that exist.
    """
    steps = committed_steps(storage, run)
    if not steps:
        raise CheckpointError(f"{run} has no committed checkpoint in {storage.uri}: run its workflow first")
    step = steps[-1] if at in (None, "latest") else int(str(at).removeprefix("step-"))
    if step not in steps:
        raise CheckpointError(f"{run}@step-{step} does not exist; committed steps: {', '.join(map(str, steps))}")
    folder = f"{run}/checkpoints/step-{step:06d}"
    manifest = json.loads(storage.read(f"{folder}/manifest.json"))
    return Checkpoint(storage, folder, step, manifest["state"], manifest["files"])


def read_weights(checkpoint: Checkpoint, names: dict[str, torch.Size] | None = None) -> dict[str, Tensor]:
    """Whole float32 weights by parameter name, assembled on the CPU; checksums are verified first.

    Args: names, the shapes expected; a difference is refused.
    """
    checkpoint.verify()
    shapes = {name: torch.Size(shape) for name, shape in checkpoint.state["shapes"].items()}
    if names is not None and shapes != names:
        raise CheckpointError(f"{checkpoint.folder} is of another architecture: {_first_difference(shapes, names)}")
    index = _index(checkpoint)
    weights = {}
    for name, shape in shapes.items():
        flat = torch.empty(shape.numel())
        _fill(index, name, "fp32", 0, flat)
        weights[name] = flat.view(shape)
    return weights


class Saver:
    """Saves a run's checkpoints behind the training thread."""

    def __init__(self, storage: Storage, run: str, alarm: Callable[[str], None]):
        """Args: alarm, told on rank zero when a save failed."""
        self.storage, self.run, self.alarm = storage, run, alarm
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        nonce: list[Any] = [f"{time.time_ns():x}"]
        dist.broadcast_object_list(nonce, src=0)
        self.attempt = nonce[0]  # receipts of an earlier attempt at the same step do not count
        self.failures_in_a_row = 0
        self._thread: threading.Thread | None = None
        self._written = threading.Event()
        self._abandon = threading.Event()
        self._error: Exception | None = None
        self._step = 0
        self._metrics = self._carried = b""

    def save(self, engine: Engine, step: int, state: dict[str, Any], metrics: bytes | None = None) -> float:
        """Snapshot now, write in the background. Returns: seconds the training thread was held.

        Args: step, completed optimizer steps; state, JSON-able facts that the run needs to go on; metrics, rank zero's
            rows since the last checkpoint, kept at `metrics/step-N.jsonl` in the run's folder.
        """
        began = time.perf_counter()
        self.wait()
        if metrics is not None:
            self._metrics = metrics = self._carried + metrics
        tensors = snapshot(engine)
        facts = {**state, **_facts(engine), "step": step, "world": self.world, "attempt": self.attempt}
        self._written, self._abandon, self._error, self._step = threading.Event(), threading.Event(), None, step
        self._thread = threading.Thread(
            target=self._write, args=(step, tensors, facts, metrics), name="checkpoint-writer"
        )
        self._thread.start()
        return time.perf_counter() - began

    def wait(self, final: bool = False) -> None:
        """Until the save under way is committed, or known to have failed; all ranks call it together.

        A failed save does not stop training: it is reported, and the checkpoint before it stays the latest. Only with
        `final` is it raised, since the run's result would be missing.
        """
        if self._thread is None:
            return
        self._written.wait()
        failed = torch.tensor(float(self._error is not None), device=device())
        dist.all_reduce(failed)
        if failed:
            self._abandon.set()
        self._thread.join()
        self._thread = None
        failed = torch.tensor(float(self._error is not None), device=device())
        dist.all_reduce(failed)
        if not failed:
            self.failures_in_a_row, self._carried = 0, b""
            return
        self.failures_in_a_row += 1
        self._carried = self._metrics  # the rows of a lost save go with the next one
        reason = self._error or StorageError("another rank could not write its part")
        if self.rank == 0:
            self.alarm(f"checkpoint at step {self._step} failed ({self.failures_in_a_row} in a row): {reason}")
        if final:
            raise StorageError(f"the last checkpoint of {self.run} (step {self._step}) could not be saved: {reason}")

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], metrics: bytes | None) -> None:
        folder = f"{self.run}/checkpoints/step-{step:06d}"
        try:
            name = f"rank-{self.rank:05d}.safetensors"
            path = self.storage.scratch(f"{folder}/{name}")
            try:
                save_file(tensors, path)
            except (OSError, SafetensorError) as error:
                path.unlink(missing_ok=True)
                raise StorageError(f"cannot write {path}: {error}; nothing was committed: free some space") from error
            receipt = {"name": name, "bytes": path.stat().st_size, "sha256": sha256(path), "attempt": self.attempt}
            self.storage.put(path, f"{folder}/{name}")
            if metrics is not None:
                self.storage.write(f"{self.run}/metrics/step-{step:06d}.jsonl", metrics)
            self.storage.write(f"{folder}/rank-{self.rank:05d}.json", json.dumps(receipt).encode())
        except Exception as error:
            self._error = error
            return
        finally:
            self._written.set()
        if self.rank == 0:
            try:
                self._commit(folder, facts)
            except Exception as error:
                self._error = error

    def _commit(self, folder: str, facts: dict[str, Any]) -> None:
        deadline = time.monotonic() + _COMMIT_WAIT_SECONDS
        files: dict[str, Any] = {}
        for rank in range(self.world):
            key = f"{folder}/rank-{rank:05d}.json"
            while True:
                receipt = json.loads(self.storage.read(key)) if self.storage.exists(key) else {}
                if receipt.get("attempt") == self.attempt:
                    break
                if self._abandon.is_set() or time.monotonic() > deadline:
                    raise StorageError(f"rank {rank} did not finish writing {folder}")
                time.sleep(0.05)
            files[receipt["name"]] = {"bytes": receipt["bytes"], "sha256": receipt["sha256"]}
        manifest = {"step": facts["step"], "files": files, "state": facts}
        self.storage.write(f"{folder}/manifest.json", json.dumps(manifest, indent=1).encode())


def snapshot(engine: Engine) -> dict[str, Tensor]:
    """This rank's slices and random-number states, copied to host memory (`copy=True`: on CPU a plain `.cpu()` aliases)."""
    owned = ((name, start, states) for name, start, states, mine in _slices(engine) if mine)
    tensors = {
        f"{name}@{key}@{start}": value.detach().to("cpu", torch.float32, copy=True)
        for name, start, states in owned
        for key, value in states.items()
    }
    return {**tensors, **_random_states(dist.get_rank())}


def load(engine: Engine, checkpoint: Checkpoint, optimizer_state: bool) -> None:
    """Fill the engine from a checkpoint of any ZeRO stage and world size.

    Args: optimizer_state, moments and update count too (resume, branch) or weights alone (initialise).
    Raises: CheckpointError when a file is damaged or the architecture differs.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    problem = ""
    try:
        checkpoint.verify(slice(rank, None, world))
    except (CheckpointError, StorageError) as error:
        problem = str(error)
    problems: list[Any] = [None] * world
    dist.all_gather_object(problems, problem)
    if any(problems):
        raise CheckpointError(next(found for found in problems if found))
    ours = _facts(engine)["shapes"]
    if ours != checkpoint.state["shapes"]:
        raise CheckpointError(
            f"{checkpoint.folder} is of another architecture: {_first_difference(checkpoint.state['shapes'], ours)}"
        )
    index = _index(checkpoint)
    o, stage = engine.deepspeed.optimizer, engine.deepspeed.zero_optimization_stage()
    # zero moments after zero updates are what AdamW makes for itself at its first step
    updates = torch.tensor(float(checkpoint.state["updates"] if optimizer_state else 0))
    if stage == 3:
        o.checkpoint_event_prologue()
    for flat in _flat_parameters(engine):
        zeros = {key: torch.zeros_like(flat.data, dtype=torch.float32) for key in STATES[1:]}
        _base(engine).state[flat] = {"step": updates.to(flat.device, copy=True), **zeros}
    for name, start, states, _ in _slices(engine):
        for key, value in states.items():
            if key == "fp32" or optimizer_state:
                _fill(index, name, key, start, value)
    if stage in (1, 2):
        o.update_lp_params()
    elif stage == 3:
        for fp32, low, parts in zip(
            o.fp32_partitioned_groups_flat, o.fp16_partitioned_groups_flat, o.fp16_partitioned_groups, strict=True
        ):
            if fp32.numel():
                low.data.copy_(fp32.data)
                for part, piece in zip(parts, o.unflatten(low, parts), strict=True):
                    part.data = piece.data
        o.checkpoint_event_epilogue()


def load_random_states(checkpoint: Checkpoint) -> None:
    """Restore this rank's torch, NumPy and Python generators, where the checkpoint has this rank."""
    name = f"rank-{dist.get_rank():05d}.safetensors"
    if name not in checkpoint.files:
        return
    with safe_open(checkpoint.storage.fetch(f"{checkpoint.folder}/{name}"), "pt") as file:
        torch.set_rng_state(file.get_tensor("rng@torch@0"))
        numpy_state = file.get_tensor("rng@numpy@0").numpy()
        np.random.set_state(("MT19937", numpy_state[:624].astype(np.uint32), int(numpy_state[624]), 0, 0.0))
        python_state = tuple(int(word) for word in file.get_tensor("rng@python@0"))
        random.setstate((3, python_state, None))
        if torch.cuda.is_available() and "rng@cuda@0" in file.keys():  # noqa: SIM118
            torch.cuda.set_rng_state(file.get_tensor("rng@cuda@0"))


def _random_states(rank: int) -> dict[str, Tensor]:
    numpy_state: Any = np.random.get_state()
    states = {
        "rng@torch@0": torch.get_rng_state(),
        "rng@numpy@0": torch.from_numpy(np.append(numpy_state[1].astype(np.int64), numpy_state[2])),
        "rng@python@0": torch.tensor(random.getstate()[1], dtype=torch.int64),
    }
    if torch.cuda.is_available():
        states["rng@cuda@0"] = torch.cuda.get_rng_state()
    return states


def _facts(engine: Engine) -> dict[str, Any]:
    shapes = {
        _name(name): list(getattr(p, "ds_shape", p.shape)) for name, p in engine.deepspeed.module.named_parameters()
    }
    updates = next((float(state["step"]) for state in _base(engine).state.values() if "step" in state), 0.0)
    return {"shapes": shapes, "updates": updates, "zero_stage": engine.deepspeed.zero_optimization_stage()}


def _slices(engine: Engine) -> Iterator[tuple[str, int, dict[str, Tensor], bool]]:
    """Name, offset, the 1-D views of float32 weight and moments held here, and whether this rank writes them."""
    o, stage = engine.deepspeed.optimizer, engine.deepspeed.zero_optimization_stage()
    if stage in (1, 2) and hasattr(o, "_hp_optimizer_states_linked"):
        # DeepSpeed links moments to parameters once, after the first group's first step: link all of them again
        o._hp_optimizer_states_linked = False
        o._lazy_init_hp_params_optimizer_state()
    for i, (full_name, p) in enumerate(engine.deepspeed.module.named_parameters()):
        name = _name(full_name)
        if stage == 0:
            state = _base(engine).state[p]
            views = {"fp32": p.data, **{key: state[key] for key in STATES[1:] if key in state}}
            yield (
                name,
                0,
                {key: view.view(-1) for key, view in views.items()},
                i % dist.get_world_size() == dist.get_rank(),
            )
        elif stage in (1, 2):
            held = p._hp_mapping
            if held is not None:
                views = {key: held.get_hp_fragment(None if key == "fp32" else key).data for key in STATES}
                yield name, held.lp_fragment_address.start, views, True
        else:
            part = p.ds_tensor.ds_numel
            start = part * o._get_param_partition_rank(p)
            valid = max(0, min(part, p.ds_numel - start))
            if valid:
                views = {
                    key: o._get_fp32_opt_state_partition(p, True, None if key == "fp32" else key)[0].data[:valid]
                    for key in STATES
                }
                yield name, start, views, True


def _base(engine: Engine) -> Any:
    """The torch optimizer under DeepSpeed's wrapper (stage 0 in float32 has none)."""
    o = engine.deepspeed.optimizer
    return o if isinstance(o, torch.optim.Optimizer) else o.optimizer


def _flat_parameters(engine: Engine) -> list[Tensor]:
    o, stage = engine.deepspeed.optimizer, engine.deepspeed.zero_optimization_stage()
    if stage in (1, 2):
        return list(o.single_partition_of_fp32_groups)
    if stage == 3:
        return list(o.fp32_partitioned_groups_flat)
    return [p for group in _base(engine).param_groups for p in group["params"]]


_Index = dict[tuple[str, str], list[tuple[int, int, Any, str]]]


def _index(checkpoint: Checkpoint) -> _Index:
    """Where each (parameter, state) lies: (offset, length, open file, key), from the files' headers alone."""
    index: _Index = {}

    def headers(name: str) -> tuple[Any, list[tuple[str, int]]]:
        file: Any = safe_open(checkpoint.storage.fetch(f"{checkpoint.folder}/{name}"), "pt")
        return file, [(key, file.get_slice(key).get_shape()[0]) for key in file.keys() if not key.startswith("rng@")]  # noqa: SIM118

    with ThreadPoolExecutor(8) as pool:
        for file, entries in pool.map(headers, sorted(checkpoint.files)):
            for key, length in entries:
                name, state, offset = key.rsplit("@", 2)
                index.setdefault((name, state), []).append((int(offset), length, file, key))
    return index


def _fill(index: _Index, name: str, state: str, start: int, target: Tensor) -> None:
    """Copy the ranges that overlap [start, start + len) into the 1-D `target`."""
    end, got = start + target.numel(), 0
    for offset, length, file, key in index.get((name, state), []):
        low, high = max(start, offset), min(end, offset + length)
        if low < high:
            target[low - start : high - start].copy_(file.get_slice(key)[low - offset : high - offset])
            got += high - low
    if got != target.numel():
        raise CheckpointError(
            f"the checkpoint holds {got} of {target.numel()} values of {name} ({state}): its files do not cover the parameter"
        )


def _name(full_name: str) -> str:
    return full_name.removeprefix("model.")


def _first_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            there, here = (None if shape is None else list(shape) for shape in (theirs.get(name), ours.get(name)))
            return f"{name} is {there} there and {here} here"
    return "the order of parameters differs"
