"""The weights of trials: where a trial's settings hold them, in which parts they are given, which are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.train.trials.result import TrialResult

Weights = dict[str, float]
_THOUSAND = 1000  # parts that weights are given in: finer is within the noise, and nobody would type it


def weights_of(result: TrialResult) -> Weights | None:
    """The weights that a trial was given."""
    key = weights_key(result)
    return None if key is None else {str(source): float(share) for source, share in result.settings[key].items()}


def in_thousandths(weights: Mapping[str, float]) -> Weights:
    """Weights that sum to 1 in whole thousandths: what is left over goes to those that lost most by rounding down."""
    exact = {source: share * _THOUSAND / sum(weights.values()) for source, share in weights.items()}
    parts = {source: int(share) for source, share in exact.items()}
    by_loss = sorted(exact, key=lambda source: parts[source] - exact[source])
    for source in by_loss[: _THOUSAND - sum(parts.values())]:
        parts[source] += 1
    return {source: part / _THOUSAND for source, part in parts.items()}


def weights_key(result: TrialResult) -> str | None:
    """The setting that holds weights."""
    return next((name for name, value in result.settings.items() if isinstance(value, Mapping)), None)


def per_mixture(trials: Sequence[TrialResult], losses: Sequence[float]) -> tuple[list[Weights], list[float]]:
    """Each mixture once, with its mean over seeds after what a seed does to all mixtures is taken off."""
    of_seed: dict[int, list[float]] = {}
    for trial, loss in zip(trials, losses, strict=True):
        of_seed.setdefault(trial.seed, []).append(loss)
    grand = float(np.mean(losses))
    shift = {seed: float(np.mean(values)) - grand for seed, values in of_seed.items()}
    by_mixture: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for trial, loss in zip(trials, losses, strict=True):
        weights = weights_of(trial)
        assert weights is not None
        by_mixture.setdefault(tuple(sorted(weights.items())), []).append(loss - shift[trial.seed])
    return [dict(weights) for weights in by_mixture], [float(np.mean(values)) for values in by_mixture.values()]


def same_weights(one: Weights, other: Weights) -> bool:
    return all(abs(one.get(source, 0.0) - other.get(source, 0.0)) < 0.5 / _THOUSAND for source in {*one, *other})
