"""From a sample to the whole corpus: what `estimate` measured, stage by stage, at the size of the real thing.

Enters: the pieces of every source and what a run over some of them cost. Leaves: a `CorpusPlan`.

    clean     by each source's raw bytes
    copies    a sample sees few of them: one drop in f² where the two documents lie in different pieces (both must be
              sampled), one in f where they lie in one piece. Each that is seen counts so much more, and the plan says
              how sure that is
    pairs, settle, ...   by documents; what depends on the copies (`compare`) by those
    write     by the bytes that stay
    memory    measured for the tasks whose size is that of a piece or a file; by `sizing` for the others

Packages that are not fetched yet are counted by the size of their archives, and at the rates of the other sources.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup import sizing
from pipelines.data.dedup.deduplicate import parts_of
from pipelines.data.dedup.places import Census
from pipelines.data.dedup.shuffle import BLOCKS
from pipelines.data.plan.metering import Measured
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.readers import Piece

NORMAL_PIECE = 16_000_000  # a larger piece is one file that cannot be cut; only its beginning can be tried
_ARCHIVED = 3.0  # bytes of text that a byte of a package or of a compressed file is taken for, until it was opened
_TABLES_BYTES = 3 * 8 * (BLOCKS + 1)  # that precede the records in the three files of members of a piece
_MANY = 1_000  # members of the sample from which their cost can be told from that of a call
_ITEM_BYTES = 200  # of a generated item
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".parquet")


@dataclass
class StagePlan:
    """One stage of the whole corpus, as predicted."""

    name: str
    tasks: int
    read_bytes: float
    left_bytes: float
    memory_bytes: float  # of one task, the process itself included
    core_seconds: float


@dataclass
class CorpusPlan:
    """What a corpus will cost and leave."""

    stages: list[StagePlan]
    raw_bytes: float
    documents: float  # read
    kept_documents: float
    kept_bytes: float  # of text
    output_bytes: float  # of files
    copies: tuple[float, float]  # share of the clean documents that go as copies: from, to
    sampled_bytes: int
    sampled_pieces: int
    passes: dict[str, float]  # the share of cleaning that each pass takes
    notes: list[str] = field(default_factory=list)
    sources: Mapping[str, Any] = field(default_factory=dict)  # statistics of the sample
    dropped: Mapping[str, Any] = field(default_factory=dict)  # examples of what the sample lost, by source

    @property
    def core_seconds(self) -> float:
        return sum(stage.core_seconds for stage in self.stages)

    @property
    def temporary_bytes(self) -> float:
        """At most at one time: the work folder is deleted after the commit."""
        return sum(stage.left_bytes for stage in self.stages) - self.output_bytes

    def seconds(self, slots: int) -> float:
        """Wall time with so many tasks at once."""
        return sum(stage.core_seconds / max(1, min(slots, stage.tasks)) for stage in self.stages)


@dataclass
class Sample:
    """What was run: pieces by source, what each stage cost, what came out, what deduplication decided."""

    pieces: Mapping[str, Sequence[Piece]]
    stages: Mapping[str, Measured]
    statistics: Mapping[str, Any]
    files: Mapping[str, int]  # of the artifact, and their bytes
    census: Census
    verdicts: Any  # `resolve.VERDICT` records
    pass_seconds: Mapping[str, float]  # of cleaning, by pass
    dropped: Mapping[str, Any] = field(default_factory=dict)  # examples of what was lost, by source


@dataclass
class _Totals:
    """Of one source: raw bytes, core seconds of cleaning, records read, clean documents and their bytes."""

    raw: float = 0.0
    core_seconds: float = 0.0
    records: float = 0.0
    documents: float = 0.0
    bytes: float = 0.0

    def times(self, factor: float) -> _Totals:
        return _Totals(*(getattr(self, part.name) * factor for part in dataclasses.fields(self)))


@dataclass(frozen=True)
class _Grown:
    """The whole corpus in units of the sample, and some absolute numbers."""

    documents: float
    bytes: float  # clean
    kept: float
    linked: float  # documents that share a key with another
    pieces: int
    keys: float  # absolute
    links: float  # absolute
    members_seen: int  # documents of the sample that share a key with another of it
    files: int
    largest_file_bytes: float  # of text


def extrapolate(
    config: CorpusConfig, planned: Mapping[str, Sequence[Piece]], absent: Sequence[str], sample: Sample
) -> CorpusPlan:
    """The plan of the corpus whose pieces are `planned`; `absent` sources are known by their archives' sizes."""
    tried = _tried(sample)
    everything = _add(tried.values())
    share = {name: min(1.0, tried[name].raw / max(raw_bytes(pieces), 1.0)) for name, pieces in planned.items()}
    whole = {
        name: _until_cap(tried[name].times(1 / share[name]), config.chosen[name], len(planned[name]))
        for name in planned
    }
    for name in absent:
        size = _ARCHIVED * config.chosen[name].reader.archive_bytes
        size = min(size, config.chosen[name].max_bytes or size)
        whole[name] = everything.times(size / max(everything.raw, 1.0))
    total = _add(whole.values())
    capped = {name: _within_cap(one, config.chosen[name]) for name, one in whole.items()}
    clean = _add(capped.values())
    copies, spread, seen = _copies(sample, share)
    left = {
        name: max(0.1 * one.documents, one.documents - copies.get(name, 0.0)) / max(one.documents, 1.0)
        for name, one in capped.items()
    }
    kept_bytes = {name: capped[name].bytes * left[name] for name in capped}
    absent_pieces = sum(math.ceil(whole[name].raw / config.corpus.piece_bytes) for name in absent)
    lost = clean.documents - sum(capped[name].documents * left[name] for name in capped)
    linked = max(1.0, lost / seen if seen else clean.documents / max(everything.documents, 1.0))
    grown = _Grown(
        documents=clean.documents / max(everything.documents, 1.0),
        bytes=clean.bytes / max(everything.bytes, 1.0),
        kept=sum(kept_bytes.values()) / max(1.0, _kept(sample)),
        linked=linked,
        pieces=sum(map(len, planned.values())) + absent_pieces,
        keys=sum(done["keys"] for _, done, _ in sample.stages["clean"].shards)
        * clean.documents
        / max(everything.documents, 1.0),
        links=sample.statistics["dedup"]["linked_documents"] * 2 * linked,
        members_seen=sample.statistics["dedup"]["linked_documents"],
        files=sum(1 + math.ceil(size / config.corpus.file_bytes) for size in kept_bytes.values()),
        largest_file_bytes=min(config.corpus.file_bytes, max(kept_bytes.values(), default=0.0)),
    )
    stages = [_stage(config, stage, sample, grown) for stage in sample.stages.values()]
    by_clean = next(i for i, stage in enumerate(stages) if stage.name == "clean")
    stages[by_clean].core_seconds, stages[by_clean].read_bytes = total.core_seconds, total.raw
    fixed = sum(size for file, size in sample.files.items() if not file.startswith(("train/", "heldout/", "index/")))
    return CorpusPlan(
        stages=stages,
        raw_bytes=total.raw,
        documents=total.records,
        kept_documents=clean.documents - lost,
        kept_bytes=sum(kept_bytes.values()),
        output_bytes=fixed + (sum(sample.files.values()) - fixed) * grown.kept,
        copies=(
            max(0.0, lost - spread) / max(clean.documents, 1.0),
            min(1.0, (lost + spread) / max(clean.documents, 1.0)),
        ),
        sampled_bytes=round(everything.raw),
        sampled_pieces=sum(map(len, sample.pieces.values())),
        passes={
            name: seconds / max(sample.stages["clean"].core_seconds, 1e-9)
            for name, seconds in sample.pass_seconds.items()
        },
    )


def raw_bytes(pieces: Sequence[Piece]) -> int:
    """Raw input of some pieces; generated items at 200 bytes each."""
    return sum(piece.bytes or (piece.stop - piece.start) * _ITEM_BYTES for piece in pieces)


def _tried(sample: Sample) -> dict[str, _Totals]:
    tried = {name: _Totals() for name in sample.pieces}
    for task, done, core_seconds in sample.stages["clean"].shards:
        one = tried[task.piece.source]
        raw = float(raw_bytes([task.piece]))
        if raw > NORMAL_PIECE and task.source.max_bytes:  # tried up to so much clean text
            squeezed = any(part.path.endswith(_COMPRESSED) for part in task.piece.stretches)
            raw = min(raw, task.source.max_bytes / (_ARCHIVED if squeezed else 1.0))
        one.raw += raw
        one.core_seconds += core_seconds
        one.records += done["documents"] + sum(done["dropped"].values())
        one.documents += done["documents"]
        one.bytes += done["bytes"]
    return tried


def _add(totals: Iterable[_Totals]) -> _Totals:
    added = _Totals()
    for one in totals:
        for part in dataclasses.fields(added):
            setattr(added, part.name, getattr(added, part.name) + getattr(one, part.name))
    return added


def _until_cap(one: _Totals, source: SourceConfig, pieces: int) -> _Totals:
    """What is read of a source: a piece ends where it alone fills the source's cap."""
    return one.times(_room(one, source, pieces))


def _within_cap(one: _Totals, source: SourceConfig) -> _Totals:
    """What is left of the clean documents behind the source's cap."""
    room = _room(one, source)
    return dataclasses.replace(one, documents=one.documents * room, bytes=one.bytes * room)


def _room(one: _Totals, source: SourceConfig, times: int = 1) -> float:
    """The part of the documents that `times` the source's cap leaves."""
    documents, size = (times * (cap or math.inf) for cap in (source.max_documents, source.max_bytes))
    return min(1.0, documents / max(one.documents, 1.0), size / max(one.bytes, 1.0))


def _copies(sample: Sample, share: Mapping[str, float]) -> tuple[dict[str, float], float, int]:
    """Documents that the whole corpus drops as copies: by source, a 95 % margin of their sum, how many were seen."""
    places, parties = sample.census.places, sample.census.parties
    first = np.array([place.first for place in places])
    mine, stays = (np.searchsorted(first, sample.verdicts[column], side="right") - 1 for column in ("node", "survivor"))
    copies: dict[str, float] = {}
    across: set[str] = set()
    squares = 0.0
    for here, there in zip(mine.tolist(), stays.tolist(), strict=True):
        name, other = parties[places[here].party].name, parties[places[there].party].name
        weight = 1 / share[name] if here == there else 1 / (share[name] * share[other])
        copies[name] = copies.get(name, 0.0) + weight
        if here != there:
            across.add(name)
        squares += weight * (weight - 1)
    # no pair seen across the pieces of a source may still be three (the 95 % bound of a Poisson count of none)
    unseen = sum(3 / s**2 for name, s in share.items() if name not in across and 0 < s < 1)
    return copies, max(1.96 * math.sqrt(squares), unseen), len(sample.verdicts)


def _kept(sample: Sample) -> float:
    sources = sample.statistics["sources"].values()
    return float(sum(figures[split]["bytes"] for figures in sources for split in ("train", "heldout")))


def _stage(config: CorpusConfig, stage: Measured, sample: Sample, grown: _Grown) -> StagePlan:
    """One stage at the size of the whole corpus."""
    dedup, name = config.corpus.dedup, stage.name
    factor = {"clean": grown.bytes, "write": grown.kept, "samples": 1.0, "report: compare": 1.0}.get(
        name, grown.documents
    )
    if name == "compare: decide" and grown.members_seen >= _MANY:
        factor = grown.linked  # of a few documents the time is that of the call
    predicted = StagePlan(
        name=name,
        tasks=grown.pieces if stage.tasks == len(sample.census.own) else stage.tasks,
        read_bytes=stage.read_bytes * factor,
        left_bytes=stage.left_bytes * factor,
        memory_bytes=stage.memory_bytes,
        core_seconds=stage.core_seconds * factor,
    )
    if name == "write":
        text = max(float(task_bytes) for task_bytes in (done["bytes"] for _, done, _ in stage.shards))
        predicted.tasks = grown.files
        predicted.memory_bytes *= max(1.0, grown.largest_file_bytes / max(text, 1.0))
    elif name == "report: sketch":
        predicted.tasks = max(1, grown.pieces // 64)
    elif name == "compare: gather":
        members = grown.members_seen * grown.linked
        evidence = sum(done["evidence_bytes"] for _, done, _ in stage.shards) / max(1, grown.members_seen)
        predicted.left_bytes = (
            members * (evidence + sizing.MEMBER_FILE_BYTES) + min(grown.pieces, members) * _TABLES_BYTES
        )
    ranges = {
        "near-duplicates": (grown.keys, sizing.PAIR_BYTES),
        "components": (grown.links, sizing.LINK_BYTES),
        "compare: decide": (grown.members_seen * grown.linked, sizing.MEMBER_BYTES),
    }
    for prefix, (records, size) in ranges.items():
        if name.startswith(prefix):
            predicted.tasks = parts_of(round(records), size, dedup, "the records")
            predicted.memory_bytes = max(predicted.memory_bytes, records * size / predicted.tasks)
    predicted.memory_bytes += sizing.BASE_BYTES
    return predicted
