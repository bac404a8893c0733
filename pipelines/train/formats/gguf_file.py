"""One `.gguf` file, written and read tensor by tensor.

Enters: metadata, the type and shape of every tensor, and a stream of their bytes. Leaves: a file; read back, its
metadata and the bytes of one tensor after the other.

Why not `GGUFWriter.add_tensor`: it keeps every tensor until the file is written. Here the writer is told types and
shapes alone, and each tensor goes to the file as it comes. Why not the memory map of `GGUFReader`: its pages count as
this process's memory until they are needed elsewhere. Here it reads the header, and tensors are read from their place.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ArtifactError
from pipelines.train.formats.folder import writing
from pipelines.train.formats.gguf_quants import from_bytes, number_of

_ARCHITECTURE = "llama"


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in its file, and how it is stored there."""

    type: str  # q4_0, f32, q6_k
    shape: tuple[int, ...]  # (O, I), or (I,)
    begin: int  # byte of the file
    size_bytes: int


def stored_bytes(type_: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor. Its rows are divisible by the type's block."""
    from gguf.quants import quant_shape_to_byte_shape

    size: int = np.prod(quant_shape_to_byte_shape(shape, number_of(type_)), dtype=np.int64).item()
    return size


def write_file(
    path: Path,
    add_metadata: Callable[[Any], None],
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: Iterable[tuple[str, NDArray[np.uint8]]],
) -> None:
    """Write a file of Llama's architecture.

    Args:
        add_metadata: adds everything but the tensors to a `gguf.GGUFWriter`.
        layout: type and shape of every tensor by its name in the file, in the order of the stream.
        tensors: names and bytes.
    Raises: StorageError when it cannot be written.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(None, _ARCHITECTURE)
    add_metadata(writer)
    for name, (type_, shape) in layout.items():
        writer.add_tensor_info(name, shape, np.dtype(np.float32), stored_bytes(type_, shape), number_of(type_))
    with writing(path):
        writer.write_header_to_file(path)
    try:
        with writing(path):
            path.chmod(0o644)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        for (expected, _), (name, data) in zip(layout.items(), tensors, strict=True):
            if name != expected:
                raise ValueError(f"{name} was given in the place of {expected}")
            with writing(path):
                writer.write_tensor_data(data)
    finally:
        with writing(path):
            writer.close()


class GgufFile:
    """A file that was written, read one tensor at a time."""

    def __init__(self, path: Path):
        """Reads metadata and places, and no tensor. Raises: ArtifactError for a file that is damaged, or no GGUF."""
        from gguf import GGUFReader

        self.path = path
        try:
            reader = GGUFReader(path)
            self.metadata: Mapping[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
            raise ArtifactError(
                f"{path} is no whole GGUF file ({type(error).__name__}: {error}): it was cut off, changed or is "
                "something else; make it again, or copy it again and compare its checksum"
            ) from error
        self.places = {
            tensor.name: Place(
                tensor.tensor_type.name.lower(),
                tuple(int(size) for size in reversed(tensor.shape)),
                int(tensor.data_offset),
                int(tensor.n_bytes),
            )
            for tensor in reader.tensors
        }
        self.names = list(self.places)

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """What is stored of a tensor. Raises: ArtifactError when it cannot be read."""
        place = self.places[name]
        try:
            data = np.fromfile(self.path, np.uint8, place.size_bytes, offset=place.begin)
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read from {self.path}: {error}") from error
        if len(data) != place.size_bytes:
            raise ArtifactError(f"{self.path} ends within {name}: it was cut off; make it again, or copy it again")
        return data

    def __getitem__(self, name: str) -> Tensor:
        """Values of a tensor, float32."""
        place = self.places[name]
        return from_bytes(self.bytes_of(name), place.type, place.shape)
