"""Groups of weights and the small whole numbers that stand for them: what every method shares.

Legend: O rows (outputs), I columns (inputs), G groups of a row, S inputs of a group (I = G · S).

Enters: float32 weights. Leaves: scales in the type that is stored, zeros, codes. Codes are always chosen against the
scale as it is stored, so no rounding comes after the choice.

    absmax, minmax   symmetric: scale = max|w| / ((2^bits - 1) / 2);  else scale = (max - min) / (2^bits - 1),
                     zero = round(-min / scale), with min ≤ 0 ≤ max       (MiniCPM, arXiv 2404.06395, appendix D)
    least squares    the scale that minimises Σ h (w - value)² over a group, among the clipped ones

A symmetric grid has one code more below zero than above. Where a scale is searched it may be negative: then the
longest weight of a group gets the lowest code whatever its sign, as llama.cpp's q4_0 does it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.errors import CheckpointError, ConfigError
from pipelines.train.quantization.contract import Grid, Quantized

# how far a group is clipped, as shares of its longest weight; 8 bits are clipped little
_CLIPS = {4: torch.linspace(1.04, 0.6, 16), 8: torch.linspace(1.01, 0.91, 11)}


def in_groups(weight_OI: Tensor, grid: Grid) -> Tensor:
    """(O, G, S), a view."""
    return weight_OI.view(weight_OI.shape[0], -1, grid.group_size)


def stored(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales in the type that is stored; 1 where a group is nothing but zeros, or too small for the type.

    Raises: ConfigError where a scale is too large for the type; CheckpointError where weights are no numbers.
    """
    rounded = scales.to(dtype)
    if not torch.isfinite(rounded).all():
        if torch.isfinite(scales).all():
            raise ConfigError(
                f"a scale of {float(scales.abs().max()):.3g} is too large for {str(dtype).removeprefix('torch.')}: "
                "store scales in bfloat16 or float32"
            )
        raise CheckpointError("the weights hold values that are no finite numbers: choose an earlier checkpoint")
    return torch.where(rounded == 0, torch.ones_like(rounded), rounded)


def plain_scales(groups_OGS: Tensor, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Scales (O, G) that reach the longest weight of each group, and zeros (uint8; None where symmetric)."""
    if grid.symmetric:
        return stored(groups_OGS.abs().amax(-1) / ((grid.codes - 1) / 2), dtype), None
    return _minmax(groups_OGS.amin(-1), groups_OGS.amax(-1), grid, dtype)


def _minmax(least_OG: Tensor, most_OG: Tensor, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    least_OG, most_OG = least_OG.clamp(max=0), most_OG.clamp(min=0)
    scales_OG = stored((most_OG - least_OG) / (grid.codes - 1), dtype)
    zeros_OG = (-least_OG / scales_OG.float()).round_().clamp_(0, grid.codes - 1)
    return scales_OG, zeros_OG.to(torch.uint8)


def searched_scales(
    groups_OGS: Tensor, grid: Grid, dtype: torch.dtype, importance_GS: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Scales and zeros with the least squared error of each group, among clipped ones.

    Args: importance_GS, what the squared error of each input counts, (G, S) or (O, G, S); None: all alike.
    """
    weighed = torch.ones_like(groups_OGS[:1]) if importance_GS is None else importance_GS
    best_scales, best_zeros = plain_scales(groups_OGS, grid, dtype)
    best_error = _squared_error(groups_OGS, best_scales, best_zeros, grid, weighed)

    def offer(scales_OG: Tensor, zeros_OG: Tensor | None) -> None:
        nonlocal best_scales, best_zeros, best_error
        error = _squared_error(groups_OGS, scales_OG, zeros_OG, grid, weighed)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scales = torch.where(better, scales_OG, best_scales)
        if zeros_OG is not None and best_zeros is not None:
            best_zeros = torch.where(better, zeros_OG, best_zeros)

    least_OG, most_OG = groups_OGS.amin(-1), groups_OGS.amax(-1)
    longest_OG = torch.where(-least_OG > most_OG, least_OG, most_OG)  # with its sign
    for clip in _CLIPS[grid.bits].tolist():
        if grid.symmetric:
            # the longest weight gets the lowest code: -longest / -2^(bits - 1)
            signed = longest_OG * (-2 * clip / grid.codes)
            offer(stored(signed, dtype), None)
            offer(stored(-signed, dtype), None)
        else:
            offer(*_minmax(least_OG * clip, most_OG * clip, grid, dtype))
    # the codes are known now: of all scales, this one is the best for them
    centred = centred_codes(groups_OGS, best_scales, best_zeros, grid)
    fitted = (weighed * groups_OGS * centred).sum(-1) / (weighed * centred.square()).sum(-1).clamp_min(1e-30)
    offer(stored(torch.where(fitted == 0, best_scales.float(), fitted), dtype), best_zeros)
    return best_scales, best_zeros


def _squared_error(
    groups_OGS: Tensor, scales_OG: Tensor, zeros_OG: Tensor | None, grid: Grid, importance: Tensor
) -> Tensor:
    centred = centred_codes(groups_OGS, scales_OG, zeros_OG, grid)
    return (centred.mul_(scales_OG.float().unsqueeze(-1)).sub_(groups_OGS).square_().mul_(importance)).sum(-1)


def centred_codes(groups_OGS: Tensor, scales_OG: Tensor, zeros_OG: Tensor | None, grid: Grid) -> Tensor:
    """The nearest code less its zero, (O, G, S) float32."""
    centred = (groups_OGS / scales_OG.to(groups_OGS.dtype).unsqueeze(-1)).round_()
    if zeros_OG is None:
        half = grid.codes // 2
        return centred.clamp_(-half, half - 1)
    zeros_OG1 = zeros_OG.unsqueeze(-1).to(groups_OGS.dtype)
    return centred.clamp_(-zeros_OG1, grid.codes - 1 - zeros_OG1)


def encoded(weight_OI: Tensor, scales_OG: Tensor, zeros_OG: Tensor | None, grid: Grid) -> Quantized:
    """Every weight at its nearest code."""
    centred = centred_codes(in_groups(weight_OI, grid), scales_OG, zeros_OG, grid)
    return packed(centred.flatten(1), scales_OG, zeros_OG, grid)


def packed(centred_OI: Tensor, scales_OG: Tensor, zeros_OG: Tensor | None, grid: Grid) -> Quantized:
    """A matrix from its codes less their zeros, (O, I)."""
    if zeros_OG is None:
        codes = centred_OI + grid.codes // 2
    else:
        codes = (in_groups(centred_OI, grid) + zeros_OG.unsqueeze(-1)).flatten(1)
    return Quantized(codes.to(torch.uint8), scales_OG, zeros_OG, grid)


def output_error(difference_OI: Tensor, hessian_II: Tensor) -> float:
    """Mean squared length of what a difference of weights changes in a map's output, by the mean of xᵀx."""
    return float((difference_OI @ hessian_II).mul_(difference_OI).sum(dtype=torch.float64))
