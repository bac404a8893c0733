"""Why a document was dropped, and the key that says so: one table for what is printed, shown and drawn.

Enters: a reason such as `quality.too_short`, a source and the recipe. Leaves: the keys that govern it, with their
values and what to type so that less is dropped; or, where no key does, what to do about the document itself.

A rule is governed by a threshold, and which threshold depends on what a source holds: `quality.too_short` is
`quality.prose.min_words` for English and `quality.chinese.min_characters` for Chinese. Of a source of several languages
the samples of what was dropped say which (see `Samples`). What is suggested is a first step (half of a minimum, twice a
maximum), not an answer: look at examples first.

Some drops are meant: what is nearly the same as a held-out text, what stands in an evaluation set, equal copies. Typing
a key to keep them would do harm, so these have a sentence that says what they are.
"""

from __future__ import annotations

import difflib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.cleaning.language import detect_all
from pipelines.data.cleaning.ruled import rules_of
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.sources.config import SourceConfig

# rules -> what a text breaks -> the thresholds that say when; those of `quality.py` and `notes.py`
_RULES: dict[str, dict[str, tuple[str, ...]]] = {
    "prose": {
        "too_short": ("min_words",),
        "too_long": ("max_words",),
        "word_length": ("min_mean_word_length", "max_mean_word_length"),
        "symbol_ratio": ("max_symbol_ratio",),
        "bullets": ("max_bullet_lines",),
        "ellipsis": ("max_ellipsis_lines",),
        "alphabetic_ratio": ("min_alphabetic_words", "max_number_words"),
        "stop_words": ("min_stop_words",),
        "line_punctuation": ("min_punctuated_lines",),
        "repeated_paragraphs": ("repetition",),
        "repeated_lines": ("repetition",),
        "repeated_ngrams": ("repetition",),
    },
    "chinese": {
        "too_short": ("min_characters",),
        "too_long": ("max_characters",),
        "alphabetic_ratio": ("min_han_share", "max_digit_share"),
        "symbol_ratio": ("max_symbol_share",),
        "line_punctuation": ("min_punctuated_lines",),
        "repeated_paragraphs": ("repetition",),
        "repeated_lines": ("repetition",),
        "repeated_ngrams": ("repetition",),
    },
    "unspaced": {
        "too_short": ("min_characters",),
        "too_long": ("max_characters",),
        "alphabetic_ratio": ("min_letter_share",),
        "symbol_ratio": ("max_symbol_share",),
        "repeated_paragraphs": ("repetition",),
        "repeated_lines": ("repetition",),
        "repeated_ngrams": ("repetition",),
    },
    "web": {
        "lorem_ipsum": ("lorem_ipsum",),
        "curly_brackets": ("max_curly_brackets",),
        "short_lines": ("max_short_lines",),
        "repeated_line_characters": ("max_repeated_line_characters",),
        "list": ("max_breaks_per_word",),
    },
    "notes": {
        "too_short": ("min_characters",),
        "too_long": ("max_characters",),
        "alphabetic_ratio": ("min_letter_share",),
        "coded": ("max_coded_share",),
        "repeated_lines": ("max_repeated_lines",),
        "repeated_words": ("min_distinct_words",),
        "lorem_ipsum": ("lorem_ipsum",),
    },
    "code": {
        "too_short": ("min_characters",),
        "long_lines": ("max_line_characters", "max_mean_line_characters"),
        "symbol_ratio": ("min_alphanumeric_share",),
        "digit_ratio": ("max_digit_share",),
        "repeated_lines": ("max_repeated_lines",),
    },
    **{
        content: {"too_short": ("min_characters",), "repeated_lines": ("max_repeated_lines",)}
        for content in ("math", "dialogue", "verse")
    },
}
# what the rules of prose drop of notes, and those of notes keep
_NOTES_WOULD_STAY = (
    "too_short", "word_length", "symbol_ratio", "bullets", "ellipsis", "alphabetic_ratio", "stop_words",
    "line_punctuation", "short_lines", "list",
)  # fmt: skip
# source -> samples of what it lost, rows of `dropped/<source>.parquet` (reason, where, text); not always all there is
Samples = Mapping[str, Sequence[Mapping[str, str]]]
_SOURCE = "corpus.sources.{source}"
# reason -> (key, what to type), in the order in which to look at them; `{source}` is the source's name. "": nothing
# that is always right, so the advice stands there
_KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "quality.no_rules": (("corpus.quality.without_rules", "corpus.quality.without_rules=keep"),),
    "url.denied": (("corpus.url.deny", ""),),
    "code.licence": (("corpus.quality.code.licences", ""),),
    "dedup.exact": ((f"{_SOURCE}.duplicates", ""),),
    "dedup.near_heldout": ((f"{_SOURCE}.heldout", ""), (f"{_SOURCE}.heldout_minimum", "")),
    "dedup.heldout_question": ((f"{_SOURCE}.heldout", ""), (f"{_SOURCE}.heldout_minimum", "")),
    "dedup.known_exact": (("known", ""),),
    "dedup.known_near": (("known", ""),),
    "read.no_text": ((f"{_SOURCE}.reader.text_field", ""),),
    "read.no_column": ((f"{_SOURCE}.reader.text_field", ""),),
    "read.no_id": ((f"{_SOURCE}.reader.id_field", f"++{_SOURCE}.reader.id_field=null"),),
    "read.not_json": ((f"{_SOURCE}.reader.format", ""),),
    "read.not_utf8": ((f"{_SOURCE}.reader.encoding", ""),),
    "read.not_text": ((f"{_SOURCE}.reader.encoding", ""),),
    **{
        f"records.{shape}": ((f"{_SOURCE}.reader.record", ""),)
        for shape in ("not_an_object", "not_a_list", "not_text", "no_messages", "bad_turn", "bad_history")
    },
}
# what to mind, or to do where there is no key; `{source}` is the source's name
_ADVICE = {
    "language.other": "accept the language that is wanted: the examples show which it is",
    "url.denied": "meant to go: corpus.url.deny names its address",
    "code.licence": "meant to go: it states a licence that is not a permissive one",
    "path.vendored": "meant to go: a copy of another project; take vendored out of the list to keep such files",
    "path.minified": "meant to go: no person wrote it so; take minified out of the list to keep such files",
    "path.lock": "meant to go: a list of versions; take lock out of the list to keep such files",
    "quality.empty": "nothing is left of it but white space and invisible characters",
    "quality.same_answers": "the chosen and the rejected answer are the same: there is nothing to learn",
    "quality.generated": "meant to go: its first lines say that a program wrote it; without these lines it stays",
    "dedup.exact": "meant to go: of equal texts one stays; ++corpus.sources.{source}.duplicates=keep trains on each",
    "dedup.near_heldout": "meant to go: nearly a held-out text, which must not be learnt; fewer go if less is held out",
    "dedup.heldout_question": "meant to go: a held-out conversation asks the same; fewer go if less is held out",
    "dedup.known_exact": "meant to go: a finished corpus that known names has the same text",
    "dedup.known_near": "meant to go: a finished corpus that known names has nearly the same, or asks it",
    "read.no_text": "name the field that holds the text",
    "read.no_column": "name the column that holds the text",
    "read.no_id": "or name the field that holds an id; null names documents by their place",
    "read.not_json": "say what the files are, or mend the lines that the examples show",
    "read.not_utf8": "say what the files are in, which the examples name where it can be told; a source has one such "
    "encoding",
    "read.not_utf16": "it begins as UTF-16 does, and does not go on so: save it as UTF-8",
    "read.not_text": "it is UTF-16 without its mark (utf-16-le), or no text: leave it out",
    "read.bad_value": "a value in it is no text, number or date: mend the record",
    "read.page_too_long": "cut the page in parts",
    "read.no_main_text": "the page has no running text; a text that was saved as HTML is better read as .txt or .md",
    "read.not_html": "an archive of pages also holds pictures and the like: nothing is lost",
    "read.corrupt_warc": "load the archive again",
    "read.corrupt_parquet": "load the file again, or write it anew",
    "read.empty_file": "the file holds no record: delete it, or load it again",
    "records.not_an_object": "say what a record is: messages, instruction, preference, text",
    "records.not_a_list": "say what a record is, or make the field a list",
    "records.not_text": "say what a record is, or put text in place of a number, an object or a picture",
    "records.no_messages": "say what a record is: messages, instruction, preference",
    "records.bad_turn": "a turn is {role, content} or {from, value}",
    "records.bad_history": "a history is a list of [question, answer]",
    "records.is_conversation": "a source of its own reads it: kind: conversations, record: messages or instruction",
    "records.is_preference": "a source of its own reads it: kind: preferences, record: preference",
    "records.unknown_role": "roles are system, user and assistant, or what ShareGPT calls them: rename it",
    "records.tools": "the chat format knows no tools: leave the turns out, and the answers that need them",
    "records.empty_turn": "a question or an answer is without text: fill it, or leave the record out",
    "records.no_question": "it asks nothing: leave it out, or make its source kind: documents",
    "records.no_prompt": "both answers are there and no question: write the prompt beside them",
    "records.ends_without_answer": "the last turn is not the assistant's: cut it off, or add the answer",
    "records.same_answers": "the chosen and the rejected answer are the same: there is nothing to learn",
    "records.sides_differ_early": "a pair differs in its last answer alone: shorten it to where the two part",
    "records.prompt_differs": "both sides of a pair have one prompt: make two pairs of it",
}
_ADVICE_OF_PREFIX = {
    "read.truncated_": "the file ends before its text does: load it again",
    "read.": "the file cannot be read there: mend it, or load it again",
    "records.": "the record has another shape than its kind: look at it, and mend it",
    "contaminated.": "meant to go: it holds an item of the evaluation set {set}, which must not be learnt",
}
_NO_TEXT_IN_IT = "the file is empty, or holds white space alone: nothing is lost"
HEADER = ("dropped for", "documents", "of", "governed by", "to drop fewer")
_LOOK_AT_SIMILAR = 0.6
_ABSENT = object()
_WHEN_NOTHING = 10  # what is tried instead of a maximum of 0
_SURER = 0.9  # a score that a language must have to be believed where the detector was often wrong
_COMMON = 1 / 3  # of the samples of another language are in one: what the source has, and no chance
_MAIN_LANGUAGE = 0.05  # of the text that was kept: a language with less explains few of the drops


@dataclass(frozen=True)
class Setting:
    """A key that governs a reason.

    Attributes: value, what it is now. override, what to type, quoted for a shell; "" where one must choose, or where
        keeping such documents would do harm.
    """

    key: str
    value: Any
    override: str

    @property
    def now(self) -> str:
        """`corpus.quality.prose.min_words=50`."""
        return f"{self.key}={_typed(self.value)}"


@dataclass(frozen=True)
class Governed:
    """Attributes: settings, by which to look first; advice, what else there is to say, or to do without a key."""

    settings: tuple[Setting, ...]
    advice: str = ""

    @property
    def first(self) -> str:
        """In a sentence: the key to look at first, or what to do instead."""
        if not self.settings:
            return f"no key governs it: {self.advice}"
        setting = self.settings[0]
        tried = f" says so, and {setting.override} drops fewer" if setting.override else f": {self.advice}"
        notes = next((one.override for one in self.settings if one.key.endswith(".content")), None)
        # whoever lost most of a source has another kind of text rather than a threshold that is off
        asked = f"are these notes, lists or mails? then {notes}; else " if notes else ""
        return f"{asked}{setting.now}{tried}"


@dataclass(frozen=True)
class Seen:
    """What the samples say of the documents that a source lost for one reason.

    Attributes: languages, the commonest first: of `language.other` those that many samples are in, else those that
        the documents were judged by. blank, whether all samples are white space.
    """

    languages: tuple[str, ...] = ()
    blank: bool = False


def governs(reason: str, name: str, config: CorpusConfig, seen: Seen | None = None) -> Governed:
    """What governs a reason in the source of this name; without samples, in all languages that it may hold."""
    source, seen = config.chosen[name], seen or Seen()
    if reason == "read.no_text" and seen.blank:
        return Governed((), _NO_TEXT_IN_IT)
    settings = tuple(
        Setting(key, value, " ".join(map(shlex.quote, override.split())))
        for key, override in dict.fromkeys(_keys(reason, name, source, config, seen.languages))
        if (value := _value(config, key)) is not _ABSENT
    )
    advice = _ADVICE.get(reason) or next(
        (said for prefix, said in _ADVICE_OF_PREFIX.items() if reason.startswith(prefix)), ""
    )
    if not settings and not advice:
        advice = "look at examples, and at the document itself"
    return Governed(settings, advice.replace("{source}", name).replace("{set}", reason.partition(".")[2]))


def lines(sources: Mapping[str, Any], config: CorpusConfig, samples: Samples | None = None) -> list[list[Any]]:
    """The reasons of a corpus as rows under `HEADER`, the commonest first, with a row for each key that governs it.

    A reason stands once for all sources in which the same keys govern it; keys of a source are told of the one that
    lost most. That a source may hold notes is told once. Args: sources, of the statistics.
    """
    grouped: dict[tuple[str, ...], dict[str, tuple[int, Governed]]] = {}
    for name, figures in sources.items():
        for reason, count in figures["dropped"].items():
            governed = governs(reason, name, config, seen_in(reason, name, figures, config, samples or {}))
            keys = (setting.key.replace(f".{name}.", ".") for setting in governed.settings)
            grouped.setdefault((reason, *keys), {})[name] = count, governed
    told: list[list[Any]] = []
    asked: set[str] = set()
    for (reason, *_), by_name in sorted(grouped.items(), key=lambda item: -sum(n for n, _ in item[1].values())):
        by_source = sorted(by_name.items(), key=lambda item: -item[1][0])
        governed = by_source[0][1][1]
        contents = {setting.key for setting in governed.settings if setting.key.endswith(".content")}
        settings = [one for one in governed.settings if one.key not in contents & asked]
        asked |= contents
        without = next((place for place, setting in enumerate(settings) if not setting.override), None)
        rows = [
            (setting.now, setting.override or (governed.advice if place == without else ""))
            for place, setting in enumerate(settings)
        ]
        total = sum(count for count, _ in by_name.values())
        shares = ", ".join(f"{name} {count:,}" for name, (count, _) in by_source)
        for place, row in enumerate(rows or [("no key", governed.advice)]):
            told.append([*(("", "", "") if place else (reason, f"{total:,}", shares)), *row])
    return told


def mostly_dropped(
    sources: Mapping[str, Any], config: CorpusConfig, samples: Samples | None = None
) -> list[tuple[str, str]]:
    """For each source that lost more than half of what was read: a sentence, and the reason for most of it."""
    told = []
    for name, figures in sources.items():
        lost = sum(figures["dropped"].values())
        read = lost + sum(figures[split]["documents"] for split in ("train", "heldout"))
        if 2 * lost <= read:
            continue
        reason, most = max(figures["dropped"].items(), key=lambda item: item[1])
        first = governs(reason, name, config, seen_in(reason, name, figures, config, samples or {})).first
        told.append(
            (f"{lost:,} of {read:,} documents of {name} were dropped, most ({most:,}) for {reason}: {first}", reason)
        )
    return told


def known_reasons(config: CorpusConfig) -> set[str]:
    """Every reason that has a name of its own."""
    sets = {f"contaminated.{name}" for name in config.corpus.decontaminate.sets}
    named = {f"quality.{reason}" for rules in _RULES.values() for reason in rules}
    others = {
        "language.other",
        "quality.model",
        "quality.boilerplate",
        "dedup.near",
        "path.vendored",
        "path.minified",
        "path.lock",
    }
    return named | others | sets | set(_KEYS) | set(_ADVICE)


def nearest(reason: str, known: Iterable[str]) -> str | None:
    """The reason that was meant, of these, the first of equally near ones: what stands behind the dot is compared."""

    def name(one: str) -> str:
        return one.split(".")[-1].strip().lower().replace("-", "_").replace(" ", "_")

    by_name = {name(one): one for one in reversed(list(known))}
    close = difflib.get_close_matches(name(reason), by_name, n=1, cutoff=_LOOK_AT_SIMILAR)
    return by_name[close[0]] if close else None


def seen_in(reason: str, name: str, figures: Mapping[str, Any], config: CorpusConfig, samples: Samples) -> Seen:
    """What is known of the documents that a source lost for a reason.

    Samples are the first ten of each reason. Where they are not all, the languages of what was kept are counted too.
    """
    texts = [row["text"] for row in samples.get(name, ()) if row["reason"] == reason]
    if not texts:
        return Seen()
    source, accepted = config.chosen[name], config.corpus.language.accept
    blank = not any(map(str.strip, texts))
    if reason != "language.other" and (source.language != "auto" or not reason.startswith("quality.")):
        return Seen(blank=blank)
    detected = (one.language for one in detect_all(texts))
    if reason == "language.other":
        other = Counter(one for one in detected if one not in (*accepted, source.language, "und"))
        return Seen(tuple(one for one, count in other.most_common() if count >= _COMMON * len(texts)), blank)
    # who is unsure of a text judges it by the first language that is accepted, as cleaning does
    counts = Counter(one if one in accepted else accepted[0] for one in detected) if accepted else Counter[str]()
    languages = [language for language, _ in counts.most_common()]
    if len(texts) < figures["dropped"][reason]:
        kept = Counter(figures.get("train", {}).get("languages", {}))
        languages += [one for one, size in kept.most_common() if size > _MAIN_LANGUAGE * kept.total()]
    return Seen(tuple(dict.fromkeys(languages)), blank)


def _keys(
    reason: str, name: str, source: SourceConfig, config: CorpusConfig, languages: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(key, what to type), in the order in which to look at them. Args: languages, of the samples; () for none."""
    recipe = config.corpus
    prefix, _, detail = reason.partition(".")
    for key, override in _KEYS.get(reason, ()):
        yield key.format(source=name), override.format(source=name)
    if prefix == "quality" and source.kind == "documents":
        seen, may_be = (_rules(source, one) for one in (languages, recipe.language.accept))
        # what was cut for a sample may look like another language than the whole: then it breaks no such rule
        for group in seen if any(detail in _RULES.get(group, {}) for group in seen) else may_be:
            for threshold in _RULES.get(group, {}).get(detail, ()):
                key = f"corpus.quality.{group}.{threshold}"
                yield key, f"{key}={_typed(_looser(threshold, _value(config, key)))}"
        # of pages of the web the content also says that personal data is masked
        if source.content == "prose" and detail in _NOTES_WOULD_STAY:
            yield f"corpus.sources.{name}.content", f"++corpus.sources.{name}.content=notes"
    if reason == "quality.boilerplate" and recipe.dedup.lines.max_documents is not None:
        key = "corpus.dedup.lines.max_documents"
        yield key, f"{key}={2 * recipe.dedup.lines.max_documents}"
    if reason == "quality.model" and recipe.quality.model is not None and recipe.quality.model.threshold is not None:
        key = "corpus.quality.model.threshold"
        yield key, f"{key}={_typed(recipe.quality.model.threshold / 2)}"
    if reason == "language.other":
        yield from _languages_to_accept(name, source, recipe.language.accept, languages)
        if recipe.language.max_other_score < _SURER:
            yield "corpus.language.max_other_score", f"corpus.language.max_other_score={_SURER}"
    if reason == "dedup.near":
        if recipe.dedup.verify:
            yield "corpus.dedup.threshold", f"corpus.dedup.threshold={_typed((1 + recipe.dedup.threshold) / 2)}"
        yield f"corpus.sources.{name}.duplicates", f"++corpus.sources.{name}.duplicates=exact"
    if prefix == "path":
        yield "corpus.quality.code.skip", ""
    if prefix == "contaminated":
        yield "corpus.decontaminate.ngram", ""
    if reason not in known_reasons(config) and prefix not in ("read", "records") and recipe.passes:
        yield "corpus.passes", "corpus.passes=[]"


def _languages_to_accept(
    name: str, source: SourceConfig, accepted: Sequence[str], seen: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """What takes the commonest of the languages that were seen, and goes on taking what is taken now."""
    declared = [] if source.language == "auto" else [source.language]
    wanted = _typed(list(dict.fromkeys([*accepted, *declared, *seen[:1]])))
    if declared:
        also = f" corpus.language.accept={wanted}" if seen else ""
        yield f"corpus.sources.{name}.language", f"++corpus.sources.{name}.language=auto{also}"
    else:
        yield "corpus.language.accept", f"corpus.language.accept={wanted}" if seen else ""


def _rules(source: SourceConfig, may_be: Iterable[str]) -> list[str]:
    """Which rules judge a source of documents, by its content and its languages, or those it may be in."""
    if source.content not in ("prose", "web"):
        return [source.content]
    names = {"spaced": "prose", "chinese": "chinese", "unspaced": "unspaced"}
    languages = may_be if source.language == "auto" else [source.language]
    # Javanese has two scripts
    ruled = [kind for language in languages for kind in (rules_of(language), "unspaced" if language == "jv" else "")]
    judged = dict.fromkeys(names[kind] for kind in ruled if kind in names)
    return [*judged, *(["web"] if source.content == "web" else [])]


def _looser(threshold: str, value: Any) -> Any:
    """A first step towards dropping less."""
    if isinstance(value, bool):
        return False
    if threshold.startswith("min_"):
        return value // 2 if isinstance(value, int) else round(value / 2, 4)
    if not value:
        return _WHEN_NOTHING
    # a share is at most 1, and a maximum of 1 drops nothing
    return min(1.0, round(2 * value, 4)) if isinstance(value, float) and value <= 1 else 2 * value


def _value(config: CorpusConfig, key: str) -> Any:
    """What a key is set to; `_ABSENT` where the config has none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, Mapping) else getattr(value, part, _ABSENT)
        if value is _ABSENT:
            return _ABSENT
    return value


def _typed(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_typed, value))}]"
    # a further pass is told by its name
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "name", value))
