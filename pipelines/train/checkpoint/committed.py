"""Committed checkpoints: finding, verifying and reading them, and writing one of whole weights without an engine.

The manifest vouches for every file by size and SHA-256, and for itself: its last key is the SHA-256 of the text before it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pipelines.errors import CheckpointError
from pipelines.storage import Storage, sha256
from pipelines.train.checkpoint.snapshot import Layout

DELETED = "manifest.deleted.json"  # what a rule of retention leaves of a checkpoint
SUPERSEDED = "manifest.superseded.json"  # what going on from an earlier checkpoint leaves of it
_TRAILER = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\Z')


@dataclass(frozen=True)
class Checkpoint:
    """One committed checkpoint: `state` is what rank zero recorded, `files` what the manifest vouches for."""

    storage: Storage
    folder: str  # <kind>/<name>/checkpoints/step-000200
    step: int
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]
    created: str | None = None  # ISO time of the commit

    @property
    def run(self) -> str:
        """`kind/name`."""
        return self.folder.split("/checkpoints/")[0]

    def __str__(self) -> str:
        return f"{self.run}@step-{self.step}"

    def damaged(self, only: slice = slice(None)) -> list[str]:
        """What is wrong with each file (or with a share of them) that is missing or does not match its checksum."""
        return [problem for name in sorted(self.files)[only] if (problem := self._problem(name))]

    def verify(self, only: slice = slice(None)) -> None:
        """Compare every file (or a share of them) with its checksum. Raises: CheckpointError naming file and predecessor."""
        if problems := self.damaged(only):
            raise CheckpointError(
                f"{self}: {'; '.join(problems)}; it is damaged and was not loaded; {_before(self.storage, self.run, self.step)}"
            )

    def _problem(self, name: str) -> str:
        key, entry = f"{self.folder}/{name}", self.files[name]
        if not self.storage.exists(key):
            return f"{name} is missing"
        path = self.storage.fetch(key)
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes and should have {entry['bytes']}"
        return "" if sha256(path) == entry["sha256"] else f"{name} does not match its checksum"


def folder_of(run: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return f"{run}/checkpoints/step-{step:06d}"


def committed_steps(storage: Storage, run: str) -> list[int]:
    """Steps of the committed checkpoints of `kind/name`, ascending."""
    return steps_with(storage.keys(f"{run}/checkpoints"), "manifest.json")


def steps_with(keys: list[str], file: str) -> list[int]:
    """The steps, ascending, whose folder holds `file`, from a listing of a run's checkpoints."""
    return sorted(int(key.split("/")[-2].removeprefix("step-")) for key in keys if key.endswith(f"/{file}"))


def recorded_steps(storage: Storage, run: str) -> list[int]:
    """Steps whose rows of metrics are part of the run's curve: committed, whether or not a rule has deleted the files since."""
    keys = storage.keys(f"{run}/checkpoints")
    return sorted({*steps_with(keys, "manifest.json"), *steps_with(keys, DELETED)})


def set_aside_after(storage: Storage, run: str, step: int) -> list[int]:
    """Take back the commits of a run's checkpoints after `step`, so that the run goes on from there.

    Their files stay, and each manifest as `manifest.superseded.json`. Returns: the steps set aside.
    """
    open_checkpoint(storage, run, f"step-{step}")
    later = [found for found in committed_steps(storage, run) if found > step]
    for found in recorded_steps(storage, run):
        folder = folder_of(run, found)
        for manifest in ("manifest.json", DELETED) if found > step else ():
            if (text := storage.find(f"{folder}/{manifest}")) is not None:
                storage.write(f"{folder}/{SUPERSEDED}", text)
                storage.delete(f"{folder}/{manifest}")
    return later


def open_checkpoint(storage: Storage, run: str, at: str | None = "latest") -> Checkpoint:
    """The checkpoint `at` ("latest" or "step-200") of `kind/name`.

    Raises: CheckpointError when there is none, naming those that exist, or when its manifest is damaged.
    """
    steps = committed_steps(storage, run)
    if not steps:
        raise CheckpointError(f"{run} has no committed checkpoint in {storage.uri}: run its workflow first")
    step = steps[-1] if at in (None, "latest") else int(str(at).removeprefix("step-"))
    if step not in steps:
        gone = storage.exists(f"{folder_of(run, step)}/{DELETED}")
        raise CheckpointError(
            f"{run}@step-{step} {'was deleted by a rule of retention' if gone else 'does not exist'}; "
            f"committed steps: {', '.join(map(str, steps))}"
        )
    folder = folder_of(run, step)
    try:
        manifest = _parsed(storage.read(f"{folder}/manifest.json"))
    except ValueError as error:
        raise CheckpointError(
            f"{run}@step-{step}: manifest.json {error}; it is damaged and was not loaded; {_before(storage, run, step)}"
        ) from error
    return Checkpoint(storage, folder, step, manifest["state"], manifest["files"], manifest.get("created"))


def commit(storage: Storage, folder: str, files: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint's manifest, last: from here on it exists. Args: files, name -> {"bytes", "sha256"}.

    Where another attempt at the same step was first, its manifest stays: the step is committed, once.
    """
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    manifest = {"step": state["step"], "created": created, "files": files, "state": state}
    text = json.dumps(manifest, indent=1).encode()
    digest = hashlib.sha256(text).hexdigest()
    storage.create(f"{folder}/manifest.json", text.removesuffix(b"\n}") + f',\n "sha256": "{digest}"\n}}'.encode())


def sweep(storage: Storage, folder: str) -> None:
    """Delete what attempts that did not get to commit this checkpoint left beside it."""
    manifests = [f"{folder}/{name}" for name in ("manifest.json", SUPERSEDED)]
    held = {name for key in manifests for name in json.loads(storage.find(key) or b'{"files": []}')["files"]}
    for key in storage.keys(folder):
        if key not in manifests and key.rsplit("/", 1)[1] not in held:
            storage.delete(key)


def _parsed(text: bytes) -> dict[str, Any]:
    """A manifest, compared with its own checksum. Raises: ValueError saying what is wrong with it."""
    try:
        manifest: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error
    trailer = _TRAILER.search(text)
    if trailer is not None:
        if hashlib.sha256(text[: trailer.start()] + b"\n}").hexdigest().encode() != trailer[1]:
            raise ValueError("does not match its own checksum")
    elif set(manifest) != {"step", "files", "state"}:  # what manifests held before they carried a checksum
        raise ValueError("has lost its own checksum")
    return manifest


def _before(storage: Storage, run: str, step: int) -> str:
    """Advice: which committed checkpoint comes before a damaged one."""
    earlier = [found for found in committed_steps(storage, run) if found < step]
    if not earlier:
        return "there is none before it: start over with on_change=rebuild"
    return (
        f"the one before it is {run}@step-{earlier[-1]}: name that one "
        f"(checkpoint.resume=step-{earlier[-1]} to go on from it)"
    )


# ── Weights without an engine ─────────────────────────────────────────────────────────────────────────────────────────


def read_weights(checkpoint: Checkpoint, names: dict[str, torch.Size] | None = None) -> dict[str, Tensor]:
    """Whole float32 weights by parameter name, assembled on the CPU; checksums are verified first.

    Args: names, the shapes expected; a difference is refused.
    """
    checkpoint.verify()
    shapes = {name: torch.Size(shape) for name, shape in checkpoint.state["shapes"].items()}
    if names is not None and shapes != names:
        raise CheckpointError(f"{checkpoint.folder} is of another architecture: {first_difference(shapes, names)}")
    index = Index(checkpoint)
    weights = {}
    for name, shape in shapes.items():
        flat = torch.empty(shape.numel())
        index.fill(name, "fp32", 0, flat)
        weights[name] = flat.view(shape)
    return weights


def write_weights(
    storage: Storage, run: str, step: int, state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]],
    weights: Iterable[tuple[str, Tensor]],
) -> Checkpoint:  # fmt: skip
    """Commit a checkpoint of whole weights, without an engine: an average of others, say. One file, no optimizer state.

    It can be evaluated, exported, and started from with weights alone (sft, dpo); `load(…, optimizer_state=True)` refuses it.

    Args:
        run: `kind/name`; step: under which it is found as `run@step-N`.
        state: facts as a training run records them (take those of `open_checkpoint(…).state` and change what differs);
            `step`, `shapes`, `updates`, `optimizer`, `world` and `zero_stage` are set here.
        shapes: of every parameter by name. weights: each parameter's name and value, one after the other, so that no more
            than one needs to be in memory beside the file's own buffer (4 bytes a value).

    Raises: StorageError when it cannot be written; nothing is committed then.
    """
    folder, name = folder_of(run, step), "weights.safetensors"
    layout = Layout({f"{key}@fp32@0": torch.empty(math.prod(shape), device="meta") for key, shape in shapes.items()})
    for _, (key, value) in zip(shapes, weights, strict=True):  # as many as there are places
        layout.copy({f"{key}@fp32@0": value.float().reshape(-1)})
    path = storage.scratch(f"{folder}/{name}")
    entry = layout.write(path)
    storage.put(path, f"{folder}/{name}")
    own = {"step": step, "shapes": {key: list(shape) for key, shape in shapes.items()}, "updates": 0, "optimizer": None, "world": 1, "zero_stage": 0}  # fmt: skip
    commit(storage, folder, {name: entry}, {**state, **own})
    return open_checkpoint(storage, run, f"step-{step}")


class Index:
    """Where each (parameter, state) of a checkpoint lies, from its files' headers alone."""

    def __init__(self, checkpoint: Checkpoint):
        """Opens every file; the checkpoint's checksums are the caller's to compare."""
        self._places: dict[
            str, dict[str, list[tuple[int, int, Any, str]]]
        ] = {}  # name, state: offset, length, file, key
        paths = [checkpoint.storage.fetch(f"{checkpoint.folder}/{name}") for name in sorted(checkpoint.files)]
        with ThreadPoolExecutor(8) as pool:
            for file, entries in pool.map(_header, paths):
                for key, length in entries:
                    name, state, offset = key.rsplit("@", 2)
                    self._places.setdefault(name, {}).setdefault(state, []).append((int(offset), length, file, key))

    def states(self, name: str) -> list[str]:
        """What is held of a parameter: "fp32", and whatever its optimizer kept."""
        return sorted(self._places.get(name, {}))

    def fill(self, name: str, state: str, start: int, target: Tensor) -> None:
        """Copy the ranges that overlap [start, start + len) into the 1-D `target`.

        Raises: CheckpointError when they do not cover it.
        """
        end, got = start + target.numel(), 0
        for offset, length, file, key in self._places.get(name, {}).get(state, []):
            low, high = max(start, offset), min(end, offset + length)
            if low < high:
                target[low - start : high - start].copy_(file.get_slice(key)[low - offset : high - offset])
                got += high - low
        if got != target.numel():
            raise CheckpointError(
                f"the checkpoint holds {got} of {target.numel()} values of {name} ({state}): its files do not cover the parameter"
            )


def _header(path: Path) -> tuple[Any, list[tuple[str, int]]]:
    file: Any = safe_open(path, "pt")
    return file, [(key, file.get_slice(key).get_shape()[0]) for key in file.keys() if not key.startswith("rng@")]  # noqa: SIM118


def first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first parameter whose shape differs, in words."""
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            there, here = (None if shape is None else list(shape) for shape in (theirs.get(name), ours.get(name)))
            return f"{name} is {there} there and {here} here"
    return "the order of parameters differs"
