"""Objectives against NumPy written from the formulas."""

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import Batch
from pipelines.train.network.losses import row_logps
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.dpo import Dpo
from pipelines.train.objectives.next_token import NextToken

CONFIG = ModelConfig(
    layers=1, d_model=16, d_ff=40, heads=2, kv_heads=1, vocabulary=30, max_positions=32, dim_model_base=8
)


def batch(rows: int = 4, reference: bool = False) -> Batch:
    random = torch.Generator().manual_seed(5)
    return Batch.shifted(
        tokens=torch.randint(0, 30, (rows, 13), generator=random),
        positions=torch.arange(12).repeat(rows, 1),
        loss_mask=(torch.rand(rows, 12, generator=random) > 0.4).float(),
        sources=torch.arange(rows) % 2,
        sidecars={"reference": -30 + torch.randn(rows, generator=random)} if reference else {},
    )


def numpy_logps(model: Transformer, data: Batch) -> np.ndarray:
    logits = model.logits(model(data)).detach().double().numpy()
    logits -= logits.max(-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, data.targets.numpy()[..., None], -1)[..., 0]
    return chosen * data.loss_mask.numpy()


def test_language_modelling_sums_over_the_tokens_that_count() -> None:
    model, data = Transformer(CONFIG).initialise(0), batch()
    loss, details = NextToken().sums(model, model(data), data)
    expected = -numpy_logps(model, data)
    assert loss.item() == pytest.approx(expected.sum(), rel=1e-5)
    assert details["row_loss"].numpy() == pytest.approx(expected.sum(1), rel=1e-5)
    assert NextToken().count(data).item() == data.loss_mask.sum().item()


def test_preference_loss_against_numpy() -> None:
    model, data, beta = Transformer(CONFIG).initialise(0), batch(reference=True), 0.3
    objective = Dpo(Dpo.Settings(beta=beta))
    loss, details = objective.sums(model, model(data), data)
    policy, reference = numpy_logps(model, data).sum(1), data.sidecars["reference"].double().numpy()
    margins = beta * ((policy[0::2] - policy[1::2]) - (reference[0::2] - reference[1::2]))
    assert loss.item() == pytest.approx(np.log1p(np.exp(-margins)).sum(), rel=1e-4)
    assert details["accuracy"].item() == (margins > 0).sum()
    assert details["margin"].item() == pytest.approx(margins.sum(), rel=1e-3)
    assert objective.count(data).item() == 2


def test_a_policy_equal_to_its_reference_loses_log_two() -> None:
    assert Dpo(Dpo.Settings(beta=0.7)).losses(torch.zeros(2)).numpy() == pytest.approx(np.log(2), rel=1e-6)


def test_masked_targets_do_not_matter() -> None:
    model, data = Transformer(CONFIG).initialise(0), batch()
    hidden = model(data)
    before = row_logps(model, hidden, data)
    targets = data.targets.clone()
    targets[data.loss_mask == 0] = 7
    changed = dataclasses.replace(data, targets=targets)
    assert torch.allclose(before, row_logps(model, hidden, changed))
