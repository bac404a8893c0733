"""Which matrices are quantized, and the grid of each: checked before any work.

Enters: bits, group size and its exceptions, as a config says them. Leaves: a `Grid` for each of our own parameters that
is quantized. The maps of a fused product share it, as readers fuse them too.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.roles import roles
from pipelines.train.quantization.contract import GROUP_SIZES, Bits, Grid


def kind_of(parameter: str) -> str:
    """`down_proj` of `layers.3.mlp.down_proj.weight`."""
    return parameter.removesuffix(".weight").rsplit(".", 1)[-1]


def quantized_parameters(model: ModelConfig) -> tuple[str, ...]:
    """Our own names of all parameters that are quantized: the matrices of the blocks, in the model's order."""
    return tuple(name for name, role in roles(model).items() if role.kind == "matrix" and role.layer is not None)


def inputs_by_kind(model: ModelConfig) -> dict[str, int]:
    """How many inputs each kind of quantized parameter has: `{"qkv_proj": 320, …, "down_proj": 800}`."""
    return {kind_of(name): roles(model)[name].shape[1] for name in quantized_parameters(model)}


def check_grid(model: ModelConfig, group_size: int, group_sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """The group size of each kind of parameter.

    Args: group_sizes, exceptions by kind: `{"down_proj": 32}`.
    Raises: ConfigError for a size that is none of `GROUP_SIZES` or does not divide a map's inputs, or for an exception
        of an unknown kind.
    """
    kinds, exceptions = inputs_by_kind(model), group_sizes or {}
    if unknown := sorted(set(exceptions) - set(kinds)):
        raise ConfigError(f"group_sizes names {', '.join(unknown)}; expected some of {', '.join(kinds)}")
    for where, size in {
        "group_size": group_size,
        **{f"group_sizes.{kind}": n for kind, n in exceptions.items()},
    }.items():
        if size not in GROUP_SIZES:
            raise ConfigError(f"{where} is {size}; expected one of {', '.join(map(str, GROUP_SIZES))}")
    chosen = {kind: exceptions.get(kind, group_size) for kind in kinds}
    if not (odd := [kind for kind, size in chosen.items() if kinds[kind] % size]):
        return chosen
    fit_all = [size for size in GROUP_SIZES if all(inputs % size == 0 for inputs in kinds.values())]
    some = {kind: [size for size in GROUP_SIZES if kinds[kind] % size == 0] for kind in odd}
    told = " and ".join(
        f"{kind} has {kinds[kind]:,} inputs, which groups of {chosen[kind]} do not divide" for kind in odd
    )
    smaller = ", ".join(f"{kind}: {max(some[kind])}" for kind in odd if some[kind])
    if fit_all:
        advice = f"a group_size of {' or '.join(map(str, fit_all))} divides all"
        if all(some.values()):
            advice += f"; or keep {group_size} for the others, with group_sizes {{{smaller}}}"
    elif all(some.values()):
        advice = f"set group_sizes to {{{smaller}}}"
    else:
        advice = "no group size divides all maps of this model, so it cannot be quantized"
    raise ConfigError(f"{told}: {advice}")


def uniform_grids(
    model: ModelConfig, bits: Bits, group_size: int, symmetric: bool, group_sizes: Mapping[str, int] | None = None
) -> dict[str, Grid]:
    """The same bits everywhere. Raises: as `check_grid`."""
    sizes = check_grid(model, group_size, group_sizes)
    return {name: Grid(bits, sizes[kind_of(name)], symmetric) for name in quantized_parameters(model)}
