"""AWQ: inputs that are large on average get finer steps, by scaling them in what comes before.

Legend: O rows (outputs), I columns (inputs) of a map.

    s_i = mean|x_i|^alpha / √(largest · smallest)      W ← W · diag(s),  what gives x is divided by s

Alpha is tried from 0 to 1 in even steps for each site, and the one whose rounded maps change their output least is
taken. Alpha 0 changes nothing. Then each map is rounded to nearest; groups are clipped only then, as in their code.

    qkv_proj     into input_layernorm              gate_up_proj    into post_attention_layernorm
    down_proj    into the rows of up_proj          o_proj          into the rows of v_proj

The last one only where there are as many heads of values as of queries: with fewer, one row of v_proj goes into several
columns of o_proj. A site of which one map is kept is left as it is.

Source: Lin et al. (arXiv 2306.00978), section 3.2; the normalisation is of their code. Their error is measured on
samples; here on the mean of xᵀx, of which it is the exact mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from pipelines.config import Range, config_class
from pipelines.train.quantization.block import INPUT_NORM, OUTPUT_NORM, SITES, UP, VALUE
from pipelines.train.quantization.contract import Grid, Inputs, Method, MethodSettings, Quantized
from pipelines.train.quantization.rounding import encoded, in_groups, output_error, plain_scales, searched_scales

_GIVES = {"qkv_proj": INPUT_NORM, "o_proj": VALUE, "gate_up_proj": OUTPUT_NORM, "down_proj": UP}  # what gives x


@config_class
class AwqSettings(MethodSettings):
    """How AWQ scales and rounds."""

    steps: Annotated[int, Range(1, 1000)] = 20  # alphas that are tried: 1/steps, …, 1
    search: bool = True  # clip a group where that changes the output less (AWQ's clipping), by the mean of x²


def rescale(
    weights: Mapping[str, Tensor], inputs: Mapping[str, Inputs], grids: Mapping[str, Grid], scale_dtype: torch.dtype,
    settings: AwqSettings,
) -> Mapping[str, Tensor]:  # fmt: skip
    """Scale one block; see `Method.rescale`. What it computes stays the same, but for rounding."""
    scaled = dict(weights)
    for site in SITES:
        gives, first = _GIVES[site.name], site.maps[0]
        if not all(map_ in grids for map_ in site.maps) or len(weights[gives]) != weights[first].shape[1]:
            continue
        maps = [(weights[map_].float(), grids[map_]) for map_ in site.maps]
        scales_I = _best_scales(maps, inputs[first], scale_dtype, settings)
        if scales_I is None:
            continue
        for map_ in site.maps:
            scaled[map_] = scaled[map_] * scales_I
        value = scaled[gives]
        scaled[gives] = value / (scales_I if value.dim() == 1 else scales_I[:, None])
    return scaled


def _best_scales(
    maps: list[tuple[Tensor, Grid]], inputs: Inputs, scale_dtype: torch.dtype, settings: AwqSettings
) -> Tensor | None:
    """Scales of the inputs of some maps, (I,); None: as they are is best."""

    def lost(scales_I: Tensor) -> float:
        total = 0.0
        for weight_OI, grid in maps:
            scaled_OI = weight_OI * scales_I
            rounded = encoded(scaled_OI, *plain_scales(in_groups(scaled_OI, grid), grid, scale_dtype), grid)
            total += output_error(rounded.values() / scales_I - weight_OI, inputs.hessian)
        return total

    magnitude_I = inputs.magnitude.clamp_min(1e-4 * float(inputs.magnitude.max()) or 1.0)
    best, best_lost = None, lost(torch.ones_like(magnitude_I))
    for step in range(1, settings.steps + 1):
        scales_I = magnitude_I ** (step / settings.steps)
        scales_I = scales_I / (scales_I.max() * scales_I.min()).sqrt()
        if (now_lost := lost(scales_I)) < best_lost:
            best, best_lost = scales_I, now_lost
    return best


def quantize(
    weight_OI: Tensor, grid: Grid, inputs: Inputs, scale_dtype: torch.dtype, settings: AwqSettings
) -> Quantized:
    """One map, scaled already; see `Method.quantize`."""
    groups_OGS = in_groups(weight_OI.float(), grid)
    if settings.search:
        importance_GS = in_groups(inputs.hessian.diagonal()[None].contiguous(), grid)
        return encoded(weight_OI, *searched_scales(groups_OGS, grid, scale_dtype, importance_GS), grid)
    return encoded(weight_OI, *plain_scales(groups_OGS, grid, scale_dtype), grid)


AWQ = Method(
    Settings=AwqSettings,
    words="AWQ: inputs scaled so that large ones get finer steps, then rounded to nearest",
    calibrated=True,
    quantize=quantize,
    rescale=rescale,
)
