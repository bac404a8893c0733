"""What a corpus will cost: the real pipeline over a sample of its pieces, extrapolated stage by stage.

Enters: a checked config. Leaves: for every stage its tasks, bytes read and left, memory of a task and core seconds; and
the size of what comes out. Nothing is written into the store.

    sample       whole pieces of every source, evenly spread, up to some 20 MB or 20 seconds in all
    run          `assemble.build` on them in this process, in a temporary folder, every stage measured
    extrapolate  stage by stage, see `extrapolate`
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cluster.cluster import inside_job, serial_map
from pipelines.data.cleaning import passes
from pipelines.data.corpus import browse, reasons
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup.places import Census
from pipelines.data.dedup.resolve import VERDICT, ResolveTask
from pipelines.data.dedup.shuffle import read_all
from pipelines.data.plan.extrapolate import NORMAL_PIECE, CorpusPlan, Sample, extrapolate, raw_bytes
from pipelines.data.plan.metering import Meter
from pipelines.data.sources.config import SourceConfig
from pipelines.data.sources.fetch import is_cached
from pipelines.data.sources.readers import Piece, plan_pieces
from pipelines.display.progress import duration, human, say, table
from pipelines.errors import ConfigError, DataError
from pipelines.identity import identity
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

SAMPLE_BYTES, SAMPLE_SECONDS = 20_000_000, 20.0


class NothingLeft(DataError):
    """The sample was all there is, and the corpus cannot be made of it."""


def estimate(config: CorpusConfig) -> CorpusPlan:
    """Measure a sample and extrapolate.

    Raises: DataError for a source that cannot be read, or of which the sample leaves nothing (`NothingLeft` where the
        whole leaves nothing either); ConfigError when no source can be measured before something is fetched.
    """
    sources = config.chosen
    absent, remote = _absent(sources), [name for name, s in sources.items() if s.reader.type == "huggingface"]
    planned = {
        name: plan_pieces(name, source, config.corpus.piece_bytes)
        for name, source in sources.items()
        if name not in absent and name not in remote
    }
    if not planned:
        raise ConfigError(
            "nothing to measure on: every source has still to be fetched or is read from a hub; run it once with a "
            "small cap (corpus.sources.NAME.max_bytes=10000000 name=trial), which leaves the packages in the cache"
        )
    with tempfile.TemporaryDirectory(prefix="trunkline-plan-") as folder:
        sample = _measure(config, planned, Path(folder))
    prediction = extrapolate(config, planned, absent, sample)
    prediction.sources, prediction.dropped = sample.statistics["sources"], sample.dropped
    if absent:
        prediction.notes.append(
            f"not fetched yet, so counted by archive size and at the rates of the others: {', '.join(absent)}"
        )
    if remote:
        prediction.notes.append(f"not in the plan, because only the hub knows how much there is: {', '.join(remote)}")
    return prediction


def show(prediction: CorpusPlan, config: CorpusConfig) -> None:
    """Print the plan as a table and a few lines."""
    slots = max(2, round(config.cluster.workers * config.cluster.cpus_per_worker))
    if config.cluster.address is None and not inside_job():  # a private Ray takes all cores of this machine
        slots = max(slots, os.cpu_count() or 1)
    pieces = f"{prediction.sampled_pieces:,} piece{'' if prediction.sampled_pieces == 1 else 's'}"
    say(
        f"   measured on {pieces}, {human(float(prediction.sampled_bytes), 'B')} of "
        f"{human(max(prediction.raw_bytes, prediction.sampled_bytes), 'B')}; the whole:"
    )
    header = ["stage", "tasks", "reads", "leaves", "memory/task", "core time"]
    rows = [
        [
            stage.name,
            stage.tasks,
            human(stage.read_bytes, "B"),
            human(stage.left_bytes, "B"),
            human(stage.memory_bytes, "B"),
            duration(stage.core_seconds),
        ]
        for stage in prediction.stages
    ]
    say(table(header, rows))
    cost = ", ".join(f"{name} {share:.0%}" for name, share in prediction.passes.items())
    say(f"   of clean: {cost}; the rest is reading, keys and files")
    low, high = (f"{share:.1%}" for share in prediction.copies)
    price = config.cluster.price_per_core_hour
    hours = prediction.core_seconds / 3600
    lines = {
        "documents": f"{human(round(prediction.documents))} read, {human(round(prediction.kept_documents))} kept; "
        f"{low if low == high else f'{low} to {high}'} of the clean ones go as copies",
        "leaves": f"{human(prediction.kept_bytes, 'B')} of text in {human(prediction.output_bytes, 'B')} of files",
        "temporary": f"{human(prediction.temporary_bytes, 'B')} in the store, deleted after the commit",
        "time": f"about {duration(prediction.seconds(slots))} with {slots} tasks at once, once Ray has started; "
        f"{hours:.3g} core-hours",
        "money": f"{hours * price:,.2f} at {price:g} per core-hour"
        if price is not None and hours * price >= 0.1
        else f"{hours * price:.2g} at {price:g} per core-hour"
        if price is not None
        else "set cluster.price_per_core_hour, in any currency, to have it here",
    }
    longest = max(map(len, lines))
    for name, value in lines.items():
        say(f"   {name:<{longest}}  {value}")
    for note in prediction.notes:
        say(f"   {note}")
    if mostly := reasons.mostly_dropped(prediction.sources, config, prediction.dropped):
        drops = reasons.lines(prediction.sources, config, prediction.dropped)
        say(f"\n   of the sample:\n{table(reasons.HEADER, drops)}\n")
        for sentence, _ in mostly:
            say(f"   note: {sentence}")


def _absent(sources: Mapping[str, SourceConfig]) -> list[str]:
    return [
        name
        for name, source in sources.items()
        if source.reader.type == "package" and not is_cached(source.reader.archive_package)
    ]


# ── the sample ──


class _Enough(Exception):
    """The time for the sample is over; `pieces` are those that were cleaned."""

    def __init__(self, pieces: list[Piece]):
        super().__init__()
        self.pieces = pieces


class _SampleMeter(Meter):
    """Cleans the sources in turn, until the time is over; keeps the verdicts before the work folder is deleted."""

    def __init__(self, folder: Path, deadline: float):
        super().__init__(serial_map, folder)
        self.deadline = deadline
        self.verdicts: list[Any] = []
        self.census: Census | None = None

    def __call__(
        self,
        function: Callable[[Any], Any],
        shards: Sequence[Any],
        label: str,
        describe: Callable[[Any], dict[str, Any]] | None = None,
    ) -> list[Any]:
        """Apply the function; of the pieces to clean, those that the time allows."""
        if label == "clean" and shards and time.monotonic() < self.deadline:
            cleaned: list[Any] = []
            sources = {shard.piece.source for shard in shards}
            for shard in _in_turn(shards):
                if time.monotonic() > self.deadline and {done.piece.source for done in cleaned} == sources:
                    raise _Enough([done.piece for done in cleaned])
                super().__call__(function, [shard], label, describe)
                cleaned.append(shard)
            return [function(shard) for shard in shards]  # what they left is found again
        if label == "clean":
            results = serial_map(function, shards, label)
        else:
            results = super().__call__(function, shards, label, describe)
        for shard, result in zip(shards, results, strict=True):
            if isinstance(shard, ResolveTask):
                self.census = shard.job.census()
                key = f"{shard.job.work.folder}/{result['file']}"
                self.verdicts.append(read_all(shard.job.work.storage, key, VERDICT))
        return results


def _measure(config: CorpusConfig, planned: Mapping[str, list[Piece]], folder: Path) -> Sample:
    """Run the real pipeline on some of the pieces."""
    sources = {name: _bounded(config.chosen[name], pieces) for name, pieces in planned.items()}
    _warm_up(config, sources, planned, folder / "warm")
    trial = _with_sources(config, sources)
    draft = _draft(trial, folder / "trial")
    pieces = _choose(planned)
    passes.SECONDS.clear()
    meter = _SampleMeter(folder / "trial", time.monotonic() + SAMPLE_SECONDS)
    while True:
        chosen = pieces
        try:
            artifact = build(trial, draft, meter, pieces_of=lambda name, *_, tried=chosen: tried[name])
            break
        except DataError as error:
            if chosen == planned and set(planned) == set(config.chosen) and sources == _uncapped(config.chosen):
                raise NothingLeft(str(error)) from error
            raise
        except _Enough as enough:
            pieces = {name: [piece for piece in enough.pieces if piece.source == name] for name in planned}
            meter.deadline = 0.0
    assert meter.census is not None
    verdicts = np.concatenate([np.empty(0, VERDICT), *meter.verdicts])
    files = {file: entry["bytes"] for file, entry in artifact.manifest["files"].items()}
    return Sample(
        pieces,
        meter.stages,
        artifact.statistics,
        files,
        meter.census,
        verdicts,
        dict(passes.SECONDS),
        browse.samples(artifact),
    )


def _warm_up(
    config: CorpusConfig, sources: Mapping[str, SourceConfig], planned: Mapping[str, list[Piece]], folder: Path
) -> None:
    """Load models and compile kernels, which is no part of the rates.

    A small piece of each sort of source is built, one of them twice.
    """
    chosen: dict[str, SourceConfig] = {}
    pieces: dict[str, Piece] = {}
    for name, source in sources.items():
        if all(
            (source.kind, source.content, source.language) != (s.kind, s.content, s.language) for s in chosen.values()
        ):
            chosen[name], pieces[name] = source, min(planned[name], key=lambda piece: raw_bytes([piece]))
    near = next((name for name, s in chosen.items() if s.kind == "documents" and s.duplicates == "near"), None)
    if near is not None:  # so that there are copies to compare
        again = f"{near}-again"
        chosen[again], pieces[again] = chosen[near], dataclasses.replace(pieces[near], source=again)
    # so little may well leave nothing of a source, or not be what a quality model is to learn from
    with contextlib.suppress(DataError, ConfigError):
        trial = _with_sources(config, chosen)
        build(trial, _draft(trial, folder), serial_map, pieces_of=lambda name, *_: [pieces[name]])


def _with_sources(config: CorpusConfig, sources: Mapping[str, SourceConfig]) -> CorpusConfig:
    return dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, sources=dict(sources)), sources="all")


def _draft(config: CorpusConfig, folder: Path) -> Draft:
    draft = ArtifactStore(str(folder)).begin("corpus", config.name, identity(config))
    assert isinstance(draft, Draft)
    return draft


def _bounded(source: SourceConfig, pieces: Sequence[Piece]) -> SourceConfig:
    """The source as it is tried: without its cap, but of files too large to be tried whole only the beginning."""
    large = any(piece.bytes > NORMAL_PIECE for piece in pieces)
    return dataclasses.replace(source, max_documents=None, max_bytes=NORMAL_PIECE // 4 if large else None)


def _uncapped(sources: Mapping[str, SourceConfig]) -> dict[str, SourceConfig]:
    return {name: dataclasses.replace(source, max_documents=None, max_bytes=None) for name, source in sources.items()}


def _choose(planned: Mapping[str, list[Piece]]) -> dict[str, list[Piece]]:
    """Evenly spread pieces of every source, in proportion to its raw bytes, at least one."""
    total = sum(raw_bytes(pieces) for pieces in planned.values())
    chosen = {}
    for name, pieces in planned.items():
        budget = SAMPLE_BYTES * raw_bytes(pieces) / max(total, 1)
        count = min(len(pieces), max(1, round(budget / max(1, raw_bytes(pieces) / len(pieces)))))
        places = (np.arange(count) + 0.5) * len(pieces) / count
        chosen[name] = [pieces[int(place)] for place in places]
    return chosen


def _in_turn(shards: Sequence[Any]) -> list[Any]:
    """First one shard of every source, then the second ones, ..."""
    seen: dict[str, int] = {}
    turns = []
    for shard in shards:
        turns.append(seen.get(shard.piece.source, 0))
        seen[shard.piece.source] = turns[-1] + 1
    return [shards[i] for i in np.argsort(turns, kind="stable")]
