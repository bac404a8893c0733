"""Drops documents that shout: too many of their letters are capitals."""

from __future__ import annotations

from typing import Literal

from pipelines.config import Share, config_class
from pipelines.data.cleaning.batch import Batch, FurtherPass, FurtherSettings


@config_class
class Settings(FurtherSettings):
    """How loud is too loud."""

    name: Literal["shouting"] = "shouting"
    max_capitals: Share = 0.5  # of the letters


def run(batch: Batch, settings: Settings) -> None:
    """Drop as `quality.shouting`."""
    reasons: list[str | None] = []
    for text in batch.living:
        letters = [character for character in text if character.isalpha()]
        loud = sum(character.isupper() for character in letters) > settings.max_capitals * len(letters)
        reasons.append("quality.shouting" if loud else None)
    batch.drop(reasons)


PASS = FurtherPass(Settings, run)
