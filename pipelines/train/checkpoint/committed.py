"""Committed checkpoints: finding and verifying them, and reading ranges of the parameters that they hold.

The manifest vouches for every file by size and SHA-256, for itself (its last key is the SHA-256 of the text before it),
and for where it lies: a step's folder under the name of another step or run is refused.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.errors import CheckpointError, StorageError
from pipelines.store.sealed import sealed, unsealed
from pipelines.store.storage import FolderStorage, Storage, sha256
from pipelines.store.ways_out import claim_or_manifest, how_anew, set_aside_clause, typed_again

if TYPE_CHECKING:  # torch takes seconds to import, and most who ask what exists read no numbers
    import torch
    from torch import Tensor

DELETED = "manifest.deleted.json"  # what a rule of retention leaves of a checkpoint
SUPERSEDED = "manifest.superseded.json"  # what going on from an earlier checkpoint leaves of it
_FOLDER = re.compile(r"step-(\d{6}|[1-9]\d{6,})")
_PLAIN = ("step", "files", "state")  # what manifests held before they carried a checksum
# a checkpoint of so many bytes is read whole by the driver before Ray starts: a second or two at 1 GB/s; of a remote
# store, from which the driver's machine would download it, a tenth
_DRIVER_BYTES = 2_000_000_000


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

    @property
    def size(self) -> int:
        """Bytes of all files of its own."""
        return sum(entry["bytes"] for entry in self.files.values())

    @property
    def frozen(self) -> Mapping[str, str]:
        """Parameters without slices here, since they equal an ancestor's, and the token of the one that holds each."""
        frozen: Mapping[str, str] = self.state.get("frozen", {})
        return frozen

    @property
    def token(self) -> str:
        """Names the checkpoint and what it holds: `pretrain/x@step-200 1f2e…`, another one for other weights."""
        holds = [self.files, self.frozen] if self.frozen else self.files
        return f"{self} {hashlib.sha256(json.dumps(holds, sort_keys=True).encode()).hexdigest()[:16]}"

    @property
    def small(self) -> bool:
        """Whether one process may read all of it before training starts."""
        size = sum(checkpoint.size for checkpoint in self.whole())
        return size <= _DRIVER_BYTES / (1 if isinstance(self.storage, FolderStorage) else 10)

    def holders(self, parameters: Iterable[str]) -> list[str]:
        """Which checkpoints hold these parameters, sorted: this one, or an ancestor's where they were frozen."""
        return sorted({self.frozen.get(name, str(self)).split()[0] for name in parameters})

    def whole(self) -> list[Checkpoint]:
        """This checkpoint, and those that hold its frozen parameters.

        Raises: CheckpointError when one of those is gone, damaged, or was made anew since.
        """
        return [self, *(self._holder(token) for token in sorted(set(self.frozen.values())))]

    def damaged(self) -> list[str]:
        """What is wrong with each file that is missing or unlike its checksum, those of frozen parameters too."""
        problems = self._damaged()
        for token in sorted(set(self.frozen.values())):
            try:
                holder = self._holder(token)
            except CheckpointError as error:
                problems.append(str(error))
            else:
                problems += [f"{holder}, where frozen parameters lie: {problem}" for problem in holder._damaged()]
        return problems

    def _damaged(self, only: slice = slice(None)) -> list[str]:
        with ThreadPoolExecutor(8) as pool:
            return [problem for problem in pool.map(self._problem, sorted(self.files)[only]) if problem]

    def glance(self) -> None:
        """Compare every file's size and header, without reading weights. Raises: CheckpointError as `verify` does."""
        for checkpoint in self.whole():
            with ThreadPoolExecutor(8) as pool:
                problems = pool.map(checkpoint._outer_problem, sorted(checkpoint.files))
                checkpoint._refuse([problem for problem in problems if problem])

    def verify(self, only: slice = slice(None)) -> None:
        """Compare every file (or a share of them) with its checksum, those of frozen parameters too.

        Raises: CheckpointError naming file and predecessor.
        """
        for checkpoint in self.whole():
            checkpoint._refuse(checkpoint._damaged(only))

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            raise CheckpointError(
                f"{self}: {'; '.join(problems)}; it is damaged and was not loaded; "
                f"{_before(self.storage, self.run, self.step)}"
            )

    def _holder(self, token: str) -> Checkpoint:
        name = token.split()[0]
        run, _, at = name.partition("@")
        parameters = [parameter for parameter, holder in self.frozen.items() if holder == token]
        more = f" and {len(parameters) - 1} more" if len(parameters) > 1 else ""
        where = f"{self} keeps its frozen parameters ({parameters[0]}{more}) in {name}"
        advice = (
            f"bring {name} back as it was, or train {self.run} anew from another parent (parent=…, on_change=rebuild); "
            "what was exported or averaged from it is whole without it"
        )
        try:
            holder = open_checkpoint(self.storage, run, at)
        except CheckpointError as error:
            raise CheckpointError(f"{where}, and {error}: {advice}") from error
        if holder.token != token:
            raise CheckpointError(f"{where}, which was made anew since with other weights: {advice}")
        return holder

    def _outer_problem(self, name: str) -> str:
        key, expected = f"{self.folder}/{name}", self.files[name]["bytes"]
        size = self.storage.size(key)
        if size is None:
            return f"{name} is missing"
        if size != expected:
            return f"{name} has {size} bytes and should have {expected}"
        problem = header_problem(self.storage, key, size)
        return f"{name} {problem}" if problem else ""

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
    """The steps, ascending, whose folder holds `file`. Args: keys, a listing of a run's checkpoints."""
    return sorted(int(match[1]) for folder in _holding(keys, file) if (match := _FOLDER.fullmatch(folder)))


def strays(storage: Storage, run: str) -> list[str]:
    """Folders among a run's checkpoints that hold a manifest under a name that is no step's: renamed by hand."""
    folders = _holding(storage.keys(f"{run}/checkpoints"), "manifest.json")
    return sorted(folder for folder in folders if not _FOLDER.fullmatch(folder))


def passed_over(storage: Storage, run: str) -> str:
    """A clause that names the strays of a run, and the run that a rebuild has set aside; "" where there are none."""
    moved = strays(storage, run)
    named = f"; passed over, since no step is named so: {', '.join(moved)} (step 10 is step-000010)" if moved else ""
    return named + set_aside_clause(storage, run)


def _holding(keys: Iterable[str], file: str) -> list[str]:
    """Which folders below `<kind>/<name>/checkpoints/` hold `file`."""
    return [key.split("/", 3)[3].removesuffix(f"/{file}") for key in keys if key.endswith(f"/{file}")]


def recorded_steps(storage: Storage, run: str) -> list[int]:
    """Steps whose rows of metrics are part of the run's curve: committed, also where a rule deleted the files since."""
    keys = storage.keys(f"{run}/checkpoints")
    return sorted({*steps_with(keys, "manifest.json"), *steps_with(keys, DELETED)})


def set_aside_after(storage: Storage, run: str, step: int) -> list[int]:
    """Take back the commits of a run's checkpoints after `step`, so that the run goes on from there.

    Their files stay, and each manifest as `manifest.superseded.json`. Returns: the steps set aside.
    """
    open_checkpoint(storage, run, f"step-{step}")
    later = [committed for committed in committed_steps(storage, run) if committed > step]
    for recorded_step in recorded_steps(storage, run):
        folder = folder_of(run, recorded_step)
        for manifest in ("manifest.json", DELETED) if recorded_step > step else ():
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
        raise CheckpointError(
            f"{run} has no committed checkpoint in {storage.uri}: run its workflow first{passed_over(storage, run)}"
        )
    step = steps[-1] if at in (None, "latest") else int(str(at).removeprefix("step-"))
    if step not in steps:
        gone = storage.exists(f"{folder_of(run, step)}/{DELETED}")
        raise CheckpointError(
            f"{run}@step-{step} {'was deleted by a rule of retention' if gone else 'does not exist'}; "
            f"committed steps: {', '.join(map(str, steps))}{passed_over(storage, run)}"
        )
    folder = folder_of(run, step)
    try:
        manifest = unsealed(storage.read(f"{folder}/manifest.json"), _PLAIN)
        _refuse_moved(manifest, run, step)
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
    storage.create(f"{folder}/manifest.json", sealed(manifest))


def sweep(storage: Storage, folder: str) -> None:
    """Delete what attempts that did not get to commit this checkpoint left beside it."""
    manifests = [f"{folder}/{name}" for name in ("manifest.json", SUPERSEDED)]
    vouched_for = {name for key in manifests for name in json.loads(storage.find(key) or b'{"files": []}')["files"]}
    for key in storage.keys(folder):
        if key not in manifests and key.rsplit("/", 1)[1] not in vouched_for:
            storage.delete(key)


def _refuse_moved(manifest: Mapping[str, Any], run: str, step: int) -> None:
    """Raises: ValueError when the manifest is of another step or run than the folder that it lies in."""
    state = manifest["state"]
    its_run = f"{state['kind']}/{state['name']}" if "kind" in state and "name" in state else run
    for its_step in (manifest["step"], state.get("step", step)):
        if (its_run, its_step) != (run, step):
            raise ValueError(
                f"is that of {its_run}@step-{its_step}: the folder was copied or renamed (move it back, or delete it)"
            )


def header_problem(storage: Storage, key: str, size: int) -> str:
    """What is wrong with the header of a safetensors file, or ""; reads the header alone.

    Args: size, of the file in bytes, which the header must account for.
    """
    try:
        length = int.from_bytes(storage.read_range(key, 0, 8), "little")
        if not 0 < length <= size - 8:
            return f"has a header of {length} bytes in {size}"
        header = json.loads(storage.read_range(key, 8, 8 + length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, StorageError) as error:
        return f"has a header that cannot be read ({error})"
    described = 8 + length + max(ends, default=0)
    return "" if described == size else f"has a header that describes {described} bytes, and has {size}"


def _before(storage: Storage, run: str, step: int) -> str:
    """Advice: which committed checkpoint comes before a damaged one."""
    earlier = [committed for committed in committed_steps(storage, run) if committed < step]
    made = claim_or_manifest(storage, run)
    if not earlier:
        unfinished = not storage.exists(f"{run}/manifest.json")
        return f"there is none before it: {how_anew(run, made, storage.uri, unfinished)}"
    return (
        f"the one before it is {run}@step-{earlier[-1]}: name that one, or make this one anew from it: "
        f"{typed_again(run, made, storage.uri)} checkpoint.resume=step-{earlier[-1]}"
    )


# ── Reading slices ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Slice(NamedTuple):
    """Where a range of one state of a parameter lies: `length` numbers from number `offset` on."""

    path: Path
    begin_bytes: int
    dtype: torch.dtype
    offset: int
    length: int

    def read(self, first: int, target: Tensor) -> None:
        """Copy the numbers from `first` on, counted in the parameter, into the 1-D `target`.

        They are read where they are wanted, and not through a mapped file, whose pages would count as this process's
        memory until they are needed elsewhere. Raises: CheckpointError when the file ends before.
        """
        import torch

        there = target.dtype == self.dtype and target.device.type == "cpu" and target.is_contiguous()
        numbers = target.detach() if there else torch.empty(target.numel(), dtype=self.dtype)
        rest = memoryview(numbers.view(torch.uint8).numpy())  # type: ignore[arg-type]
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.begin_bytes + (first - self.offset) * self.dtype.itemsize)
            while len(rest):
                size = file.readinto(rest)
                if not size:
                    raise CheckpointError(f"{self.path} ends before what its header describes; it was not loaded")
                rest = rest[size:]
        if not there:
            target.copy_(numbers)


class Index:
    """Where each (parameter, state) of a checkpoint lies, from its files' headers alone.

    A frozen parameter lies in the checkpoint that holds it, whose headers are read too.
    """

    def __init__(self, checkpoint: Checkpoint):
        """Reads every header; the checksums are the caller's to compare. Raises: CheckpointError as `whole` does."""
        self._slices: dict[tuple[str, str], list[_Slice]] = {}
        for holder in checkpoint.whole():
            paths = [holder.storage.fetch(f"{holder.folder}/{name}") for name in sorted(holder.files)]
            with ThreadPoolExecutor(8) as pool:
                for name, state, slice_ in (entry for entries in pool.map(_header, paths) for entry in entries):
                    # of another checkpoint only the weights that this one has not, and never the optimizer's state
                    if holder is checkpoint or (state == "fp32" and checkpoint.frozen.get(name) == holder.token):
                        self._slices.setdefault((name, state), []).append(slice_)

    def states(self, name: str) -> list[str]:
        """What is held of a parameter: "fp32", and whatever its optimizer kept."""
        return sorted(state for parameter, state in self._slices if parameter == name)

    def fill(self, name: str, state: str, start: int, target: Tensor) -> None:
        """Copy the ranges that overlap [start, start + len) into the 1-D `target`.

        Raises: CheckpointError when they do not cover it.
        """
        end, got = start + target.numel(), 0
        for slice_ in self._slices.get((name, state), []):
            low, high = max(start, slice_.offset), min(end, slice_.offset + slice_.length)
            if low < high:
                slice_.read(low, target[low - start : high - start])
                got += high - low
        if got != target.numel():
            raise CheckpointError(
                f"the checkpoint holds {got} of {target.numel()} values of {name} ({state}): "
                "its files do not cover the parameter"
            )


def _header(path: Path) -> list[tuple[str, str, _Slice]]:
    """Parameter, state and place of every slice in a file."""
    from pipelines.train.checkpoint.snapshot import DTYPES

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    slices = []
    for key, entry in header.items():
        if key.startswith("rng@") or key == "__metadata__":
            continue
        name, state, offset = key.rsplit("@", 2)
        begin = 8 + size + entry["data_offsets"][0]
        slices.append((name, state, _Slice(path, begin, DTYPES[entry["dtype"]], int(offset), entry["shape"][0])))
    return slices


def first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first parameter whose shape differs, in words."""
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            there, here = (None if shape is None else list(shape) for shape in (theirs.get(name), ours.get(name)))
            return f"{name} is {there} there and {here} here"
    return "the order of parameters differs"


def check_optimizer(checkpoint: Checkpoint, optimizer: str, trains: Collection[str] | None = None) -> None:
    """Refuse to go on with the state of another optimizer, of none, or of fewer parameters.

    Args: optimizer, its name in `OPTIMIZERS`; trains, role kinds of the parameters that train; None: all.
    Raises: CheckpointError.
    """
    theirs = checkpoint.state.get("optimizer", "adamw")  # before it was recorded there was no other
    if theirs is None:
        raise CheckpointError(
            f"{checkpoint} holds weights alone, so a run cannot go on with its optimizer state: "
            "start from it with workflows.sft or workflows.dpo, or branch from a checkpoint that training saved"
        )
    if theirs != optimizer:
        raise CheckpointError(
            f"{checkpoint} holds the state of the optimizer {theirs}, and this run uses {optimizer}: "
            f"choose optimizer={theirs} to go on with it"
        )
    trained = checkpoint.state.get("trains")
    if trained is not None and (trains is None or not set(trains) <= set(trained)):
        raise CheckpointError(
            f"{checkpoint} trained parameters of the kinds {', '.join(trained)} alone, so there is no optimizer state "
            f"for all that this run trains ({'all' if trains is None else ', '.join(trains)}): initialise from it "
            "(sft, dpo), or train the same kinds"
        )
