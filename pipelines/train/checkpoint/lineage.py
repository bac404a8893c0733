"""Where a checkpoint comes from: the run that holds it, the tokens it was trained on, every artifact before it.

Enters: a reference such as `pretrain/demo@step-240`. Leaves: the run and its checkpoint, its `tokens` artifact, and the
chain from corpus to this run with fingerprints, as the claims recorded them: it is read, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.store.ways_out import typed_again
from pipelines.train.checkpoint.committed import Checkpoint, committed_steps, open_checkpoint
from pipelines.train.stages import STAGES, TRAINED

_SHOWN = 8  # of the checkpoints, the last


@dataclass(frozen=True)
class Run:
    """A training run at one of its checkpoints."""

    artifact: Artifact  # of a run still under way: its claim alone
    checkpoint: Checkpoint

    @property
    def kind(self) -> str:
        return self.artifact.folder.split("/")[0]

    @property
    def state(self) -> Mapping[str, Any]:
        """What the checkpoint says of itself: model, schedule, samples, tokens, …"""
        return self.checkpoint.state

    def __str__(self) -> str:
        return f"{self.artifact.folder}@step-{self.checkpoint.step}"


@dataclass(frozen=True)
class Link:
    """One artifact of a lineage."""

    folder: str
    fingerprint: str  # what its reader recorded
    manifest: Mapping[str, Any] | None  # None when the store no longer holds that version
    parent: str | None = None  # the checkpoint a training run began from


def open_run(store: ArtifactStore, reference: str) -> Run:
    """The run and checkpoint named by `reference`; a finished run without `@` means its last step.

    Raises: ConfigError for a kind that is not trained; ArtifactError or CheckpointError naming what exists.
    """
    parsed = Reference.parse(reference)
    if parsed.kind not in TRAINED:
        raise ConfigError(
            f"parent={reference} is of kind {parsed.kind}; expected a trained model: {', '.join(TRAINED)}"
        )
    artifact = store.find(parsed.folder)
    if artifact is None:
        committed = committed_steps(store.storage, parsed.folder)
        if committed and parsed.at is None:
            raise ArtifactError(_unfinished(store, parsed.folder, committed))
        if not committed:
            artifact = store.get(reference)  # raises, and says what there is
        else:
            artifact = Artifact(store.storage, parsed.folder, store.claim(parsed.folder))
    return Run(artifact, open_checkpoint(store.storage, parsed.folder, named_step(artifact, parsed.at)))


def _unfinished(store: ArtifactStore, folder: str, committed: Sequence[int]) -> str:
    """What is said of a run under way that was named without a step."""
    claim = store.claim(folder)
    shown = ("…, " if len(committed) > _SHOWN else "") + ", ".join(map(str, committed[-_SHOWN:]))
    at = "a checkpoint at step" if len(committed) == 1 else "checkpoints at steps"
    return (
        f"{folder} in {store.uri} is not finished, and has {at} {shown}: name {folder}@latest or "
        f"{folder}@step-{committed[-1]} to take it as it stands"
        + (f", or finish it: {typed_again(folder, claim, store.uri)}" if "command" in claim else ", or finish it")
    )


def named_step(artifact: Artifact, at: str | None) -> str | None:
    """`step-N` or `latest`; without either, the last step of a finished run, also while that is trained further."""
    if at is None and "steps" in artifact.manifest.get("statistics", {}):
        return f"step-{artifact.manifest['statistics']['steps']}"
    return at


def tokens_of(store: ArtifactStore, run: Run) -> Artifact:
    """The `tokens` artifact that a run was trained on.

    Raises: ArtifactError when it is gone, or was made anew since: another tokenizer would make every number wrong.
    """
    segments = run.checkpoint.state["segments"]
    identity = run.artifact.manifest["identity"]
    if segments:
        reference, expected = segments[-1]["plan"]["tokens"], segments[-1]["plan"]["tokens_fingerprint"]
    else:  # preference pairs are read from the tokens directly
        reference = Reference.parse(identity["config"]["data"]).folder
        expected = identity["inputs"][reference]
    tokens = store.get(reference)
    if tokens.fingerprint != expected:
        raise ArtifactError(
            f"{run} was trained on another version of {reference} (fingerprint {expected}, now {tokens.fingerprint}): "
            "train it again on what is there, or name the version it knows with tokens=tokens/<name>"
        )
    return tokens


def tokenizer_of(tokens: Artifact) -> str | None:
    """Checksum of the tokenizer that made a tokens artifact; None for ids that come without one."""
    checksum: str | None = tokens.manifest["files"].get("tokenizer/tokenizer.json", {}).get("sha256")
    return checksum


def trained_length(store: ArtifactStore, run: Run) -> int:
    """Tokens per window of the run's trunk or of the last branch off it; its own where the store has neither."""
    length = int(run.checkpoint.state["sequence_length"])
    for link in lineage(store, run.artifact):  # parents before children
        stage = STAGES.get(link.folder.split("/")[0])
        if stage is not None and stage.starts != "initialise" and link.manifest is not None:
            length = int(link.manifest["identity"]["config"]["batch"]["sequence_length"])
    return length


def lineage(store: ArtifactStore, artifact: Artifact) -> list[Link]:
    """Every artifact that `artifact` was made from, each before those that read it, itself last."""
    links: dict[str, Link] = {}

    def visit(folder: str, fingerprint: str, stored: Mapping[str, Any] | None) -> None:
        if folder in links:
            return
        manifest = stored if stored is not None and stored["fingerprint"] == fingerprint else None
        identity = manifest["identity"] if manifest else {"inputs": {}, "config": {}}
        for name, recorded in identity["inputs"].items():
            visit(name, recorded, _manifest(store, name))
        links[folder] = Link(folder, fingerprint, manifest, identity["config"].get("parent"))

    visit(artifact.folder, artifact.fingerprint, artifact.manifest)
    return list(links.values())


def _manifest(store: ArtifactStore, folder: str) -> dict[str, Any] | None:
    if (artifact := store.find(folder)) is not None:
        return artifact.manifest
    return store.claim(folder) if store.storage.exists(f"{folder}/claim.json") else None
