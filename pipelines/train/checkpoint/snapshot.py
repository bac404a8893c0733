"""Named 1-D tensors in one reusable host buffer, laid out as the safetensors file that they become.

Because the buffer is the file's body, writing is one pass over it that hashes as it goes: no copy per tensor, no second
read. The buffer is kept between saves: fresh memory costs page faults, half a second per GB on the training thread, and
pinned memory more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import StorageError

_PIECE_BYTES = 1 << 20
# what is stored, by safetensors' names, in the order in which that library puts tensors into a file
DTYPES = {
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HOST_DTYPES = {torch.int64: torch.int64, torch.uint8: torch.uint8}  # anything else is kept as float32


class Layout:
    """A host buffer with a place for each tensor, and the safetensors header that describes it."""

    def __init__(self, like: Mapping[str, Tensor]):
        """Args: like, tensors [n] by name; floating ones are held as float32."""
        self.shapes = {name: tuple(value.shape) for name, value in like.items()}
        dtypes = {name: _HOST_DTYPES.get(value.dtype, torch.float32) for name, value in like.items()}
        ordered = sorted(like, key=lambda name: -dtypes[name].itemsize)  # the widest first: every place is aligned
        self._head, places = file_head({name: (dtypes[name], tuple(like[name].shape)) for name in ordered})
        pinned = torch.cuda.is_available()
        self._buffer = torch.empty(body_bytes(places), dtype=torch.uint8, pin_memory=pinned)
        self._views = {name: self._buffer[slice(*places[name])].view(dtypes[name]) for name in ordered}

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self._head) + self._buffer.numel()

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are tensors of the same names and lengths."""
        return self.shapes == {name: tuple(value.shape) for name, value in tensors.items()}

    def copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy every tensor into its place; from a GPU without waiting for the copy to end."""
        for name, value in tensors.items():
            self._views[name].copy_(value.detach(), non_blocking=True)

    def write(self, path: Path) -> dict[str, Any]:
        """Write the file. Returns: `{"bytes", "sha256"}` of it. Raises: StorageError, leaving nothing behind."""
        digest = hashlib.sha256(self._head)
        body = memoryview(self._buffer.numpy())  # type: ignore[arg-type]
        try:
            with path.open("wb", buffering=0) as file:
                file.write(self._head)
                for first in range(0, len(body), _PIECE_BYTES):
                    piece = body[first : first + _PIECE_BYTES]
                    digest.update(piece)  # lets other threads run, as does the write
                    write_all(file, piece)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {error}; nothing was committed: free some space") from error
        return {"bytes": self.nbytes, "sha256": digest.hexdigest()}


def file_head(
    tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """How a safetensors file begins whose body holds `tensors` in their order.

    Args: tensors, dtype and shape by name. Returns: the first bytes of the file, padded to a multiple of eight; where
        each tensor
    begins and ends in the body behind them, in bytes.
    """
    places: dict[str, tuple[int, int]] = {}
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        places[name] = (begin, end)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def body_bytes(places: Mapping[str, tuple[int, int]]) -> int:
    """Size of a file's body. Args: places, as `file_head` gives them."""
    return max((end for _, end in places.values()), default=0)


def write_all(file: Any, piece: memoryview) -> None:
    """Write every byte: an unbuffered write may take less than it was given."""
    while len(piece):
        piece = piece[file.write(piece) :]
