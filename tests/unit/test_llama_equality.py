"""The model against `LlamaForCausalLM` of transformers with MiniCPM's scalings folded into its weights by the export's
`fold`.

Gradients: the loss is differentiated through Llama *and* the folding, so a weight folded as w' = c·w gets c·g', and the
embedding the sum of what it gets as input and as output matrix. Error ‖found − expected‖ / ‖expected‖; what is accepted
is 1e-6, both sides in float32.
"""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer

COMMON = {
    "layers": 3, "d_model": 48, "d_ff": 80, "heads": 6, "vocabulary": 97, "max_positions": 64, "scale_emb": 9.0,
    "scale_depth": 1.1, "dim_model_base": 16, "rope_base": 5000.0, "norm_eps": 3e-5,
}  # fmt: skip


@pytest.mark.parametrize("kv_heads", [2, 6])
@pytest.mark.parametrize("documents", [[48], [5, 1, 17, 25]], ids=["one document", "four documents"])
def test_logits_and_every_gradient(kv_heads: int, documents: list[int]) -> None:
    config = ModelConfig(**COMMON, kv_heads=kv_heads)
    ours, random = Transformer(config).initialise(0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        ours.norm.weight.add_(torch.randn(48, generator=random), alpha=0.2)
    positions = torch.cat([torch.arange(n) for n in documents])[None]
    tokens, targets = torch.randint(0, 97, (2, 1, 48), generator=random)

    found = ours.logits(ours(ModelInput(inputs=tokens, positions=positions)))
    found_gradients = torch.autograd.grad(summed(found, targets), list(ours.parameters()))

    llama = LlamaForCausalLM(LlamaConfig.from_dict(llama_config(config, "float32")))
    weights = {name: value.detach().requires_grad_() for name, value in ours.named_parameters()}
    folded = dict(fold(weights.items(), config))
    assert set(folded) == set(dict(llama.named_parameters()))
    # without a cache, transformers too takes positions that start anew for documents
    arguments = {"position_ids": positions, "use_cache": False}
    expected = torch.func.functional_call(llama, folded, (tokens,), arguments).logits
    expected_gradients = torch.autograd.grad(summed(expected, targets), list(weights.values()))

    assert error(found, expected) < 1e-6
    for name, one, other in zip(weights, found_gradients, expected_gradients, strict=True):
        assert error(one, other) < 1e-6, name


def summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over all targets."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return ((found - expected).norm() / expected.norm()).item()
