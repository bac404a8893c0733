"""Whether a recipe can work: the facts that span several keys, looked at before anything is fetched.

Enters: the parts of a recipe. Leaves: nothing, or a ConfigError that says what came, what is accepted and what to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from pipelines.config import default_of
from pipelines.data.cleaning.config import CleaningRecipe, DecontaminationConfig, QualityModelConfig
from pipelines.data.cleaning.language import NAMED
from pipelines.data.dedup.config import DedupConfig
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.formats import FORMATS
from pipelines.data.sources.generators import GENERATORS
from pipelines.data.sources.opened import is_encoding
from pipelines.data.sources.records import RECORDS
from pipelines.data.text.licences import PERMISSIVE
from pipelines.errors import ConfigError

_NEEDS = {
    "files": ("path",),
    "package": ("package", "version", "sha256", "path"),
    "deb": ("package", "path"),
    "standard_library": (),
    "huggingface": ("dataset",),
    "generated": ("generator", "count"),
}
# keys that only readers of one type take, and what a user may have meant
_OF_TYPE = {
    **dict.fromkeys(("dataset", "subset", "share"), ("huggingface", "")),
    "split": ("huggingface", "; what one document of a text file is says document: file, paragraph or line"),
    **dict.fromkeys(("generator", "tasks", "count", "seed"), ("generated", "")),
    **dict.fromkeys(("package", "version", "sha256", "archive"), ("package", "")),
}
_DEFAULTS = {field.name: default_of(field) for field in dataclasses.fields(ReaderConfig)}
_SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VERSION = re.compile(r"([0-9A-Za-z][0-9A-Za-z.+:~_!-]*)?")
_PACKAGE = {
    "wheel": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "sdist": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "npm": re.compile(r"(@[A-Za-z0-9._~-]+/)?[A-Za-z0-9][A-Za-z0-9._~-]*"),
    "deb": re.compile(r"[a-z0-9][a-z0-9+.-]*"),
}
_LEAST_PIECE = 10_000
# what languages are called where no code is known
_CODES = {
    "english": "en", "chinese": "zh", "mandarin": "zh", "german": "de", "deutsch": "de", "french": "fr",
    "spanish": "es", "portuguese": "pt", "italian": "it", "russian": "ru", "japanese": "ja", "korean": "ko",
    "arabic": "ar", "hindi": "hi", "dutch": "nl", "polish": "pl", "turkish": "tr", "vietnamese": "vi",
    "python": "code", "any": "auto", "mixed": "auto", "multi": "auto", "multilingual": "auto", "all": "auto",
}  # fmt: skip


def check_some_are_read(sources: Mapping[str, SourceConfig], chosen: Mapping[str, SourceConfig]) -> None:
    """Raises: ConfigError where there is no source, or `sources=permissive` leaves none."""
    if not sources:
        raise ConfigError("corpus.sources is empty; expected at least one source: see conf/corpus/own_data.yaml")
    if not chosen:
        raise ConfigError(
            f"sources=permissive leaves none of {', '.join(sources)}; accepted licences: "
            f"{', '.join(sorted(PERMISSIVE))}: add a source under one of them, or use sources=all"
        )


def check_source(where: str, name: str, source: SourceConfig) -> None:
    """Raises: ConfigError for a source that cannot be read. Args: where, its key, e.g. `corpus.sources.mine`."""
    if not _SOURCE_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: a source is named by {_SOURCE_NAME.pattern}, because its name becomes a folder: rename it"
        )
    _check_language(f"{where}.language", source.language)
    _check_reader(f"{where}.reader", source.reader)
    _check_records(f"{where}.reader", source)
    if not source.licence.strip():
        raise ConfigError(f'{where}.licence is empty; expected an SPDX name or "unclear-upstream (why)"')
    for key, value in (("max_documents", source.max_documents), ("max_bytes", source.max_bytes)):
        if value is not None and value < 1:
            raise ConfigError(f"{where}.{key} is {value}; expected 1 or more: use ~{where} to leave the source out")
    if not 0 <= source.heldout < 1:
        raise ConfigError(f"{where}.heldout is {source.heldout}; expected a share from 0 to below 1, e.g. 0.01")


def _check_language(where: str, language: str) -> None:
    """Raises: ConfigError for what is no code of a language: nothing would be found to be another than that."""
    if re.fullmatch(r"[a-z]{2,3}|auto|code", language) or language in NAMED:
        return
    first = re.split("[-_]", language.lower())[0]
    close = difflib.get_close_matches(first, _CODES, n=1)
    meant = first if first in NAMED else _CODES[close[0]] if close else ""
    raise ConfigError(
        f"{where} is {language!r}; expected an ISO 639 code such as en, zh or de, code, or auto: each document's own"
        + (f": did you mean {meant}?" if meant else "")
    )


def check_cleaning(recipe: CleaningRecipe, sources: Mapping[str, SourceConfig]) -> None:
    """Raises: ConfigError for languages, addresses, evaluation sets or a quality model that cannot be."""
    if unnamed := [language for language in recipe.language.accept if language not in NAMED]:
        raise ConfigError(
            f"corpus.language.accept names {', '.join(unnamed)}, which the detector cannot name; expected ISO 639 "
            "codes such as en, zh, th: declare such a language on its source instead (corpus.sources.NAME.language)"
        )
    for rule in recipe.url.deny:
        _check_address_rule(rule)
    _check_decontamination(recipe.decontaminate)
    if recipe.quality.model is not None:
        _check_quality_model(recipe.quality.model, sources)


def check_sizes(piece_bytes: int, show_clusters: int | None) -> None:
    """Raises: ConfigError for pieces that are too small to be tasks, and for no cluster to show."""
    if piece_bytes < _LEAST_PIECE:
        raise ConfigError(
            f"corpus.piece_bytes is {piece_bytes}; expected 10_000 bytes or more, some megabytes as a rule: "
            "each piece is a task"
        )
    if show_clusters is not None and show_clusters < 1:
        raise ConfigError(f"show_clusters is {show_clusters}; expected how many to print, 1 or more, e.g. 10")


def check_dedup(dedup: DedupConfig) -> None:
    """Raises: ConfigError for numbers with which nothing can be compared."""
    for key in ("ngram", "bands", "rows"):
        if getattr(dedup.minhash, key) < 1:
            raise ConfigError(f"corpus.dedup.minhash.{key} is {getattr(dedup.minhash, key)}; expected 1 or more")
    lines = dedup.lines
    for key, value in (("min_characters", lines.min_characters), ("max_documents", lines.max_documents)):
        if value is not None and value < 1:
            raise ConfigError(f"corpus.dedup.lines.{key} is {value}; expected 1 or more, or null for max_documents")
    if dedup.task_memory < 1:
        raise ConfigError(
            f"corpus.dedup.task_memory is {dedup.task_memory}; expected bytes, e.g. 512_000_000: "
            "set it to what a task may take"
        )
    if not 0 < dedup.threshold <= 1:
        raise ConfigError(f"corpus.dedup.threshold is {dedup.threshold}; expected a Jaccard similarity in (0, 1]")


def _check_reader(where: str, reader: ReaderConfig) -> None:
    needed_keys = _NEEDS["deb" if reader.type == "package" and reader.archive == "deb" else reader.type]
    for key in needed_keys:
        if not getattr(reader, key):
            raise ConfigError(
                f"{where}.{key} is missing; a reader of type {reader.type} needs {', '.join(needed_keys)}"
            )
    for key, (takes, instead) in _OF_TYPE.items():
        if reader.type != takes and getattr(reader, key) != _DEFAULTS[key]:
            raise ConfigError(
                f"{where}.{key} is {getattr(reader, key)!r}, which only a reader of type {takes} takes; this one is of "
                f"type {reader.type}: remove it{instead}"
            )
    if reader.type == "package":
        _check_package(where, reader)
    if reader.document_bytes is not None and reader.document_bytes < 1:
        raise ConfigError(
            f"{where}.document_bytes is {reader.document_bytes}; expected 1 or more, e.g. 8_000, "
            "or null for a document a file"
        )
    if reader.document_bytes is not None and reader.document != "file":
        raise ConfigError(
            f"{where}: document is {reader.document} and document_bytes {reader.document_bytes}; expected one of the "
            f"two: remove {where}.document to cut by size, or {where}.document_bytes to make each "
            f"{reader.document} a document"
        )
    if reader.document != "file" and reader.type in ("huggingface", "generated"):
        raise ConfigError(
            f"{where}.document is {reader.document}; a reader of type {reader.type} has no text files to cut: remove "
            f"{where}.document"
        )
    if reader.encoding is not None and not is_encoding(reader.encoding):
        raise ConfigError(
            f"{where}.encoding is {reader.encoding!r}; expected an encoding that Python knows, e.g. cp1252 (Western "
            "Europe), gb18030 (Chinese), shift_jis, koi8-r, utf-16-le, or null for UTF-8"
        )
    if reader.format is not None and reader.format not in FORMATS:
        raise ConfigError(f"{where}.format is {reader.format!r}; expected one of {', '.join(FORMATS)}")
    if not 0 < reader.share <= 1:
        raise ConfigError(f"{where}.share is {reader.share}; expected a share of the files in (0, 1]")
    # of a deb the checksum may be left out: what apt offers is taken, and recorded
    needs_checksum = reader.type == "package" and (reader.archive != "deb" or bool(reader.sha256))
    if needs_checksum and not re.fullmatch(r"[0-9a-f]{64}", reader.sha256):
        raise ConfigError(f"{where}.sha256 is {reader.sha256!r}; expected 64 hexadecimal digits (sha256sum FILE)")


def _check_records(where: str, source: SourceConfig) -> None:
    """What makes the documents must make those of the source's kind."""
    reader = source.reader
    if reader.type == "generated":
        fitting = [name for name, generator in GENERATORS.items() if generator.kind == source.kind]
        _one_of(f"{where}.generator", reader.generator, fitting)
        for task in reader.tasks:
            _one_of(f"{where}.tasks", task, list(GENERATORS[reader.generator].tasks))
    else:
        fitting = [name for name, record_kind in RECORDS.items() if record_kind.kind == source.kind]
        other = RECORDS[reader.record].kind if reader.record in RECORDS else source.kind
        mine = where.removesuffix(".reader")
        instead = f"; {reader.record} makes {other}: set {mine}.kind={other}" if other != source.kind else ""
        _one_of(f"{where}.record", reader.record, fitting, instead)
        if reader.format is not None and FORMATS[reader.format].is_text and RECORDS[reader.record].fields:
            accepted = ", ".join(name for name, row in FORMATS.items() if not row.is_text)
            raise ConfigError(
                f"{where}.format is {reader.format}, which gives texts, and record: {reader.record} reads fields; "
                f"accepted: {accepted}: correct {where}.format, or remove it to go by the files' names"
            )


def _check_package(where: str, reader: ReaderConfig) -> None:
    """A name and a version that pip, npm and apt take for nothing else: no option, no path, no address."""
    patterns = (("package", reader.package, _PACKAGE[reader.archive]), ("version", reader.version, _VERSION))
    for key, value, pattern in patterns:
        if not pattern.fullmatch(value):
            raise ConfigError(
                f"{where}.{key} is {value!r}; expected the {key} of the {reader.archive} as its index has it: correct "
                "it"
            )


def _check_address_rule(rule: str) -> None:
    if rule.startswith("/") and rule.endswith("/") and len(rule) > 2:
        try:
            re.compile(rule[1:-1])
        except re.error as error:
            raise ConfigError(f"corpus.url.deny: {rule} is no regular expression: {error}; correct it") from error
    elif not re.fullmatch(r"[\w-]+(\.[\w-]+)*", rule):
        raise ConfigError(
            f"corpus.url.deny: {rule!r}; expected a domain such as example.com, or /a regular expression/"
        )


def _check_decontamination(config: DecontaminationConfig) -> None:
    where = "corpus.decontaminate"
    for name, evaluation_set in config.sets.items():
        if not evaluation_set.fields:
            raise ConfigError(
                f"{where}.sets.{name}.fields is empty; expected the fields that hold an item's text, e.g. [question]"
            )
        check_source(f"{where}.sets.{name}", name, evaluation_set.source)
    if not 2 <= config.min_words <= config.ngram <= 100:
        raise ConfigError(
            f"{where}.ngram is {config.ngram} and min_words {config.min_words}; "
            "expected 2 <= min_words <= ngram <= 100, e.g. 8 and 13"
        )
    if config.max_items < 1:
        raise ConfigError(
            f"{where}.max_items is {config.max_items}; expected 1 or more: an n-gram of more items is their template"
        )


def _check_quality_model(model: QualityModelConfig, sources: Mapping[str, SourceConfig]) -> None:
    where = "corpus.quality.model"
    for name, source in model.examples.items():
        check_source(f"{where}.examples.{name}", name, source)
    known_sources = {**sources, **model.examples}
    _check_examples(f"{where}.good", model.good, known_sources, f"{where}.examples")
    _check_examples(f"{where}.bad", model.bad, known_sources, f"{where}.examples")
    if both := sorted(set(model.good) & set(model.bad)):
        raise ConfigError(f"{where}: {', '.join(both)} cannot be good and bad; name each source once")
    for name in model.sources:
        if name not in sources:
            raise ConfigError(f"{where}.sources names {name!r}; accepted: {', '.join(sources)}")
    if model.threshold is not None and not 0 < model.threshold < 1:
        raise ConfigError(
            f"{where}.threshold is {model.threshold}; expected a score between 0 and 1, or null to drop nothing"
        )
    minima = (("documents", model.documents, 20), ("epochs", model.epochs, 1), ("folds", model.folds, 2))
    for key, value, least in minima:
        if value < least:
            raise ConfigError(f"{where}.{key} is {value}; expected {least} or more")


def _check_examples(where: str, names: Sequence[str], known: Mapping[str, SourceConfig], group: str) -> None:
    if not names:
        raise ConfigError(f"{where} is empty; expected names of sources of the corpus or of {group}")
    documents = [name for name, source in known.items() if source.kind == "documents"]
    for name in names:
        if name not in documents:
            raise ConfigError(f"{where} names {name!r}; accepted: {', '.join(documents)}: add others under {group}")


def _one_of(where: str, value: str, accepted: Sequence[str], instead: str = "") -> None:
    if value not in accepted:
        raise ConfigError(f"{where} is {value!r}; accepted for this kind of source: {', '.join(accepted)}{instead}")
