"""A Hugging Face folder, written and read tensor by tensor: safetensors in parts below 5 GB, and the tokenizer's files.

Enters: a stream of named tensors whose shapes are known before. Leaves: `model.safetensors`, or parts and their index,
byte for byte as `safetensors.torch.save_file` writes them.

Why not `save_file`: it takes all tensors of a file at once, which is all of a model below 5 GB. Here each tensor goes
to its place in its file and is forgotten, so writing needs the memory of one tensor. Reading opens the file for one
tensor and closes it again: the pages of a file that stays open count as this process's memory until they are needed
elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.data.tokens.chat import EOS_ID, TEMPLATE
from pipelines.data.tokens.tokenizer import guarded
from pipelines.errors import ArtifactError, StorageError
from pipelines.train.checkpoint.snapshot import DTYPES, file_head, write_all
from pipelines.train.formats.contract import Source, Stored
from pipelines.train.network.roles import roles

PART_BYTES = 5_000_000_000
_COMPARED_BYTES = 64_000_000  # of a tensor at once
TOKENIZER = "tokenizer/tokenizer.json"  # among the files of a tokens artifact
_SETTINGS = "tokenizer/tokenizer_config.json"
_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ORDER = {dtype: place for place, dtype in enumerate(DTYPES.values())}

# how a Hugging Face folder may hold floating-point weights
FLOATS = {
    "bfloat16": Stored(bits=16, words="bfloat16"),
    "float16": Stored(bits=16, words="float16"),
    "float32": Stored(bits=32, words="float32"),
}

Shapes = Mapping[str, Sequence[int]]


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def shapeless(source: Source) -> Iterator[tuple[str, Tensor]]:
    """The source's weights without values, on torch's meta device.

    What a format makes of them has the shapes that it will write.
    """
    for name, role in roles(source.model).items():
        yield name, torch.empty(role.shape, device="meta")


def write_tensors(
    folder: Path, shapes: Shapes, weights: Iterable[tuple[str, Tensor]], dtype: str,
    others: Mapping[str, torch.dtype] | None = None,
) -> None:  # fmt: skip
    """Write a stream of tensors to the folder, rounded to `dtype`.

    Args: shapes, of every tensor; their order says which part each goes to. weights, all of them, in any order. others,
        the types of tensors that are stored in another than `dtype`.
    Raises: StorageError when it cannot be written.
    """
    numbers = {name: (others or {}).get(name, getattr(torch, dtype)) for name in shapes}
    sizes = {name: math.prod(shape) * numbers[name].itemsize for name, shape in shapes.items()}
    parts = list(split(sizes, PART_BYTES))
    files = [_ONE_FILE] if len(parts) == 1 else [
        f"model-{part:05d}-of-{len(parts):05d}.safetensors" for part in range(1, len(parts) + 1)
    ]  # fmt: skip
    places: dict[str, tuple[BinaryIO, int]] = {}
    with contextlib.ExitStack() as opened:
        for file, names in zip(files, parts, strict=True):
            # by type and then by name, as the library has them
            ordered = sorted(names, key=lambda name: (_ORDER[numbers[name]], name))
            head, within = file_head({name: (numbers[name], shapes[name]) for name in ordered}, {"format": "pt"})
            with writing(folder / file):
                handle: BinaryIO = opened.enter_context((folder / file).open("wb", buffering=0))
                (folder / file).chmod(0o644)
                write_all(handle, memoryview(head))
            places.update((name, (handle, len(head) + within[name][0])) for name in names)
        for name, value in weights:
            handle, begin = places.pop(name)
            data = value.to(numbers[name]).contiguous().view(-1).view(torch.uint8).numpy()
            with writing(Path(str(handle.name))):
                handle.seek(begin)
                write_all(handle, memoryview(data))  # type: ignore[arg-type]
    if places:
        raise ValueError(f"weights were announced and not given: {', '.join(places)}")
    if len(parts) > 1:
        where = {name: file for file, names in zip(files, parts, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        write_json(folder / _INDEX, index)


def split(sizes: Mapping[str, int], limit_bytes: int) -> Iterator[list[str]]:
    """Names in their order, in parts of at most `limit_bytes` together (a larger one has a part of its own)."""
    part: list[str] = []
    for name, size in sizes.items():
        if part and sum(sizes[other] for other in part) + size > limit_bytes:
            yield part
            part = []
        part.append(name)
    yield part


def llama_names(config: Mapping[str, Any]) -> list[str]:
    """The names of a Llama's tensors, in the order of a stream. Args: config, in the keys of its `config.json`."""
    maps = [f"self_attn.{map_}_proj" for map_ in "qkvo"]
    block = [
        "input_layernorm",
        *maps,
        "post_attention_layernorm",
        *(f"mlp.{map_}_proj" for map_ in ("gate", "up", "down")),
    ]
    blocks = [f"model.layers.{number}.{part}.weight" for number in range(config["num_hidden_layers"]) for part in block]
    return ["model.embed_tokens.weight", *blocks, "model.norm.weight", "lm_head.weight"]


class StoredTensors:
    """The tensors of a written folder, read one at a time."""

    def __init__(self, folder: Path):
        """Reads which file holds which tensor, and no tensor. Raises: ArtifactError when the folder cannot be read."""
        self.folder = folder
        index = folder / _INDEX
        try:
            if index.exists():
                self._files: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
            else:
                with safe_open(folder / _ONE_FILE, "pt") as file:
                    self._files = dict.fromkeys(file.keys(), _ONE_FILE)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ArtifactError(f"{folder} cannot be read back: {error}; nothing was committed") from error

    @property
    def names(self) -> set[str]:
        return set(self._files)

    @property
    def dtype(self) -> str:
        """Of the tensors, which all have the same."""
        name, file = next(iter(self._files.items()))
        with safe_open(self.folder / file, "pt") as opened:
            return str(DTYPES[opened.get_slice(name).get_dtype()]).removeprefix("torch.")

    def shape(self, name: str) -> list[int]:
        """Of a tensor, which is not read."""
        shape: list[int] = self._read(name, lambda file: file.get_slice(name).get_shape())
        return shape

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self._read(name, lambda file: file.get_tensor(name))
        return value

    def _read(self, name: str, take: Callable[[Any], Any]) -> Any:
        """What `take` reads of a tensor's opened file."""
        try:
            with safe_open(self.folder / self._files[name], "pt") as file:
                return take(file)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"{name} cannot be read back from {self.folder}: {error}; nothing was committed"
            ) from error

    def _equal(self, name: str, value: Tensor) -> bool:
        """Whether a tensor is stored as `value`, rounded to the stored type.

        It is read in pieces of rows, and its file opened for each: a large one would be in memory twice, beside what
        the stream and the model have of it.
        """
        rows = max(1, _COMPARED_BYTES * len(value) // max(1, value.nbytes))
        if self.shape(name) != list(value.shape):
            return False
        for piece, begin in zip(torch.split(value, rows), range(0, len(value), rows), strict=True):
            stored = self._read(name, functools.partial(_rows, name=name, begin=begin, end=begin + len(piece)))
            if not torch.equal(stored, piece.to(stored.dtype)):
                return False
        return True

    def refuse_others(self, names: Iterable[str]) -> None:
        """Raises: ArtifactError when the folder holds other tensors than `names`."""
        if others := sorted(self.names ^ set(names)):
            raise ArtifactError(f"{self.folder} holds other weights than the checkpoint: {others}")

    def compared(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The stream as it is, after each tensor was found in the folder, rounded to the stored type.

        Raises: ArtifactError on the first that is not.
        """
        for name, value in weights:
            if not self._equal(name, value):
                raise ArtifactError(
                    f"{name} read back from {self.folder} is not what was written; nothing was committed"
                )
            yield name, value


def _rows(file: Any, name: str, begin: int, end: int) -> Any:
    return file.get_slice(name)[begin:end]


# ── Other files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def tokenizer_settings(source: Source) -> dict[str, Any]:
    """The tokenizer's `tokenizer_config.json`. Raises: ArtifactError when the tokens hold no tokenizer."""
    if not {TOKENIZER, _SETTINGS} <= set(source.tokens.manifest["files"]):
        raise ArtifactError(
            f"{source.tokens.folder}, which {source.run} was trained on, holds no tokenizer ({TOKENIZER}, "
            f"{_SETTINGS}): nobody could use the exported model; make the tokens with `python -m workflows.tokenize`"
        )
    settings: dict[str, Any] = source.tokens.json(_SETTINGS)
    return settings


def write_tokenizer(source: Source, folder: Path) -> None:
    """Write the tokenizer and its chat template. Raises: ArtifactError when the tokens hold none."""
    settings = tokenizer_settings(source)
    settings = {**settings, "chat_template": TEMPLATE, "model_max_length": source.model.max_positions}
    text = guarded(source.tokens.verified(TOKENIZER).read_text("utf-8"))
    with writing(folder / "tokenizer.json"):
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)


def write_generation_config(folder: Path) -> None:
    """Write what `generate` takes where it is asked for nothing: it ends at `</s>`."""
    write_json(
        folder / "generation_config.json", {"eos_token_id": EOS_ID, "pad_token_id": EOS_ID, "max_new_tokens": 256}
    )


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON for people and programs. Raises: StorageError."""
    with writing(path):
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError in the block as a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}; nothing was committed: free some space") from error
