"""Bits per byte of held-out text, of each source, by the weights of the engine as they are.

Enters: a run's spec and the engine. Leaves: source -> bits per byte, of the same windows as `tasks/text.py` reads and
by the same count; there a checkpoint is opened in a process of its own, which takes longer than a small run trains.

Windows are read once in a process and kept for the runs that follow over the same tokens. Each rank scores its share
of them, through the engine's own forward, so any ZeRO stage will do. The model computes in the run's precision:
under bfloat16 the values differ from an evaluation in float32 by some 1e-3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.config import Count, Seed, config_class
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.measures.measure import Look, Measure, MeasureSettings
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer
from pipelines.train.tasks.scoring import batches_by_length, counted_nats, padded
from pipelines.train.tasks.text import NOTHING_COUNTS, HeldoutText, bytes_of_ids, heldout_sources, read_text

if TYPE_CHECKING:
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine

Kind = Literal["documents", "conversations"]
_MEASURE: dict[Kind, str] = {"documents": "heldout", "conversations": "answers"}
_KEPT = 4  # sets of windows that a process keeps: the tokens of one study, of different lengths


@config_class
class HeldoutSettings(MeasureSettings):
    """How much text is read, and of which sources."""

    max_tokens: Count = 8000  # per source
    sources: tuple[str, ...] | None = None  # null: every source of documents; named ones may be conversations
    seed: Seed = 0  # draws the windows; that of an evaluation


@dataclass(frozen=True)
class _Windows:
    """The windows of all sources, in batches of like length on this rank's device."""

    texts: Mapping[str, HeldoutText]
    batches: tuple[Batch, ...]  # `Batch.sources` is the number of each row's source


_KEEP: OrderedDict[tuple[Any, ...], _Windows] = OrderedDict()


def open_heldout(
    settings: HeldoutSettings, spec: TrainSpec, store: ArtifactStore, kind: Kind = "documents"
) -> Look:  # fmt: skip
    """Read the windows, or find them kept. Args: kind, of the sources where the settings name none.

    Raises: ConfigError when the tokens do not have a source that is asked for, hold no document out, or do not know
        their bytes.
    """
    tokens = store.get(spec.tokens)
    length = spec.batch.sequence_length
    key = (
        *(store.storage.uri, tokens.folder, tokens.fingerprint, str(tokens.contents)),
        *(length, settings.max_tokens, settings.sources or kind, settings.seed),
    )
    if key not in _KEEP:
        _KEEP[key] = _read(settings, tokens, length, kind)
        while len(_KEEP) > _KEPT:
            _KEEP.popitem(last=False)
    _KEEP.move_to_end(key)
    windows = _KEEP[key]
    return lambda engine, step: _measure(engine, windows)


def _read(settings: HeldoutSettings, tokens: Artifact, length: int, kind: Kind) -> _Windows:
    from pipelines.train.run.stream import to_batch

    about = tokens.statistics["sources"]
    heldout = heldout_sources(tokens)
    of_kind = tuple(name for name in heldout if about[name]["kind"] == kind)
    names = of_kind if settings.sources is None else settings.sources
    if unknown := [name for name in names if name not in heldout]:
        raise ConfigError(
            f"measures.{_MEASURE[kind]}.sources has {', '.join(unknown)}; {tokens.folder} holds out text of "
            f"{', '.join(heldout) or 'no source'}: name some of these"
        )
    opened, id_bytes = open_sources(tokens, "heldout", list(names), FOUNDING), bytes_of_ids(tokens)
    texts = {
        name: text
        for name, source in opened.items()
        if (text := read_text(source, length, settings.max_tokens, settings.seed, id_bytes)) is not None
    }
    if not texts or not all(text.has_bytes and text.bytes for text in texts.values()):
        problem = NOTHING_COUNTS if not texts else "its shards do not say how many bytes they spell"
        raise ConfigError(
            f"measures.{_MEASURE[kind]} cannot be measured over {tokens.folder}: {problem}; hold {kind} out "
            "(heldout: 0.05 of a source in conf/corpus), or make the tokens anew with this version"
        )
    rows = [(row, number) for number, text in enumerate(texts.values()) for row in text.rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0][0]))
    batches = []
    for members in batches_by_length(order, [row for row, _ in rows]):
        ids, counted = padded([rows[i][0] for i in members])
        positions = np.broadcast_to(np.arange(counted.shape[1]), counted.shape)
        sources = np.array([rows[i][1] for i in members])
        batches.append(to_batch({"tokens": ids, "positions": positions, "loss_mask": counted, "sources": sources}))
    return _Windows(texts, tuple(batches))


def _measure(engine: Engine, windows: _Windows) -> Mapping[str, float]:
    """Bits per byte of each source; all ranks call it together."""
    rank, world = dist.get_rank(), dist.get_world_size()
    place = windows.batches[0].inputs.device
    nats = torch.zeros(len(windows.texts), dtype=torch.float64, device=place)
    # as many forwards on every rank, since ZeRO-3 gathers weights in each: a rank without a batch repeats one
    for first in range(0, len(windows.batches), world):
        number = first + rank
        batch = windows.batches[min(number, len(windows.batches) - 1)]
        spent_B = engine.forward(_row_nats, batch)
        if number < len(windows.batches):
            nats.index_add_(0, batch.sources, spent_B)
    dist.all_reduce(nats)
    return {
        name: bits
        for (name, text), spent in zip(windows.texts.items(), nats.tolist(), strict=True)
        if (bits := text.bits_per_byte(spent, engine.model_config.vocabulary)) is not None
    }


def _row_nats(model: Transformer, hidden_BTD: Tensor, batch: Batch) -> Tensor:
    return counted_nats(model, hidden_BTD, batch.targets, batch.loss_mask.bool())


HELDOUT = Measure(Settings=HeldoutSettings, open=open_heldout, unit="bits per byte")
