"""Sources to pieces, pieces to documents: files, packages, Hugging Face datasets, generated text.

Enters: a source's config. Leaves: on the driver a list of `Piece` (some megabytes of raw input each, in a fixed order);
on a worker the documents of one piece, with a `Dropped` in place of each that could not be read.

Small files share a piece; a large one is cut into several where its format allows it (`files.can_be_cut`), by byte
offsets that planning need not look at: 100 GB of JSON Lines are planned from one listing and read through range
requests. Ids, and the order of documents, do not depend on the cut.

Which files a path stands for says `listing`. A bad byte costs its own document, never the job: a line that is not JSON,
a record without text or of another shape, a file that is not UTF-8 and the lost end of a truncated archive are each
counted under a name of their own and kept as samples with file and line.
"""

from __future__ import annotations

import functools
import io
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.data.sources.columns import Wanted, table_records
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.fetch import Package, contents, fetch, members, resolve
from pipelines.data.sources.files import can_be_cut, parse_file, told_format
from pipelines.data.sources.formats import FORMATS
from pipelines.data.sources.generators import GENERATORS
from pipelines.data.sources.listing import Listing, list_files
from pipelines.data.sources.opened import Described
from pipelines.data.sources.records import RECORDS, content_of
from pipelines.data.sources.remote import RemoteFile
from pipelines.data.text.document import RAW_EXCERPT, Document, Dropped, utf8
from pipelines.display.progress import human, say
from pipelines.errors import DataError
from pipelines.identity import fingerprint

_GENERATED_PER_PIECE = 4_000
_NAMED = 8  # files of a piece, in words
_BUFFER_BYTES = 1 << 20
_ROWS_AT_ONCE = 1_000  # of a dataset
_LONGEST_DOCUMENT = 1_000_000_000  # bytes of a text file that is one document: it is read whole
_AHEAD_BYTES = 8 << 20  # of one range request: a few requests for a piece, and no more memory than that


@dataclass(frozen=True)
class Stretch:
    """A file, or the part of one that begins between two byte offsets."""

    path: str
    label: str  # the path without the folder it happens to lie in: what ids are made of
    size: int  # of the stretch, in bytes
    start: int = 0
    stop: int | None = None  # None: to the end

    @property
    def in_words(self) -> str:
        """The file and which bytes of it, for an error."""
        end = "its end" if self.stop is None else f"{self.stop:,}"
        return self.path if not self.start and self.stop is None else f"{self.path} from byte {self.start:,} to {end}"


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads: stretches of files, archive members, a range of items or rows."""

    source: str
    index: int
    stretches: tuple[Stretch, ...] = ()
    archive: Package | None = None  # that the stretches are members of
    start: int = 0
    stop: int = 0

    @property
    def bytes(self) -> int:
        """Of raw input; 0 where it is not known (generators, datasets)."""
        return sum(stretch.size for stretch in self.stretches)

    @property
    def key(self) -> str:
        """Names the piece by its input, so a rerun finds its receipt whatever the number of workers."""
        cut = [[(part.label, part.size, part.start) for part in self.stretches], self.start, self.stop]
        return f"{self.source}-{self.index:05d}-{fingerprint(cut)[:8]}"

    @property
    def in_words(self) -> str:
        """The files that it reads, for an error."""
        read = [part.in_words for part in self.stretches[:_NAMED]] or [
            f"part {self.start:,} to {self.stop or self.start + 1:,}"
        ]
        more = len(self.stretches) - _NAMED
        return f"source {self.source}: {', '.join(read)}{f' and {more:,} files more' if more > 0 else ''}"

    @property
    def parts(self) -> tuple[Piece, ...]:
        """A piece for each of its files; none where it has one."""
        return tuple(replace(self, stretches=(part,)) for part in self.stretches) if len(self.stretches) > 1 else ()


def plan_pieces(name: str, source: SourceConfig, piece_bytes: int, group: str = "corpus.sources") -> list[Piece]:
    """The pieces of a source, in its own order.

    Args:
        group: the config group that the source is in, for what an error says.

    Raises: DataError when there is nothing to read under the given path.
    """
    reader, where = source.reader, f"{group}.{name}.reader"
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
    archive = None
    if reader.type == "package":
        archive = resolve(reader.archive_package)
        files = [Stretch(name, name, size) for name, size in members(fetch(archive), reader.paths)]
    elif reader.type == "standard_library":
        files = _standard_library()
    else:
        listing = list_files(where, reader.paths, reader.format, needs_objects(reader))
        files = [Stretch(file.path, file.label, file.size) for file in listing.files]
    if not files:
        raise DataError(f"source {name}: nothing matches {', '.join(reader.paths)}: correct {where}.path")
    wanted = _capped(files, source)
    parts = [part for file in wanted for part in _cut(file, source, piece_bytes)]
    pieces = [Piece(name, i, group, archive) for i, group in enumerate(_grouped(parts, piece_bytes))]
    large = uncut(pieces, piece_bytes) if reader.type == "files" else []
    if large:
        size = human(float(large[0].bytes), "B")
        say(
            f"   {name}: {len(large)} of {len(pieces)} tasks read up to {size}: compressed, WARC, JSON and text files "
            "are not cut"
        )
    return pieces


def as_found(source: SourceConfig, pieces: Iterable[Piece]) -> SourceConfig:
    """The source, masked where `pii: auto` and a file of it is web pages: a folder's path does not tell."""
    formats = {source.reader.format or told_format(part.path) for piece in pieces for part in piece.stretches}
    has_pages = any(name is not None and FORMATS[name].is_pages for name in formats)
    return replace(source, pii="mask") if source.pii == "auto" and has_pages else source


def formats_of(sources: Mapping[str, SourceConfig], listed: Mapping[str, Listing]) -> list[str]:
    """The formats of what these sources read, by name, as far as it is known before anything is fetched.

    Args:
        listed: what `listings` returned for the same sources.
    """
    names: set[str | None] = set()
    for name, source in sources.items():
        reader = source.reader
        if reader.type == "files":
            names |= {reader.format or told_format(file.path) for file in listed[name].files}
        elif reader.type == "package":
            names |= {reader.format or told_format(path) for path in reader.paths if not path.startswith("!")}
        elif reader.type == "standard_library":
            names.add("text")
    # the members of a package may be of any
    return sorted(FORMATS) if None in names else sorted(name for name in names if name)


def uncut(pieces: Iterable[Piece], piece_bytes: int) -> list[Piece]:
    """The pieces far over the asked size, the largest first: one file each that cannot be cut, and one task each."""
    return sorted((p for p in pieces if p.bytes > 4 * piece_bytes), key=lambda piece: -piece.bytes)


def listings(sources: Mapping[str, SourceConfig], group: str = "corpus.sources") -> dict[str, Listing]:
    """What lies now under the paths of those sources that are read from files.

    Raises: DataError when there is nothing to read under a path.
    """
    return {
        name: _listed(f"{group}.{name}.reader", source.reader)
        for name, source in sources.items()
        if source.reader.type == "files"
    }


def _listed(where: str, reader: ReaderConfig) -> Listing:
    listing = list_files(where, reader.paths, reader.format, needs_objects(reader))
    is_whole = reader.document == "file" and reader.document_bytes is None
    texts = [file for file in listing.files if FORMATS[file.format].has_documents]
    if not texts and not is_whole:
        key = "document" if reader.document != "file" else "document_bytes"
        raise DataError(
            f"{where}.{key} is {getattr(reader, key)}, but no file of it can be cut: it reads "
            f"{listing.taken_in_words()}; text and Markdown files can be: remove {where}.{key}"
        )
    for file in texts if is_whole else []:
        if file.size > _LONGEST_DOCUMENT:
            raise DataError(
                f"{where}: {file.path} would be one document of {human(float(file.size), 'B')}; at most "
                f"{human(float(_LONGEST_DOCUMENT), 'B')} fit in memory: set {where}.document=paragraph (or line), or "
                f"{where}.document_bytes=8_000"
            )
    return listing


def needs_objects(reader: ReaderConfig) -> bool:
    """Whether its records must have fields, as conversations have: a text cannot be one."""
    return bool(RECORDS[reader.record].fields)


def taken_in_words(source: SourceConfig, listing: Listing) -> str:
    """What is read as what, for the plan: files by format, what one document of a text is, what pages change."""
    words = _with_document(source.reader, listing)
    pages = sum(FORMATS[file.format].is_pages for file in listing.files)
    if source.masked or source.pii != "auto" or not 0 < pages < len(listing.files):
        return words
    return f"{words}; personal data is masked in all of it, since web pages are among it (pii: keep keeps it)"


def _with_document(reader: ReaderConfig, listing: Listing) -> str:
    words = listing.taken_in_words()
    texts = [name for name in ("text", "markdown") if any(file.format == name for file in listing.files)]
    called = " and ".join(FORMATS[name].called or name for name in texts)
    if reader.document_bytes:
        return f"{words}; {called} in documents of about {human(float(reader.document_bytes), 'B')}"
    return words if reader.document == "file" else f"{words}; of {called} each {reader.document} is one document"


def inventory(sources: Mapping[str, SourceConfig], listed: Mapping[str, Listing]) -> dict[str, str]:
    """What lies under the sources now, as far as names and sizes tell: part of a corpus's identity.

    Packages are pinned by checksum and generated problems by seed, so only files, the standard library and Debian
    packages without a checksum are listed. An edit that keeps a file's size goes unnoticed: reading every byte to claim
    a name would cost what the corpus costs.

    Args:
        listed: what `listings` returned for the same sources.

    Raises: DataError when apt does not know a package.
    """
    content = {}
    for name, source in sources.items():
        if source.reader.type == "standard_library":
            content[name] = standard_library_name()
        elif source.reader.type == "files":
            files = listed[name].files
            content[name] = f"{len(files)} files {fingerprint([(file.label, file.size) for file in files])}"
        elif source.reader.type == "package" and not source.reader.sha256:
            archive = resolve(source.reader.archive_package)
            content[name] = f"{archive} sha256 {archive.sha256}"
    return content


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
        said = record.metadata if isinstance(record, Described) else {}
        record = record.text if isinstance(record, Described) else record
        content = content_of(record_kind, record, reader.text_field)
        if isinstance(content, str):
            yield Dropped(content, where, _excerpt(record))
            continue
        text, metadata = content[0], {**said, **content[1]}
        if reader.id_field:
            own = _own_id(said or record, reader.id_field)
            if own is None:
                yield Dropped("read.no_id", where, text[:RAW_EXCERPT])
                continue
            place = own
        yield Document(text=text, id=utf8(f"{piece.source}/{place}"), metadata={**metadata, **common})


def wanted_fields(reader: ReaderConfig) -> Wanted:
    """The fields of a record that this reader's records are made of."""
    fields = RECORDS[reader.record].fields
    identity = (reader.id_field,) if reader.id_field else ()
    return Wanted((*(fields or (reader.text_field,)), *identity), plain_beside=not fields)


def _own_id(record: Any, id_field: str) -> str | None:
    """What the record calls itself; None where that is nothing, or no single value."""
    value = record.get(id_field) if isinstance(record, Mapping) else None
    return None if value is None or isinstance(value, (Mapping, list, bool)) or value != value else str(value)


def _excerpt(record: Any) -> str:
    """The beginning of a record, to look at."""
    try:
        return (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str))[
            :RAW_EXCERPT
        ]
    except (TypeError, ValueError, RecursionError) as error:  # keys that JSON does not have, too deep
        return f"a record that cannot be shown: {error}"[:RAW_EXCERPT]


def _records(piece: Piece, source: SourceConfig) -> Iterator[tuple[str, str, Any]]:
    """(where, place, record or Dropped) for everything in the piece; `place` is `where` without the folder."""
    reader = source.reader
    if reader.type == "huggingface":
        dataset = _huggingface(source)
        shard = dataset.shard(num_shards=dataset.num_shards, index=piece.start) if dataset.num_shards > 1 else dataset
        for i, record in enumerate(_rows_of(shard, reader)):
            where = f"{reader.dataset}:{piece.start}:{i}"
            yield where, f"{piece.start}:{i}", replace(record, where=where) if isinstance(record, Dropped) else record
        return
    if piece.archive is not None:
        names = [part.path for part in piece.stretches]
        opened: Iterable[BinaryIO] = (io.BytesIO(data) for _, data in contents(fetch(piece.archive), names))
    else:
        opened = (open_stretch(piece.source, part) for part in piece.stretches)
    for part, stream in zip(piece.stretches, opened, strict=True):
        with stream:
            for where, record in parse_file(
                stream,
                part.path,
                reader.format,
                part.start,
                part.stop,
                reader.document_bytes,
                wanted_fields(reader),
                document=reader.document,
                encoding=reader.encoding,
            ):
                yield where, part.label + where.removeprefix(part.path), record


def open_stretch(source: str, part: Stretch) -> BinaryIO:
    """The file as a stream that can seek; a remote one is read ahead by ranges that suit the stretch, never whole."""
    if "://" in part.path:
        ahead = min(max(part.size, 1 << 20), _AHEAD_BYTES)
        return io.BufferedReader(RemoteFile(part.path, ahead), _BUFFER_BYTES)
    try:
        return open(part.path, "rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise DataError(f"source {source}: cannot open {part.path}: {error.strerror}: check the path") from error


def _stdlib_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _standard_library() -> list[Stretch]:
    """The interpreter's own modules; neither installed packages nor the tests, which are mostly tables of cases."""
    root = _stdlib_root()
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "pydoc_data"}
    files = (path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts))
    modules = [Stretch(path.as_posix(), path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
    return sorted(modules, key=lambda file: file.label)


def standard_library_name() -> str:
    """What the data card calls it."""
    return f"the standard library of Python {sys.version.split()[0]}"


def _capped(files: list[Stretch], source: SourceConfig) -> list[Stretch]:
    """The files up to four times the cap: more is not needed unless the rules drop over three quarters of the text.

    Where the last file can be cut, so much of it as is needed: a function of the files alone, whatever the pieces.
    """
    if source.max_bytes is None:
        return files
    wanted, room = [], 4 * source.max_bytes
    for file in files:
        if room <= 0:
            break
        if file.size > room and _can_be_cut(file, source):
            file = replace(file, size=room, stop=room)
        wanted.append(file)
        room -= file.size
    return wanted


def _can_be_cut(file: Stretch, source: SourceConfig) -> bool:
    return source.reader.type == "files" and can_be_cut(file.path, source.reader.format)


def _cut(file: Stretch, source: SourceConfig, piece_bytes: int) -> list[Stretch]:
    """A file of twice `piece_bytes` or more as equal stretches, if its format allows it; the last ends as it does."""
    count = file.size // piece_bytes
    if count < 2 or not _can_be_cut(file, source):
        return [file]
    edges = [file.size * i // count for i in range(count + 1)]
    stops = [*edges[1:-1], file.stop]
    return [
        replace(file, size=edges[i + 1] - start, start=start, stop=stop)
        for i, (start, stop) in enumerate(zip(edges, stops, strict=False))
    ]


def _grouped(parts: list[Stretch], piece_bytes: int) -> Iterator[tuple[Stretch, ...]]:
    group: list[Stretch] = []
    size = 0
    for part in parts:
        group.append(part)
        size += part.size
        if size >= piece_bytes:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


@functools.lru_cache(maxsize=4)
def _load_streaming(dataset: str, subset: str | None, split: str) -> Any:
    from datasets import load_dataset

    return load_dataset(dataset, subset, split=split, streaming=True)


def _rows_of(shard: Any, reader: ReaderConfig) -> Iterator[Any]:
    """The records of a part of a dataset, by way of Arrow tables: one value that Python cannot take costs its own row.

    Raises: DataError when `datasets` cannot read on: what follows would be lost.
    """
    wanted, rows = wanted_fields(reader), 0
    tables = iter(shard.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE))
    while True:
        try:
            table = next(tables, None)
        except Exception as error:  # of the hub, of the network, of the file's own format
            raise DataError(
                f"datasets cannot read {reader.dataset} (split {reader.split}) beyond row {rows:,} of this part: "
                f"{type(error).__name__}: {error}; run the same command again, or download it and read it with type: "
                "files"
            ) from error
        if table is None:
            return
        columns = wanted.columns(table.schema)
        if not set(columns) & set(wanted.fields):
            text = (
                f"expected a field {' or '.join(wanted.fields)}; the dataset's fields: {', '.join(table.column_names)}"
            )
            yield from (Dropped("read.no_column", "", text) for _ in range(table.num_rows))
        else:
            yield from table_records(table.select(columns), wanted)
        rows += table.num_rows


def _huggingface(source: SourceConfig) -> Any:
    reader = source.reader
    try:
        return _load_streaming(reader.dataset, reader.subset, reader.split)
    except Exception as error:
        raise DataError(
            f"datasets cannot open {reader.dataset} (subset {reader.subset}, split {reader.split}): {error}: "
            "check the name on huggingface.co, HF_ENDPOINT and HF_TOKEN, or give a local folder"
        ) from error
