"""AWQ: a scaled block computes the same, and rounds with less loss where some inputs are large."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.quantization.awq import AWQ, AwqSettings
from pipelines.train.quantization.block import SITES, Stream, chunks
from pipelines.train.quantization.contract import Grid, Inputs
from pipelines.train.quantization.rounding import output_error
from pipelines.train.quantization.rtn import RTN, RtnSettings
from tests.unit.test_quantization import MODEL, folded, rows

GRID = Grid(4, 32, True)
MAPS = [map_ for site in SITES for map_ in site.maps]


def block(model: ModelConfig) -> dict[str, Tensor]:
    """The first block of a random model, some of whose inputs are large."""
    weights = {
        name.removeprefix("model.layers.0."): value.double()
        for name, value in folded(model).items()
        if name.startswith("model.layers.0.")
    }
    generator = torch.Generator().manual_seed(5)
    for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        weights[norm] = torch.exp(1.5 * torch.randn(model.d_model, generator=generator, dtype=torch.float64))
    values = weights["self_attn.v_proj.weight"]
    values *= torch.exp(1.5 * torch.randn(len(values), 1, generator=generator, dtype=torch.float64))
    return weights


def run(model: ModelConfig, weights: dict[str, Tensor]) -> tuple[Tensor, dict[str, Inputs]]:
    """What the block gives to some hidden states (float64), and what went into its maps."""
    calibration, seen = rows(model), {}
    generator = torch.Generator().manual_seed(6)
    stream = Stream(model, torch.randn(*calibration.ids.shape, model.d_model, generator=generator, dtype=torch.float64))
    for site in SITES:
        for chunk in chunks(calibration, model, torch.float64):
            x = stream.inputs(site.name, weights, chunk).flatten(0, 1)
            seen.update(dict.fromkeys(site.maps, Inputs((x.T @ x / len(x)).float(), x.abs().mean(0).float(), len(x))))
            stream.pass_site(site.name, weights, chunk)
    return stream.hidden, seen


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_a_scaled_block_computes_the_same(kv_heads: int) -> None:
    model = dataclasses.replace(MODEL, kv_heads=kv_heads)
    weights = block(model)
    given, seen = run(model, weights)
    scaled = dict(AWQ.rescale(weights, seen, dict.fromkeys(MAPS, GRID), torch.bfloat16, AwqSettings()))  # type: ignore[misc]
    assert list(scaled) == list(weights)
    changed = {name for name in weights if not torch.equal(scaled[name], weights[name])}
    assert {"input_layernorm.weight", "self_attn.q_proj.weight", "mlp.up_proj.weight"} <= changed
    assert ("self_attn.o_proj.weight" in changed) == (kv_heads == 4)
    torch.testing.assert_close(run(model, scaled)[0], given, rtol=1e-6, atol=1e-6)  # scales are float32


def test_large_inputs_get_finer_steps() -> None:
    weights = block(MODEL)
    _, seen = run(MODEL, weights)
    for search in (False, True):
        settings = AwqSettings(search=search)
        scaled = AWQ.rescale(weights, seen, dict.fromkeys(MAPS, GRID), torch.bfloat16, settings)  # type: ignore[misc]
        _, seen_scaled = run(MODEL, dict(scaled))
        for map_ in ("self_attn.q_proj.weight", "mlp.gate_proj.weight", "mlp.down_proj.weight"):
            found = AWQ.quantize(scaled[map_].float(), GRID, seen_scaled[map_], torch.bfloat16, settings)
            lost = output_error(found.values() - scaled[map_].float(), seen_scaled[map_].hessian)
            nearest = RTN.quantize(weights[map_].float(), GRID, None, torch.bfloat16, RtnSettings())
            assert lost < 0.9 * output_error(nearest.values() - weights[map_].float(), seen[map_].hessian)


def test_a_site_that_is_not_quantized_stays() -> None:
    weights = block(MODEL)
    _, seen = run(MODEL, weights)
    grids = {map_: GRID for map_ in MAPS if not map_.startswith("mlp")}
    scaled = AWQ.rescale(weights, seen, grids, torch.bfloat16, AwqSettings())  # type: ignore[misc]
    for name in weights:
        if name.startswith(("mlp", "post")):
            assert scaled[name] is weights[name]
