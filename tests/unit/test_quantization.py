"""Small whole numbers for matrices, against answers worked out by hand."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipelines.errors import CheckpointError, ConfigError
from pipelines.train.formats.llama import fold
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.network.untied import untied_model
from pipelines.train.quantization import METHODS
from pipelines.train.quantization.contract import CalibrationRows, Grid, Inputs, Method, MethodSettings, Quantized
from pipelines.train.quantization.grids import check_grid, uniform_grids
from pipelines.train.quantization.rounding import in_groups, searched_scales
from pipelines.train.quantization.rtn import RTN, RtnSettings
from pipelines.train.quantization.walk import quantize_stream

MODEL = ModelConfig(layers=2, d_model=64, d_ff=96, heads=4, kv_heads=2, vocabulary=50, max_positions=32)
POCKET = dataclasses.replace(MODEL, d_model=320, d_ff=800, heads=5, kv_heads=5)
SYMMETRIC, ASYMMETRIC = Grid(4, 32, symmetric=True), Grid(4, 32, symmetric=False)


def folded(model: ModelConfig = MODEL) -> dict[str, Tensor]:
    """A random model in Llama's names."""
    weights = {name: value.detach() for name, value in Transformer(model).initialise(0).named_parameters()}
    return dict(fold(weights.items(), model))


def rows(model: ModelConfig = MODEL, count: int = 16, length: int = 24) -> CalibrationRows:
    """Random ids; the last row is filled up from its middle."""
    ids = torch.randint(0, model.vocabulary, (count, length), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids, dtype=torch.bool)
    real[-1, length // 2 :] = False
    positions = torch.arange(length).expand_as(ids).clone()
    positions[0, 10:] -= 10  # two documents in the first row
    return CalibrationRows(ids, positions, real, {"chat": int(real.sum())})


def rtn(weight: Tensor, grid: Grid, dtype: torch.dtype = torch.float32, search: bool = False) -> Quantized:
    return RTN.quantize(weight, grid, None, dtype, RtnSettings(search=search))


def group(*values: float) -> Tensor:
    """One row of one group of 32, filled up with zeros."""
    return torch.tensor([*values, *[0.0] * (32 - len(values))])[None]


def test_symmetric_groups_worked_out_by_hand() -> None:
    found = rtn(group(-7.5, 3.2, 7.5, 0.4, -0.6), SYMMETRIC)
    assert found.scales.tolist() == [[1.0]]  # 7.5 / 7.5
    assert found.zeros is None
    # -7.5 is midway and goes to the even -8; 7.5 to 8, which no code has
    assert (found.codes[0, :6].int() - 8).tolist() == [-8, 3, 7, 0, -1, 0]
    assert found.values()[0, :5].tolist() == [-8, 3, 7, 0, -1]


def test_asymmetric_groups_worked_out_by_hand() -> None:
    found = rtn(group(-3.0, 12.0, 4.4, -0.6), ASYMMETRIC)
    assert found.scales.tolist() == [[1.0]]  # (12 + 3) / 15
    assert found.zeros is not None
    assert found.zeros.tolist() == [[3]]
    assert found.codes[0, :5].tolist() == [0, 15, 7, 2, 3]
    assert found.values()[0, :5].tolist() == [-3, 12, 4, -1, 0]


def test_a_range_always_holds_zero() -> None:
    found = rtn(torch.full((1, 32), 15.0), ASYMMETRIC)
    assert (found.scales.tolist(), found.codes.unique().tolist()) == ([[1.0]], [15])


def test_codes_are_chosen_against_the_scale_that_is_stored() -> None:
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    for grid in (SYMMETRIC, ASYMMETRIC, Grid(8, 64, symmetric=True)):
        found = rtn(weight, grid, torch.bfloat16)
        assert found.scales.dtype == torch.bfloat16
        zeros = grid.codes // 2 if found.zeros is None else found.zeros.unsqueeze(-1).float()
        nearest = (in_groups(weight, grid) / found.scales.float().unsqueeze(-1)).round() + zeros
        assert torch.equal(found.codes.float(), nearest.clamp(0, grid.codes - 1).flatten(1))


def test_values_come_back_as_codes() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for grid in (SYMMETRIC, ASYMMETRIC, Grid(8, 32, symmetric=True), Grid(8, 32, symmetric=False)):
        found = rtn(weight, grid)
        zeros = grid.codes // 2 if found.zeros is None else found.zeros.unsqueeze(-1).float()
        again = in_groups(found.values(), grid) / found.scales.unsqueeze(-1) + zeros
        assert torch.equal(again.round().flatten(1).to(torch.uint8), found.codes)
        steps = found.scales.abs().repeat_interleave(grid.group_size, 1)
        assert ((weight - found.values()).abs() <= steps * 0.501).all()


def test_eight_bits_lose_sixteen_times_less() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    lost = {bits: (rtn(weight, Grid(bits, 32, True)).values() - weight).std() for bits in (4, 8)}
    assert 15 < lost[4] / lost[8] < 19  # 15 steps against 255


@pytest.mark.parametrize("grid", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_a_searched_scale_loses_less_in_every_group(grid: Grid) -> None:
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))

    def lost(found: Quantized) -> Tensor:
        return in_groups(found.values() - weight, grid).square().sum(-1)

    plain, searched = lost(rtn(weight, grid)), lost(rtn(weight, grid, search=True))
    assert (searched <= plain).all()
    assert searched.sum() < 0.92 * plain.sum()


def test_a_searched_scale_counts_each_input_by_its_importance() -> None:
    weight = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    importance = torch.ones(1, 32)
    importance[0, 5] = 1e6
    met = []
    for weighed in (importance, None):
        scales, _ = searched_scales(in_groups(weight, SYMMETRIC), SYMMETRIC, torch.float32, weighed)
        steps = weight[:, 5] / scales[:, 0]
        met.append(int(((steps - steps.round()).abs() < 0.02).sum()))
    assert met[0] == 38  # two weights are so small that no scale meets them
    assert met[1] < 8


def test_a_group_of_zeros_stays_zero() -> None:
    for grid in (SYMMETRIC, ASYMMETRIC):
        for search in (False, True):
            for dtype in (torch.float32, torch.float16):
                assert rtn(torch.zeros(2, 64), grid, dtype, search).values().abs().max() == 0


def test_scales_that_do_not_fit_and_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="too large for float16: store scales in bfloat16"):
        rtn(group(1e6), SYMMETRIC, torch.float16)
    with pytest.raises(CheckpointError, match="no finite numbers"):
        rtn(group(float("nan")), SYMMETRIC)


def test_group_sizes_that_do_not_divide_are_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError) as refusal:
        check_grid(POCKET, 64)
    assert str(refusal.value) == (
        "down_proj has 800 inputs, which groups of 64 do not divide: a group_size of 32 divides all; "
        "or keep 64 for the others, with group_sizes {down_proj: 32}"
    )
    assert check_grid(POCKET, 64, {"down_proj": 32})["down_proj"] == 32
    with pytest.raises(ConfigError, match="no group size divides"):
        check_grid(dataclasses.replace(POCKET, d_ff=810), 32)
    with pytest.raises(ConfigError, match="group_size is 48; expected one of 32, 64, 128"):
        check_grid(POCKET, 48)
    with pytest.raises(ConfigError, match="group_sizes names gate_proj; expected some of qkv_proj, o_proj, gate_up"):
        check_grid(POCKET, 32, {"gate_proj": 32})


def test_a_stream_keeps_names_order_and_what_is_not_quantized() -> None:
    weights = folded()
    grids = dict(uniform_grids(MODEL, 4, 32, True))
    grids["layers.1.mlp.down_proj.weight"] = None  # type: ignore[assignment]
    found = dict(quantize_stream(weights.items(), MODEL, RTN, RtnSettings(), grids, None, torch.bfloat16))
    assert list(found) == list(weights)
    for name, value in found.items():
        if "_proj" in name and name != "model.layers.1.mlp.down_proj.weight":
            assert isinstance(value, Quantized)
            assert torch.equal(value.codes, rtn(weights[name], SYMMETRIC, torch.bfloat16).codes)
        else:
            assert value is weights[name]


@dataclasses.dataclass
class Recorded:
    """What a method was given."""

    inputs: dict[str, Inputs]
    weights: list[Tensor]


def recording(recorded: Recorded, mends: bool) -> Method:
    """A method that halves each map, so that what comes after it sees another model, and writes down what it got."""

    def quantize(
        weight: Tensor, grid: Grid, inputs: Inputs, dtype: torch.dtype, _settings: MethodSettings
    ) -> Quantized:
        recorded.weights.append(weight)
        recorded.inputs[str(len(recorded.inputs))] = inputs
        return rtn(weight * 0.5, grid, dtype)

    return Method(
        Settings=RtnSettings, words="halved", calibrated=True, quantize=quantize, mends=lambda _settings: mends
    )


def hooked(model: Transformer, batch: ModelInput) -> list[tuple[Tensor, Tensor]]:
    """What goes into each fused map of a model, and the hidden states that its block adds to at that point."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = []
    stream: list[Tensor] = []
    for block in model.layers:
        hooks.append(block.input_layernorm.register_forward_pre_hook(lambda _m, args: stream.append(args[0])))
        hooks.append(block.post_attention_layernorm.register_forward_pre_hook(lambda _m, args: stream.append(args[0])))
        for map_ in (block.self_attn.qkv_proj, block.self_attn.o_proj, block.mlp.gate_up_proj, block.mlp.down_proj):
            hooks.append(map_.register_forward_pre_hook(lambda _m, args: seen.append((args[0], stream[-1]))))
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    return seen


def test_each_map_sees_what_went_through_all_quantized_maps_before_it() -> None:
    """Against the model itself: its inputs with the maps before as they were delivered."""
    weights, calibration = folded(), rows()
    recorded = Recorded({}, [])
    method = recording(recorded, mends=True)
    grids = uniform_grids(MODEL, 8, 32, True)
    stream = quantize_stream(weights.items(), MODEL, method, RtnSettings(), grids, calibration, torch.float32)
    delivered = {name: value.values() if isinstance(value, Quantized) else value for name, value in stream}
    batch = ModelInput(inputs=calibration.ids, positions=calibration.positions)
    # the attention of a block does not look at what comes after it, so the finished model shows what each map saw
    models = [untied_model(held.items(), MODEL) for held in (delivered, weights)]
    for model in models:
        model.config = dataclasses.replace(model.config, document_masking=True)
    (seen, full) = (hooked(model, batch) for model in models)
    assert len(recorded.inputs) == 8
    for site in range(8):
        inputs, weight = recorded.inputs[str(site)], recorded.weights[site]
        x, stream_x = (value[calibration.real].double() for value in seen[site])
        x_full, stream_full = (value[calibration.real].double() for value in full[site])
        assert inputs.rows == int(calibration.real.sum()) == len(x)
        torch.testing.assert_close(inputs.hessian.double(), x.T @ x / len(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(inputs.magnitude.double(), x.abs().mean(0), rtol=1e-4, atol=1e-5)
        wanted = x_full @ weight.double().T + (stream_full - stream_x if site % 2 else 0)
        shift = (wanted - x @ weight.double().T).T @ x / len(x)
        assert inputs.shift is not None
        torch.testing.assert_close(inputs.shift.double(), shift, rtol=1e-3, atol=1e-4)


def test_nothing_of_an_earlier_layer_stays() -> None:
    weights = folded(dataclasses.replace(MODEL, layers=3))
    alive: list[tuple[str, weakref.ref[Tensor]]] = []

    def stream() -> Iterator[tuple[str, Tensor]]:
        for name in list(weights):
            value = weights.pop(name).clone()
            alive.append((name, weakref.ref(value)))
            yield name, value
            del value

    model = dataclasses.replace(MODEL, layers=3)
    method = recording(Recorded({}, []), mends=True)
    method = dataclasses.replace(
        method, quantize=lambda weight, grid, _inputs, dtype, _settings: rtn(weight, grid, dtype)
    )
    grids = uniform_grids(model, 4, 32, True)
    for name, _ in quantize_stream(stream(), model, method, RtnSettings(), grids, rows(), torch.float32):
        if name.startswith("model.layers.2"):
            stale = [kept for kept, value in alive if value() is not None and not kept.startswith("model.layers.2")]
            assert stale == []
    assert len(alive) == 3 + 9 * 3


def test_a_method_that_needs_data_is_refused_without() -> None:
    method = recording(Recorded({}, []), mends=False)
    with pytest.raises(ConfigError, match="needs calibration rows"):
        quantize_stream(iter(()), MODEL, method, RtnSettings(), {}, None, torch.float32)


def test_every_method_has_settings_with_defaults() -> None:
    for method in METHODS.values():
        assert isinstance(method.Settings(), MethodSettings)
