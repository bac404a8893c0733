"""Which delivered models are put side by side: those that are named, or all that the store has of one checkpoint.

Enters: references (`export/demo`, `quantize/demo`), or that of a checkpoint. Leaves: a `Subject` for each, with the
checkpoint that it was made from; refused before any work: what is no delivered model, or of several checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.display.progress import say
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.checkpoint.lineage import Run, open_run
from pipelines.train.formats import FORMATS
from pipelines.train.formats.contract import Format
from pipelines.train.formats.parents import open_source
from pipelines.train.runtimes import RUNTIMES

KINDS = ("export", "quantize")
_QUANTIZED = "compressed-tensors"  # the format in which a quantized model lies
_WEIGHTS = (".safetensors", ".gguf", ".bin")
_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_GGUF_EMBEDDING, _GGUF_OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class Subject:
    """One delivered model."""

    artifact: Artifact
    run: Run  # that it was made from
    format_name: str
    dtype: str  # how its weights are stored

    @property
    def name(self) -> str:
        """As a reference: export/demo."""
        return self.artifact.folder

    @property
    def format(self) -> Format | None:
        """Its row of FORMATS; None where this version has none."""
        return FORMATS.get(self.format_name)

    @property
    def prefix(self) -> str:
        """The folder inside the artifact that holds the model: "" or "model/"."""
        return "model/" if self.artifact.folder.startswith("quantize/") else ""

    @property
    def files(self) -> list[str]:
        """Its files, with their path inside the artifact."""
        return [name for name in self.artifact.manifest["files"] if name.startswith(self.prefix)]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the files that hold weights: what has to be carried to a device."""
        entries = self.artifact.manifest["files"]
        return sum(entries[name]["bytes"] for name in self.files if name.endswith(_WEIGHTS))

    def folder(self) -> Path:
        """A local folder with all files, each compared with its checksum. Raises: ArtifactError for a damaged one."""
        paths = {name: self.artifact.path(name) for name in self.files}
        top = [path for name, path in paths.items() if PurePosixPath(name).parent == PurePosixPath(self.prefix)]
        return top[0].parent

    def own_record(self) -> dict[str, float]:
        """What its maker measured of it: KL to the full model, likeliest ids that agree, bits per byte lost."""
        told, keys = self.artifact.statistics, ("kl", "top1", "lost_bits_per_byte")
        return {key: float(told[key]) for key in keys if isinstance(told.get(key), (int, float))}


@dataclass(frozen=True)
class Way:
    """A runtime that loads a model, or why it cannot here."""

    runtime: str  # a row of RUNTIMES; "": none loads this format
    path: Path | None
    missing: str = ""  # the reason


def ways(subject: Subject, folder: Path | None) -> list[Way]:
    """Every runtime that the subject's format names; one without a runtime where it names none.

    Args: folder, of the model's files; None: they are not here yet, as in a dry run.
    """
    if subject.format is None:
        return [Way("", None, f"this version knows no format {subject.format_name}")]
    if not subject.format.runtimes:
        return [Way("", None, f"no runtime of this project loads the format {subject.format_name}")]
    told = []
    for name in subject.format.runtimes:
        if name not in RUNTIMES:
            told.append(Way(name, None, f"this version has no runtime {name}"))
        elif line := RUNTIMES[name].missing():
            told.append(Way(name, None, f"{name} is not installed: {line}"))
        elif folder is None:
            told.append(Way(name, None))
        else:
            candidates = [folder, *sorted(folder.glob("*.gguf"))]
            path = next((path for path in candidates if RUNTIMES[name].takes(path)), None)
            told.append(Way(name, path, "" if path else f"{name} takes nothing of {subject.name}"))
    return told


def read_bytes(folder: Path) -> int:
    """Bytes of weights that decoding one token reads: all but the embedding, of which it reads a row.

    A tied embedding is the output matrix as well, and is read whole.
    """
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        sizes.update(_safetensors_sizes(path))
    for path in sorted(folder.glob("*.gguf")):
        sizes.update(_gguf_sizes(path))
    total = sum(sizes.values())
    for embedding, output in ((_EMBEDDING, _OUTPUT), (_GGUF_EMBEDDING, _GGUF_OUTPUT)):
        if embedding in sizes and output in sizes:
            total -= sizes[embedding]
    return total


def _safetensors_sizes(path: Path) -> dict[str, int]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: entry["data_offsets"][1] - entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _gguf_sizes(path: Path) -> dict[str, int]:
    from gguf import GGUFReader

    return {str(tensor.name): int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}


# ── Which there are ───────────────────────────────────────────────────────────────────────────────────────────────────


def named_subjects(store: ArtifactStore, references: Sequence[str]) -> list[Subject]:
    """The models that are named. Raises: ConfigError or ArtifactError for what is no model, or of two checkpoints."""
    if twice := sorted({reference for reference in references if references.count(reference) > 1}):
        raise ConfigError(f"models names {', '.join(twice)} twice: name each once")
    subjects = [subject_of(store, reference) for reference in references]
    checkpoints = {str(subject.run): subject.name for subject in subjects}
    if len(checkpoints) > 1:
        listed = "; ".join(f"{name} is of {run}" for run, name in checkpoints.items())
        raise ConfigError(f"models are of several checkpoints, and a page compares the formats of one: {listed}")
    return subjects


def subjects_of(store: ArtifactStore, parent: str) -> list[Subject]:
    """Every finished export and quantization of a checkpoint.

    Raises: ConfigError where the checkpoint is none, or none of its formats is there; an artifact of an older version
        of the checkpoint is passed over, and named.
    """
    run = open_run(store, parent)
    made = []
    for folder in (f"{kind}/{name}" for kind in KINDS for name in store.storage.folders(kind)):
        artifact = store.find(folder)
        if artifact is None or _made_of(store, artifact) != str(run):
            continue
        try:
            made.append(subject_of(store, folder))
        except ArtifactError as error:
            say(f"   {folder} is passed over: {error}")
    if not made:
        raise ConfigError(
            f"{store.uri} has no export and no quantization of {run}: make one with "
            f"`python -m workflows.export parent={parent} name=…` or `python -m workflows.quantize parent={parent} …`"
        )
    return made


def subject_of(store: ArtifactStore, reference: str) -> Subject:
    """The delivered model that a reference names. Raises: ConfigError for another kind; ArtifactError for none."""
    parsed = Reference.parse(reference)
    if parsed.kind not in KINDS:
        raise ConfigError(
            f"models: {reference} is of kind {parsed.kind}, which nobody else's program loads; expected "
            f"{' or '.join(f'{kind}/<name>' for kind in KINDS)}: `python -m workflows.export parent={reference} "
            "name=…` makes one"
        )
    artifact = store.get(reference)
    source = open_source(store, reference if parsed.kind == "quantize" else _parent(artifact))
    recorded = artifact.manifest["identity"]["inputs"]
    for made_of in (source.run.artifact, source.quantized):
        if made_of is not None and recorded.get(made_of.folder, made_of.fingerprint) != made_of.fingerprint:
            raise ArtifactError(
                f"{reference} was made of another version of {made_of.folder} (fingerprint {recorded[made_of.folder]}, "
                f"now {made_of.fingerprint}): make it anew with on_change=rebuild"
            )
    told = artifact.config
    format_name = _QUANTIZED if parsed.kind == "quantize" else str(told.get("format", "llama"))
    return Subject(artifact, source.run, format_name, _dtype(parsed.kind, told))


def _dtype(kind: str, told: dict[str, Any]) -> str:
    """How weights are stored, in a word or two."""
    if kind == "export":
        return str(told.get("dtype"))
    groups = "" if told.get("group_size") is None else f", groups of {told['group_size']}"
    return f"{told.get('method', 'quantized')}, {told.get('bits', '?')} bits{groups}"


def _parent(artifact: Artifact) -> str:
    """What it was made of, as its maker recorded it."""
    return str(artifact.config.get("parent", artifact.statistics.get("parent", "")))


def _made_of(store: ArtifactStore, artifact: Artifact) -> str:
    """The checkpoint, by way of the quantized model where it was made of one."""
    parent = _parent(artifact)
    if parent.startswith("quantize/"):
        quantized = store.find(Reference.parse(parent).folder)
        return "" if quantized is None else _parent(quantized)
    return parent


def inputs_of(subjects: Iterable[Subject]) -> list[Artifact]:
    """The artifacts that are read: the models and their checkpoint's run."""
    listed = list(subjects)
    return [*(subject.artifact for subject in listed), listed[0].run.artifact]
