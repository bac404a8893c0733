"""The rows that quantizing looks at: training text of the run's own, most of it conversations.

Enters: a `tokens` artifact and how many rows of which kind are wanted. Leaves: a plan that says how many rows come of
each source, and the rows themselves. Conversations are packed whole, in the chat format that the run was trained in;
documents are read in windows (`data/stream/source_stream.py`). Only the training split is read: what is held out is
what the result is measured on.

Sources of a kind share its rows evenly, so that no source's size decides; what a small one cannot give is taken from
the others, and no row is read twice. MiniCPM calibrates on data like that of its SFT (arXiv 2404.06395, appendix D).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.config import Count, Seed, Share, Window, config_class
from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixturePlan, PlannedSource
from pipelines.data.tokens.chat import EOS_ID
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint.lineage import Run, tokenizer_of
from pipelines.train.quantization.contract import CalibrationRows

_KINDS = ("documents", "conversations")  # of sources that rows come of


@config_class
class CalibrationConfig:
    """What quantizing looks at."""

    rows: Count = 256  # each of sequence_length ids
    sequence_length: Window | None = None  # null: that of the run
    documents: Share = 0.5  # of the rows that are documents; the others are conversations
    sources: list[str] | None = None  # of the tokens that rows come of; null: all of documents and conversations
    seed: Seed = 0


@dataclass(frozen=True)
class CalibrationPlan:
    """Which rows will be drawn."""

    tokens: Artifact
    sequence_length: int
    seed: int
    rows: Mapping[str, int]  # by source
    kinds: Mapping[str, str]  # of each source

    def __str__(self) -> str:
        """For an announcement: `256 rows of 512 ids: tutor-en 64, tutor-zh 64, …`."""
        told = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        return f"{sum(self.rows.values()):,} rows of {self.sequence_length:,} ids of {self.tokens.folder}: {told}"


def plan_calibration(run: Run, tokens: Artifact, config: CalibrationConfig) -> CalibrationPlan:
    """Choose how many rows come of which source; nothing is read but what the tokens say of themselves.

    Raises:
        ArtifactError: the tokens are of another tokenizer than the checkpoint.
        ConfigError: a source that is not there, is empty or holds pairs; a length that the model does not reach.
        DataError: fewer tokens than asked for.
    """
    if tokenizer_of(tokens) != run.checkpoint.state["tokenizer"]:
        raise ArtifactError(
            f"{tokens.folder} was encoded by another tokenizer than {run} was trained with, so its ids mean other "
            "texts: calibrate on the tokens of the run, or encode that corpus with the run's tokenizer"
        )
    length = config.sequence_length or int(run.checkpoint.state["sequence_length"])
    longest = int(run.checkpoint.state["model"]["max_positions"])
    if length > longest:
        raise ConfigError(f"calibration.sequence_length is {length:,}; the model has {longest:,} positions at most")
    sources = _sources(tokens, config)
    room = {name: max(0, tokens_of_source - 1) // length for name, (_, tokens_of_source) in sources.items()}
    of_documents = round(config.documents * config.rows)
    wanted = dict(zip(_KINDS, (of_documents, config.rows - of_documents), strict=True))
    chosen: dict[str, int] = {}
    for kind, count in wanted.items():
        room_of_kind = {name: room[name] for name, (its_kind, _) in sources.items() if its_kind == kind}
        if count > sum(room_of_kind.values()):
            told = _too_few(tokens, kind, count, length, room_of_kind)
            raise DataError(f"{told}: {_fewer(config, sources, room, length)}")
        chosen |= _shared(count, room_of_kind)
    in_order = {name: chosen[name] for name in sources if chosen.get(name)}
    return CalibrationPlan(tokens, length, config.seed, in_order, {name: sources[name][0] for name in in_order})


def _sources(tokens: Artifact, config: CalibrationConfig) -> dict[str, tuple[str, int]]:
    """Kind and training tokens of each source that rows may come of. Raises: ConfigError."""
    there = {
        name: (str(source["kind"]), int(source["train"]["tokens"]))
        for name, source in tokens.statistics["sources"].items()
        if source["kind"] != "preferences"
    }
    for name in config.sources or ():
        if name not in there:
            raise ConfigError(
                f"calibration.sources names {name}; {tokens.folder} holds documents and conversations in "
                f"{', '.join(there)}"
            )
        if not there[name][1]:
            raise ConfigError(f"calibration.sources names {name}, which has no training tokens: leave it out")
    return {name: about for name, about in there.items() if config.sources is None or name in config.sources}


def _too_few(tokens: Artifact, kind: str, count: int, length: int, room: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} {rows:,}" for name, rows in room.items()) or "none"
    return (
        f"calibration asks for {count:,} rows of {length:,} ids of {kind}; {tokens.folder} has {sum(room.values()):,} "
        f"(by source: {told})"
    )


def _fewer(
    config: CalibrationConfig, sources: Mapping[str, tuple[str, int]], room: Mapping[str, int], length: int
) -> str:
    """What to set: the most rows that there are in the shares asked for, or another share, or shorter rows."""
    of_kind = {kind: sum(room[name] for name, (its, _) in sources.items() if its == kind) for kind in _KINDS}
    documents, conversations = (of_kind[kind] for kind in _KINDS)
    ways = []
    fitting = (
        rows for rows in range(config.rows - 1, 0, -1) if _fits(rows, config.documents, documents, conversations)
    )
    if rows := next(fitting, 0):
        ways.append(f"calibration.rows={rows}")
    ways += [
        f"calibration.documents={share}"
        for share, there in ((1, documents), (0, conversations))
        if there >= config.rows and share != config.documents
    ]
    return f"set {' or '.join(ways) or f'calibration.sequence_length below {length:,}, which gives more rows'}"


def _fits(rows: int, share: float, documents: int, conversations: int) -> bool:
    of_documents = round(share * rows)
    return of_documents <= documents and rows - of_documents <= conversations


def _shared(count: int, room: Mapping[str, int]) -> dict[str, int]:
    """So many rows over sources, evenly as far as each has room; the first ones get what does not divide."""
    taken = dict.fromkeys(room, 0)
    left = count
    while left:
        open_names = [name for name in room if taken[name] < room[name]]
        for place, name in enumerate(open_names):
            part = left // len(open_names) + (place < left % len(open_names))
            taken[name] = min(room[name], taken[name] + part)
        left = count - sum(taken.values())
    return taken


def draw_calibration(planned: CalibrationPlan) -> CalibrationRows:
    """Read the rows; the seed alone decides which.

    Raises: DataError when a source packs into fewer rows than its tokens promised.
    """
    opened = open_sources(planned.tokens, "train", list(planned.rows), FOUNDING)
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    real: list[Tensor] = []
    tokens: dict[str, int] = {}
    for name, count in planned.rows.items():
        loader = Loader(
            opened, [Segment(0, _alone(planned, name))], planned.seed, planned.sequence_length, pad_id=EOS_ID
        )
        if (has := loader.epoch_samples(name)) < count:
            raise DataError(
                f"calibration asks for {count:,} rows of {name}, which packs into {has:,} of "
                f"{planned.sequence_length:,} ids: lower calibration.rows or calibration.sequence_length"
            )
        batch = loader.batch(np.arange(count))
        ids.append(torch.from_numpy(batch["tokens"][:, :-1].astype(np.int64)))
        positions.append(torch.from_numpy(batch["positions"].astype(np.int64)))
        real.append(_real(ids[-1], positions[-1]))
        tokens[name] = int(real[-1].sum())
    return CalibrationRows(torch.cat(ids), torch.cat(positions), torch.cat(real), tokens)


def _alone(planned: CalibrationPlan, name: str) -> MixturePlan:
    """A mixture of one source."""
    kind = planned.kinds[name]
    source = PlannedSource(
        name=name, kind=kind, weight=1.0, available_tokens=0, budget_tokens=0, epochs=1.0,
        packing="documents" if kind == "conversations" else "windows",
    )  # fmt: skip
    return MixturePlan(
        tokens=planned.tokens.folder, tokens_fingerprint=planned.tokens.fingerprint, sources=(source,), dropped={}
    )


def _real(ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
    """Which ids are no filling: a row is filled up with closing ids, which begin as a document of their own."""
    real_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    places_T = torch.arange(ids_BT.shape[1])
    last_B = torch.where(positions_BT == 0, places_T, -1).amax(dim=1)  # where the last document begins
    in_last_BT = places_T >= last_B[:, None]
    filling_B = ((ids_BT == EOS_ID) | ~in_last_BT).all(dim=1)
    real_BT[in_last_BT & filling_B[:, None]] = False
    return real_BT


def counted(rows: CalibrationRows, planned: CalibrationPlan) -> list[dict[str, object]]:
    """What was read, for a record: source, kind, rows and tokens."""
    return [
        {"source": name, "kind": planned.kinds[name], "rows": planned.rows[name], "tokens": count}
        for name, count in rows.tokens.items()
    ]
