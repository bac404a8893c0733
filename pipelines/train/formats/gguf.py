"""The GGUF format: one file for llama.cpp and what is built on it (llama-cpp-python, Ollama, LLMFarm on iPhones).

Legend: O rows (outputs), I columns (inputs), H heads, K head dim.

MiniCPM's scalings are folded into the weights as in the Llama format (`llama.fold`), and the file says architecture
`llama`, with an output matrix of its own. llama.cpp's `minicpm` is not used: it takes a scaling that the file does not
name for 12, 1.4 / √layers and 256 / width, so a key left out gives other numbers in silence.

Two traps. Rotary positions turn neighbouring pairs of a head there, and its two halves here, so that the rows of q and
k are put in another order (`permute`); without it a file loads and answers nonsense. A row that does not divide by 32
(of k-quants: 256) cannot be stored as asked for: it stays float16 (k-quants: a larger type), counted and named.

Source: convert_hf_to_gguf.py of llama.cpp (the permutation); `gguf_quants.py` says what a matrix is in the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.display.progress import human, say
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.formats.check import (
    agreement,
    compared_by_block,
    heldout_rows,
    llama_config_of,
    own_answers,
    refuse_disagreement,
    transformers_difference,
)
from pipelines.train.formats.compressed_tensors import read_quantized, stored_grids
from pipelines.train.formats.contract import Check, Delivered, Description, Format, HowToRun, Source
from pipelines.train.formats.folder import llama_names, shapeless
from pipelines.train.formats.gate import ask_runtime
from pipelines.train.formats.gguf_file import GgufFile, stored_bytes, write_file
from pipelines.train.formats.gguf_quants import (
    BLOCK,
    DTYPES,
    FLOAT_TYPES,
    K_BLOCK,
    K_QUANTS,
    code_blocks,
    from_bytes,
    missing,
    quantize_file,
    to_bytes,
    type_of,
    type_of_codes,
)
from pipelines.train.formats.gguf_tokenizer import vocabulary_of
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.quantization.contract import Quantized
from pipelines.train.runtimes.contract import INSTALL_LLAMA_CPP

_MOST_LAYERS = 512  # LLAMA_MAX_LAYERS
_FILE_TYPES = {"f32": "ALL_F32"}  # others are MOSTLY_…
# of a matrix, ‖written - expected‖ / ‖expected‖: several times what llama.cpp loses, and far below 1, which another
# matrix in its place or a scaling left out would make of it
_LARGEST_LOSS = {"q4": 0.25, "q5": 0.15, "q6": 0.1, "q8": 0.05, "f1": 0.02}

Shape = tuple[int, ...]


# ── Names and order of rows ───────────────────────────────────────────────────────────────────────────────────────────


def permute(rows: Tensor, heads: int) -> Tensor:
    """Rows of q or k in llama.cpp's order: of each head, 0, K/2, 1, K/2 + 1, … (O, …) → (O, …)."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def unpermute(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `permute`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def _heads(name: str, config: Mapping[str, Any]) -> int | None:
    """Heads of a map whose rows are in another order in the file, else None. Args: config, of a Llama."""
    if name.endswith("q_proj.weight"):
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if name.endswith("k_proj.weight") else None


def file_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Names in the file by Llama's, in the order of the stream. Args: config, of a Llama."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    known = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    names = {name: known.get_name(name, try_suffixes=(".weight",)) for name in llama_names(config)}
    return {name: in_file for name, in_file in names.items() if in_file is not None}


# ── Before any work ───────────────────────────────────────────────────────────────────────────────────────────────────


def refuse(source: Source, dtype: str) -> None:
    """Raises: ConfigError for a model or a dtype that cannot be written here."""
    if source.model.layers > _MOST_LAYERS:
        raise ConfigError(
            f"{source.name} has {source.model.layers} layers; llama.cpp reads at most {_MOST_LAYERS}: take format=llama"
        )
    if dtype in K_QUANTS and source.quantized is None and (install := missing()):
        raise ConfigError(
            f"dtype={dtype} is written by llama.cpp's own quantizer, which is not installed: {install}; or take "
            "dtype=q4_0 or q8_0, which need nothing more"
        )
    vocabulary_of(source.tokens, source.model.vocabulary)
    stored_as(source, dtype)


def stored_as(source: Source, dtype: str) -> str:
    """The dtype that the file is of: the one that is asked for, or what the codes of a quantized parent are.

    Raises: ConfigError for codes that no GGUF type holds, or a dtype that would round them again.
    """
    if source.quantized is None:
        return dtype
    types = {type_of_codes(grid, name) for name, grid in stored_grids(_quantized_folder(source.quantized)).items()}
    codes = "q4_0" if "q4_0" in types else "q8_0"
    # dtype=null is the first of DTYPES
    if dtype not in (codes, next(iter(DTYPES))):
        raise ConfigError(
            f"dtype={dtype} would round {source.name} a second time; its codes are {' and '.join(sorted(types))}: "
            f"leave dtype out, or pass parent={source.run}, which is rounded once"
        )
    return codes


# ── Write ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _quantized_folder(quantized: Artifact) -> Path:
    """A local folder with the weights of an artifact of kind quantize, every file compared with its checksum."""
    (folder,) = {quantized.path(file).parent for file in quantized.manifest["files"] if file.startswith("model/")}
    return folder


def _stream(source: Source, verify: bool = False) -> Iterator[tuple[str, Tensor | Quantized]]:
    """The weights in Llama's names, scalings folded in; codes where the parent has codes."""
    if source.quantized is not None:
        return read_quantized(_quantized_folder(source.quantized))
    return fold(source.weights(verify=verify), source.model)


def _layout(source: Source, dtype: str) -> dict[str, tuple[str, Shape]]:
    """Type and shape of every tensor by Llama's names; of k-quants those of the temporary file."""
    grids = {} if source.quantized is None else stored_grids(_quantized_folder(source.quantized))
    written = "f16" if dtype in K_QUANTS else dtype
    if grids:
        written = "q8_0"  # what is no code: embedding, output matrix, and maps that were kept
    shapes = {name: tuple(value.shape) for name, value in fold(shapeless(source), source.model)}
    return {
        name: (type_of_codes(grids[name], name) if name in grids else type_of(written, name, shape), shape)
        for name, shape in shapes.items()
    }


def _ordered(name: str, value: Tensor | Quantized, config: Mapping[str, Any]) -> Tensor | Quantized:
    """The same with its rows in the file's order."""
    heads = _heads(name, config)
    if heads is None:
        return value
    if isinstance(value, Tensor):
        return permute(value, heads)
    return dataclasses.replace(value, codes=permute(value.codes, heads), scales=permute(value.scales, heads))


def write(source: Source, folder: Path, dtype: str) -> None:
    """Write `model-<dtype>.gguf`; `Format.write` says what is raised."""
    refuse(source, dtype)
    dtype = stored_as(source, dtype)
    config = llama_config(source.model, "float32")
    layout, names = _layout(source, dtype), file_names(config)
    changed = 0

    def tensors() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        nonlocal changed
        for name, value in _stream(source, verify=True):
            ordered = _ordered(name, value, config)
            if isinstance(ordered, Tensor):
                yield names[name], to_bytes(ordered, layout[name][0])
            else:
                blocks, of_this = code_blocks(ordered, name)
                changed += of_this
                yield names[name], blocks

    target = folder / f"model-{dtype}.gguf"
    path = folder / "temporary-f16.gguf" if dtype in K_QUANTS else target
    written = "f16" if dtype in K_QUANTS else dtype
    try:
        in_file = {names[name]: stored for name, stored in layout.items()}
        write_file(path, lambda writer: _add_metadata(writer, source, written), in_file, tensors())
        if dtype in K_QUANTS:
            quantize_file(path, target, dtype)
    finally:
        if path != target:
            path.unlink(missing_ok=True)
    if others := other_types(GgufFile(target), dtype):
        say(f"   not {dtype}, as rows do not divide: {others}")
    if changed:
        say(f"   {changed:,} scales below 2^-14 were rounded to float16: no weight changed by more than 2^-18")


def _add_metadata(writer: Any, source: Source, dtype: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    model = source.model
    writer.add_name(source.name)
    licences = set(source.tokens.manifest["licences"].values())
    if len(licences) == 1:
        writer.add_license(next(iter(licences)))
    writer.add_vocab_size(model.vocabulary)
    writer.add_context_length(model.max_positions)
    writer.add_embedding_length(model.d_model)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.d_ff)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_rope_dimension_count(model.d_head)
    writer.add_key_length(model.d_head)
    writer.add_value_length(model.d_head)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_file_type(LlamaFileType[_FILE_TYPES.get(dtype, f"MOSTLY_{dtype.upper()}")])
    if dtype not in FLOAT_TYPES:
        writer.add_quantization_version(GGML_QUANT_VERSION)
    vocabulary_of(source.tokens, model.vocabulary).add_to(writer)


def other_types(file: GgufFile, dtype: str) -> str:
    """Which matrices are not of the asked-for type because of their rows: "down_proj of 4 layers f16 (rows of 170)"."""
    block = K_BLOCK if dtype in K_QUANTS else BLOCK
    if dtype in FLOAT_TYPES:
        return ""
    groups: dict[tuple[str, str, int], int] = {}
    for name, place in file.places.items():
        if len(place.shape) == 2 and place.shape[1] % block:
            kind = name.split(".")[-2]
            groups[kind, place.type, place.shape[1]] = groups.get((kind, place.type, place.shape[1]), 0) + 1
    return ", ".join(f"{count} {kind} ({type_}, rows of {row})" for (kind, type_, row), count in groups.items())


# ── Read back ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def open_file(folder: Path) -> GgufFile:
    """The one GGUF file of a folder. Raises: ArtifactError when there is none, or several, or it is damaged."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ArtifactError(f"{folder} holds {len(files)} GGUF files ({names}); expected one")
    return GgufFile(files[0])


def config_of(file: GgufFile) -> dict[str, Any]:
    """What the file's metadata say of the model, in the keys of a Llama's `config.json`. Raises: ArtifactError."""
    from gguf import Keys

    known = file.metadata
    if known.get("general.architecture") != "llama":
        raise ArtifactError(
            f"{file.path} says architecture {known.get('general.architecture')!r}; this reads GGUF files of `llama`"
        )
    try:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": known["llama.vocab_size"],
            "hidden_size": known["llama.embedding_length"],
            "intermediate_size": known["llama.feed_forward_length"],
            "num_hidden_layers": known["llama.block_count"],
            "num_attention_heads": known["llama.attention.head_count"],
            "num_key_value_heads": known["llama.attention.head_count_kv"],
            "head_dim": known["llama.attention.key_length"],
            "hidden_act": "silu",
            "max_position_embeddings": known["llama.context_length"],
            "rms_norm_eps": known["llama.attention.layer_norm_rms_epsilon"],
            "rope_theta": known["llama.rope.freq_base"],
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": "output.weight" not in file.places,
            "bos_token_id": None,
            "eos_token_id": known[Keys.Tokenizer.EOS_ID],
            "pad_token_id": known[Keys.Tokenizer.PAD_ID],
            "torch_dtype": "float32",
        }
    except KeyError as error:
        raise ArtifactError(f"{file.path} does not say {error.args[0]}: it is not of this format") from error


def _values(file: GgufFile, config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, in_file in file_names(config).items():
        if in_file not in file.places:
            raise ArtifactError(f"{file.path} holds no {in_file}: it is damaged, or of another format")
        heads, value = _heads(name, config), file[in_file]
        yield name, value if heads is None else unpermute(value, heads)


def read(folder: Path) -> Delivered:
    """What llama.cpp computes with, in float32: one tensor in memory at a time."""
    file = open_file(folder)
    config = config_of(file)
    return Delivered(config, lambda: _values(file, config))


# ── Verify ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _refuse_config(file: GgufFile, model: ModelConfig) -> None:
    """Raises: ArtifactError where metadata and model differ; numbers are compared in float32, as they are stored."""
    written, expected = config_of(file), llama_config(model, "float32")
    for name, value in expected.items():
        rounded = float(np.float32(value)) if isinstance(value, float) else value
        if written[name] != rounded:
            raise ArtifactError(
                f"{file.path} says {name} = {written[name]}; the checkpoint has {value}: nothing was committed"
            )


Named = tuple[str, Tensor]


def _compared(file: GgufFile, source: Source, dtype: str) -> Iterator[tuple[Named, Named]]:
    """Name and value of one tensor after the other, the parent's and the file's, once the two were compared.

    What was written here is compared bit by bit with the parent's weight, rounded by the same rule, or with its codes;
    what llama.cpp wrote, by how much was lost.

    Raises: ArtifactError on the first that differs.
    """
    config = llama_config(source.model, "float32")
    names, layout = file_names(config), _layout(source, dtype)
    if others := sorted(set(names.values()) ^ set(file.names)):
        raise ArtifactError(f"{file.path} holds other weights than the checkpoint: {others}")
    for name, value in _stream(source):
        place, stored = file.places[names[name]], file.bytes_of(names[name])
        ordered, same = _ordered(name, value, config), place.shape == tuple(value.shape)
        if not same:
            pass
        elif isinstance(ordered, Quantized):
            same = place.type == layout[name][0] and np.array_equal(stored, code_blocks(ordered, name)[0].reshape(-1))
        elif dtype in K_QUANTS and len(place.shape) == 2:
            loss = (from_bytes(stored, place.type, place.shape) - ordered).norm() / ordered.norm().clamp(min=1e-30)
            same = float(loss) <= _LARGEST_LOSS[place.type[:2]]
        else:
            same = place.type == layout[name][0] and np.array_equal(stored, to_bytes(ordered, place.type).reshape(-1))
        if not same:
            raise ArtifactError(f"{name} read back from {file.path} is not what was written; nothing was committed")
        given = value if isinstance(value, Tensor) else value.values()
        heads, read_back = _heads(name, config), from_bytes(stored, place.type, place.shape)
        yield (name, given), (name, read_back if heads is None else unpermute(read_back, heads))


def verify(source: Source, folder: Path, dtype: str) -> Check:
    """Read the file back and compare it: metadata, tokenizer, every weight, and what a model computes with them.

    Then llama.cpp is asked, where it is installed.

    Raises: ArtifactError on the first that does not hold.
    """
    file, dtype = open_file(folder), stored_as(source, dtype)
    _refuse_config(file, source.model)
    vocabulary_of(source.tokens, source.model.vocabulary).refuse_other(file.metadata, str(file.path))
    delivered = Delivered(config_of(file), lambda: _values(file, config_of(file)))
    check = _float_check if DTYPES[dtype].is_float else _quantized_check
    made = check(file, delivered, source, dtype)
    asked = ask_runtime("llama_cpp", file.path, source, DTYPES[dtype], delivered)
    return dataclasses.replace(made, asked=(asked,))


def _float_check(file: GgufFile, delivered: Delivered, source: Source, dtype: str) -> Check:
    rows_BT = heldout_rows(source)
    expected, config = own_answers(source, rows_BT, keep_blocks=True), llama_config_of(delivered)
    exact = (given for given, _ in _compared(file, source, dtype))
    difference, blocks = compared_by_block(config, exact, expected)
    # weights as they are stored, computed with in float32
    stored_difference = transformers_difference(config, delivered.weights(), expected, "float32")
    return Check(rows_BT.numel(), difference, stored_difference, blocks)


def _quantized_check(file: GgufFile, delivered: Delivered, source: Source, dtype: str) -> Check:
    rows_BT = heldout_rows(source)
    compared = Delivered(delivered.config, lambda: (stored for _, stored in _compared(file, source, dtype)))
    kl, top1 = agreement(source, compared, rows_BT)
    refuse_disagreement(source, DTYPES[dtype], kl, top1)
    return Check(rows_BT.numel(), kl=kl, top1=top1)


# ── In words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def describe(source: Source, dtype: str) -> Description:
    """The format in words."""
    dtype = stored_as(source, dtype)
    layout = _layout(source, dtype)
    size = sum(stored_bytes(type_, shape) for type_, shape in layout.values())
    announcement = f"GGUF, architecture llama, scalings folded in: {DTYPES[dtype].words}"
    if source.quantized is not None:
        announcement = (
            f"GGUF, architecture llama: the codes and scales of {source.name} as they are, in blocks of {dtype}; "
            "embedding and output matrix 8 bits (q8_0)"
        )
    elif dtype in K_QUANTS:
        announcement += f", by llama.cpp's quantizer from a temporary float16 file of {human(size, 'B')}"
        size = round(sum(math.prod(shape) for _, shape in layout.values()) * DTYPES[dtype].bits / 8)
    return Description(
        announcement=announcement,
        size_bytes=size,
        title="GGUF",
        card="MiniCPM's scalings are folded into the weights, and the tokenizer and its chat template are in the "
        "file. A marker (`</s>`, `<用户>`, `<AI>`) that somebody types into a message is text: the template writes "
        "U+FDD1 into it, which llama.cpp reads as three tokens of one byte",
        loads="llama.cpp reads this file, and so do the programs built on it: llama-cpp-python, Ollama, LM Studio, "
        "LLMFarm on iPhones.",
        library="gguf",
    )


def run(folder: str) -> tuple[HowToRun, ...]:
    """How to answer one question, chat and serve."""
    python = f'''from pathlib import Path

from llama_cpp import Llama  # {INSTALL_LLAMA_CPP}

model = Llama(str(next(Path("{folder}").glob("*.gguf"))), n_ctx=0, verbose=False)
messages = [{{"role": "user", "content": "What is 12 plus 7?"}}]
print(model.create_chat_completion(messages, max_tokens=64)["choices"][0]["message"]["content"])
'''
    llmfarm = f"""1. Copy the .gguf file of {folder} to the phone, by AirDrop or the Files app;
   in LLMFarm, add it under Models.
2. New chat: choose the file, inference llama, and as prompt format
       <用户>{{{{prompt}}}}<AI>
3. Reverse prompt: </s>   Add BOS token: off   Add EOS token: off   Parse special tokens: on
   Context: not more than the model's, see above.
"""
    return (
        HowToRun(program="llama-cpp-python", language="python", text=python),
        HowToRun(program="Trunkline", language="bash", text=f"python -m workflows.chat model={folder}\n"),
        HowToRun(program="llama.cpp", language="bash", text=f"llama-cli -m {folder}/*.gguf -cnv --jinja\n"),
        HowToRun(program="LLMFarm (iPhone)", language="text", text=llmfarm),
    )


FORMAT = Format(
    dtypes=DTYPES, write=write, verify=verify, describe=describe, run=run, read=read, refuse=refuse,
    parents=frozenset({"trained", "quantized"}), runtimes=("llama_cpp",),
)  # fmt: skip
