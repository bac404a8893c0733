"""`bits=auto budget=1.8GB`: which matrices have 8 bits, where the bytes do not reach for all of them.

Enters: what may be spent, the bytes of the model with given grids, rows to calibrate on. Leaves: a table, one line for
each of our own matrices: what it loses at 4 bits and at 8, the bytes of both, what was chosen.

    error   Σ |(W - value) x|² / Σ |W x|², over the maps of the matrix and all tokens: by the mean of xᵀx, so exact
    choice  the matrix whose error falls most for each byte more goes first, as long as bytes are left; one that does
            not fit any more is passed over

Errors are measured in the full model, each matrix alone, rounded by the chosen method. That errors add up is assumed:
it is about so while they are small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.display.progress import Progress, human
from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.roles import roles
from pipelines.train.quantization.contract import Bits, CalibrationRows, Grid, Method, MethodSettings
from pipelines.train.quantization.grids import kind_of
from pipelines.train.quantization.rounding import output_error
from pipelines.train.quantization.walk import watch

_UNITS = {
    "": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40,
}  # fmt: skip
Grids = Mapping[str, Grid]
HEADER = ("matrix", "error at 4 bits", "error at 8 bits", "bytes at 4", "bytes more at 8", "chosen bits")


def parse_bytes(said: str, where: str = "budget") -> int:
    """`1.8GB` as 1,800,000,000, `900 MB`, `1.5GiB`; without a unit, bytes. Raises: ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", said, re.IGNORECASE)
    factor = None if match is None else _UNITS.get(match[2].upper().removesuffix("B"))
    if match is None or factor is None or float(match[1]) == 0:
        raise ConfigError(f"{where} is {said!r}; expected a size such as 1.8GB, 900MB or 1.5GiB")
    return round(float(match[1]) * factor)


@dataclass(frozen=True)
class Budget:
    """What may be spent, checked.

    Attributes: bytes, of all weights; least and most, of all weights with every matrix at 4 and at 8 bits; four, bytes
        of each matrix at 4 bits; more, how many more it takes at 8.
    """

    bytes: int
    least: int
    most: int
    four: Mapping[str, int]
    more: Mapping[str, int]


def check_budget(
    said: str, model: ModelConfig, four: Grids, eight: Grids, scale_dtype: torch.dtype, size: Callable[[Grids], int]
) -> Budget:
    """Compare a budget with what the model takes; nothing is read.

    Args:
        said: as on the command line; four, eight: the grids of all quantized matrices, by our own names.
        size: bytes of all weights as they are stored, from the grids of what is quantized.

    Raises: ConfigError for a budget that is no size, that 4 bits everywhere exceed, or that 8 bits everywhere leave
        unused.
    """
    allowed, least, most = parse_bytes(said), size(four), size(eight)
    four_bytes = {
        name: round(roles(model)[name].numel * grid.bits_per_weight(8 * scale_dtype.itemsize) / 8)
        for name, grid in four.items()
    }
    if allowed < least:
        kept = least - sum(four_bytes.values())
        raise ConfigError(
            f"budget is {human(allowed, 'B')}; with all matrices at 4 bits the weights take {human(least, 'B')}, of "
            f"them {human(kept, 'B')} for the embedding, the output matrix and norms, which are not quantized: allow "
            f"at least {least:,} bytes, or a larger group size"
        )
    if allowed >= most:
        raise ConfigError(
            f"budget is {human(allowed, 'B')}; with all matrices at 8 bits the weights take {human(most, 'B')}, so "
            f"there is nothing to choose: ask for 8 bits, or allow less than {most:,} bytes (and at least {least:,})"
        )
    more: dict[str, int] = {}
    for kind in dict.fromkeys(map(kind_of, four)):  # matrices of a kind take the same
        names = [name for name in four if kind_of(name) == kind]
        more |= dict.fromkeys(names, (size({**four, **{name: eight[name] for name in names}}) - least) // len(names))
    return Budget(allowed, least, most, four_bytes, more)


def measure_errors(
    weights: Iterable[tuple[str, Tensor]], model: ModelConfig, method: Method, settings: MethodSettings,
    grids: Sequence[Grids], calibration: CalibrationRows, scale_dtype: torch.dtype, progress: Progress | None = None,
) -> dict[str, tuple[float, ...]]:  # fmt: skip
    """The relative error of each matrix with each of some grids.

    Args: weights, in Llama's names and order, scalings folded in; grids, by our own names: all of the same matrices.
    """
    errors: dict[str, tuple[float, ...]] = {}
    for seen in watch(weights, model, calibration, progress):
        if seen.parameter not in grids[0]:
            continue
        whole = output_error(seen.weight, seen.inputs.hessian)
        lost = []
        for choice in grids:
            quantized = method.quantize(seen.weight, choice[seen.parameter], seen.inputs, scale_dtype, settings)
            lost.append(output_error(quantized.values() - seen.weight, seen.inputs.hessian))
        errors[seen.parameter] = tuple(one / max(whole, 1e-30) for one in lost)
    return errors


@dataclass(frozen=True)
class Choice:
    """One line of the table."""

    parameter: str  # our own name of the matrix
    error4: float
    error8: float
    bytes4: int
    more: int  # bytes that it takes more at 8 bits
    bits: Bits


def choose_bits(budget: Budget, errors: Mapping[str, Sequence[float]]) -> list[Choice]:
    """Which matrices have 8 bits. Args: errors, of each at 4 and at 8 bits. Returns: in the model's order."""
    names = list(budget.more)
    left = budget.bytes - budget.least
    eight: set[str] = set()
    # sorted is stable: among equals the model's order decides
    for name in sorted(names, key=lambda name: (errors[name][1] - errors[name][0]) / budget.more[name]):
        if budget.more[name] <= left and errors[name][1] < errors[name][0]:
            eight.add(name)
            left -= budget.more[name]
    return [
        Choice(
            parameter=name, error4=errors[name][0], error8=errors[name][1], bytes4=budget.four[name],
            more=budget.more[name], bits=8 if name in eight else 4,
        )
        for name in names
    ]  # fmt: skip


def mixed_grids(choices: Iterable[Choice], four: Grids, eight: Grids) -> dict[str, Grid]:
    """The grid of each matrix as it was chosen."""
    return {one.parameter: (eight if one.bits == 8 else four)[one.parameter] for one in choices}


def table_rows(choices: Sequence[Choice]) -> list[list[object]]:
    """Under `HEADER`, what loses most for a byte first."""
    ordered = sorted(choices, key=lambda one: (one.error8 - one.error4) / one.more)
    return [[one.parameter, one.error4, one.error8, one.bytes4, one.more, one.bits] for one in ordered]
