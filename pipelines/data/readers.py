"""Sources to pieces, pieces to documents: files, packages, Hugging Face datasets, generated text.

Enters: a source's config. Leaves: on the driver a list of `Piece` (some megabytes of raw input each, in a fixed order); on a
worker the documents of one piece, with a `Dropped` in place of each that could not be read.

Paths are local or anything fsspec opens (`s3://` with the AWS_* environment). A bad byte costs its own document, never the
job: a line that is not JSON, a record without text, a file that is not UTF-8 and the lost end of a truncated archive are each
counted under a name of their own and kept as samples with file and line.
"""

from __future__ import annotations

import functools
import io
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec  # type: ignore[import-untyped]

from pipelines.config import fingerprint
from pipelines.data.corpus import SourceConfig
from pipelines.data.document import Document, Dropped
from pipelines.data.fetch import contents, fetch, members
from pipelines.data.formats import EXCERPT, parse_file
from pipelines.data.generators import GENERATORS
from pipelines.data.records import RECORDS
from pipelines.errors import DataError

_GENERATED_PER_PIECE = 4_000


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads: some files, archive members or a range of a generator or dataset."""

    source: str
    index: int
    paths: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of the same files, without the folder they happen to lie in: what ids are made of
    start: int = 0
    stop: int = 0
    bytes: int = 0

    @property
    def key(self) -> str:
        """Names the piece by its input, so a rerun finds its receipt whatever the number of workers."""
        facts = [list(self.labels), self.start, self.stop, self.bytes]
        return f"{self.source}-{self.index:05d}-{fingerprint(facts)[:8]}"


def plan_pieces(name: str, source: SourceConfig, piece_bytes: int) -> list[Piece]:
    """The pieces of a source, in its own order.

    Raises: DataError when there is nothing to read under the given path.
    """
    reader = source.reader
    if reader.type == "generated":
        stops = [*range(_GENERATED_PER_PIECE, reader.count, _GENERATED_PER_PIECE), reader.count]
        return [
            Piece(name, i, start=start, stop=stop)
            for i, (start, stop) in enumerate(zip([0, *stops], stops, strict=False))
        ]
    if reader.type == "huggingface":
        shards = _huggingface(source).num_shards
        taken = max(1, round(shards * reader.share))
        return [Piece(name, i, start=i * shards // taken) for i in range(taken)]
    if reader.type == "package":
        files = [(name, name, size) for name, size in members(fetch(reader.archive_package), reader.paths)]
    elif reader.type == "standard_library":
        files = _standard_library()
    else:
        files = _expand(name, reader.paths)
    if not files:
        raise DataError(
            f"source {name}: nothing matches {', '.join(reader.paths)}: correct corpus.sources.{name}.reader.path"
        )
    return _grouped(name, _capped(files, source.max_bytes), piece_bytes)


def inventory(sources: Mapping[str, SourceConfig]) -> dict[str, str]:
    """What lies under the sources now, as far as names and sizes tell: part of a corpus's identity.

    Packages are pinned by checksum and generated problems by seed, so only files and the standard library are listed. An
    edit that keeps a file's size goes unnoticed: reading every byte to claim a name would cost what the corpus costs.

    Raises: DataError when there is nothing to read under a path.
    """
    found = {}
    for name, source in sources.items():
        if source.reader.type == "standard_library":
            found[name] = standard_library_name()
        elif source.reader.type == "files":
            files = _expand(name, source.reader.paths)
            found[name] = f"{len(files)} files {fingerprint([(label, size) for _, label, size in files])}"
    return found


def read_piece(piece: Piece, source: SourceConfig) -> Iterator[Document | Dropped]:
    """The documents of a piece, as their reader gives them: not yet normalised.

    Raises: DataError when a file cannot be opened at all.
    """
    reader = source.reader
    common = {"source": piece.source, "licence": source.licence}
    if reader.type == "generated":
        made = GENERATORS[reader.generator].make(reader.tasks, reader.seed, piece.start, piece.stop)
        for i, (text, metadata) in enumerate(made, piece.start):
            yield Document(text=text, id=f"{piece.source}/{i}", metadata={**metadata, **common})
        return
    record_kind = RECORDS[reader.record]
    for where, place, record in _records(piece, source):
        if isinstance(record, Dropped):
            yield record
            continue
        found = record_kind.read(record, reader.text_field)
        if found is None:
            excerpt = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
            yield Dropped("read.no_text", where, excerpt[:EXCERPT])
            continue
        text, metadata = found
        if reader.id_field:
            if not isinstance(record, dict) or record.get(reader.id_field) is None:
                yield Dropped("read.no_id", where, text[:EXCERPT])
                continue
            place = str(record[reader.id_field])
        yield Document(text=text, id=f"{piece.source}/{place}", metadata={**metadata, **common})


def _records(piece: Piece, source: SourceConfig) -> Iterator[tuple[str, str, Any]]:
    """(where, place, record or Dropped) for everything in the piece; `place` is `where` without the folder."""
    reader = source.reader
    if reader.type == "huggingface":
        dataset = _huggingface(source)
        shard = dataset.shard(num_shards=dataset.num_shards, index=piece.start) if dataset.num_shards > 1 else dataset
        for i, record in enumerate(shard):
            yield f"{reader.dataset}:{piece.start}:{i}", f"{piece.start}:{i}", dict(record)
        return
    if reader.type == "package":
        opened: Iterable[tuple[str, BinaryIO]] = (
            (name, io.BytesIO(data)) for name, data in contents(fetch(reader.archive_package), piece.paths)
        )
    else:
        opened = ((path, _open(piece.source, path)) for path in piece.paths)
    for label, (path, stream) in zip(piece.labels, opened, strict=True):
        with stream:
            for where, record in parse_file(stream, path, reader.format):
                yield where, label + where.removeprefix(path), record


def _open(source: str, path: str) -> BinaryIO:
    try:
        stream: BinaryIO = fsspec.open(path, "rb").open()
    except Exception as error:  # every file system behind fsspec raises its own kind
        raise DataError(
            f"source {source}: cannot open {path}: {error}: check the path and, for s3://, the AWS_* environment"
        ) from error
    return stream


def _expand(source: str, patterns: list[str]) -> list[tuple[str, str, int]]:
    """(path, label, bytes) of every file the patterns match, by label, none twice; a folder stands for all files below it."""
    found: dict[str, tuple[str, int]] = {}
    for number, pattern in enumerate(patterns):
        try:
            # a fresh file system: a cached one would hold old listings, and the credentials it was made with
            files, root = fsspec.core.url_to_fs(pattern, skip_instance_cache=True)
            names = (
                files.glob(root) if any(c in root for c in "*?[") else files.find(root) if files.isdir(root) else [root]
            )
            sizes = {name: int(files.info(name)["size"]) for name in names if files.isfile(name)}
        except Exception as error:
            raise DataError(
                f"source {source}: cannot read {pattern}: {error or type(error).__name__}; correct corpus.sources.{source}.reader.path"
                + (
                    " and check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL"
                    if pattern.startswith("s3://")
                    else ""
                )
            ) from error
        scheme = pattern.split("://")[0] + "://" if "://" in pattern else ""
        fixed = re.split(r"[*?\[]", root)[0]  # up to the first wildcard
        above = fixed.rstrip("/") + "/" if files.isdir(root) else fixed[: fixed.rfind("/") + 1]
        for name, size in sizes.items():
            label = (f"{number}/" if len(patterns) > 1 else "") + name.removeprefix(above)
            found.setdefault(scheme + name, (label, size))
    return sorted(((path, label, size) for path, (label, size) in found.items()), key=lambda file: file[1])


def _stdlib_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _standard_library() -> list[tuple[str, str, int]]:
    """The interpreter's own modules; neither installed packages nor the tests, which are mostly tables of cases."""
    root = _stdlib_root()
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "pydoc_data"}
    files = (path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts))
    return sorted((path.as_posix(), path.relative_to(root).as_posix(), path.stat().st_size) for path in files)


def standard_library_name() -> str:
    """What the data card calls it."""
    return f"the standard library of Python {sys.version.split()[0]}"


def _capped(files: list[tuple[str, str, int]], max_bytes: int | None) -> list[tuple[str, str, int]]:
    """The files up to four times the cap: more is not needed unless the rules drop over three quarters of the text."""
    total, kept = 0, []
    for file in files:
        kept.append(file)
        total += file[2]
        if max_bytes is not None and total > 4 * max_bytes:
            break
    return kept


def _grouped(name: str, files: list[tuple[str, str, int]], piece_bytes: int) -> list[Piece]:
    pieces: list[Piece] = []
    held: list[tuple[str, str, int]] = []
    for i, file in enumerate(files):
        held.append(file)
        size = sum(entry[2] for entry in held)
        if size >= piece_bytes or i == len(files) - 1:
            paths, labels = tuple(entry[0] for entry in held), tuple(entry[1] for entry in held)
            pieces.append(Piece(name, len(pieces), paths, labels, bytes=size))
            held = []
    return pieces


@functools.lru_cache(maxsize=4)
def _load_streaming(dataset: str, subset: str | None, split: str) -> Any:
    from datasets import load_dataset

    return load_dataset(dataset, subset, split=split, streaming=True)


def _huggingface(source: SourceConfig) -> Any:
    reader = source.reader
    try:
        return _load_streaming(reader.dataset, reader.subset, reader.split)
    except Exception as error:
        raise DataError(
            f"datasets cannot open {reader.dataset} (subset {reader.subset}, split {reader.split}): {error}: "
            "check the name on huggingface.co, HF_ENDPOINT and HF_TOKEN, or give a local folder"
        ) from error
