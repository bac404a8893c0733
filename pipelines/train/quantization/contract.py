"""What a quantized matrix is, and what a method of quantizing says of itself.

Legend: O rows (outputs), I columns (inputs), G groups of a row (I / group_size).

    value[o, i] = (code[o, i] - zero[o, g]) · scale[o, g],   g = i // group_size,   0 ≤ code < 2^bits

A stream of a quantized model is a stream of weights in Llama's names, scalings folded in, in which a matrix may be a
`Quantized` instead of a tensor (`QuantizedStream`). Embedding, norms and output matrix stay tensors.

Source: MiniCPM (arXiv 2404.06395), appendix D: groups along the inputs, embeddings and norms left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipelines.config import Range, config_class

GROUP_SIZES = (32, 64, 128)
GroupSize = Annotated[int, Range(32, 128)]
Bits = Literal[4, 8]


@dataclass(frozen=True)
class Grid:
    """Which values a quantized matrix may have."""

    bits: Bits
    group_size: int  # inputs that share a scale
    symmetric: bool  # the code of zero is 2^(bits - 1) in every group

    @property
    def codes(self) -> int:
        """How many there are."""
        return 1 << self.bits

    def bits_per_weight(self, scale_bits: int = 16) -> float:
        """Of a stored matrix, its scales (and zeros) counted: 4.5 for 4 bits in groups of 32, symmetric."""
        return self.bits + (scale_bits + (0 if self.symmetric else self.bits)) / self.group_size


@dataclass(frozen=True)
class Quantized:
    """A matrix as small whole numbers.

    Attributes: codes, uint8 (O, I); scales, (O, G) in the type that is stored; zeros, uint8 (O, G), None where the grid
        is symmetric.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    grid: Grid

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def values(self) -> Tensor:
        """(O, I) float32: what the readers of the `compressed-tensors` layout compute with, bit by bit."""
        zeros = torch.tensor(self.grid.codes // 2) if self.zeros is None else self.zeros.unsqueeze(-1)
        rows, groups = self.scales.shape
        centred = self.codes.view(rows, groups, -1).to(self.scales.dtype) - zeros.to(self.scales.dtype)
        return (centred * self.scales.unsqueeze(-1)).view(rows, -1).float()


QuantizedStream = Iterator[tuple[str, Tensor | Quantized]]


@config_class
class MethodSettings:
    """What the settings of every method extend: `methods.<name>` of `workflows.quantize`."""


@dataclass(frozen=True)
class CalibrationRows:
    """What calibration reads: B rows of T ids.

    Attributes: ids, (B, T) int64; positions, place of each id in its document, (B, T) int64, 0 at its first; real,
        (B, T) boolean, False where a row is filled up; tokens, real ids by source.
    """

    ids: Tensor
    positions: Tensor
    real: Tensor
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Inputs:
    """What calibration saw go into one map, once everything before it was quantized.

    Attributes:
        hessian: the mean of xᵀx, (I, I) float32.
        magnitude: the mean of |x|, (I,) float32.
        rows: tokens that were seen.
        shift: the mean of (y - W x)ᵀx, (O, I) float32, where y is what the full model computes there: by it a map can
            mend what those before it broke. None: it was not asked for.
    """

    hessian: Tensor
    magnitude: Tensor
    rows: int
    shift: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of `METHODS`.

    Attributes:
        Settings: the config class of `methods.<name>`. words: the method in a clause, for tables and cards.
        calibrated: whether it looks at data.
        quantize: one map, or several with the same inputs, one below the other: each row is rounded by itself. Args:
            weight (O, I) float32, its grid, its inputs (None where not calibrated), the type of the scales, settings.
        mends: whether settings ask for `Inputs.shift`.
        rescale: changes the maps and norms of one block so that the block computes the same and quantizes better;
            None: it does not. Args: the block's weights in Llama's names without `model.layers.N.`, the inputs of each
            map (of the block as it was), the grid of each map that is quantized, the type of the scales, settings.
            Returns: all of the block's weights.
    """

    Settings: type[MethodSettings]
    words: str
    calibrated: bool
    quantize: Callable[..., Quantized]
    mends: Callable[..., bool] = lambda _settings: False
    rescale: Callable[..., Mapping[str, Tensor]] | None = None
