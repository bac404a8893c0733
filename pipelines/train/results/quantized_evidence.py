"""What a model says to held-out text and pairs, passage by passage, so that two models can be compared document by
document.

Legend: B rows, T tokens, D model width, V vocabulary, N counted places.

Enters: the held-out shards of a tokens artifact, and a model that runs here. Leaves: `Answers`, plain arrays. Which
windows and pairs are read is drawn by a seed alone, as `tasks/text.py` and `tasks/preferences.py` draw them, so the
sums over passages are the numbers of `workflows.evaluate` (tests/unit/test_quantized_results.py compares them).

Of the full model more is kept (`Reference`): the hidden states that its logits are made of at the compared places, its
output matrix, and the hidden states after each block on a few passages. Then it can go before a quantized one is
loaded, so one model is in memory at a time.

    KL          Σ p ln(p / q) over the vocabulary, p of the full model, in nats, at each counted place
    top-1       whether both find the same id likeliest there
    drift       of hidden states after a block: |quantized - full| / |full|, both as root mean squares
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipelines.config import Count, Seed, config_class
from pipelines.data.stream.preferences import fitting, open_preferences
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import TokenSource, open_sources
from pipelines.store.artifact import Artifact
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.tasks.scoring import batches_by_length, padded, token_nats
from pipelines.train.tasks.text import bytes_of_ids, heldout_sources
from pipelines.train.tasks.windows import Ids, document_ids, drawn_order, windows

Floats = NDArray[np.float64]
_MOST_SHARDS = 16  # of one source that are opened, as tasks/text.py does
_LOGITS = 1 << 24  # held at once of each model: 64 MiB of float32
_DRIFT_TOKENS = 1024  # of which hidden states after every block are kept: tokens · D · 4 bytes · blocks


@config_class
class ComparisonSettings:
    """How much held-out text a quantized model is measured on."""

    max_tokens: Count = 20_000  # per source of documents or conversations
    max_pairs: Count = 500  # per source of preferences
    kl_tokens: Count = 8_000  # per source, of those of max_tokens, at which the full model's logits are compared
    seed: Seed = 0


# ── What is read ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Passage:
    """One window of a held-out document."""

    document: int  # its number among the documents that were drawn of its source
    ids: Ids  # [n + 1]
    counted: NDArray[np.bool_]  # [n], whether ids[1:] count
    opens: bool  # its first id counts, and nothing predicts it
    bytes: float  # of the text that its counted ids spell

    @property
    def row(self) -> tuple[Ids, NDArray[np.bool_]]:
        return self.ids, self.counted


@dataclass(frozen=True)
class HeldoutPassages:
    """What is read of one source of documents or conversations."""

    kind: str
    language: str
    passages: tuple[Passage, ...]
    compared: int  # of how many, from the first, logits are compared
    has_bytes: bool = True  # whether all shards say how many bytes their documents have

    @property
    def documents(self) -> int:
        return 1 + max(passage.document for passage in self.passages)

    @property
    def tokens(self) -> int:
        """Predicted ones."""
        return sum(int(passage.counted.sum()) for passage in self.passages)


@dataclass(frozen=True)
class Heldout:
    """All that is read.

    Attributes: pairs, by source: rows as in `Passage.row`, chosen at 2i and rejected at 2i + 1. unmeasured, source ->
        why nothing of it counts.
    """

    sources: Mapping[str, HeldoutPassages]
    pairs: Mapping[str, Sequence[tuple[Ids, NDArray[np.bool_]]]]
    unmeasured: Mapping[str, str] = field(default_factory=dict)


def read_heldout(tokens: Artifact, length: int, settings: ComparisonSettings) -> Heldout:
    """Draw windows and pairs. Args: length, T."""
    names, id_bytes = list(heldout_sources(tokens)), bytes_of_ids(tokens)
    sources: dict[str, HeldoutPassages] = {}
    unmeasured: dict[str, str] = {}
    for name, source in open_sources(tokens, "heldout", names, FOUNDING).items():
        passages, has_bytes = _passages(source, length, settings, id_bytes)
        if not passages:
            unmeasured[name] = "no token of its held-out documents counts"
            continue
        about = tokens.statistics["sources"][name]
        compared = _first(passages, settings.kl_tokens)
        sources[name] = HeldoutPassages(str(about["kind"]), str(about["language"]), passages, compared, has_bytes)
    pairs: dict[str, Sequence[tuple[Ids, NDArray[np.bool_]]]] = {}
    for name, sides in open_preferences(tokens, "heldout").items():
        pairs[name] = _pairs(*sides, length, settings)
        if not pairs[name]:
            unmeasured[name] = f"no pair leaves room for its answers in {length + 1} tokens"
            del pairs[name]
    return Heldout(sources, pairs, unmeasured)


def _passages(
    source: TokenSource, length: int, settings: ComparisonSettings, id_bytes: NDArray[np.int64] | None
) -> tuple[tuple[Passage, ...], bool]:
    """The windows that `tasks.text.read_text` chooses, each with its document; whether all bytes are known."""
    passages: list[Passage] = []
    has_bytes = True
    documents: dict[tuple[int, int], int] = {}
    shards, budget = _spread(len(source.prefixes)), settings.max_tokens
    for place, number in enumerate(shards):
        shard, share = source.shard(number), math.ceil(budget / (len(shards) - place))
        has_bytes = has_bytes and shard.document_bytes is not None
        for window in windows(shard, length, settings.seed):
            if len(window.tokens) > share and (passages or place + 1 < len(shards)):
                break
            share -= len(window.tokens)
            budget -= len(window.tokens)
            document = documents.setdefault((number, window.document), len(documents))
            size = window.byte_count(shard, id_bytes)
            passages.append(Passage(document, window.tokens, window.counted, window.opens, size))
    return tuple(passages), has_bytes


def _spread(count: int) -> list[int]:
    return list(range(count)) if count <= _MOST_SHARDS else [i * count // _MOST_SHARDS for i in range(_MOST_SHARDS)]


def _first(passages: Sequence[Passage], most_tokens: int) -> int:
    """How many passages, from the first, have at most so many counted tokens together; two at least, for an
    interval."""
    ends = np.cumsum([int(passage.counted.sum()) for passage in passages])
    return min(len(passages), max(2, int(np.searchsorted(ends, most_tokens, "right"))))


def _pairs(
    chosen: TokenSource, rejected: TokenSource, length: int, settings: ComparisonSettings
) -> list[tuple[Ids, NDArray[np.bool_]]]:
    """The pairs that `tasks.preferences.score_preferences` chooses."""
    rows: list[tuple[Ids, NDArray[np.bool_]]] = []
    for index in range(len(chosen.prefixes)):
        sides = (chosen.shard(index), rejected.shard(index))
        fits = fitting(*sides, length + 1)
        for document in fits[drawn_order(len(fits), settings.seed)].tolist():
            if len(rows) == 2 * settings.max_pairs:
                return rows
            both = [document_ids(side, document) for side in sides]
            rows += [(ids[: length + 1], counted[1 : length + 1]) for ids, counted in both]
    return rows


# ── What models say to it ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Answers:
    """What one model says.

    Attributes:
        nats: by source, of each passage's counted ids.
        margins: by source of preferences, of each pair: mean log-probability of an id of the chosen answer less that of
            the rejected one; above 0 it prefers the chosen one.
        kl, agreeing: by source, of each compared passage: nats, and places where both models find the same id
            likeliest. Empty of the full model itself.
        drift: after each block, and after the final norm at last. Empty likewise.
    """

    nats: Mapping[str, Floats]
    margins: Mapping[str, Floats]
    kl: Mapping[str, Floats] = field(default_factory=dict)
    agreeing: Mapping[str, Floats] = field(default_factory=dict)
    drift: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What is kept of the full model once it has gone.

    Attributes: hidden, by source, of each compared passage (N, D); output, (V, D); blocks, hidden states after each
        block on the first passages, (tokens, D).
    """

    hidden: Mapping[str, tuple[Tensor, ...]]
    output: Tensor
    blocks: tuple[Tensor, ...]


def reference(model: Transformer, heldout: Heldout, output: Tensor) -> Reference:
    """Keep what quantized models will be compared with. Args: output, the model's output matrix, (V, D)."""
    hidden = {name: tuple(_hidden(model, read.passages[: read.compared])) for name, read in heldout.sources.items()}
    return Reference(hidden, output, _after_blocks(model, heldout))


def answers(model: Transformer, heldout: Heldout, kept: Reference | None = None) -> Answers:
    """Measure one model. Args: kept, of the full model, which it is compared with; None: this is the full model."""
    nats = {name: token_nats(model, [p.row for p in read.passages])[0] for name, read in heldout.sources.items()}
    margins = {name: _margins(model, rows) for name, rows in heldout.pairs.items()}
    if kept is None:
        return Answers(nats, margins)
    kl: dict[str, Floats] = {}
    agreeing: dict[str, Floats] = {}
    for name, read in heldout.sources.items():
        compared = [
            _compare(model, own_ND, full_ND, kept.output)
            for own_ND, full_ND in zip(_hidden(model, read.passages[: read.compared]), kept.hidden[name], strict=True)
        ]
        kl[name] = np.array([nats_of_passage for nats_of_passage, _ in compared])
        agreeing[name] = np.array([float(same) for _, same in compared])
    drift = tuple(
        float((own - full).square().mean().sqrt() / full.square().mean().sqrt())
        for own, full in zip(_after_blocks(model, heldout), kept.blocks, strict=True)
    )
    return Answers(nats, margins, kl, agreeing, drift)


def _margins(model: Transformer, rows: Sequence[tuple[Ids, NDArray[np.bool_]]]) -> Floats:
    nats, counts = token_nats(model, rows)
    means = nats / np.maximum(1, counts)
    return means[1::2] - means[0::2]


@torch.no_grad()
def _hidden(model: Transformer, passages: Sequence[Passage]) -> Iterator[Tensor]:
    """What logits are made of at each passage's counted places, (N, D), in the order of the passages."""
    rows = [passage.row for passage in passages]
    made: dict[int, Tensor] = {}
    for members in batches_by_length(sorted(range(len(rows)), key=lambda row: len(rows[row][0])), rows):
        ids_BT, counted_BT = (torch.from_numpy(array) for array in padded([rows[row] for row in members]))
        hidden_BTD = model(_input(ids_BT[:, :-1]))
        made |= {row: hidden_BTD[place][counted_BT[place]] for place, row in enumerate(members)}
    return (made[row] for row in range(len(rows)))


def _input(ids_BT: Tensor) -> ModelInput:
    return ModelInput(inputs=ids_BT, positions=torch.arange(ids_BT.shape[1]).expand_as(ids_BT))


@torch.no_grad()
def _compare(model: Transformer, own_ND: Tensor, full_ND: Tensor, output_VD: Tensor) -> tuple[float, int]:
    """KL summed over places, and places with the same likeliest id."""
    nats, same = 0.0, 0
    step = max(1, _LOGITS // len(output_VD))
    for own, full in zip(torch.split(own_ND, step), torch.split(full_ND, step), strict=True):
        own_NV, full_NV = model.logits(own).float(), F.linear(full, output_VD)
        same += int((own_NV.argmax(-1) == full_NV.argmax(-1)).sum())
        logp_NV = F.log_softmax(full_NV, -1)
        nats += float((logp_NV.exp() * (logp_NV - F.log_softmax(own_NV, -1))).sum(-1, dtype=torch.float64).sum())
    return nats, same


@torch.no_grad()
def _after_blocks(model: Transformer, heldout: Heldout) -> tuple[Tensor, ...]:
    """Hidden states after each block and after the final norm, (tokens, D), on passages taken from all sources in
    turn."""
    left, ids = _DRIFT_TOKENS, list[Ids]()
    longest = max(read.compared for read in heldout.sources.values()) if heldout.sources else 0
    for place in range(longest):
        for read in heldout.sources.values():
            if place < read.compared and left > 0:
                ids.append(read.passages[place].ids[: left + 1])
                left -= len(ids[-1]) - 1
    kept: list[list[Tensor]] = [[] for _ in range(len(model.layers) + 1)]
    with _seen(model) as outputs:
        for passage in ids:
            if len(passage) < 2:
                continue
            outputs.clear()
            model(_input(torch.from_numpy(passage[None, :-1].astype(np.int64))))
            for place, output_BTD in enumerate(outputs):
                kept[place].append(output_BTD[0])
    return tuple(torch.cat(states) for states in kept if states)


@contextmanager
def _seen(model: Transformer) -> Iterator[list[Tensor]]:
    """What each block and the final norm give, in the order of their calls."""
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for module in (*model.layers, model.norm)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def by_document(read: HeldoutPassages, values: Floats, compared: bool = False) -> Floats:
    """Sums over the passages of each document. Args: compared, of the compared passages alone."""
    passages = read.passages[: read.compared] if compared else read.passages
    documents = [passage.document for passage in passages]
    return np.bincount(documents, values, minlength=1 + max(documents)).astype(np.float64)


def unit_of(read: HeldoutPassages, compared: bool = False) -> HeldoutPassages:
    """The source with something to draw from: where only one document was drawn, each of its windows counts as one."""
    passages = read.passages[: read.compared] if compared else read.passages
    if len({passage.document for passage in passages}) > 1:
        return read
    apart = tuple(dataclasses.replace(passage, document=place) for place, passage in enumerate(read.passages))
    return dataclasses.replace(read, passages=apart)
