"""Token shards: flat arrays of token ids with document offsets, in the Megatron `.bin/.idx` layout.

Enters: documents as arrays of token ids, each closed by the end-of-sequence id.
Leaves: for a shard `train/<source>/00000`

    .bin    the ids one after another, uint16 for a vocabulary below 65,500, else int32
    .idx    document lengths and offsets (layout below)
    .mask   one byte per token, 1 where the token counts in the loss; conversations and preferences only
    .bytes  int32 per document: UTF-8 bytes of the text that the counted tokens spell (for bits per byte)
    .sums   checksums of the blocks of .bin and .mask, which are read by ranges (`blocks.py`)

The layout is that of Megatron-LM's `IndexedDataset`, so Megatron, NeMo and DeepSpeed forks read the first two files
as they are; the sidecars are ours. `.idx`, little-endian:

    9 bytes  "MMIDIDX\\0\\0"     uint64  version 1     uint8  dtype code     uint64  sequences N     uint64  N + 1
    int32[N] sequence lengths, in tokens    int64[N] sequence offsets, in bytes    int64[N+1] document indices 0..N

Memory: a writer holds the lengths (4 bytes per document), a reader maps the ids and holds the offsets (8 bytes per
document): about 1.1 MB for a shard of 100M tokens.
"""

from __future__ import annotations

import functools
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens.blocks import SUMMED, BlockSums, ComparedArray, read_sums, write_sums
from pipelines.errors import DataError, StorageError, TrunklineError
from pipelines.store.artifacts import Artifact

MAGIC = b"MMIDIDX\x00\x00"
DTYPE_CODES: dict[int, type[np.generic]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16,
}  # fmt: skip
_HEADER = struct.Struct("<9sQBQQ")
SUFFIXES = ("bin", "idx", "mask", "bytes", "sums")

Ids = NDArray[np.integer[Any]]


def token_dtype(vocabulary_size: int) -> type[np.generic]:
    """uint16 below 65,500 ids (Megatron's bound), else int32."""
    return np.uint16 if vocabulary_size < 65_500 else np.int32


class TokenShardWriter:
    """Writes one shard, document by document or batch by batch; nothing but the lengths stays in memory.

    Args:
        paths: suffix ("bin", "idx", "mask", "bytes", "sums") -> local file to write; "mask" only for masked shards.
        vocabulary_size: decides the width of an id.
    """

    def __init__(self, paths: Mapping[str, Path], vocabulary_size: int):
        self.paths = dict(paths)
        self.dtype = np.dtype(token_dtype(vocabulary_size))
        self._files: dict[str, IO[bytes]] = {
            name: self.paths[name].open("wb") for name in paths if name not in ("idx", "sums")
        }
        self._sums = {name: BlockSums() for name in SUMMED if name in paths}
        self._lengths: list[NDArray[np.int32]] = []
        self.tokens = self.loss_tokens = self.documents = self.loss_bytes = 0

    def add(self, tokens: Ids, lengths: Ids, document_bytes: Ids, mask: NDArray[np.uint8] | None = None) -> None:
        """Append documents.

        Args:
            tokens: ids [tokens], documents one after another, each with its closing id.
            lengths: tokens of each document [documents].
            document_bytes: UTF-8 bytes of each document that its counted tokens spell [documents].
            mask: 1 where the token counts in the loss [tokens]; required when the shard has a mask file.
        """
        if int(lengths.sum()) != len(tokens) or len(lengths) != len(document_bytes):
            raise ValueError(
                f"{len(tokens)} tokens, lengths that sum to {int(lengths.sum())}, {len(document_bytes)} byte counts"
            )
        if ("mask" in self._files) != (mask is not None) or (mask is not None and len(mask) != len(tokens)):
            raise ValueError("a masked shard takes a mask as long as its tokens, an unmasked one takes none")
        self._write("bin", np.ascontiguousarray(tokens, self.dtype).data)
        self._write("bytes", np.ascontiguousarray(document_bytes, np.int32).data)
        if mask is not None:
            self._write("mask", np.ascontiguousarray(mask, np.uint8).data)
        self._lengths.append(lengths.astype(np.int32))
        self.tokens += len(tokens)
        self.loss_tokens += len(tokens) if mask is None else int(mask.sum())
        self.documents += len(lengths)
        self.loss_bytes += int(document_bytes.sum())

    def _write(self, name: str, data: memoryview) -> None:
        self._files[name].write(data)
        if name in self._sums and data.nbytes:
            self._sums[name].add(data)

    def close(self) -> None:
        """Write the index and close every file; the shard is complete from here on."""
        for handle in self._files.values():
            handle.close()
        lengths = np.concatenate([np.zeros(0, np.int32), *self._lengths])
        pointers = np.zeros(len(lengths), np.int64)
        np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
        code = next(code for code, kind in DTYPE_CODES.items() if np.dtype(kind) == self.dtype)
        with self.paths["idx"].open("wb") as index:
            index.write(_HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
            index.write(lengths.data)
            index.write((pointers * self.dtype.itemsize).data)
            index.write(np.arange(len(lengths) + 1, dtype=np.int64).data)
        if "sums" in self.paths:
            write_sums(self.paths["sums"], self._sums)

    def abandon(self) -> None:
        """Close and remove what was written: the shard failed."""
        for handle in self._files.values():
            handle.close()
        for path in self.paths.values():
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class TokenShard:
    """One shard, memory-mapped.

    Attributes:
        tokens: ids [tokens], uint16 or int32, mapped; read it by slices. Blocks are compared with their sums when first read.
        offsets: token offset of each document, and the total [documents + 1], int64.
        mask: uint8 [tokens], mapped like the tokens, or None when every token counts.
        document_bytes: int32 [documents], or None when the sidecar is absent (a shard of another tool).
        files: what is mapped; held, so that the cache keeps it.
    """

    tokens: Ids | ComparedArray
    offsets: NDArray[np.int64]
    mask: NDArray[np.uint8] | ComparedArray | None = None
    document_bytes: NDArray[np.int32] | None = None
    files: tuple[Path, ...] = ()

    @property
    def documents(self) -> int:
        """How many documents the shard holds."""
        return len(self.offsets) - 1

    def document(self, index: int) -> Ids:
        """The ids of one document, its closing id included."""
        document: Ids = self.tokens[int(self.offsets[index]) : int(self.offsets[index + 1])]
        return document

    @classmethod
    def open(cls, paths: Mapping[str, Path], refuse: Callable[[str, str], TrunklineError] | None = None) -> TokenShard:
        """Map a shard.

        Args:
            paths: suffix -> local file; "bin" and "idx" are required; without "sums" the files are taken as they are.
            refuse: the error for a damaged file, from its suffix and a clause that says what is wrong.

        Raises: DataError when the index is of another format or its lengths disagree with the files.
        """
        lengths, pointers, dtype = read_index(paths["idx"])
        files = {suffix: paths[suffix] for suffix in ("bin", "mask", "bytes") if suffix in paths}
        tokens = _map(files["bin"], dtype)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if len(tokens) != offsets[-1]:
            raise DataError(
                f"{files['bin']} holds {len(tokens)} tokens, its index says {offsets[-1]}: rebuild the shard"
            )
        wrong = np.flatnonzero(pointers != offsets[:-1] * dtype.itemsize)
        if len(wrong):
            at = int(wrong[0])
            raise DataError(
                f"{paths['idx']} contradicts itself: by the lengths before it, document {at} of {len(lengths)} begins at byte "
                f"{offsets[at] * dtype.itemsize}, by its offset at byte {pointers[at]}: rebuild the shard"
            )
        mask = _map(files["mask"], np.dtype(np.uint8)) if "mask" in files else None
        document_bytes = _map(files["bytes"], np.dtype(np.int32)) if "bytes" in files else None
        for suffix, held, expected in (("mask", mask, len(tokens)), ("bytes", document_bytes, len(lengths))):
            if held is not None and len(held) != expected:
                raise DataError(
                    f"{files[suffix]}, a sidecar of {files['bin']}, has {len(held)} entries, the shard needs {expected}: "
                    "rebuild the shard"
                )
        if "sums" not in paths:
            return cls(tokens, offsets, mask, document_bytes, tuple(files.values()))
        compared = {
            suffix: _compared(suffix, array, paths, refuse)
            for suffix, array in (("bin", tokens), ("mask", mask))
            if array is not None
        }
        return cls(compared["bin"], offsets, compared.get("mask"), document_bytes, tuple(files.values()))


def _compared(
    suffix: str,
    array: NDArray[Any],
    paths: Mapping[str, Path],
    refuse: Callable[[str, str], TrunklineError] | None,
) -> ComparedArray:
    """A mapped file whose blocks are compared with the shard's sums. Raises: DataError when it is of another size."""
    size, own = read_sums(paths["sums"])[suffix]
    if array.nbytes != size:
        raise DataError(f"{paths[suffix]} has {array.nbytes} bytes, {paths['sums']} is of {size}: rebuild the shard")
    return ComparedArray(array, own, _refusal(paths[suffix], suffix, refuse))


def _refusal(
    path: Path, suffix: str, refuse: Callable[[str, str], TrunklineError] | None
) -> Callable[[str], TrunklineError]:
    if refuse is None:
        return lambda problem: DataError(f"{path} {problem}: it was changed or damaged: rebuild the shard")
    return functools.partial(refuse, suffix)


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


@dataclass
class TokenSource:
    """The shards of one source, opened when first read; at most `open_shards` stay mapped.

    Attributes:
        prefixes: shard names inside the artifact, e.g. `train/sotu/00000`.
        shard_tokens: tokens of each shard [shards], known without opening it.
        locate: shard name -> its files on this machine (each downloaded when first asked for, where the store is remote).
        shard_bytes: what reading each shard takes in the cache [shards]; zeros when not known.
    """

    name: str
    kind: str
    prefixes: tuple[str, ...]
    shard_tokens: NDArray[np.int64]
    locate: Callable[[str], Mapping[str, Path]]
    shard_bytes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    open_shards: int = 64
    relieve: Callable[[], None] | None = (
        None  # lets go of what can be opened again, when the cache has no room for a shard
    )
    _open: OrderedDict[int, TokenShard] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # a prefetcher opens and closes, too

    def __post_init__(self) -> None:
        if not len(self.shard_bytes):
            self.shard_bytes = np.zeros(len(self.prefixes), np.int64)

    def shard(self, index: int) -> TokenShard:
        """The shard `prefixes[index]`, mapped."""
        with self._lock:
            shard = self._open.get(index)
            if shard is not None:
                self._open.move_to_end(index)
                return shard
        try:
            return self.bring(index)
        except StorageError:
            if self.relieve is None:
                raise
            self.relieve()
            return self.bring(index)

    def bring(self, index: int) -> TokenShard:
        """Open a shard that is not open, which may take a download."""
        paths = self.locate(self.prefixes[index])
        opened = TokenShard.open(paths, getattr(paths, "refuse", None))
        with self._lock:
            shard = self._open.setdefault(index, opened)
            while len(self._open) > self.open_shards:
                self._open.popitem(last=False)
        return shard

    def close(self, index: int) -> None:
        """Forget a mapped shard; who still holds it may go on reading it."""
        with self._lock:
            self._open.pop(index, None)

    def offsets(self, index: int) -> NDArray[np.int64]:
        """Token offset of each document of a shard, and the total [documents + 1]; reads its index alone."""
        offsets: NDArray[np.int64] = np.append(
            0, np.cumsum(read_index(self.locate(self.prefixes[index])["idx"])[0], dtype=np.int64)
        )
        return offsets

    def mask(self, index: int) -> NDArray[np.uint8] | ComparedArray | None:
        """The loss mask of a shard, or None where every token counts; reads and compares nothing else."""
        paths = self.locate(self.prefixes[index])
        if "mask" not in paths:
            return None
        mask = _map(paths["mask"], np.dtype(np.uint8))
        if "sums" not in paths:
            return mask
        return _compared("mask", mask, paths, getattr(paths, "refuse", None))


class _Files(Mapping[str, Path]):
    """The files of a shard of an artifact, each fetched when it is first asked for."""

    def __init__(self, artifact: Artifact, prefix: str, suffixes: Iterable[str]):
        self._artifact = artifact
        names = {suffix: f"{prefix}.{suffix}" for suffix in suffixes}
        self._names = {suffix: name for suffix, name in names.items() if name in artifact.manifest["files"]}

    def __getitem__(self, suffix: str) -> Path:
        # what has sums is compared block by block when it is read; without them (a store made by an older version), whole
        if suffix in SUMMED and "sums" in self._names:
            return self._artifact.sized_path(self._names[suffix])
        return self._artifact.path(self._names[suffix])

    def refuse(self, suffix: str, problem: str) -> TrunklineError:
        """The error for a damaged file of the shard, with how to make it anew."""
        name = self._names[suffix]
        path = self._artifact.sized_path(name)
        if self._artifact.storage.forget(path):
            return self._artifact.damage(
                name, f"{problem} in its copy {path}, which was removed: run the same command again; else"
            )
        return self._artifact.damage(name, problem)

    def __contains__(self, suffix: object) -> bool:  # Mapping's own would fetch
        return suffix in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def bytes(self) -> int:
        """Size of all of them."""
        return sum(self._artifact.manifest["files"][name]["bytes"] for name in self._names.values())


def open_sources(
    artifact: Artifact,
    split: Literal["train", "heldout"] = "train",
    names: Iterable[str] | None = None,
    document_bytes: bool = True,
) -> dict[str, TokenSource]:
    """The sources of a `tokens` artifact, by name; nothing is read or downloaded until a shard is used.

    Args:
        names: which sources; all of documents and conversations when not given (preference pairs: `data.preferences`).
        document_bytes: whether the `.bytes` sidecar will be needed; training can do without.
    """
    found = artifact.statistics["sources"]
    wanted = [name for name in found if found[name]["kind"] != "preferences"] if names is None else list(names)
    absent = [name for name in wanted if name not in found]
    if absent:
        raise DataError(f"{artifact.folder} holds no source {', '.join(absent)}; it holds {', '.join(sorted(found))}")
    suffixes = SUFFIXES if document_bytes else tuple(suffix for suffix in SUFFIXES if suffix != "bytes")

    def locate(prefix: str) -> _Files:
        return _Files(artifact, prefix, suffixes)

    return {
        name: TokenSource(
            name, found[name]["kind"], tuple(found[name][split]["shards"]),
            np.asarray(found[name][split]["shard_tokens"], np.int64), locate,
            np.array([locate(prefix).bytes for prefix in found[name][split]["shards"]], np.int64),
        )
        for name in wanted
    }  # fmt: skip


def shard_paths(folder: Path, prefix: str) -> dict[str, Path]:
    """suffix -> file for the shard `prefix` of a plain folder; absent sidecars are left out."""
    paths = {suffix: folder / f"{prefix}.{suffix}" for suffix in SUFFIXES}
    return {suffix: path for suffix, path in paths.items() if suffix in ("bin", "idx") or path.exists()}


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # slicing a plain view is 5x cheaper than a memmap's
