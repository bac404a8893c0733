"""How a GGUF file stores a matrix: its types, the bytes of each, and llama.cpp's own quantizer for k-quants.

Legend: O rows (outputs), I columns (inputs), G groups of a row.

Enters: a matrix in float32, or its codes. Leaves: rows of bytes as llama.cpp computes with them, and values again.

    type        block           stored in a block                              value
    q4_0        32 of a row     float16 scale d, 32 codes of 4 bits            (code - 8) · d
    q8_0        32 of a row     float16 scale d, 32 whole numbers of 8 bits    code · d
    k-quants    256 of a row    scales of 6 or 8 bits for each 16 or 32        written by llama.cpp alone

float16, bfloat16, q8_0 and q4_0 are written by the `gguf` package, whose NumPy code gives the bytes of llama.cpp's
reference. It writes no k-quants: these are made of a temporary float16 file by `llama_model_quantize`.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ArtifactError, ConfigError
from pipelines.train.formats.contract import Stored
from pipelines.train.quantization.contract import Grid, Quantized
from pipelines.train.runtimes.contract import INSTALL_LLAMA_CPP

# the first is what dtype=null means
DTYPES = {
    "q4_0": Stored(
        bits=4.5, words="4 bits in groups of 32, rounded to nearest; embedding and output matrix 8 bits (q8_0)",
        most_kl=0.5, least_top1=0.5,
    ),
    "q8_0": Stored(bits=8.5, words="8 bits in groups of 32, rounded to nearest", most_kl=0.02, least_top1=0.9),
    "q4_k_m": Stored(bits=4.84, words="llama.cpp's mixture of 4 and 6 bits", most_kl=0.4, least_top1=0.55),
    "q5_k_m": Stored(bits=5.68, words="llama.cpp's mixture of 5 and 6 bits", most_kl=0.15, least_top1=0.7),
    "q6_k": Stored(bits=6.56, words="llama.cpp's 6 bits", most_kl=0.05, least_top1=0.8),
    "f16": Stored(bits=16, words="float16"),
    "bf16": Stored(bits=16, words="bfloat16"),
    "f32": Stored(bits=32, words="float32"),
}  # fmt: skip
FLOAT_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
K_QUANTS = ("q4_k_m", "q5_k_m", "q6_k")
BLOCK, K_BLOCK = 32, 256
_SMALLEST_NORMAL = 2.0**-14  # of float16: smaller numbers have fewer than 11 bits


def type_of(dtype: str, name: str, shape: tuple[int, ...]) -> str:
    """The type that a tensor is written with. Args: dtype, f32 f16 bf16 q8_0 q4_0; name, in Llama's names."""
    if len(shape) == 1:
        return "f32"  # what llama.cpp expects of norms
    if dtype in FLOAT_TYPES:
        return dtype
    if shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if dtype == "q8_0" or not name.startswith("model.layers.") else "q4_0"


def number_of(type_: str) -> Any:
    """A type's number in a GGUF file, an enumeration's member."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[type_.upper()]


def to_bytes(value: Tensor, type_: str) -> NDArray[np.uint8]:
    """Bytes of a tensor, row by row, uint8. Args: value, (O, I) or (I,) float32, I divisible by the type's block."""
    from gguf import quants

    stored: NDArray[Any] = quants.quantize(value.detach().float().contiguous().numpy(), number_of(type_))
    return stored.view(np.uint8)


def from_bytes(stored: NDArray[np.uint8], type_: str, shape: tuple[int, ...]) -> Tensor:
    """The values that llama.cpp computes with, float32; k-quants too."""
    from gguf import quants

    rows = stored.reshape(*shape[:-1], -1)
    return torch.from_numpy(np.array(quants.dequantize(rows, number_of(type_)), np.float32).reshape(shape))


# ── Codes that are there already ──────────────────────────────────────────────────────────────────────────────────────


def type_of_codes(grid: Grid, name: str) -> str:
    """The type whose blocks hold a matrix code by code. Raises: ConfigError where none does."""
    if not grid.symmetric or grid.group_size % BLOCK or grid.bits not in (4, 8):
        kind = "symmetric" if grid.symmetric else "asymmetric"
        raise ConfigError(
            f"{name} has {grid.bits} bits in {kind} groups of {grid.group_size}; a GGUF file holds 4 or 8 bits in "
            "symmetric groups of 32, 64 or 128 as they are: quantize on such a grid, or export the checkpoint "
            "that it was quantized from with format=gguf, which rounds anew"
        )
    return "q4_0" if grid.bits == 4 else "q8_0"


def code_blocks(matrix: Quantized, name: str) -> tuple[NDArray[np.uint8], int]:
    """Blocks with the very same codes and scales.

    A scale goes from its type to float16, which is exact from 2⁻¹⁴ on for bfloat16. A smaller one may change by 2⁻²⁵,
    that is a weight by 2⁻²² where codes have 4 bits and by 2⁻¹⁸ where they have 8: it is counted.

    Returns: uint8 (O, bytes of a row), and how many scales changed.
    Raises: ConfigError where a scale is out of float16's range, or would change by more.
    """
    type_ = type_of_codes(matrix.grid, name)
    rows = len(matrix.codes)
    scales_OG = matrix.scales.float()
    halves_OG = scales_OG.half()
    changed = halves_OG.float() != scales_OG
    if bool((changed & (scales_OG.abs() >= _SMALLEST_NORMAL)).any()) or not bool(halves_OG.isfinite().all()):
        raise ConfigError(
            f"{name} has scales that float16 cannot hold; a GGUF file has scales in float16: quantize with scales in "
            "bfloat16 or float16, or export the checkpoint that it was quantized from, which rounds anew"
        )
    # a group of 64 is two blocks that share a scale
    per_block = halves_OG.repeat_interleave(matrix.grid.group_size // BLOCK, dim=1).reshape(-1, 1)
    codes = matrix.codes.reshape(-1, BLOCK).numpy()
    if type_ == "q4_0":
        codes = codes[:, : BLOCK // 2] | (codes[:, BLOCK // 2 :] << 4)
    else:
        codes = (codes.astype(np.int16) - 128).astype(np.int8).view(np.uint8)
    blocks = np.concatenate([per_block.numpy().view(np.uint8), codes], axis=1)
    return blocks.reshape(rows, -1), int(changed.sum())


# ── k-quants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def missing() -> str | None:
    """None where llama.cpp's Python package is installed, else the line that installs it."""
    return None if importlib.util.find_spec("llama_cpp") else INSTALL_LLAMA_CPP


def quantize_file(float16_file: Path, target: Path, dtype: str) -> None:
    """Write `target` with llama.cpp's own quantizer, all cores, in the memory of one tensor.

    Raises: ArtifactError with llama.cpp's words when it fails.
    """
    import llama_cpp
    from llama_cpp import _logger

    lines: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def keep(level: int, text: bytes, _: Any) -> None:
        lines.append(text.decode("utf-8", "replace"))

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{dtype.upper()}")
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        paths = str(float16_file).encode(), str(target).encode()
        failed = llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings))
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))
    if failed:
        words = " ".join("".join(lines[-3:]).split())
        raise ArtifactError(
            f"llama.cpp's quantizer gave up on {target.name}: {words or f'code {failed}'}; nothing was committed"
        )
