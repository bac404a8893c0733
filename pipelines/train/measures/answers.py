"""Bits per byte of held-out conversations, of the assistant's words alone: `heldout` for what SFT teaches.

A measure of its own beside that of documents, so that a study can tell what data does to one and to the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.config import config_class
from pipelines.train.measures.heldout import HeldoutSettings, open_heldout
from pipelines.train.measures.measure import Look, Measure

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec


@config_class
class AnswersSettings(HeldoutSettings):
    """As of `heldout`; null of `sources` is every source of conversations."""


def open_answers(settings: AnswersSettings, spec: TrainSpec, store: ArtifactStore) -> Look:
    """Raises: ConfigError when the tokens hold no conversations out."""
    return open_heldout(settings, spec, store, "conversations")


ANSWERS = Measure(Settings=AnswersSettings, open=open_answers, unit="bits per byte")
