"""Named 1-D tensors in one reusable host buffer, laid out as the safetensors file that they become.

Because the buffer is the file's body, writing is one pass over it that hashes as it goes: no copy per tensor, no second
read. The buffer is kept between saves: fresh memory costs page faults, half a second per GB on the training thread, and
pinned memory more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import StorageError

_PIECE_BYTES = 1 << 20
_NAMES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}  # safetensors' names of what is stored
_HOST_DTYPES = {torch.int64: torch.int64, torch.uint8: torch.uint8}  # anything else is kept as float32


class Layout:
    """A host buffer with a place for each tensor, and the safetensors header that describes it."""

    def __init__(self, like: Mapping[str, Tensor]):
        """Args: like, tensors [n] by name; floating ones are held as float32."""
        self.shapes = {name: tuple(value.shape) for name, value in like.items()}
        held = {name: _HOST_DTYPES.get(value.dtype, torch.float32) for name, value in like.items()}
        ordered = sorted(like, key=lambda name: -held[name].itemsize)  # the widest first: every place is aligned
        places, end = {}, 0
        for name in ordered:
            begin, end = end, end + like[name].numel() * held[name].itemsize
            places[name] = (begin, end)
        pinned = torch.cuda.is_available()
        self._buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pinned)
        self._views = {name: self._buffer[slice(*places[name])].view(held[name]) for name in ordered}
        header = {
            name: {"dtype": _NAMES[held[name]], "shape": list(like[name].shape), "data_offsets": list(places[name])}
            for name in ordered
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text

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
                    _write_all(file, piece)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {error}; nothing was committed: free some space") from error
        return {"bytes": self.nbytes, "sha256": digest.hexdigest()}


def _write_all(file: Any, piece: memoryview) -> None:
    while len(piece):  # an unbuffered write may take less than it was given
        piece = piece[file.write(piece) :]
