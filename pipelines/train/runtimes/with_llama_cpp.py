"""llama.cpp, through the C API that llama-cpp-python binds: a `.gguf` file, or a folder that holds one.

Enters: a path. Leaves: a `Loaded`.

Why the C API and not the package's class `Llama`: that one keeps float32 logits of every position (2 GB for 4,096
positions of MiniCPM's vocabulary) or none, samples in its own way, and prints. The chat template is rendered by the
package.

llama.cpp writes to stderr what it does and why it fails. It is caught, and the reason is told where a model does not
load.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigError
from pipelines.train.runtimes.answering import Answering, context_of
from pipelines.train.runtimes.contract import INSTALL_LLAMA_CPP, LoadSettings, Message, Runtime, Server, Serving
from pipelines.train.runtimes.llama_cpp_server import TOKEN

_BATCH = 512  # ids read at once
_MAGIC = b"GGUF"
_FLOAT32 = 0  # GGML_TYPE_F32
_WARNING, _ERROR, _GOES_ON = 3, 4, 5  # levels of its log


class LlamaCppModel(Answering):
    """A model and a context of llama.cpp."""

    def __init__(self, path: Path, settings: LoadSettings):
        super().__init__()
        library = _library()
        self.runtime = f"llama_cpp {library.__version__}"
        self._library = library
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._memory: Any = None
        self._at_once = _BATCH
        _log.clear()
        with _without_stderr():
            parameters = library.llama_model_default_params()
            parameters.n_gpu_layers = 0
            # built by GCC 12 it dies in its AMX code as soon as it reads two tokens of a quantized file; without the
            # buffers that lead there it computes the same. `make llama` builds it without AMX
            parameters.use_extra_bufts = b"AMX_INT8 = 1" not in library.llama_print_system_info()
            self._model = library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise ConfigError(
                f"llama.cpp cannot load {path}: {_reason()}; expected a GGUF file of an architecture that "
                f"{self.runtime} knows: was it written whole?"
            )
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocabulary = int(library.llama_vocab_n_tokens(self._vocab))
        self.eos = int(library.llama_vocab_eos(self._vocab))
        self.context = context_of(settings, int(library.llama_model_n_ctx_train(self._model)), path)
        template = library.llama_model_chat_template(self._model, None)
        self._template = template.decode() if template else None
        self._pieces = [self._piece(id_) for id_ in range(self.vocabulary)]
        self._ends = {id_ for id_ in range(self.vocabulary) if library.llama_vocab_is_eog(self._vocab, id_)}
        self._path = path
        self._open(settings)

    def _open(self, settings: LoadSettings) -> None:
        library = self._library
        parameters = library.llama_context_default_params()
        parameters.n_ctx = self.context
        parameters.n_batch = parameters.n_ubatch = min(self.context, _BATCH)
        parameters.n_threads = parameters.n_threads_batch = settings.threads or os.cpu_count() or 1
        if settings.exact:
            parameters.type_k = parameters.type_v = _FLOAT32
            parameters.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with _without_stderr():
            self._context = library.llama_init_from_model(self._model, parameters)
        if not self._context:
            reason = _reason()
            self._release()
            raise ConfigError(
                f"llama.cpp cannot make room for {self.context:,} positions of {self._path}: {reason}; ask for a "
                "smaller context"
            )
        self._batch = library.llama_batch_init(parameters.n_batch, 0, 1)
        self._memory = library.llama_get_memory(self._context)
        self._at_once = int(parameters.n_batch)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without markers."""
        return self._tokenized(text, markers=False)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation. Raises: ConfigError where the template refuses it, or there is none."""
        if self._template is None:
            raise ConfigError(
                f"{self._path} has no chat template: it continues text and was not trained to answer; chat with a "
                "model that was (sft, dpo)"
            )
        import jinja2
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        library = self._library
        markers = [
            library.llama_vocab_get_text(self._vocab, id_).decode() if id_ >= 0 else ""
            for id_ in (self.eos, library.llama_vocab_bos(self._vocab))
        ]
        try:
            formatter = Jinja2ChatFormatter(template=self._template, eos_token=markers[0], bos_token=markers[1])
            typed: Any = [dict(message) for message in messages]
            return self._tokenized(str(formatter(messages=typed).prompt), markers=True)
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise ConfigError(f"the model's chat template refuses the conversation: {error}") from error

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids spell."""
        return b"".join(self._pieces[id_] if id_ < len(self._pieces) else b"" for id_ in ids)

    def _tokenized(self, text: str, markers: bool) -> list[int]:
        data = text.encode()
        # an id spells a byte or more, and a space may be put before the first
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = int(self._library.llama_tokenize(self._vocab, data, len(data), ids, room, False, markers))
        if count < 0:
            raise ConfigError(f"llama.cpp cannot tokenize a text of {len(data):,} bytes")
        return list(ids[:count])

    def _piece(self, id_: int) -> bytes:
        if self._library.llama_vocab_get_attr(self._vocab, id_) & self._library.LLAMA_TOKEN_ATTR_UNUSED:
            return b""
        buffer = ctypes.create_string_buffer(256)
        length = self._library.llama_token_to_piece(self._vocab, id_, buffer, len(buffer), 0, False)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = self._library.llama_token_to_piece(self._vocab, id_, buffer, len(buffer), 0, False)
        return buffer.raw[:length]

    def _read(self, ids: Sequence[int], last: int) -> NDArray[np.float32]:
        library, batch, rows = self._library, self._batch, []
        first = len(ids) - last
        begun = library.llama_memory_seq_pos_max(self._memory, 0) + 1
        for begin in range(0, len(ids), self._at_once):
            piece = ids[begin : begin + self._at_once]
            batch.n_tokens = len(piece)
            for place, id_ in enumerate(piece):
                batch.token[place] = id_
                batch.pos[place] = begun + begin + place
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = 0
                batch.logits[place] = begin + place >= first
            if code := library.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode gave {code} at position {begun + begin}: {_reason()}")
            for place in range(max(0, first - begin), len(piece)):
                logits = library.llama_get_logits_ith(self._context, place)
                rows.append(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).copy())
        return np.stack(rows)

    def _keep(self, count: int) -> None:
        self._library.llama_memory_seq_rm(self._memory, 0, count, -1)

    def _logits_of_all(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self._read(ids, len(ids))

    def _release(self) -> None:
        library = self._library
        if self._batch is not None:
            library.llama_batch_free(self._batch)
        if self._context:
            library.llama_free(self._context)
        if self._model:
            library.llama_model_free(self._model)
        self._model = self._context = self._batch = None


# ── The library, quiet ────────────────────────────────────────────────────────────────────────────────────────────────

_log: deque[str] = deque(maxlen=200)  # what llama.cpp complained of last
_callback: Any = None
_level = 0


def _library() -> Any:
    """llama-cpp-python, with its log caught."""
    global _callback
    import llama_cpp

    if _callback is None:

        @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
        def callback(level: int, text: bytes, _: Any) -> None:
            global _level
            _level = _level if level == _GOES_ON else level
            if _level in (_WARNING, _ERROR):
                _log.append(text.decode(errors="replace"))

        _callback = callback  # as long as the library may call it
        with _without_stderr():
            llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
            llama_cpp.llama_backend_init()
    else:
        llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    return llama_cpp


def _reason() -> str:
    """The first complaint that says why, without the name of the function that made it."""
    lines = [line.strip() for line in "".join(_log).splitlines() if line.strip()]
    told = [re.sub(r"^\w+: ", "", line).removeprefix("error loading model: ") for line in lines]
    general = ("failed to load model", "failed to initialize")
    telling = [line for line in told if not line.startswith(general)]
    return (telling or told or ["it does not say why"])[0]


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """What C code prints in the block goes nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def missing() -> str | None:
    """None where it is installed."""
    if "llama_cpp" in sys.modules:
        return None if sys.modules["llama_cpp"] is not None else INSTALL_LLAMA_CPP
    return None if importlib.util.find_spec("llama_cpp") else INSTALL_LLAMA_CPP


def takes(path: Path) -> bool:
    """A `.gguf` file, or a folder that holds one."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    """The GGUF files of a path; of one in several parts the first, which names the others."""
    if path.is_dir():
        return [
            file
            for file in sorted(path.glob("*.gguf"))
            if not re.search(r"-of-\d{5}\.gguf$", file.name) or "-00001-of-" in file.name
        ]
    return [path] if path.suffix == ".gguf" and path.is_file() else []


def gguf_file(path: Path) -> Path:
    """The one GGUF file of a path. Raises: ConfigError where there is none, several, or one that is no GGUF."""
    files = _files(path)
    if len(files) != 1:
        raise ConfigError(
            f"{path} holds {', '.join(file.name for file in files)}: name one of them"
            if files
            else f"{path} is no .gguf file and holds none"
        )
    with files[0].open("rb") as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        raise ConfigError(
            f"{files[0]} is no GGUF: it begins with {begin!r} and not with {_MAGIC!r}; was it downloaded or written "
            "whole?"
        )
    return files[0]


def load(path: Path, settings: LoadSettings) -> LlamaCppModel:
    """Load a GGUF. Raises: ConfigError when it cannot be, with llama.cpp's reason."""
    if line := missing():
        raise ConfigError(f"llama.cpp is not installed, and {path} needs it: {line}")
    loaded = LlamaCppModel(gguf_file(path), settings)
    if settings.draft is not None:
        try:
            loaded.draw_on(load(settings.draft, LoadSettings(threads=settings.threads, exact=settings.exact)))
        except BaseException:
            loaded.close()
            raise
    return loaded


# ── Serving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def serve(path: Path, serving: Serving) -> Server:
    """llama.cpp's server: the program `llama-server` where it is on the PATH, else as xllamacpp embeds it."""
    file, context, threads = gguf_file(path), serving.context or 0, serving.threads or 0
    if program := shutil.which("llama-server"):
        command = [program, "--model", str(file), "--alias", serving.name, "--host", "127.0.0.1"]
        command += ["--port", str(serving.port), "--ctx-size", str(context)]
        command += ["--threads", str(threads)] if threads else []
        environment = {"LLAMA_API_KEY": serving.token}
        return Server(program="llama-server", command=command, environment=environment, health="/health", page="/")
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(
            "no server is installed for GGUF files: pip install xllamacpp (llama.cpp's own, with its page), or put "
            "llama-server on the PATH"
        )
    module = "pipelines.train.runtimes.llama_cpp_server"
    arguments = [str(file), serving.name, str(serving.port), str(context), str(threads)]
    return Server(
        program=f"llama.cpp's server (xllamacpp {importlib.metadata.version('xllamacpp')})",
        command=[sys.executable, "-m", module, *arguments],
        environment={TOKEN: serving.token},
        health="/health",
        page="/",
    )


RUNTIME = Runtime(name="llama_cpp", missing=missing, takes=takes, load=load, serve=serve)
