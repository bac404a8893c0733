"""The speed of a finished run, for a plan of another: tokens a second of one worker.

Enters: a reference to a run in a store. Leaves: its speed, mean over all steps, and where that is from.
A speed carries over to runs of the same model, windows and micro-batch on the same devices; nobody checks that here.
"""

from __future__ import annotations

from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore


def measured_speed(store: ArtifactStore, reference: str) -> tuple[float, str]:
    """Tokens a second of a worker, and where that is from. Raises: ConfigError or ArtifactError."""
    run = store.get(reference.split("@")[0])
    statistics = run.statistics
    if not {"stage_tokens", "train_seconds", "workers"} <= set(statistics):
        raise ConfigError(
            f"measured={reference} is no training run, so nobody measured its speed; expected e.g. pretrain/demo"
        )
    speed = statistics["stage_tokens"] / statistics["train_seconds"] / statistics["workers"]
    return speed, (
        f"{speed:,.5g} tokens/s a worker, measured: {run.folder} ({statistics['stage_tokens']:,} tokens in "
        f"{statistics['train_seconds']:,.5g} s on {statistics['workers']} workers)"
    )
