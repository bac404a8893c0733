"""The norm of all weights: a toy measure, added by a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.config import config_class
from pipelines.train.measures.measure import Look, Measure, MeasureSettings

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine


@config_class
class WeightNormSettings(MeasureSettings):
    """Nothing of its own."""


def open_norm(settings: WeightNormSettings, spec: TrainSpec, store: ArtifactStore) -> Look:
    """See `Measure`."""

    def look(engine: Engine, step: int) -> Mapping[str, float]:
        weights = engine.deepspeed.module.parameters()
        return {"norm": float(sum(p.detach().double().square().sum() for p in weights) ** 0.5)}

    return look


WEIGHT_NORM = Measure(Settings=WeightNormSettings, open=open_norm, unit="")
