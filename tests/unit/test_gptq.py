"""GPTQ against a reference in NumPy, against rounding to nearest, and against what it promises of itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import DataError
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.untied import untied_model
from pipelines.train.quantization import METHODS
from pipelines.train.quantization.contract import Grid, Inputs, Quantized
from pipelines.train.quantization.gptq import GPTQ, GptqSettings
from pipelines.train.quantization.grids import uniform_grids
from pipelines.train.quantization.rounding import output_error
from pipelines.train.quantization.rtn import RTN, RtnSettings
from pipelines.train.quantization.walk import quantize_stream
from tests.unit.test_quantization import MODEL, folded, rows

GRIDS = [Grid(4, 32, True), Grid(4, 32, False), Grid(8, 32, True)]
PLAIN = {"damping": 0.01, "search": False, "mend": False, "sweeps": 0, "activation_order": False}
Array = NDArray[np.float64]


def correlated(inputs: int = 64, tokens: int = 500, seed: int = 0) -> Inputs:
    """Inputs of few directions and unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(0, -1.5, inputs)
    x = torch.randn(tokens, inputs, generator=generator) @ mixing.T
    return Inputs(x.T @ x / tokens, x.abs().mean(0), tokens)


def weight(rows: int = 48, inputs: int = 64) -> Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(3))


def gptq(
    weight_OI: Tensor, grid: Grid, inputs: Inputs, dtype: torch.dtype = torch.float32, **settings: Any
) -> Quantized:
    return GPTQ.quantize(weight_OI, grid, inputs, dtype, GptqSettings(**settings))


def reference(weight_OI: Array, hessian: Array, grid: Grid, damping: float) -> tuple[Array, Array]:
    """Algorithm 1 of the paper, a column at a time, with the inverse brought up to date by elimination."""
    work, values = weight_OI.copy(), np.zeros_like(weight_OI)
    scales = np.zeros((len(work), work.shape[1] // grid.group_size))
    inverse = np.linalg.inv(hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian)))
    for j in range(work.shape[1]):
        group = j // grid.group_size
        if j % grid.group_size == 0:
            part = work[:, j : j + grid.group_size]
            if grid.symmetric:
                scale, zero = np.abs(part).max(1) / ((grid.codes - 1) / 2), np.full(len(work), grid.codes // 2)
            else:
                least, most = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
                scale = (most - least) / (grid.codes - 1)
                zero = np.round(-least / scale)
            scales[:, group] = scale
        values[:, j] = (np.clip(np.round(work[:, j] / scale) + zero, 0, grid.codes - 1) - zero) * scale
        error = (work[:, j] - values[:, j]) / inverse[j, j]
        work[:, j:] -= error[:, None] * inverse[j, j:]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return values, scales


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_rounds_as_the_paper_says(grid: Grid) -> None:
    inputs = correlated(160)  # more than one block of columns
    found = gptq(weight(inputs=160), grid, inputs, **PLAIN)
    values, scales = reference(weight(inputs=160).double().numpy(), inputs.hessian.double().numpy(), grid, 0.01)
    # a weight midway between two codes may go to either, float32 here, float64 there: from there on its row differs
    agree = (np.abs(found.values().numpy() - values) < 1e-3).all(1)
    assert agree.sum() >= 45  # of 48
    np.testing.assert_allclose(found.scales.numpy()[agree], scales[agree], rtol=1e-4)


def test_with_inputs_that_have_nothing_to_do_with_each_other_it_is_rounding_to_nearest() -> None:
    inputs = Inputs(torch.eye(64), torch.ones(64), 100)
    for grid in GRIDS:
        for dtype in (torch.float32, torch.bfloat16):
            nearest = RTN.quantize(weight(), grid, None, dtype, RtnSettings())
            for order in (True, False):
                found = gptq(weight(), grid, inputs, dtype, **{**PLAIN, "activation_order": order})
                assert torch.equal(found.codes, nearest.codes)
                assert torch.equal(found.scales, nearest.scales)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_step_loses_less_on_correlated_inputs(grid: Grid) -> None:
    inputs = correlated()

    def lost(found: Quantized) -> float:
        return output_error(found.values() - weight(), inputs.hessian)

    nearest = lost(RTN.quantize(weight(), grid, None, torch.bfloat16, RtnSettings()))
    plain = lost(gptq(weight(), grid, inputs, torch.bfloat16, **PLAIN))
    ordered = lost(gptq(weight(), grid, inputs, torch.bfloat16, search=False, mend=False, sweeps=0))
    swept = lost(gptq(weight(), grid, inputs, torch.bfloat16, search=False, mend=False))
    assert plain < 0.8 * nearest
    assert ordered < plain
    assert swept < 0.96 * ordered


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_sweep_never_loses_anything(grid: Grid) -> None:
    inputs = correlated()
    damped = inputs.hessian + 0.05 * inputs.hessian.diagonal().mean() * torch.eye(64)
    lost = [
        output_error(
            gptq(weight(), grid, inputs, torch.bfloat16, mend=False, sweeps=sweeps).values() - weight(), damped
        )
        for sweeps in range(6)
    ]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(lost))
    assert lost[-1] < lost[0]


def test_an_order_leaves_groups_as_they_are() -> None:
    """The scales are those of the original groups, whatever is rounded first."""
    inputs = correlated()
    found = gptq(weight(), GRIDS[0], inputs, search=False, mend=False, sweeps=0)
    assert torch.equal(found.scales, RTN.quantize(weight(), GRIDS[0], None, torch.float32, RtnSettings()).scales)


def test_mending_makes_good_what_inputs_have_lost() -> None:
    """Inputs that came out at half their length: the weights double."""
    inputs = correlated()
    shift = weight() @ inputs.hessian  # y = W (2x), so y - W x = W x
    mended = gptq(weight(), Grid(8, 32, True), Inputs(inputs.hessian, inputs.magnitude, 500, shift), damping=1e-4)
    aimed = output_error(mended.values() - 2 * weight(), inputs.hessian)
    assert aimed < 1e-3 * output_error(weight(), inputs.hessian)
    left = gptq(weight(), Grid(8, 32, True), Inputs(inputs.hessian, inputs.magnitude, 500, shift), mend=False)
    assert output_error(left.values() - weight(), inputs.hessian) < 1e-3 * output_error(weight(), inputs.hessian)


def test_an_input_that_never_came_is_rounded_to_nearest() -> None:
    inputs = correlated()
    hessian = inputs.hessian.clone()
    hessian[7], hessian[:, 7] = 0, 0
    found = gptq(weight(), GRIDS[0], Inputs(hessian, inputs.magnitude, 500), mend=False)
    steps = (found.values()[:, 7] - weight()[:, 7]).abs() / found.scales[:, 0].abs()
    assert (steps <= 0.501).float().mean() > 0.95  # a clipped one is off by more


def test_inputs_that_are_no_numbers_are_refused() -> None:
    hessian = torch.full((64, 64), float("nan"))
    with pytest.raises(DataError, match="no finite numbers"):
        gptq(weight(), GRIDS[0], Inputs(hessian, torch.ones(64), 10))


def test_too_little_damping_for_too_few_rows_is_refused() -> None:
    x = torch.ones(3, 64)
    with pytest.raises(DataError, match="too few directions for a damping of 1e-30: raise the damping of gptq"):
        gptq(weight(), GRIDS[0], Inputs(x.T @ x, x[0], 3), damping=1e-30)


def test_a_whole_model_stays_closer_to_the_full_one_than_rounded_to_nearest() -> None:
    """And comes out alike when it is made again."""
    calibration = rows(count=64)
    batch = ModelInput(inputs=rows(count=8).ids, positions=torch.arange(24).expand(8, 24))
    full = untied_model(folded().items(), MODEL)
    lost, delivered = {}, {}
    for name in ("rtn", "awq", "gptq", "gptq"):
        method = METHODS[name]
        grids = uniform_grids(MODEL, 4, 32, True)
        stream = quantize_stream(folded().items(), MODEL, method, method.Settings(), grids, calibration, torch.bfloat16)
        weights = {key: value.values() if isinstance(value, Quantized) else value for key, value in stream}
        for key, value in delivered.get(name, weights).items():
            assert torch.equal(value, weights[key])
        delivered[name] = weights
        with torch.no_grad():
            lost[name] = float((untied_model(weights.items(), MODEL)(batch) - full(batch)).square().mean())
    assert lost["gptq"] < 0.5 * lost["rtn"]
    assert lost["awq"] < 0.9 * lost["rtn"]
