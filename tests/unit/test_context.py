"""Longer windows at a branch: known answers of the scaling, and the exported model at positions its parent never
saw.
"""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.errors import ConfigError
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.plan import context

PARENT = ModelConfig(
    layers=2, d_model=64, d_ff=96, heads=4, kv_heads=2, vocabulary=97, max_positions=64, dim_model_base=32
)


def test_ntk_slows_the_slowest_frequency_by_the_factor_and_leaves_the_fastest() -> None:
    d = 64
    base = context.ntk_base(10_000, 8, d)

    def frequency(of: float, pair: int) -> float:
        return float(of ** (-2 * pair / d))

    assert frequency(base, d // 2 - 1) == pytest.approx(frequency(10_000, d // 2 - 1) / 8)
    assert frequency(base, 0) == frequency(10_000, 0) == 1
    assert base == pytest.approx(85_545, rel=1e-4)  # 10,000 · 8^(64/62)


def test_positions_alone_change() -> None:
    longer = context.extend(PARENT, 64, 256, "ntk")
    assert (longer.max_positions, longer.rope_base) == (256, pytest.approx(10_000 * 4 ** (16 / 14)))
    assert context.extend(PARENT, 32, 64, "keep") == PARENT
    assert context.extend(PARENT, 64, 256, 500_000.0).rope_base == 500_000
    assert "positions from 64 on are new" in context.describe(PARENT, 64, context.extend(PARENT, 64, 256, "keep"), 256)
    with pytest.raises(ConfigError, match="rope_base=ntk with batch.sequence_length=64"):
        context.extend(PARENT, 64, 64, "ntk")


def test_the_export_of_a_longer_model_agrees_at_every_position() -> None:
    longer = context.extend(PARENT, 64, 256, "ntk")
    ours = Transformer(longer).initialise(0)
    theirs = LlamaForCausalLM(LlamaConfig(**llama_config(longer, "float32")))
    weights = ((name, value.detach()) for name, value in ours.named_parameters())
    theirs.load_state_dict(dict(fold(weights, longer)))
    ids = torch.randint(0, 97, (2, 256), generator=torch.Generator().manual_seed(0))
    batch = ModelInput(inputs=ids, positions=torch.arange(256).expand_as(ids))
    with torch.no_grad():
        mine = ours.logits(ours(batch))
        assert (theirs(ids).logits - mine).abs().max() < 1e-4
        parent = Transformer(PARENT).initialise(0)
        other = parent.logits(parent(batch))
    assert (other - mine).abs().max() > 1e-2  # the base matters, or this test could not fail
