"""What a format of delivered models is: how it is written, read back, checked, described and run.

Enters: a `Source`, one checkpoint with the tokens that it was trained on, or what `workflows.quantize` made of one.
Leaves: a folder that somebody else's program reads.

Nothing is believed: after `write`, the format's `verify` reads the finished folder back and compares it with the
checkpoint: weights, logits, greedy tokens, tokenizer, chat template. Only then is anything committed.

What formats share lies beside them: `folder.py` (files of a Hugging Face folder), `check.py` (held-out rows, our own
logits, other people's models on a stream of weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint import weights_of
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.network.architecture import ModelConfig

LIMIT = 1e-4  # largest difference of a logit, float32 against float32

Parent = Literal["trained", "quantized"]


@dataclass(frozen=True)
class Source:
    """What is exported."""

    run: Run
    tokens: Artifact  # hold the tokenizer, and the held-out documents that the check runs on
    quantized: Artifact | None = None  # of kind quantize, made of `run`; None: the checkpoint itself is exported

    @property
    def model(self) -> ModelConfig:
        """The architecture of the checkpoint."""
        return ModelConfig(**self.run.checkpoint.state["model"])

    @property
    def parent(self) -> Parent:
        """What kind of parent this is."""
        return "trained" if self.quantized is None else "quantized"

    @property
    def name(self) -> str:
        """What is exported, as a reference: `dpo/demo@step-60`, `quantize/demo`."""
        return str(self.run) if self.quantized is None else self.quantized.folder

    def weights(self, verify: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Name and float32 value of one parameter of the checkpoint after the other.

        Args: verify, compare checksums first, as whoever reads the checkpoint first must.
        """
        return weights_of(self.run.checkpoint, verify=verify)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One way in which a format stores weights: a row of `Format.dtypes`.

    A float type is compared bit by bit, and logits within `LIMIT` in float32. Of another the two limits say what is
    still accepted, against the full model on held-out text; beyond them nothing is committed.
    """

    bits: float  # of a stored weight of a linear map, scales counted
    words: str  # "4 bits in groups of 32, rounded to nearest"
    most_kl: float | None = None  # nats per token; None: a float type
    least_top1: float | None = None  # share of places where both models find the same id likeliest

    @property
    def is_float(self) -> bool:
        return self.most_kl is None


@dataclass(frozen=True)
class Delivered:
    """A folder read back: what a program that loads it computes with."""

    config: Mapping[str, Any]  # in the keys of a Llama's `config.json`
    # name and float32 value in Llama's names and order (embedding, blocks, final norm, output matrix), scalings folded
    weights: Callable[[], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Asked:
    """What one runtime was asked about the folder, or why it was not asked."""

    runtime: str  # "transformers 5.23.0"
    not_asked: str = ""  # the reason, with the line that installs it; "": it was asked
    strings: int = 0  # tokenized alike by it and by the training tokenizer
    strings_differing: int = 0  # accepted for a stated reason, which `notes` names
    conversations: int = 0  # rendered alike
    prompts: int = 0  # continued greedily
    greedy_tokens: int = 0  # of all prompts
    # nats per token of held-out text, from what reads the greedy answers (the file's own weights in float32, of a float
    # format the checkpoint) to what the program computes
    kl: float | None = None
    greedy_agreeing: int = 0  # tokens that our own model finds likeliest there too, or as likely within rounding
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """What comparing the folder with the checkpoint gave."""

    tokens: int = 0  # compared positions
    # of a logit: float32 weights in somebody else's program against ours; None where weights alone were compared
    largest_difference: float | None = None
    stored_difference: float | None = None  # the same with the weights as stored: the cost of bfloat16
    layer_differences: tuple[float, ...] = ()  # of hidden states after each block, relative to the largest of them
    kl: float | None = None  # nats per token of held-out text, full model to this one; None: a float type
    top1: float | None = None  # share of places where both find the same id likeliest
    asked: tuple[Asked, ...] = ()

    def __str__(self) -> str:
        """What was compared, for the terminal."""
        if self.kl is not None:
            return (
                f"checked on {self.tokens:,} held-out tokens: {self.kl:.3g} nats of KL per token to the full model, "
                f"the same likeliest id at {self.top1 or 0:.1%}"
            )
        if self.largest_difference is None:
            return "checked: the weights are those of the checkpoint; logits were not compared"
        stored = "" if self.stored_difference is None else f", {self.stored_difference:.1e} as stored"
        return (
            f"checked on {self.tokens:,} held-out tokens: logits within {self.largest_difference:.1e} (float32){stored}"
        )


@dataclass(frozen=True, kw_only=True)
class Description:
    """A format in words, for one model: what the announcement and the model card say of it."""

    announcement: str  # "Llama, scalings folded in"; the dtype is told behind it
    size_bytes: int  # of all weights
    card: str  # the clause that follows "Exported from … in the Llama format.", without a full stop
    title: str  # Llama: as people call it
    loads: str  # which programs read it
    library: str | None  # the Hub's `library_name`


@dataclass(frozen=True, kw_only=True)
class HowToRun:
    """One program and the exact text that runs the model with it."""

    program: str  # "transformers", "vLLM", "llama.cpp", "LLMFarm (iPhone)"
    language: Literal["python", "bash", "text"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of `FORMATS`."""

    # how weights can be stored, by the name that `dtype=` takes; the first is what null means
    dtypes: Mapping[str, Stored]
    # writes the folder, but for the model card; compares the checkpoint's checksums first.
    # Raises: CheckpointError for a damaged checkpoint, StorageError when it cannot be written, ConfigError for a parent
    # that this dtype cannot hold
    write: Callable[[Source, Path, str], None]
    # reads the folder back and compares it with the checkpoint: its weights, and what else a program can be asked.
    # Raises: ArtifactError on the first thing that differs
    verify: Callable[[Source, Path, str], Check]
    describe: Callable[[Source, str], Description]
    # how to run the folder, whose path it is given; the first answers one question and is shown on the terminal
    run: Callable[[str], Sequence[HowToRun]]
    # what a program that loads the folder computes with; None: nobody reads it back
    read: Callable[[Path], Delivered] | None = None
    parents: frozenset[Parent] = field(default_factory=lambda: frozenset({"trained"}))
    # asked before anything is announced or written. Raises: ConfigError for a source that the format or the dtype
    # cannot hold, or a program that writing needs and that is not installed
    refuse: Callable[[Source, str], None] | None = None
    runtimes: tuple[str, ...] = ()  # rows of RUNTIMES that load the folder
