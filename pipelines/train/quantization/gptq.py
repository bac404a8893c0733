"""GPTQ: weights are rounded one input after another, and those not rounded yet make good what was lost.

Legend: O rows (outputs), I columns (inputs), G groups of a row, S inputs of a group.

    H = mean of xᵀx + damping,  Uᵀ U = H⁻¹ (U upper)        a column's rounding e changes the output by (e / U_jj)²
    w_k ← w_k - (e_j / U_jj) U_jk  for all later columns k

Source: Frantar et al. (arXiv 2210.17323), Algorithm 1; damping and the order by activations are of their code.

What is chosen here beyond it:

- Scales are searched with each column's error weighed by 1 / U_jj², among clipped ones (`rounding.py`).
- With `activation_order` columns are rounded by falling H_jj. Groups stay those of the original order, their scales
  chosen before, so what is stored needs no index of groups.
- `mend`: the goal is what the full model computes there, not what these weights make of inputs that are off already:
  W ← W + mean[(y - W x)ᵀx] H⁻¹, before anything is rounded. For maps that add to the stream, y counts what the stream
  has lost so far. (As GPTAQ, arXiv 2504.02692, and Qronos, arXiv 2505.11695, do.)
- `sweeps`: afterwards each group is visited again. Each of its codes, then its scale, is set to the best one given all
  others: coordinate descent on tr(ΔHΔᵀ), which never rises.

Linear algebra is float64, the columns float32. Cost: about (2 + 2 · sweeps) · O · I² and I³ multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from pipelines.config import Range, Whole, config_class
from pipelines.errors import DataError
from pipelines.train.quantization.contract import Grid, Inputs, Method, MethodSettings, Quantized
from pipelines.train.quantization.rounding import (
    in_groups,
    packed,
    plain_scales,
    searched_scales,
)

_BLOCK = 128  # columns between two updates of all later ones; groups divide it


@config_class
class GptqSettings(MethodSettings):
    """How GPTQ rounds."""

    # of the mean of H's diagonal, added to it. The paper has 0.01; KL of the pocket model's trunk at step 500, 64 rows:
    # 7.0e-4 at 0.001, 6.7e-4 at 0.01, 6.2e-4 at 0.05 (rounded to nearest: 24.6e-4)
    damping: Annotated[float, Range(above=0, high=1)] = 0.05
    activation_order: bool = True  # columns with large inputs first
    search: bool = True  # scales by the least weighed error, instead of those that clip nothing
    mend: bool = True  # aim at what the full model computes
    sweeps: Whole = 4  # of coordinate descent afterwards


def quantize(
    weight_OI: Tensor, grid: Grid, inputs: Inputs, scale_dtype: torch.dtype, settings: GptqSettings
) -> Quantized:
    """One map; see `Method.quantize`.

    Raises: DataError when the inputs are no finite numbers.
    """
    hessian_II, inverse_II = _damped(inputs.hessian, settings.damping)
    target_OI = weight_OI.float()
    if settings.mend and inputs.shift is not None:
        target_OI = target_OI + (inputs.shift.double() @ inverse_II).float()
    rounded = _Columns(target_OI, inverse_II, grid, scale_dtype, settings).rounded(
        torch.argsort(hessian_II.diagonal(), descending=True, stable=True)
        if settings.activation_order
        else torch.arange(len(hessian_II))
    )
    for _ in range(settings.sweeps):
        rounded.sweep(target_OI, hessian_II.float())
    return packed(rounded.centred_OI, rounded.scales_OG, rounded.zeros_OG, grid)


def _damped(hessian_II: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """H with its damping, and its inverse, float64. Inputs that were never seen count like the mean one.

    Raises: DataError.
    """
    hessian_II = hessian_II.double()
    if not torch.isfinite(hessian_II).all():
        raise DataError(
            "what calibration saw go into a map holds values that are no finite numbers: the checkpoint computes none "
            "on this text; choose an earlier checkpoint"
        )
    diagonal_I = hessian_II.diagonal()
    mean = float(diagonal_I.mean()) or 1.0
    added_I = torch.where(diagonal_I == 0, mean, damping * mean)
    damped_II = hessian_II + torch.diag(added_I)
    factor_II, failed = torch.linalg.cholesky_ex(damped_II)
    if failed:
        raise DataError(
            f"what calibration saw go into a map has too few directions for a damping of {damping:g}: raise the "
            "damping of gptq, or calibrate on more rows"
        )
    return damped_II, torch.cholesky_inverse(factor_II)


@dataclass
class _Rounded:
    """Codes and scales, as far as they are chosen."""

    grid: Grid
    centred_OI: Tensor  # codes less their zeros, float32
    scales_OG: Tensor  # in the type that is stored
    zeros_OG: Tensor | None

    def bounds(self, group: int) -> tuple[Tensor | float, Tensor | float]:
        """The lowest and highest code less its zero: (O,), or one for all rows."""
        if self.zeros_OG is None:
            half = self.grid.codes / 2
            return -half, half - 1
        zeros_O = self.zeros_OG[:, group].float()
        return -zeros_O, self.grid.codes - 1 - zeros_O

    def values(self, group: int, centred: Tensor) -> Tensor:
        """What readers compute with, float32, of codes of one group: (O,) or (O, S)."""
        scales_O = self.scales_OG[:, group]
        scales = scales_O if centred.dim() == 1 else scales_O[:, None]
        return (centred.to(scales.dtype) * scales).float()

    def nearest(self, group: int, wanted_O: Tensor) -> Tensor:
        """The code less its zero, (O,) float32."""
        low, high = self.bounds(group)
        return (wanted_O / self.scales_OG[:, group].float()).round_().clamp_(low, high)  # type: ignore[arg-type]

    def sweep(self, target_OI: Tensor, hessian_II: Tensor) -> None:
        """Set each code, then each scale, to the best one given all others."""
        size = self.grid.group_size
        groups = range(self.scales_OG.shape[1])
        values_OI = torch.cat([self.values(g, in_groups(self.centred_OI, self.grid)[:, g]) for g in groups], dim=1)
        pull_OI = (target_OI - values_OI) @ hessian_II  # minus half the slope of the error
        for group in groups:
            span = slice(group * size, (group + 1) * size)
            before_OS, local_SS = values_OI[:, span].clone(), hessian_II[span, span]
            pull_OS, centred_OS = pull_OI[:, span].clone(), self.centred_OI[:, span]
            values_OS = values_OI[:, span]
            for column in range(size):
                bend = local_SS[column, column]
                code_O = self.nearest(group, values_OS[:, column] + pull_OS[:, column] / bend)
                step_O = self.values(group, code_O) - values_OS[:, column]
                # a value is rounded as it is stored, so the nearest code may by a hair not be the best one
                better_O = step_O * (2 * pull_OS[:, column] - bend * step_O) > 0
                step_O = torch.where(better_O, step_O, 0.0)
                centred_OS[:, column] = torch.where(better_O, code_O, centred_OS[:, column])
                values_OS[:, column] += step_O
                pull_OS -= step_O[:, None] * local_SS[column]
            self._fit_scale(group, values_OS, centred_OS, pull_OS, local_SS)
            pull_OI -= (values_OS - before_OS) @ hessian_II[span]

    def _fit_scale(self, group: int, values_OS: Tensor, centred_OS: Tensor, pull_OS: Tensor, local_SS: Tensor) -> None:
        old_O = self.scales_OG[:, group].clone()
        bend_O = ((centred_OS @ local_SS) * centred_OS).sum(1)
        gain_O = (pull_OS * centred_OS).sum(1)
        new_O = (old_O.float() + gain_O / bend_O.clamp_min(1e-30)).to(old_O.dtype)
        usable_O = (bend_O > 0) & (new_O != 0) & torch.isfinite(new_O)
        self.scales_OG[:, group] = torch.where(usable_O, new_O, old_O)
        step_OS = self.values(group, centred_OS) - values_OS
        gained_O = (step_OS * (2 * pull_OS - step_OS @ local_SS)).sum(1)
        better_O = usable_O & (gained_O > 0)
        self.scales_OG[:, group] = torch.where(better_O, self.scales_OG[:, group], old_O)
        values_OS += torch.where(better_O[:, None], step_OS, 0.0)


@dataclass
class _Columns:
    """The rounding of one matrix, a column at a time."""

    target_OI: Tensor
    inverse_II: Tensor  # float64
    grid: Grid
    scale_dtype: torch.dtype
    settings: GptqSettings

    def rounded(self, order_I: Tensor) -> _Rounded:
        """Round the columns in an order; groups are those of the original one."""
        size, (rows, columns) = self.grid.group_size, self.target_OI.shape
        upper_II = torch.linalg.cholesky(self.inverse_II[order_I][:, order_I], upper=True).float()
        cost_I = torch.empty(columns).index_copy_(0, order_I, upper_II.diagonal().square().reciprocal())
        groups = columns // size
        zeros = None if self.grid.symmetric else torch.zeros(rows, groups, dtype=torch.uint8)
        result = _Rounded(
            self.grid, torch.zeros(rows, columns), torch.ones(rows, groups, dtype=self.scale_dtype), zeros
        )
        in_place = not self.settings.activation_order  # a group is rounded at one go, so its scale can wait until then
        if not in_place:
            self._choose(result, self.target_OI, slice(0, groups), cost_I)
        work_OI = self.target_OI[:, order_I].contiguous()
        original = order_I.tolist()
        for begin in range(0, columns, _BLOCK):
            end = min(begin + _BLOCK, columns)
            block_OB, upper_BB = work_OI[:, begin:end], upper_II[begin:end, begin:end]
            errors_OB = torch.empty_like(block_OB)
            for at in range(end - begin):
                column = original[begin + at]
                group = column // size
                if in_place and column % size == 0:
                    self._choose(result, block_OB[:, at : at + size], slice(group, group + 1), cost_I)
                code_O = result.nearest(group, block_OB[:, at])
                result.centred_OI[:, column] = code_O
                error_O = (block_OB[:, at] - result.values(group, code_O)) / upper_BB[at, at]
                block_OB[:, at:] -= error_O[:, None] * upper_BB[at, at:]
                errors_OB[:, at] = error_O
            work_OI[:, end:] -= errors_OB @ upper_II[begin:end, end:]
        return result

    def _choose(self, result: _Rounded, weight_OI: Tensor, groups: slice, cost_I: Tensor) -> None:
        """Scales and zeros of some groups, by the weights as they are now."""
        groups_OGS = in_groups(weight_OI, self.grid)
        cost_GS = in_groups(cost_I[None], self.grid)[:, groups]
        if self.settings.search:
            scales, zeros = searched_scales(groups_OGS, self.grid, self.scale_dtype, cost_GS)
        else:
            scales, zeros = plain_scales(groups_OGS, self.grid, self.scale_dtype)
        result.scales_OG[:, groups] = scales
        if result.zeros_OG is not None and zeros is not None:
            result.zeros_OG[:, groups] = zeros


GPTQ = Method(
    Settings=GptqSettings,
    words="GPTQ: rounded one input after another, the others making good what was lost",
    calibrated=True,
    quantize=quantize,
    mends=lambda settings: settings.mend,
)
