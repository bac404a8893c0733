"""Noise scale against a problem whose answer is known, attention logits against the dense product."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.run.monitor import NoiseScale, attention_logit_max, noise_estimates
from tests.unit.test_memory import MODEL, allocated, batch


def test_noise_scale_of_a_problem_with_a_known_answer() -> None:
    """Gradients G + noise/√n with tr Σ = 1000 · 0.3² = 90 and |G|² = 4: the noise scale is 22.5."""
    rng = np.random.default_rng(0)
    true = np.full(1000, math.sqrt(4 / 1000))
    counts = np.array([3, 5, 8, 16])  # tokens of the micro-batches: unequal, as masks make them
    smoothed, estimates = NoiseScale(), []
    for _ in range(600):
        means = true + 0.3 * rng.normal(size=(4, 1000)) / np.sqrt(counts)[:, None]
        whole = (counts[:, None] * means).sum(axis=0) / counts.sum()
        small = (means**2).sum(axis=1).mean()
        trace, square = noise_estimates(small, (1 / counts).mean(), (whole**2).sum(), 1 / counts.sum())
        estimates.append((trace, square))
        last = smoothed.add({"gradient_trace": trace, "gradient_square": square})
    assert np.mean(estimates, axis=0) == pytest.approx([90, 4], rel=0.02)
    assert last == pytest.approx(22.5, rel=0.1)


def test_noise_scale_says_nothing_before_it_knows() -> None:
    scale = NoiseScale()
    assert scale.add({"loss": 1.0}) is None
    assert scale.add({"gradient_trace": 5.0, "gradient_square": -1.0}) is None
    assert scale.add({"gradient_trace": 5.0, "gradient_square": 3.0}) == pytest.approx((0.9 * 5 + 5) / (0.9 * -1 + 3))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("numbers", [10 * 10, 3 * 10, 1, 10**6])  # a head at a time, 3 queries, one query, all at once
def test_attention_logits_equal_the_dense_product(masked: bool, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.train.run.monitor._LOGITS_BYTES", 4 * numbers)
    torch.manual_seed(0)
    q_THK, k_TGK = torch.randn(10, 4, 6), torch.randn(10, 2, 6)
    k_TGK[9] *= 100  # seen by the last query alone
    k_TGK[1] *= 20  # in the first document
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5])
    expected = max(
        float(q_THK[i, h] @ k_TGK[j, h // 2]) / math.sqrt(6)
        for h in range(4)
        for i in range(10)
        for j in range(i + 1)
        if not masked or (i < 4) == (j < 4)
    )
    assert float(attention_logit_max(q_THK, k_TGK, positions, masked)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("keep", ["all", "products", "input"])
def test_looking_at_attention_keeps_nothing_for_the_backward_pass(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's logits are gigabytes in a large model; a block that keeps its products once kept them as well."""
    monkeypatch.setattr("pipelines.train.run.monitor._LOGITS_BYTES", 4 * 64 * 256)
    model = Transformer(MODEL).initialise(0)
    model.prepare(ComputeConfig(compile="off"), BlockPolicy(**{"all": 0, keep: MODEL.layers}))
    one = batch(2, 256)
    left, peaks = [], []

    def look(q: torch.Tensor, k: torch.Tensor) -> None:
        attention_logit_max(q[0], k[0], one.positions[0], True)

    for watched in (False, True):
        for layer in model.layers:
            block: Any = layer
            block.probe = look if watched else None
        model(one)
        gc.collect()
        _, now, peak = allocated(lambda: model(one))
        left.append(now)
        peaks.append(peak)
    assert left[1] == pytest.approx(left[0], rel=0.01)
    row = 4 * (MODEL.d_model * 2 * 256 + 64 * 256 * 2)  # its queries and keys in float32, a chunk of logits, its mask
    assert peaks[1] <= peaks[0] + 1.5 * row
