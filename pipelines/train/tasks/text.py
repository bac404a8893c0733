"""Held-out text: bits per byte and loss, by source.

    bits per byte   Σ nats / (ln 2 · bytes of the text that the counted tokens spell): comparable between tokenizers
    loss            Σ nats / tokens predicted, in nats

Of each source, windows up to `max_tokens` tokens are read, drawn by the seed alike for every checkpoint. The mean over
document sources is plain, so that no source's size decides. Assistant loss is taken over all assistant tokens.
`tasks/windows.py` says what counts in a window.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Count, config_class
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import TokenSource, open_sources
from pipelines.store.artifact import Artifact
from pipelines.train.tasks.task import TOKENIZER, Chart, Column, Measured, Number, Subject, Task, TaskPlan, TaskSettings
from pipelines.train.tasks.windows import Ids, byte_lengths, windows

if TYPE_CHECKING:
    from pipelines.train.network.model import Transformer

NOTHING_COUNTS = "no token of its held-out documents counts"
_MOST_SHARDS = 16  # of one source that are opened, evenly spaced


@config_class
class TextSettings(TaskSettings):
    """How much text is read."""

    max_tokens: Count = 4000  # per source of documents or conversations


@dataclass(frozen=True)
class TextScore:
    """One source of documents or conversations."""

    kind: str
    language: str
    bits_per_byte: float | None  # None when the shards carry no byte counts
    loss: float  # nats per predicted token
    documents: int  # that the windows are of
    tokens: int  # predicted
    bytes: int  # of the text that the counted ids spell


def plan_text(subject: Subject, settings: TextSettings) -> TaskPlan:
    """Find the sources that hold documents or conversations out."""
    heldout = heldout_sources(subject.tokens)
    return TaskPlan(
        announcement=f"per source {settings.max_tokens:,} tokens, in windows of {subject.sequence_length}",
        sources=tuple(heldout),
        unmeasured={name: NOTHING_COUNTS for name, split in heldout.items() if split.get("loss_tokens", 1) == 0},
    )


def measure_text(model: Transformer, subject: Subject, settings: TextSettings) -> Measured:
    """Score every source."""
    tokens = subject.tokens
    id_bytes = bytes_of_ids(tokens)
    opened = open_sources(tokens, "heldout", list(heldout_sources(subject.tokens)), FOUNDING)
    scores = {
        name: score_text(
            model, source, tokens.statistics["sources"][name], subject.sequence_length, settings.max_tokens,
            subject.seed, id_bytes,
        )
        for name, source in opened.items()
    }  # fmt: skip
    scored = {name: score for name, score in scores.items() if score is not None}
    return Measured(
        rows={name: dataclasses.asdict(score) for name, score in scored.items()},
        summary=summary(scored),
        unmeasured={name: NOTHING_COUNTS for name, score in scores.items() if score is None},
    )


def bytes_of_ids(tokens: Artifact) -> NDArray[np.int64] | None:
    """UTF-8 bytes that each id spells [V], where the tokens have their tokenizer beside them."""
    return byte_lengths(tokens.path(TOKENIZER).read_text("utf-8")) if TOKENIZER in tokens.manifest["files"] else None


def score_text(
    model: Transformer, source: TokenSource, about: Mapping[str, Any], length: int, max_tokens: int, seed: int,
    id_bytes: NDArray[np.int64] | None = None,
) -> TextScore | None:  # fmt: skip
    """Bits per byte and loss of one source, or None when nothing in it counts.

    Args: about, its kind and language; length, T; id_bytes, bytes that each id spells [V].
    """
    from pipelines.train.tasks.scoring import token_nats

    text = read_text(source, length, max_tokens, seed, id_bytes)
    if text is None:
        return None
    nats, counts = token_nats(model, text.rows)
    spent, predicted = float(nats.sum()), int(counts.sum())
    return TextScore(
        kind=str(about["kind"]), language=str(about["language"]),
        bits_per_byte=text.bits_per_byte(spent, model.config.vocabulary), loss=spent / max(1, predicted),
        documents=text.documents, tokens=predicted, bytes=round(text.bytes),
    )  # fmt: skip


@dataclass(frozen=True)
class HeldoutText:
    """The windows of one source that are scored, and what their nats are divided by."""

    rows: tuple[tuple[Ids, NDArray[np.bool_]], ...]  # ids of a window, and which of those after its first count
    documents: int  # that they are of
    firsts: int  # first ids of documents, which have no context
    bytes: float  # of the text that the counted ids spell
    has_bytes: bool  # whether all shards say how many

    def bits_per_byte(self, nats: float, vocabulary: int) -> float | None:
        """Args: nats, of all counted targets. Returns: None where the bytes are not known."""
        charged = nats + self.firsts * math.log(vocabulary)
        return charged / (math.log(2) * self.bytes) if self.has_bytes and self.bytes else None


def read_text(
    source: TokenSource, length: int, max_tokens: int, seed: int, id_bytes: NDArray[np.int64] | None = None
) -> HeldoutText | None:
    """Choose the windows of one source, or None when nothing in it counts. Args: as of `score_text`."""
    rows: list[tuple[Ids, NDArray[np.bool_]]] = []
    seen: set[tuple[int, int]] = set()
    firsts, total_bytes, has_bytes, budget = 0, 0.0, True, max_tokens
    shards = _spread(len(source.prefixes), _MOST_SHARDS)
    for place, number in enumerate(shards):
        shard, share = source.shard(number), math.ceil(budget / (len(shards) - place))
        has_bytes = has_bytes and shard.document_bytes is not None
        for window in windows(shard, length, seed):
            if len(window.tokens) > share and (rows or place + 1 < len(shards)):
                break
            share -= len(window.tokens)
            budget -= len(window.tokens)
            rows.append((window.tokens, window.counted))
            seen.add((number, window.document))
            firsts += window.opens
            total_bytes += window.byte_count(shard, id_bytes)
    return HeldoutText(tuple(rows), len(seen), firsts, total_bytes, has_bytes) if rows else None


def summary(scores: Mapping[str, TextScore]) -> dict[str, float | None]:
    """One number each, over all sources; None where no source has it."""
    documents = [s.bits_per_byte for s in scores.values() if s.kind == "documents" and s.bits_per_byte is not None]
    answers = [s for s in scores.values() if s.kind == "conversations"]
    answer_bytes = sum(s.bytes for s in answers if s.bits_per_byte is not None)
    bits = sum(s.bits_per_byte * s.bytes for s in answers if s.bits_per_byte is not None)
    return {
        "bits_per_byte": sum(documents) / len(documents) if documents else None,
        "assistant_loss": sum(s.loss * s.tokens for s in answers) / sum(s.tokens for s in answers) if answers else None,
        "assistant_bits_per_byte": bits / answer_bytes if answer_bytes else None,
    }


def heldout_sources(tokens: Artifact) -> dict[str, Mapping[str, Any]]:
    """Statistics of the held-out split of every source of documents or conversations that has one."""
    return {
        name: source["heldout"]
        for name, source in tokens.statistics["sources"].items()
        if source["kind"] != "preferences" and source["heldout"]["documents"]
    }


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers, evenly spaced."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


TEXT = Task(
    Settings=TextSettings,
    plan_task=plan_text,
    measure=measure_text,
    title="Held-out text",
    reading="Bits per byte of the text that the counted tokens spell, and nats per predicted token: lower is better.",
    columns={
        "kind": Column(heading="kind"),
        "language": Column(heading="language"),
        "documents": Column(heading="documents"),
        "tokens": Column(heading="tokens"),
        "loss": Column(heading="nats/token", metric="loss"),
        "bits_per_byte": Column(heading="bits/byte", metric="bits_per_byte"),
    },
    numbers={
        "bits_per_byte": Number(
            label="mean of document sources",
            unit="bits per byte",
            better="lower",
            heading="mean",
            column="bits_per_byte",
        ),
        "assistant_loss": Number(
            label="all assistant tokens", unit="nats per token", better="lower", heading="assistant loss", column="loss"
        ),
        "assistant_bits_per_byte": Number(
            label="all assistant tokens", unit="bits per byte", better="lower", column="bits_per_byte"
        ),
    },
    chart=Chart(
        name="bits_per_byte",
        kind="bars",
        column="bits_per_byte",
        only={"kind": "documents"},
        tabled=True,
        title="Held-out bits per byte by source",
        axis="bits per byte (lower is better)",
        caption="The same held-out documents for every checkpoint.",
    ),
)
