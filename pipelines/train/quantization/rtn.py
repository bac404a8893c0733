"""Round to nearest: each weight gets the nearest code of its group. No data is looked at.

By default a scale reaches the longest weight of its group, as MiniCPM has it (arXiv 2404.06395, appendix D). With
`search` it may clip that weight where the others gain more by it: the least squared error of the group decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.config import config_class
from pipelines.train.quantization.contract import Grid, Inputs, Method, MethodSettings, Quantized
from pipelines.train.quantization.rounding import encoded, in_groups, plain_scales, searched_scales


@config_class
class RtnSettings(MethodSettings):
    """How scales are chosen."""

    search: bool = False  # scales with the least squared error of each group, instead of those that clip nothing


def quantize(
    weight_OI: Tensor, grid: Grid, inputs: Inputs | None, scale_dtype: torch.dtype, settings: RtnSettings
) -> Quantized:
    """One map; see `Method.quantize`. Inputs are not looked at."""
    choose = searched_scales if settings.search else plain_scales
    scales_OG, zeros_OG = choose(in_groups(weight_OI, grid), grid, scale_dtype)
    return encoded(weight_OI, scales_OG, zeros_OG, grid)


RTN = Method(Settings=RtnSettings, words="each weight rounded to nearest", calibrated=False, quantize=quantize)
