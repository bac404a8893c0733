"""Why a document was dropped, and the key that says so: one table for what is printed, shown and drawn.

Enters: a reason such as `quality.too_short`, a source and the recipe. Leaves: the keys that govern it, with their
values and what to type so that less is dropped; or, where no key does, what to do about the document itself.

A rule is governed by a threshold, and which threshold depends on what a source holds: `quality.too_short` is
`quality.prose.min_words` for English and `quality.chinese.min_characters` for Chinese. What is suggested is a first
step (half of a minimum, twice a maximum), not an answer: look at examples first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
_SOURCE = "corpus.sources.{source}"
# reason -> (key, what to type), in the order in which to look at them; `{source}` is the source's name
_KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "quality.no_rules": (("corpus.quality.without_rules", "corpus.quality.without_rules=keep"),),
    "quality.boilerplate": (("corpus.dedup.lines.max_documents", "corpus.dedup.lines.max_documents=null"),),
    "url.denied": (("corpus.url.deny", "corpus.url.deny=[]"),),
    "code.licence": (("corpus.quality.code.licences", "corpus.quality.code.licences=any"),),
    "dedup.exact": ((f"{_SOURCE}.duplicates", f"++{_SOURCE}.duplicates=keep"),),
    "dedup.near": (
        (f"{_SOURCE}.duplicates", f"++{_SOURCE}.duplicates=exact"),
        ("corpus.dedup.threshold", "corpus.dedup.threshold=0.9"),
    ),
    "dedup.near_heldout": ((f"{_SOURCE}.heldout", f"++{_SOURCE}.heldout=0"),),
    "dedup.heldout_question": ((f"{_SOURCE}.heldout", f"++{_SOURCE}.heldout=0"),),
    "dedup.known_exact": (("known", "known=[]"),),
    "dedup.known_near": (("known", "known=[]"),),
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
# what to mind, or to do where there is no key
_ADVICE = {
    "language.other": "accept the language that is wanted: the examples show which it is",
    "quality.empty": "nothing is left of it but white space and invisible characters",
    "quality.same_answers": "the chosen and the rejected answer are the same: there is nothing to learn",
    "quality.generated": "its first lines say that a program wrote it: delete them, or leave the file out",
    "dedup.near_heldout": "nearly the same text is held out to measure on",
    "dedup.heldout_question": "a conversation that is held out asks the same",
    "read.no_text": "name the field that holds the text",
    "read.no_column": "name the column that holds the text",
    "read.no_id": "or name the field that holds an id; null names documents by their place",
    "read.not_json": "say what the files are, or mend the lines that the examples show",
    "read.not_utf8": "say what the files are in: cp1252 (Western Europe), gb18030 (Chinese), shift_jis, koi8-r",
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
    "read.": "the file cannot be read there: mend it, or load it again",
    "records.": "the record has another shape than its kind: look at it, and mend it",
    "contaminated.": "meant: what is learnt cannot be measured; ~corpus.decontaminate.sets.NAME leaves a set out",
}
HEADER = ("dropped for", "documents", "of", "governed by", "to drop fewer")
_LOOK_AT_SIMILAR = 0.6
_ABSENT = object()
_WHEN_NOTHING = 10  # what is tried instead of a maximum of 0


@dataclass(frozen=True)
class Setting:
    """A key that governs a reason.

    Attributes: value, what it is now. override, what to type; "" where one must choose.
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
        tried = f"{setting.override} drops fewer" if setting.override else self.advice
        notes = next((one.override for one in self.settings if one.key.endswith(".content")), None)
        # whoever lost most of a source has another kind of text rather than a threshold that is off
        asked = f"are these notes, lists or mails? then {notes}; else " if notes else ""
        return f"{asked}{setting.now} says so, and {tried}"


def governs(reason: str, name: str, config: CorpusConfig) -> Governed:
    """What governs a reason in the source of this name."""
    source = config.chosen[name]
    settings = tuple(
        Setting(key, value, override)
        for key, override in dict.fromkeys(_keys(reason, name, source, config))
        if (value := _value(config, key)) is not _ABSENT
    )
    advice = _ADVICE.get(reason) or next(
        (said for prefix, said in _ADVICE_OF_PREFIX.items() if reason.startswith(prefix)), ""
    )
    if not settings and not advice:
        advice = "look at examples, and at the document itself"
    return Governed(settings, advice)


def lines(sources: Mapping[str, Any], config: CorpusConfig) -> list[list[Any]]:
    """The reasons of a corpus as rows under `HEADER`, the commonest first, with a row for each key that governs it.

    A reason stands once for all sources in which the same keys govern it; keys of a source are told of the one that
    lost most. Args: sources, of the statistics.
    """
    grouped: dict[tuple[str, ...], dict[str, int]] = {}
    for name, figures in sources.items():
        for reason, count in figures["dropped"].items():
            keys = (setting.key.replace(f".{name}.", ".") for setting in governs(reason, name, config).settings)
            grouped.setdefault((reason, *keys), {})[name] = count
    told: list[list[Any]] = []
    for (reason, *_), counts in sorted(grouped.items(), key=lambda item: -sum(item[1].values())):
        by_source = sorted(counts.items(), key=lambda item: -item[1])
        governed = governs(reason, by_source[0][0], config)
        rows = [(setting.now, setting.override or governed.advice) for setting in governed.settings]
        shares = ", ".join(f"{name} {count:,}" for name, count in by_source)
        for place, row in enumerate(rows or [("no key", governed.advice)]):
            told.append([*(("", "", "") if place else (reason, f"{sum(counts.values()):,}", shares)), *row])
    return told


def mostly_dropped(sources: Mapping[str, Any], config: CorpusConfig) -> list[tuple[str, str]]:
    """For each source that lost more than half of what was read: a sentence, and the reason for most of it."""
    told = []
    for name, figures in sources.items():
        lost = sum(figures["dropped"].values())
        read = lost + sum(figures[split]["documents"] for split in ("train", "heldout"))
        if 2 * lost <= read:
            continue
        reason, most = max(figures["dropped"].items(), key=lambda item: item[1])
        first = governs(reason, name, config).first
        told.append(
            (f"{lost:,} of {read:,} documents of {name} were dropped, most ({most:,}) for {reason}: {first}", reason)
        )
    return told


def known_reasons(config: CorpusConfig) -> set[str]:
    """Every reason that has a name of its own."""
    sets = {f"contaminated.{name}" for name in config.corpus.decontaminate.sets}
    named = {f"quality.{reason}" for rules in _RULES.values() for reason in rules}
    others = {"language.other", "quality.model", "path.vendored", "path.minified", "path.lock"}
    return named | others | sets | set(_KEYS) | set(_ADVICE)


def nearest(reason: str, known: Iterable[str]) -> str | None:
    """The reason that was meant, of these, the first of equally near ones: what stands behind the dot is compared."""

    def name(one: str) -> str:
        return one.split(".")[-1].strip().lower().replace("-", "_").replace(" ", "_")

    by_name = {name(one): one for one in reversed(list(known))}
    close = difflib.get_close_matches(name(reason), by_name, n=1, cutoff=_LOOK_AT_SIMILAR)
    return by_name[close[0]] if close else None


def _keys(reason: str, name: str, source: SourceConfig, config: CorpusConfig) -> Iterator[tuple[str, str]]:
    """(key, what to type), in the order in which to look at them."""
    recipe = config.corpus
    prefix, _, detail = reason.partition(".")
    for key, override in _KEYS.get(reason, ()):
        yield key.format(source=name), override.format(source=name)
    if prefix == "quality" and source.kind == "documents":
        rules = _rules(source, recipe.language.accept)
        for group in rules:
            for threshold in _RULES.get(group, {}).get(detail, ()):
                key = f"corpus.quality.{group}.{threshold}"
                yield key, f"{key}={_typed(_looser(threshold, _value(config, key)))}"
        if source.content in ("prose", "web") and detail in _NOTES_WOULD_STAY:
            yield f"corpus.sources.{name}.content", f"++corpus.sources.{name}.content=notes"
    if reason == "quality.model" and recipe.quality.model is not None and recipe.quality.model.threshold is not None:
        key = "corpus.quality.model.threshold"
        yield key, f"{key}={_typed(recipe.quality.model.threshold / 2)}"
    if reason == "language.other":
        if source.language == "auto":
            yield "corpus.language.accept", ""
        else:
            yield f"corpus.sources.{name}.language", f"++corpus.sources.{name}.language=auto"
        yield "corpus.language.max_other_score", "corpus.language.max_other_score=1.0"
    if prefix == "path":
        rest = [skipped for skipped in recipe.quality.code.skip if skipped != detail]
        yield "corpus.quality.code.skip", f"corpus.quality.code.skip={_typed(rest)}"
    if prefix == "contaminated":
        yield "corpus.decontaminate.ngram", f"corpus.decontaminate.ngram={2 * recipe.decontaminate.ngram}"
    if reason not in known_reasons(config) and prefix not in ("read", "records") and recipe.passes:
        yield "corpus.passes", "corpus.passes=[]"


def _rules(source: SourceConfig, accepted: Iterable[str]) -> list[str]:
    """Which rules judge a source of documents, by its content and its languages."""
    if source.content not in ("prose", "web"):
        return [source.content]
    names = {"spaced": "prose", "chinese": "chinese", "unspaced": "unspaced"}
    languages = accepted if source.language == "auto" else [source.language]
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
