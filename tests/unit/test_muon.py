"""Muon against NumPy, and its learning rate over widths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import KINDS, roles
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.optimizers.contract import OptimizerSettings
from pipelines.train.optimizers.groups import build, learning_rate_factor, set_learning_rate
from pipelines.train.optimizers.muon import MuonSettings
from pipelines.train.optimizers.muon_step import Muon, orthogonal, update_scale
from pipelines.train.optimizers.pieces import Slice
from tests.reference_training import newton_schulz, reference_run

CONFIG = ModelConfig(
    layers=1, d_model=32, d_ff=80, heads=4, kv_heads=2, vocabulary=50, max_positions=32, dim_model_base=16
)


def bound(model: Transformer, config: MuonSettings) -> Muon:
    """Muon over a model in this process alone."""
    optimizer = build(model, model.config, config)
    assert isinstance(optimizer, Muon)
    slices = [Slice(name, 0, p.numel(), p, 0) for name, p in model.named_parameters()]
    optimizer.bind(slices, roles(model.config), torch.device("cpu"))
    return optimizer


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_newton_schulz_against_the_singular_values(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices)
    for one, each in zip(found, matrices, strict=True):
        assert one.numpy() == pytest.approx(newton_schulz(each.double().numpy()), abs=2e-5)
    singular = torch.linalg.svdvals(found)
    assert singular.max() < 1.3
    assert singular.median() > 0.6
    # what the scale is for: entries of AdamW's size
    assert (found * update_scale(*shape)).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_fused_products_are_parted_where_the_model_parts_them() -> None:
    named = roles(CONFIG)
    assert named["layers.0.self_attn.qkv_proj.weight"].maps == (32, 16, 16)
    assert named["layers.0.mlp.gate_up_proj.weight"].maps == (80, 80)
    assert named["layers.0.mlp.down_proj.weight"].maps == (32,)
    for name, parameter in Transformer(CONFIG).named_parameters():
        if parameter.dim() > 1 and "embed" not in name:
            assert sum(named[name].maps) == parameter.shape[0]


def test_several_steps_equal_numpy() -> None:
    """Plain torch with Muon against the reference in float64: loss, and every weight."""
    from pipelines.train.objectives.next_token import NextToken
    from tests.reference_training import global_batch

    case = {
        "model": {**vars(CONFIG)},
        "rows": 4,
        "length": 16,
        "rates": [0.01, 0.02, 0.02, 0.01],
        "optimizer": {"kind": "muon", "gradient_clip": 0.3},
    }
    expected = reference_run(case)
    model = Transformer(CONFIG).initialise(1)
    optimizer = bound(model, MuonSettings(gradient_clip=0.3))
    for step, rate in enumerate(case["rates"]):
        batch = global_batch(case, step)
        set_learning_rate(optimizer, rate)
        loss, _ = NextToken().sums(model, model(batch), batch)
        optimizer.zero_grad()
        (loss / batch.loss_mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        assert loss.item() / batch.loss_mask.sum().item() == pytest.approx(expected["loss"][step], rel=1e-6)
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.detach().numpy() - expected[name]).max() < 2e-5, name


def test_hidden_matrices_take_the_root_of_mups_factor() -> None:
    config = ModelConfig(**{**vars(CONFIG), "d_model": 64, "heads": 8, "kv_heads": 4})

    def factors(settings: OptimizerSettings) -> dict[str, float]:
        return {kind: learning_rate_factor(kind, config, settings) for kind in KINDS}

    assert factors(MuonSettings()) == {"matrix": 0.5, "embedding": 1.0, "norm": 1.0}
    assert factors(AdamWSettings())["matrix"] == 0.25
    assert factors(MuonSettings(mup_lr=False))["matrix"] == 1.0


def activation_changes(power: float) -> list[float]:
    """Root mean square of how far three steps move the last block's feed-forward output, at widths 64, 128 and 256."""
    changes = []
    for width in (64, 128, 256):
        config = ModelConfig(
            layers=2, d_model=width, d_ff=5 * width // 2, heads=width // 16, kv_heads=width // 16, vocabulary=64,
            max_positions=32, dim_model_base=64,
        )  # fmt: skip
        model = Transformer(config).initialise(0)
        optimizer = bound(model, MuonSettings(weight_decay=0.0))
        for group in optimizer.param_groups:
            group["factor"] = config.width_multiplier**-power if group["name"] == "matrix" else 0.0
        tokens = torch.randint(0, 64, (8, 33), generator=torch.Generator().manual_seed(1))
        positions = torch.arange(32).repeat(8, 1)
        seen: list[torch.Tensor] = []
        model.layers[1].mlp.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output.detach())
        )
        for _ in range(4):
            hidden = model(ModelInput(inputs=tokens[:, :-1], positions=positions))
            set_learning_rate(optimizer, 0.02)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model.logits(hidden).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
        changes.append((seen[-1] - seen[0]).square().mean().sqrt().item())
    return changes


def test_activations_move_alike_at_every_width() -> None:
    """The coordinate check: flat with 1/√m, and not flat with AdamW's 1/m or with no factor."""
    slopes = {
        power: np.polyfit(np.log([1, 2, 4]), np.log(activation_changes(power)), 1)[0] for power in (0.0, 0.5, 1.0)
    }
    assert abs(slopes[0.5]) < 0.12
    assert slopes[0.0] > 0.3
    assert slopes[1.0] < -0.3
