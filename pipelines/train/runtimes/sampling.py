"""How the next id is chosen from logits: one rule for all runtimes, so that they sample alike.

Legend: V vocabulary.

Enters: logits after the last id, and `Sampling`. Leaves: one id. The order is that of `transformers`: repetition
penalty (arXiv 1909.05858), temperature, top_k, top_p (arXiv 1904.09751), min_p (arXiv 2407.01082). A draw takes one
number of a generator of its own and looks it up in the cumulated probabilities, by id, in float64: the same logits and
seed give the same id, whichever program computed them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipelines.train.runtimes.contract import Sampling


class Sampler:
    """Chooses the ids of one answer.

    Args: ids, of the prompt: the repetition penalty counts them too.
    """

    def __init__(self, sampling: Sampling, ids: Iterable[int]):
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._seen = set(ids)

    def choose(self, logits_V: NDArray[np.float32]) -> int:
        """The next id. Of equal logits the smallest id is the likeliest."""
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            logits_V = self._penalised(logits_V)
        greedy = sampling.temperature == 0
        chosen = int(logits_V.argmax()) if greedy else self._draw(probabilities(logits_V, sampling))
        self._seen.add(chosen)
        return chosen

    def _draw(self, probabilities_V: NDArray[np.float64]) -> int:
        cumulated = probabilities_V.cumsum()
        # the last id that can be drawn, should rounding leave the sum below the number drawn
        last = int(np.flatnonzero(probabilities_V)[-1])
        return min(last, int(cumulated.searchsorted(self._random.random() * cumulated[-1], side="right")))

    def _penalised(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = np.fromiter((i for i in self._seen if i < len(logits_V)), np.int64)
        penalty, logits_V = self._sampling.repetition_penalty, logits_V.copy()
        values = logits_V[seen]
        logits_V[seen] = np.where(values > 0, values / penalty, values * penalty)
        return logits_V


def probabilities(logits_V: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """With what probability each id is drawn, float64 (V,); 0 for those that are cut off. Temperature is above 0."""
    scaled_V = logits_V.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scaled_V):
        scaled_V[scaled_V < np.partition(scaled_V, -sampling.top_k)[-sampling.top_k]] = -np.inf
    probability_V: NDArray[np.float64] = np.exp(scaled_V - scaled_V.max())
    probability_V /= probability_V.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-probability_V, kind="stable")
        before = np.cumsum(probability_V[order]) - probability_V[order]
        # the likeliest always stays, also with top_p=0
        cut = order[1:][before[1:] >= sampling.top_p]
        probability_V[cut] = 0.0
    if sampling.min_p > 0.0:
        probability_V[probability_V < sampling.min_p * probability_V.max()] = 0.0
    probability_V /= probability_V.sum()
    return probability_V
