"""The model against the formulas in float64 NumPy (`tests/numpy_model.py`): logits, loss and every gradient.

An error is ‖found − expected‖ / ‖expected‖. Accepted are 1e-6 in float32 (measured over three seeds: 3e-7 for logits,
6e-7 for the worst gradient; a single component is off by up to 1e-6 of the largest) and 1e-12 in float64 (measured:
1e-15), where no fault of a formula can pass for rounding.
"""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from tests.numpy_model import NumpyModel

# every constant differs from its default, so that one left out or taken from elsewhere shows
GROUPED = ModelConfig(
    layers=3, d_model=48, d_ff=80, heads=6, kv_heads=2, vocabulary=97, max_positions=256, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=3e-5,
)  # fmt: skip
CONFIGS = {
    "grouped heads": GROUPED,
    "each head its own keys": ModelConfig(**{**GROUPED.__dict__, "kv_heads": 6}),
    "documents see each other": ModelConfig(**{**GROUPED.__dict__, "document_masking": False}),
    "the recipe's constants, wide and deep": ModelConfig(
        layers=8, d_model=128, d_ff=320, heads=8, kv_heads=8, vocabulary=97, max_positions=256, dim_model_base=64
    ),
}
DOCUMENTS = [[5, 1, 134], [140], [103, 37]]  # tokens of the documents in each row
# how a model is computed must not matter; compiled blocks are compared with these in test_attention.py
COMPUTE = {
    "plain": (ComputeConfig(attention="dense", loss_chunk=10_000), None),
    "per document, loss in chunks": (ComputeConfig(attention="blocks", loss_chunk=64), None),
    "recomputed": (ComputeConfig(attention="blocks"), BlockPolicy(all=1, products=1, input=1)),
}


def batch() -> Batch:
    """Three rows of several documents; a third of the targets does not count."""
    random = torch.Generator().manual_seed(7)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in DOCUMENTS])
    rows, length = positions.shape
    return Batch.shifted(
        tokens=torch.randint(0, 97, (rows, length + 1), generator=random),
        positions=positions,
        loss_mask=(torch.rand(rows, length, generator=random) > 0.3).float(),
        sources=torch.zeros(rows, dtype=torch.int64),
    )


def network(name: str) -> Transformer:
    """Weights from seed 0, the norms' gains not 1 as training leaves them."""
    model, random = Transformer(CONFIGS[name]).initialise(0), torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return model


@functools.cache
def expected(name: str) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    """Logits, loss sum and gradients by NumPy."""
    data, weights = batch(), {key: value.numpy() for key, value in network(name).state_dict().items()}
    model, tokens, positions = NumpyModel(CONFIGS[name], weights), data.inputs.numpy(), data.positions.numpy()
    loss, gradients = model.gradients(tokens, positions, data.targets.numpy(), data.loss_mask.double().numpy())
    return model.logits(tokens, positions), loss, gradients


def errors(found: dict[str, torch.Tensor], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Per array the relative error in norm."""
    assert set(found) == set(wanted)
    return {
        name: float(np.linalg.norm(value.detach().double().numpy() - wanted[name]) / np.linalg.norm(wanted[name]))
        for name, value in found.items()
    }


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        *((name, "plain") for name in CONFIGS),
        *(("grouped heads", compute) for compute in COMPUTE if compute != "plain"),
    ],
)
def test_logits_and_gradients_in_float32(name: str, compute: str) -> None:
    model, data = network(name).prepare(*COMPUTE[compute]), batch()
    hidden = model(data)
    loss, _ = NextToken().sums(model, hidden, data)
    loss.backward()
    logits, loss_sum, gradients = expected(name)
    found = {"logits": model.logits(hidden), **{key: value.grad for key, value in model.named_parameters()}}
    for key, error in errors(found, {"logits": logits, **gradients}).items():
        assert error < 1e-6, key
    assert loss.item() == pytest.approx(loss_sum, rel=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_in_float64(name: str) -> None:
    model, data = network(name).double(), batch()
    logits = model.logits(model(data))
    losses = F.cross_entropy(logits.transpose(1, 2), data.targets, reduction="none")  # the objective's is float32
    (losses * data.loss_mask).sum().backward()
    found = {"logits": logits, **{key: value.grad for key, value in model.named_parameters()}}
    wanted_logits, _, gradients = expected(name)
    for key, error in errors(found, {"logits": wanted_logits, **gradients}).items():
        assert error < 1e-12, key
