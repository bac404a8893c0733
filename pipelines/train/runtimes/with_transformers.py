"""`transformers`: a Hugging Face folder, or a model that lies in memory.

Enters: a folder with `config.json`, weights and a tokenizer: a `llama` or `compressed-tensors` export, or anybody's
folder that `transformers` has a class for. Leaves: a `Loaded`.

A folder of `model_type: minicpm` holds weights whose scalings stand in `config.json`, and `transformers` has no class
for it: the scalings are put into the weights as they are loaded, and Llama runs them (docs/recipe.md). Code that a
folder brings along is never run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ConfigError
from pipelines.train.runtimes.answering import Answering, context_of
from pipelines.train.runtimes.contract import LoadSettings, Message, Runtime, Server, Serving

_CHUNK = 512  # ids read at once: bounds the memory of a long prompt, and how long Ctrl-C waits
_DTYPES = ("auto", "float32", "bfloat16", "float16")


class TransformersModel(Answering):
    """A causal language model and a tokenizer of `transformers`."""

    def __init__(self, model: Any, tokenizer: Any, settings: LoadSettings, where: object):
        super().__init__()
        self.runtime = f"transformers {version()}"
        self._model, self._tokenizer, self._where = model.eval(), tokenizer, where
        self._threads = settings.threads or torch.get_num_threads()
        trained = getattr(model.config, "max_position_embeddings", None) or settings.context or 2048
        self.context = context_of(settings, trained, where)
        self._bytes = token_bytes(tokenizer)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        ends = model.generation_config.eos_token_id
        listed = ends if isinstance(ends, (list, tuple)) else [ends]
        self._ends = {int(end) for end in (*listed, tokenizer.eos_token_id) if end is not None}
        self.eos = -1 if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)
        self._cache: Any = None
        self._keep(0)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without markers."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation. Raises: ConfigError where the template refuses it, or there is none."""
        import jinja2

        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"{self._where} has no chat template: it continues text and was not trained to answer; chat with a "
                "model that was (sft, dpo)"
            )
        try:
            text = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise ConfigError(f"the model's chat template refuses the conversation: {error}") from error
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids spell."""
        return b"".join(self._bytes[id_] if id_ < len(self._bytes) else b"" for id_ in ids)

    def _read(self, ids: Sequence[int], last: int) -> NDArray[np.float32]:
        rows: list[NDArray[np.float32]] = []
        with torch.inference_mode(), self._own_threads():
            for begin in range(0, len(ids), _CHUNK):
                piece = ids[begin : begin + _CHUNK]
                # how many of the last ones are in this piece
                wanted = max(0, begin + len(piece) - max(begin, len(ids) - last))
                output = self._model(
                    torch.tensor([piece]), past_key_values=self._cache, use_cache=True, logits_to_keep=max(1, wanted)
                )
                if wanted:
                    rows.append(output.logits[0, -wanted:].float().numpy())
        return np.concatenate(rows)

    def _keep(self, count: int) -> None:
        from transformers import DynamicCache

        if self._cache is not None and 0 < count < self._cache.get_seq_length():
            self._cache.crop(count - self._cache.get_seq_length())
        else:
            self._cache = DynamicCache()

    def _logits_of_all(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self._read(ids, len(ids))

    def _release(self) -> None:
        self._model = self._cache = None

    @contextlib.contextmanager
    def _own_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def version() -> str:
    """Of the installed library."""
    return importlib.metadata.version("transformers")


# ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def missing() -> str | None:
    """None where it is installed."""
    try:
        version()
    except importlib.metadata.PackageNotFoundError:
        return "pip install transformers"
    return None


def takes(path: Path) -> bool:
    """A folder with a `config.json`."""
    return (path / "config.json").is_file()


def load(path: Path, settings: LoadSettings) -> TransformersModel:
    """Load a folder. Raises: ConfigError when it cannot be, with the reason."""
    if settings.dtype not in _DTYPES:
        raise ConfigError(f"dtype is {settings.dtype!r}; expected one of {', '.join(_DTYPES)}")
    config = _config(path)
    with _explained(path), _quiet():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        if config.get("model_type") == "minicpm":
            model = _minicpm(path, config, settings)
        else:
            model = _pretrained(path, settings)
    loaded = TransformersModel(model, tokenizer, settings, path)
    if settings.draft is not None:
        loaded.draw_on(load(settings.draft, LoadSettings(threads=settings.threads, dtype=settings.dtype)))
    return loaded


def in_memory(
    config: Mapping[str, Any], weights: Iterable[tuple[str, Tensor]], tokenizer_json: str, chat_template: str,
    eos: str, settings: LoadSettings, where: str,
) -> TransformersModel:  # fmt: skip
    """A Llama that no folder holds, in float32 where the settings say no other type.

    Args:
        config: in the keys of a Llama's `config.json`. weights: in its names. where: what messages call it.
        eos: the marker that ends an answer.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json), eos_token=eos, chat_template=chat_template
    )
    return TransformersModel(_llama(config, weights, settings), tokenizer, settings, where)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        reason = "it holds no mapping"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise ConfigError(
        f"{path / 'config.json'} cannot be read: {reason}; expected a Hugging Face folder, whose config.json is JSON"
    )


def _pretrained(path: Path, settings: LoadSettings) -> Any:
    from transformers import AutoModelForCausalLM

    dtype = "float32" if settings.exact else settings.dtype
    model, report = AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, output_loading_info=True, dtype=dtype
    )
    if getattr(model.config, "quantization_config", None) is not None:
        # packed matrices are unpacked when they are first needed, with progress bars amid the first answer: now
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.int64))
    lacking = sorted({*report["missing_keys"]}) + sorted(str(key) for key in report["mismatched_keys"])
    # where nothing is stored, random numbers are put in, with a warning that nobody would see
    if lacking:
        raise ValueError(f"{len(lacking)} weights are not there, or of another shape, the first of them {lacking[0]}")
    return model


def _llama(config: Mapping[str, Any], weights: Iterable[tuple[str, Tensor]], settings: LoadSettings) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = torch.float32 if settings.exact or settings.dtype == "auto" else getattr(torch, settings.dtype)
    llama = LlamaConfig.from_dict({**config, "model_type": "llama", "tie_word_embeddings": False})
    with torch.device("meta"):
        model = LlamaForCausalLM(llama).to(dtype)
    values = {name: value.to(dtype) for name, value in weights}
    model.load_state_dict(values, assign=True)
    # what it holds is no weight: it is made on the CPU
    model.model.rotary_emb = type(model.model.rotary_emb)(llama)
    return model.requires_grad_(False)


# ── MiniCPM's own id ──────────────────────────────────────────────────────────────────────────────────────────────────

_SCALINGS = ("scale_emb", "scale_depth", "dim_model_base")


def _minicpm(path: Path, config: Mapping[str, Any], settings: LoadSettings) -> Any:
    lacking = [key for key in (*_SCALINGS, "hidden_size", "num_hidden_layers") if key not in config]
    files = sorted(path.glob("*.safetensors"))
    if lacking or not files:
        raise ValueError(
            f"it is a MiniCPM without {', '.join(lacking) or 'weights in *.safetensors'}; the scalings and the weights "
            "are needed: export it with format=llama"
        )
    if settings.dtype == "auto" and not settings.exact:
        stored = config.get("dtype") or config.get("torch_dtype") or "float32"
        settings = LoadSettings(threads=settings.threads, dtype=stored, context=settings.context)
    return _llama(config, _unscaled(files, config), settings)


def _unscaled(files: Sequence[Path], config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Llama's weights of the same function: embedding · scale_emb, each residual branch's last map · scale_depth / √L,
    output = embedding / (hidden_size / dim_model_base).
    """
    from safetensors import safe_open

    branch = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118, it is no mapping
                value = stored.get_tensor(name)
                if name == "model.embed_tokens.weight":
                    yield "lm_head.weight", value.float() / (config["hidden_size"] / config["dim_model_base"])
                    yield name, value.float() * config["scale_emb"]
                elif name.endswith(("o_proj.weight", "down_proj.weight")):
                    yield name, value.float() * branch
                elif name != "lm_head.weight":  # a copy of the embedding, where it is there
                    yield name, value


# ── Quiet, and in words ───────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the library raises in the block as a ConfigError."""
    try:
        yield
    except ImportError as error:
        package = "compressed-tensors" if "compressed" in str(error) else error.name or "what it names"
        raise ConfigError(f"{path} needs a library to be loaded: {_first(error)}; pip install {package}") from error
    except ConfigError:
        raise
    except Exception as error:  # of a folder that it cannot load, the library says so in many ways
        raise ConfigError(
            f"transformers {version()} cannot load {path}: {_first(error)}; expected a Hugging Face folder of a "
            "language model with its weights and its tokenizer"
        ) from error


def _first(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor progress bars of the library: what goes wrong is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


# ── Bytes of ids ──────────────────────────────────────────────────────────────────────────────────────────────────────


def token_bytes(tokenizer: Any) -> list[bytes]:
    """What each id spells; markers spell nothing."""
    added = dict(tokenizer.added_tokens_decoder)
    special = set(tokenizer.all_special_ids)
    decoder = str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    table = _byte_level() if "ByteLevel" in decoder else None
    pieces = "ByteFallback" in decoder or "▁" in decoder or "Metaspace" in decoder
    spelled: list[bytes] = []
    for id_ in range(len(tokenizer)):
        token = tokenizer.convert_ids_to_tokens(id_)
        if id_ in special or token is None or (id_ in added and added[id_].special):
            spelled.append(b"")
        elif id_ in added:
            spelled.append(added[id_].content.encode())
        elif table is not None and all(character in table for character in token):
            spelled.append(bytes(table[character] for character in token))
        elif pieces:
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
            spelled.append(bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode())
        else:
            spelled.append(str(tokenizer.decode([id_])).encode())
    return spelled


def _byte_level() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others for 256 and on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


# ── Serving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def serve(path: Path, serving: Serving) -> Server:
    """vLLM's server. `transformers serve` is none for this: it asks for no token."""
    program = shutil.which("vllm")
    if program is None:
        raise ConfigError(
            f"no server is installed for the folder {path}: pip install vllm (in an environment of its own, whose bin "
            "is on the PATH), or serve a GGUF: python -m workflows.export format=gguf"
        )
    command = [program, "serve", str(path), "--host", "127.0.0.1", "--port", str(serving.port)]
    command += ["--served-model-name", serving.name]
    if serving.context is not None:
        command += ["--max-model-len", str(serving.context)]
    environment = {"VLLM_API_KEY": serving.token}
    if serving.threads is not None:
        environment["OMP_NUM_THREADS"] = str(serving.threads)
    return Server(program="vLLM", command=command, environment=environment, health="/health", page=None)


RUNTIME = Runtime(name="transformers", missing=missing, takes=takes, load=load, serve=serve)
