"""The `pack-quantized` layout of compressed-tensors: matrices as small numbers, which `transformers` and vLLM read.

Legend: O rows (outputs), I columns (inputs), G groups of a row, b bits of a code.

    <map>.weight_packed      int32 (O, I·b/32)         codes, the first in the lowest bits
    <map>.weight_scale       the kept type (O, G)
    <map>.weight_shape       int64 (2,)                O and I
    <map>.weight_zero_point  int32 (⌈O·b/32⌉, G)       packed along the rows; grids that are not symmetric

Embedding, norms and output matrix lie beside them in the kept type, and the names are Llama's. The layout stores codes
as they are (it takes 2^(b-1) off when it reads). A reader computes `(code - zero) · scale` in the type of the scales,
which is what `Quantized.values` does, so the model that was measured is the model that is loaded, bit by bit.

Source: compressed-tensors 0.20.0, `compressors/pack_quantized` (Apache-2.0), read and not copied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import ArtifactError, ConfigError
from pipelines.train.formats.contract import Delivered, Source
from pipelines.train.formats.folder import (
    StoredTensors,
    llama_names,
    shapeless,
    write_generation_config,
    write_json,
    write_tensors,
    write_tokenizer,
)
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.roles import roles
from pipelines.train.quantization.contract import Grid, Quantized, QuantizedStream

Grids = Mapping[str, Grid]  # by a map's name in Llama's: model.layers.0.self_attn.q_proj.weight

_WORD_BITS = 32
_PACKED, _SCALE, _SHAPE, _ZERO = "_packed", "_scale", "_shape", "_zero_point"  # behind the name of a map's weight


# ── Packing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack(codes: Tensor, bits: int) -> Tensor:
    """(R, C) uint8 → (R, ⌈C·bits/32⌉) int32: codes of a row one behind the other, the first in the lowest bits."""
    per_word = _WORD_BITS // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % per_word))
    if bits == 4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return _rows_as(codes, torch.int32)


def unpack(words: Tensor, bits: int, columns: int) -> Tensor:
    """(R, ⌈columns·bits/32⌉) int32 → (R, columns) uint8; the inverse of `pack`."""
    codes = _rows_as(words, torch.uint8)
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).view(len(words), -1)
    return codes[:, :columns].contiguous()


def _rows_as(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of each row as other numbers. A matrix of one column may have any stride there and count as contiguous,
    and torch would refuse to view it.
    """
    return matrix.reshape(-1).view(dtype).view(len(matrix), -1)


def packed_tensors(name: str, matrix: Quantized) -> Iterator[tuple[str, Tensor]]:
    """What is stored of one map. Args: name, of its weight in Llama's names."""
    bits = matrix.grid.bits
    yield name + _PACKED, pack(matrix.codes, bits)
    yield name + _SCALE, matrix.scales
    yield name + _SHAPE, torch.tensor(list(matrix.shape), dtype=torch.int64)
    if matrix.zeros is not None:
        yield name + _ZERO, pack(matrix.zeros.T, bits).T.contiguous()


def _packed_shapes(name: str, shape: Sequence[int], grid: Grid) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and whether it is of the kept type, of all that `packed_tensors` will give."""
    rows, columns = shape
    yield name + _PACKED, (rows, -(-columns * grid.bits // _WORD_BITS)), False
    yield name + _SCALE, (rows, columns // grid.group_size), True
    yield name + _SHAPE, (2,), False
    if not grid.symmetric:
        yield name + _ZERO, (-(-rows * grid.bits // _WORD_BITS), columns // grid.group_size), False


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_quantized(folder: Path, source: Source, stream: QuantizedStream, grids: Grids, kept: str) -> None:
    """Write a whole folder: weights tensor by tensor, config, tokenizer.

    Args:
        stream: weights in Llama's names, scalings folded in; `Quantized` where `grids` says so.
        grids: of each quantized map.
        kept: the type of scales and of what is not quantized: bfloat16, float16 or float32.

    Raises: ConfigError for a map that a group size does not divide, or as `refuse_mixture` does; StorageError when it
        cannot be written.
    """
    refuse_mixture(grids)
    dtypes: dict[str, torch.dtype] = {}
    shapes: dict[str, Sequence[int]] = {}
    for name, value in fold(shapeless(source), source.model):
        if name not in grids:
            shapes[name] = value.shape
            continue
        if value.shape[1] % grids[name].group_size:
            raise ConfigError(
                f"{name} has {value.shape[1]} inputs, which groups of {grids[name].group_size} do not divide: choose "
                "another group_size for it"
            )
        for part, shape, is_kept in _packed_shapes(name, value.shape, grids[name]):
            shapes[part] = shape
            if not is_kept:
                dtypes[part] = torch.int64 if part.endswith(_SHAPE) else torch.int32
    write_tensors(folder, shapes, _stored(stream, grids), kept, dtypes)
    config = llama_config(source.model, kept)
    write_json(folder / "config.json", {**config, "quantization_config": quantization_config(grids)})
    write_generation_config(folder)
    write_tokenizer(source, folder)


def by_map(grids: Mapping[str, Grid | None], model: ModelConfig) -> dict[str, Grid]:
    """Grids by the names of Llama's maps. Args: grids, by our own names of parameters, None where one is kept."""
    named: dict[str, Grid] = {}
    for name, role in roles(model).items():
        if (grid := grids.get(name)) is not None:
            parts = [part for part, _ in role.parts] or [name]
            named |= {f"model.{part}": grid for part in parts}
    return named


def plain_bytes(source: Source, grids: Grids, itemsize: int) -> dict[str, int]:
    """Size of all weights with `itemsize` bytes each: of the maps that have a grid, of the rest, and together."""
    sizes = {name: value.numel() * itemsize for name, value in fold(shapeless(source), source.model)}
    linear = sum(size for name, size in sizes.items() if name in grids)
    return {"linear": linear, "rest": sum(sizes.values()) - linear, "total": sum(sizes.values())}


def stored_bytes(source: Source, grids: Grids, kept: str) -> dict[str, int]:
    """Size of all weights as `write_quantized` stores them: of linear maps, of the rest, and together."""
    kept_bytes: int = getattr(torch, kept).itemsize
    linear = rest = 0
    for name, value in fold(shapeless(source), source.model):
        if name not in grids:
            rest += value.numel() * kept_bytes
            continue
        for part, shape, is_kept in _packed_shapes(name, value.shape, grids[name]):
            linear += torch.Size(shape).numel() * (kept_bytes if is_kept else 8 if part.endswith(_SHAPE) else 4)
    return {"linear": linear, "rest": rest, "total": linear + rest}


def _stored(stream: QuantizedStream, grids: Grids) -> Iterator[tuple[str, Tensor]]:
    for name, value in stream:
        if isinstance(value, Tensor):
            yield name, value
            continue
        if grids.get(name) != value.grid:
            raise ValueError(f"{name} was quantized on {value.grid}, announced was {grids.get(name)}")
        yield from packed_tensors(name, value)


def quantization_config(grids: Grids) -> dict[str, Any]:
    """What `config.json` says of the layout: a group of modules for each grid."""
    by_grid: dict[Grid, list[str]] = {}
    for name, grid in grids.items():
        by_grid.setdefault(grid, []).append(name)
    alone = len(by_grid) == 1
    groups: dict[str, Any] = {
        f"group_{number}": {
            "targets": ["Linear"] if alone else _targets(names),
            "input_activations": None,
            "output_activations": None,
            "weights": {
                "num_bits": grid.bits,
                "type": "int",
                "symmetric": grid.symmetric,
                "strategy": "group",
                "group_size": grid.group_size,
                "dynamic": False,
                "actorder": None,
                "block_structure": None,
                "observer": "minmax",
                "observer_kwargs": {},
            },
        }
        for number, (grid, names) in enumerate(by_grid.items())
    }
    # Without `dequantize` transformers 5.23 unpacks on first use, and then expects zero points that are not packed.
    # With it, it takes the first group's grid for all maps, so `refuse_mixture` is there. vLLM has no such key.
    unpacked_at_once = {} if all(grid.symmetric for grid in by_grid) else {"dequantize": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": groups,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        **unpacked_at_once,
    }


def refuse_mixture(grids: Grids) -> None:
    """Raises: ConfigError for several grids of which one is not symmetric: `transformers` would read them wrongly."""
    kinds = set(grids.values())
    if len(kinds) > 1 and not all(grid.symmetric for grid in kinds):
        raise ConfigError(
            f"there are {len(kinds)} grids (bits, group sizes), and not all of them are symmetric: transformers reads "
            "such a folder wrongly; expected symmetric grids, or one number of bits and one group size for all maps"
        )


def _targets(names: Sequence[str]) -> list[str]:
    """Regular expressions for the modules of these weights: one for each map, with the numbers of its layers."""
    layers: dict[str, list[str]] = {}
    for name in names:
        matched = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
        assert matched is not None, name
        layers.setdefault(matched[2], []).append(matched[1])
    return [rf"re:model\.layers\.({'|'.join(numbers)})\.{re.escape(map_)}$" for map_, numbers in sorted(layers.items())]


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def stored_grids(folder: Path) -> dict[str, Grid]:
    """The grid of each quantized map, as the folder's own tensors say. Raises: ArtifactError for another layout."""
    stored = StoredTensors(folder)
    return {name: _grid(stored, name) for name in llama_names(_config(folder)) if name + _PACKED in stored.names}


def read_quantized(folder: Path) -> QuantizedStream:
    """The weights as they are stored, in the order of a stream: codes and scales of quantized maps, other tensors in
    float32. Raises: ArtifactError when the folder cannot be read."""
    stored = StoredTensors(folder)
    for name in llama_names(_config(folder)):
        if name + _PACKED not in stored.names:
            yield name, stored[name].float()
            continue
        grid = _grid(stored, name)
        rows, columns = stored[name + _SHAPE].tolist()
        zeros = None if grid.symmetric else unpack(stored[name + _ZERO].T, grid.bits, rows).T.contiguous()
        codes = unpack(stored[name + _PACKED], grid.bits, columns)
        yield name, Quantized(codes=codes, scales=stored[name + _SCALE], zeros=zeros, grid=grid)


def read(folder: Path) -> Delivered:
    """What `transformers` computes with, in float32."""
    return Delivered(_config(folder), lambda: dequantized(read_quantized(folder)))


def dequantized(stream: QuantizedStream) -> Iterator[tuple[str, Tensor]]:
    """The stream with values in place of codes, float32."""
    for name, value in stream:
        yield name, value if isinstance(value, Tensor) else value.values()


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}/config.json cannot be read: {error}") from error
    layout = config.get("quantization_config", {})
    if layout.get("format") != "pack-quantized":
        raise ArtifactError(
            f"{folder} holds no pack-quantized weights of compressed-tensors (config.json says "
            f"{layout.get('format') or 'nothing of it'}): make it with `python -m workflows.quantize`"
        )
    return config


def _grid(stored: StoredTensors, name: str) -> Grid:
    """A map's grid, from the shapes of its tensors."""
    _, columns = stored[name + _SHAPE].tolist()
    words = stored.shape(name + _PACKED)[1]
    bits, groups = words * _WORD_BITS // columns, stored.shape(name + _SCALE)[1]
    if bits not in (4, 8) or not groups or columns % groups:
        raise ArtifactError(
            f"{name} in {stored.folder} has {bits} bits in {groups} groups of {columns} inputs; known are 4 and 8 "
            "bits in groups that divide the inputs"
        )
    return Grid(bits=4 if bits == 4 else 8, group_size=columns // groups, symmetric=name + _ZERO not in stored.names)
