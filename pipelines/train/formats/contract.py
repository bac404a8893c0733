"""What a format of exported models is: how it is written, checked, described and run.

Enters: a `Source`, one checkpoint with the tokens that it was trained on. Leaves: a folder that somebody else's program
reads.

Nothing is believed: after `write`, the format's `verify` reads the finished folder back and compares it with the
checkpoint, weight by weight and, where a program can be asked, logit by logit. Only then is anything committed.

What formats share lies beside them: `folder.py` (files of a Hugging Face folder), `check.py` (held-out rows, our own
logits, the tokenizer, and other people's models on a stream of weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint import weights_of
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.network.architecture import ModelConfig

LIMIT = 1e-4  # largest difference of a logit, float32 against float32

Dtype = Literal["float32", "bfloat16"]  # of stored weights


@dataclass(frozen=True)
class Source:
    """What is exported."""

    run: Run
    tokens: Artifact  # hold the tokenizer, and the held-out documents that the check runs on

    @property
    def model(self) -> ModelConfig:
        """The architecture of the checkpoint."""
        return ModelConfig(**self.run.checkpoint.state["model"])

    def weights(self, verify: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Name and float32 value of one parameter after the other.

        Args: verify, compare checksums first, as whoever reads the checkpoint first must.
        """
        return weights_of(self.run.checkpoint, verify=verify)


@dataclass(frozen=True)
class Check:
    """What comparing the folder with the checkpoint gave."""

    tokens: int = 0  # compared positions
    # of a logit: float32 weights in somebody else's program against ours; None where weights alone were compared
    largest_difference: float | None = None
    stored_difference: float | None = None  # the same with the weights as stored: the cost of bfloat16

    def __str__(self) -> str:
        """What was compared, for the terminal."""
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
class Format:
    """One row of `FORMATS`."""

    # writes the folder, but for the model card; compares the checkpoint's checksums first.
    # Raises: CheckpointError for a damaged checkpoint, StorageError when it cannot be written
    write: Callable[[Source, Path, Dtype], None]
    # reads the folder back and compares it with the checkpoint: its weights, and logits where a program can be asked.
    # Raises: ArtifactError on the first thing that differs
    verify: Callable[[Source, Path], Check]
    describe: Callable[[ModelConfig, Dtype], Description]
    # Python that loads the folder, whose path it is given, and answers one question
    snippet: Callable[[str], str]
