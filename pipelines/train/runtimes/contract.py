"""What a runtime is: somebody else's program that loads a delivered model and answers.

Enters: a folder or a file that a format wrote. Leaves: a `Loaded` model, which the export's gate, `workflows.chat` and
`workflows.cost` all speak to alike. A runtime that is not installed says which line installs it (`missing`), and is
named wherever it was not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Amount, Count, Positive, Seed, Share, Whole, config_class

Message = Mapping[str, str]

# the line that installs llama.cpp, in the version of constraints.txt; `make llama` does it too, and keeps the wheel
INSTALL_LLAMA_CPP = "pip install llama-cpp-python==0.3.36"


@config_class
class Sampling:
    """How the next id is chosen."""

    temperature: Amount = 0.7  # 0: the likeliest id, always
    top_p: Share = 0.9  # the likeliest ids that have so much probability together; 1: all
    top_k: Whole = 0  # so many of the likeliest; 0: all
    min_p: Share = 0.0  # of the likeliest id's probability, what an id must have
    repetition_penalty: Positive = 1.0  # 1: none
    max_new_tokens: Count = 256
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How a model is loaded."""

    threads: int | None = None  # None: all cores
    dtype: str = "auto"  # of `transformers`: auto, float32, bfloat16
    context: int | None = None  # positions; None: all that the model has
    at_most: int | None = None  # positions where `context` is None and the model has more
    exact: bool = False  # as exact as the runtime can (llama.cpp: its key-value cache in float32), logits of all places
    draft: Path | None = None  # a smaller model that proposes what this one checks


@dataclass
class DraftCounts:
    """What speculative decoding did in one answer."""

    proposed: int = 0
    accepted: int = 0


class Loaded(Protocol):
    """A model in a runtime's memory."""

    runtime: str  # its row of RUNTIMES, with the version: "llama_cpp 0.3.36"
    context: int  # positions
    eos: int  # the id that ends an answer; -1: none does
    vocabulary: int  # ids that can come next: the width of logits
    prompt_read: int  # ids of the last prompt that were read; the others had been before
    draft: DraftCounts | None  # of the last answer; None where there is no draft

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without markers: `</s>` in it is text."""

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation by the model's own chat template, open for an answer."""

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids spell; a character may be cut at either end. Markers spell nothing."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each id, (T, V)."""

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """New ids, each as soon as it is chosen, until `eos`, which is left out, or the last that is asked for.

        What the last call has already read of the same ids is not read again.
        """

    def forget(self) -> None:
        """Read everything anew from now on."""

    def draw_on(self, draft: Loaded) -> None:
        """Let another model propose ids from now on. Raises: ConfigError when it has another tokenizer."""

    def close(self) -> None:
        """Give its memory back."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is served."""

    port: int
    token: str
    name: str  # of the model, as requests name it
    context: int | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Server:
    """A program that answers over HTTP as OpenAI's API does."""

    program: str  # "llama.cpp (xllamacpp 2026.10.11549)"
    command: Sequence[str]  # to start it on loopback
    environment: Mapping[str, str]  # its token
    health: str  # a path that answers 200 once the model is loaded
    page: str | None  # path of its page to chat in a browser, e.g. "/"; None: it has none


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One row of `RUNTIMES`.

    Attributes:
        missing: None where it is installed, else the line that installs it.
        takes: whether it reads what lies there (a folder, a file).
        load: loads it. Raises: ConfigError for what cannot be loaded, saying why.
        serve: its server. Raises: ConfigError where none is installed, with the line that installs it.
    """

    name: str
    missing: Callable[[], str | None]
    takes: Callable[[Path], bool]
    load: Callable[[Path, LoadSettings], Loaded]
    serve: Callable[[Path, Serving], Server]
