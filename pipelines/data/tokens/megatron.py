"""The index of a token shard, byte by byte as Megatron-LM's `IndexedDataset` has it.

Enters: document lengths and the dtype of an id. Leaves: an `.idx` file, and what one says. Megatron, NeMo and
DeepSpeed's forks read our `.bin` and `.idx` as they are.

`.idx`, little-endian:

    9 bytes  "MMIDIDX\\0\\0"     uint64  version 1     uint8  dtype code     uint64  sequences N     uint64  N + 1
    int32[N] sequence lengths, in tokens    int64[N] sequence offsets, in bytes    int64[N+1] document indices 0..N
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
DTYPE_CODES: dict[int, type[np.generic]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16,
}  # fmt: skip
_HEADER = struct.Struct("<9sQBQQ")


def token_dtype(vocabulary_size: int) -> type[np.generic]:
    """uint16 below 65,500 ids (Megatron's bound), else int32."""
    return np.uint16 if vocabulary_size < 65_500 else np.int32


def write_index(path: Path, lengths: NDArray[np.int32], dtype: np.dtype[Any]) -> None:
    """Write an `.idx` file. Args: lengths, tokens of each document [N]; dtype, of an id."""
    pointers = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
    code = next(code for code, kind in DTYPE_CODES.items() if np.dtype(kind) == dtype)
    with path.open("wb") as index:
        index.write(_HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
        index.write(lengths.data)
        index.write((pointers * dtype.itemsize).data)
        index.write(np.arange(len(lengths) + 1, dtype=np.int64).data)


def read_index(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int64], np.dtype[Any]]:
    """The content of an `.idx` file.

    Returns: document lengths in tokens [N], offsets in bytes [N], the dtype of an id.
    Raises: DataError when it is not a version 1 Megatron index of integers, or is cut short.
    """
    data = path.read_bytes()
    if len(data) < _HEADER.size or data[:9] != MAGIC:
        raise DataError(f"{path} is not a Megatron index; expected a file that begins with MMIDIDX")
    _, version, code, count, _ = _HEADER.unpack_from(data)
    if version != 1 or code not in DTYPE_CODES or len(data) < _HEADER.size + 12 * count:
        raise DataError(
            f"{path} has version {version}, dtype code {code}, {len(data)} bytes for {count} documents; "
            f"expected version 1 and whole arrays"
        )
    lengths = np.frombuffer(data, "<i4", count, _HEADER.size)
    pointers = np.frombuffer(data, "<i8", count, _HEADER.size + 4 * count)
    return lengths, pointers, np.dtype(DTYPE_CODES[code])
