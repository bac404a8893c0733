"""Which checkpoints of a run stay, and deleting the others.

A rule names how many of the last stay (`keep_last`) and every which step of the trunk (`keep_every_steps`). Whatever it
says, the latest stays, and so does every checkpoint that another artifact of the store names: a branch's parent, a step
that was evaluated, exported or averaged. Without `keep_last` nothing is ever deleted, so a trunk can be branched from
anywhere.

Deleting leaves `manifest.deleted.json` (what it was) and takes the manifest first: half a deletion is never readable,
and the next pass finishes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.sealed import unsealed
from pipelines.store.storage import Storage
from pipelines.store.ways_out import aside_folder, way_out
from pipelines.train.checkpoint.committed import DELETED, committed_steps, folder_of, steps_with


@dataclass(frozen=True)
class Rule:
    """What of a run stays. Raises: ConfigError for numbers that are not positive, or a rule that could not delete."""

    keep_last: int | None = None  # None: everything
    keep_every_steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("keep_last", self.keep_last), ("keep_every_steps", self.keep_every_steps)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected a positive number, or null")
        if self.keep_every_steps is not None and self.keep_last is None:
            raise ConfigError(
                f"keep_every_steps is {self.keep_every_steps} and keep_last is null, which keeps "
                "everything: set keep_last too, e.g. 3"
            )

    def reasons(self, steps: list[int], readers: Mapping[int, list[str]]) -> dict[int, list[str]]:
        """Why each of the committed `steps` (ascending) stays; an empty list for what goes.

        Args: readers, the artifacts that name a step (`readers_of`).
        """
        reasons_by_step: dict[int, list[str]] = {}
        for place, step in enumerate(steps):
            reasons = [f"named by {reader}" for reader in readers.get(step, [])]
            if self.keep_last is None:
                reasons.append("no rule deletes")
            elif place >= len(steps) - self.keep_last:
                reasons.append(f"one of the last {self.keep_last}" if self.keep_last > 1 else "the last")
            if self.keep_every_steps is not None and step % self.keep_every_steps == 0:
                reasons.append(f"every {self.keep_every_steps} steps")
            reasons_by_step[step] = reasons
        return reasons_by_step


def readers_of(storage: Storage, run: str) -> dict[int, list[str]]:
    """The artifacts of the store whose claims name a checkpoint of `run`, by its step.

    Every kind of artifact is asked, whoever makes it, and whether it is finished, begun or set aside by a rebuild.

    Raises: ArtifactError for a damaged claim, since it may name one.
    """
    named_step = re.compile(rf'"{re.escape(run)}@step-(\d+)"'.encode())
    readers: dict[int, list[str]] = {}
    artifacts = _artifacts(storage)
    claims = storage.find_all([f"{artifact}/claim.json" for artifact in artifacts])
    for artifact, claim in zip(artifacts, claims, strict=True):
        if claim is None:
            continue
        _refuse_damaged(storage, f"{artifact}/claim.json", claim)
        for step in sorted({int(step) for step in named_step.findall(claim)}):
            readers.setdefault(step, []).append(artifact)
    # a finished trunk that is trained further: its manifest still names the step at which it stood
    manifest, committed = storage.find(f"{run}/manifest.json"), committed_steps(storage, run)
    if manifest is not None and committed:
        _refuse_damaged(storage, f"{run}/manifest.json", manifest)
        step = int(json.loads(manifest).get("statistics", {}).get("steps", committed[-1]))
        if step != committed[-1]:
            readers.setdefault(step, []).append(f"the manifest of {run}")
    return readers


def _artifacts(storage: Storage) -> list[str]:
    """The folder of every artifact, those that rebuilds have set aside last. What begins with a point is no kind."""
    return [
        f"{place}{kind}/{name}"
        for place in ("", aside_folder(""))
        for kind in storage.folders(place)
        if not kind.startswith(".")
        for name in storage.folders(f"{place}{kind}")
    ]


def _refuse_damaged(storage: Storage, key: str, text: bytes) -> None:
    """Raises: ArtifactError, since nothing may be deleted while it is not known what is named."""
    try:
        unsealed(text, None)
    except ValueError as error:
        folder, _, file = key.rpartition("/")
        set_aside = folder.removeprefix(aside_folder(""))
        mend = (
            way_out(storage, folder, file)
            if set_aside == folder
            else f"it goes when the rebuild of {set_aside} is finished; or delete {storage.uri}/{folder}"
        )
        raise ArtifactError(
            f"{storage.uri}/{key} {error}: it was changed or damaged after it was written, so it is not known which "
            f"checkpoints it names, and none is deleted: {mend}"
        ) from error


def surplus(storage: Storage, run: str, rule: Rule) -> list[int]:
    """The committed steps of `run` that the rule lets go."""
    if rule.keep_last is None:
        return []
    reasons = rule.reasons(committed_steps(storage, run), readers_of(storage, run))
    return [step for step, stays_because in reasons.items() if not stays_because]


def delete(storage: Storage, run: str, step: int) -> None:
    """Delete a checkpoint, its manifest first; its rows of metrics stay part of the run's curve."""
    folder = folder_of(run, step)
    if (manifest := storage.find(f"{folder}/manifest.json")) is not None:
        storage.write(f"{folder}/{DELETED}", manifest)
        storage.delete(f"{folder}/manifest.json")
    for key in storage.keys(folder):
        if not key.endswith(f"/{DELETED}"):
            storage.delete(key)


def prune(storage: Storage, run: str, rule: Rule) -> list[int]:
    """Delete what the rule lets go, and finish what an interrupted pass began. Returns: the steps deleted."""
    keys = storage.keys(f"{run}/checkpoints")
    committed, begun = steps_with(keys, "manifest.json"), steps_with(keys, DELETED)
    unfinished = [step for step in begun if step not in committed and _files_left(keys, run, step)]
    let_go = surplus(storage, run, rule)
    for step in [*unfinished, *let_go]:
        delete(storage, run, step)
    return let_go


def _files_left(keys: list[str], run: str, step: int) -> bool:
    return any(key.startswith(f"{folder_of(run, step)}/") and not key.endswith(f"/{DELETED}") for key in keys)
