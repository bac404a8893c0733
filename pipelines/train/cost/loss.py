"""What a format costs in bits per byte: its model and the checkpoint's own on the same held-out text.

Enters: the checkpoint, and the delivered folders as their formats read them back. Leaves: for each a `Lost`: bits per
byte, and how much more that is than the checkpoint's, with a standard error.

    lost of a source      Σ (nats of the format - nats of the checkpoint) / (ln 2 · bytes of the text)
    its standard error    s · √n / (ln 2 · bytes), s of the n differences by window

Windows are paired: what makes a text hard is in both numbers and falls out of their difference, so far less text tells
two formats apart than two unlike models. Sources count alike, as in an evaluation (`tasks/text.py`). Documents are
read, or conversations where there are none. One model is in memory at a time, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Count, config_class
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint import whole_model
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.cost.subjects import Subject
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.network.untied import untied_model
from pipelines.train.tasks.scoring import token_nats
from pipelines.train.tasks.text import HeldoutText, bytes_of_ids, heldout_sources, read_text


@config_class
class TextConfig:
    """How much held-out text every format is measured on."""

    max_tokens: Count = 20_000  # of each source


@dataclass(frozen=True)
class Lost:
    """What one format costs."""

    bits_per_byte: float | None = None  # mean of sources
    lost: float | None = None  # more than the checkpoint's
    error: float | None = None  # standard error of `lost`
    tokens: int = 0  # predicted
    unmeasured: str = ""  # the reason; "": it was measured

    @property
    def told(self) -> bool:
        """Whether the difference is more than its noise: beyond two standard errors."""
        return self.lost is not None and self.error is not None and abs(self.lost) > 2 * self.error


Nats = Mapping[str, NDArray[np.float64]]  # source -> nats of each window


def heldout_texts(tokens: Artifact, length: int, settings: TextConfig, seed: int = 0) -> dict[str, HeldoutText]:
    """The windows of every source that are read, the same for all formats. Args: length, T, in tokens."""
    kinds = {name: tokens.statistics["sources"][name]["kind"] for name in heldout_sources(tokens)}
    documents = [name for name, kind in kinds.items() if kind == "documents"]
    opened = open_sources(tokens, "heldout", documents or list(kinds), FOUNDING)
    id_bytes = bytes_of_ids(tokens)
    texts = {name: read_text(source, length, settings.max_tokens, seed, id_bytes) for name, source in opened.items()}
    return {name: text for name, text in texts.items() if text is not None and text.has_bytes and text.bytes}


def nats_of(model: Transformer, texts: Mapping[str, HeldoutText]) -> Nats:
    """Nats of each window of each source."""
    return {name: token_nats(model, text.rows)[0] for name, text in texts.items()}


def measure_lost(
    run: Run, tokens: Artifact, subjects: Iterable[Subject], length: int, settings: TextConfig,
    tell: Callable[[str], None] = lambda words: None,
) -> tuple[float | None, list[Lost]]:  # fmt: skip
    """Bits per byte of the checkpoint, and what each format costs, in their order."""
    texts = heldout_texts(tokens, length, settings)
    listed = list(subjects)
    if not texts:
        reason = f"{tokens.folder} holds out no text whose bytes are known"
        return None, [Lost(unmeasured=reason) for _ in listed]
    architecture = ModelConfig(**run.checkpoint.state["model"])
    tell(f"read {sum(len(text.rows) for text in texts.values()):,} windows with {run}")
    full = nats_of(whole_model(run.checkpoint), texts)
    told = []
    for subject in listed:
        tell(f"read them with {subject.name}")
        told.append(_lost_of(subject, architecture, texts, full))
    return bits_per_byte(full, texts, architecture.vocabulary), told


def _lost_of(subject: Subject, architecture: ModelConfig, texts: Mapping[str, HeldoutText], full: Nats) -> Lost:
    if subject.format is None or subject.format.read is None:
        return Lost(unmeasured=f"nobody reads the format {subject.format_name} back")
    try:
        model = untied_model(subject.format.read(subject.folder()).weights(), architecture)
    except TrunklineError as refused:
        return Lost(unmeasured=str(refused))
    own = nats_of(model, texts)
    difference, error = paired(own, full, texts)
    bits = bits_per_byte(own, texts, architecture.vocabulary)
    predicted = sum(int(counted.sum()) for text in texts.values() for _, counted in text.rows)
    return Lost(bits, difference, error, predicted)


def bits_per_byte(nats: Nats, texts: Mapping[str, HeldoutText], vocabulary: int) -> float:
    """The plain mean over sources."""
    bits = [text.bits_per_byte(float(nats[name].sum()), vocabulary) for name, text in texts.items()]
    return sum(value for value in bits if value is not None) / len(bits)


def paired(own: Nats, full: Nats, texts: Mapping[str, HeldoutText]) -> tuple[float, float | None]:
    """What is lost, mean of sources, and its standard error; None where a source has a single window."""
    lost, squares = [], []
    for name, text in texts.items():
        differences, scale = own[name] - full[name], math.log(2) * text.bytes
        lost.append(float(differences.sum()) / scale)
        count = len(differences)
        squares.append((float(differences.std(ddof=1)) * math.sqrt(count) / scale) ** 2 if count > 1 else math.nan)
    error = math.sqrt(sum(squares)) / len(squares)
    return sum(lost) / len(lost), None if math.isnan(error) else error
