"""Every reason for which something is dropped names what governs it, and what is to be typed really changes it."""

from __future__ import annotations

import ast
import dataclasses
import random
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import parse, plain
from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.cleaning.notes import judge_notes
from pipelines.data.cleaning.passes import clean_batch
from pipelines.data.cleaning.quality import judge
from pipelines.data.corpus import reasons
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup.resolve import REASONS
from pipelines.data.text.document import Document, Dropped
from workflows.command_line.composing import compose_config

DATA = Path(__file__).parents[2] / "pipelines" / "data"
REASON = re.compile(r"(read|records|quality|language|url|path|code|contaminated|dedup)\.[a-z0-9_]*[a-z0-9]")
READER = {"type": "files", "path": "x"}
# reasons that are built of words of their own, and told by what they begin with
BUILT = ("read.truncated_gzip", "read.ZlibError", "records.KeyError", "contaminated.exam")


def config_of(**source: Any) -> CorpusConfig:
    """A corpus of one source, `mine`, under the shipped rules."""
    return parse(
        CorpusConfig, {"name": "t", "corpus": {"sources": {"mine": {"licence": "MIT", "reader": READER, **source}}}}
    )


def with_override(config: CorpusConfig, override: str) -> CorpusConfig:
    """The config after `key=value`, as it would have been typed."""
    import yaml

    values = plain(config)
    for word in shlex.split(override):
        key, _, value = word.removeprefix("++").partition("=")
        *parts, last = key.split(".")
        at = values
        for part in parts:
            at = at[part]
        at[last] = yaml.safe_load(value)
    return parse(CorpusConfig, values)


def literal_reasons() -> set[str]:
    """Every reason that stands in the code of `pipelines/data` as a string."""
    found = set()
    for path in DATA.rglob("*.py"):
        if path.name == "reasons.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and REASON.fullmatch(node.value):
                found.add(node.value)
    return found


def rule_names() -> set[str]:
    """The names of all rules of `quality.py`, which become `quality.<name>`: the keys of what its functions return."""
    tree = ast.parse((DATA / "cleaning" / "quality.py").read_text(encoding="utf-8"))
    judging = ("_prose", "_chinese", "_unspaced", "_repetition", "_web", "_code", "_short", "_prose_or_web", "_first")
    names = set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in judging):
        for mapping in (node for node in ast.walk(function) if isinstance(node, ast.Dict)):
            names |= {key.value for key in mapping.keys if isinstance(key, ast.Constant)}
    return names - {"spaced", "chinese", "unspaced"}


def test_every_reason_in_the_code_has_its_entry() -> None:
    written = literal_reasons() | {f"quality.{name}" for name in rule_names()} | set(REASONS.values())
    assert len(written) > 60
    assert {"quality.too_short", "quality.bullets", "read.not_utf8", "dedup.near", "quality.coded"} <= written
    assert written - reasons.known_reasons(config_of()) == set()


def test_no_entry_is_for_a_reason_that_nothing_gives() -> None:
    written = literal_reasons() | {f"quality.{name}" for name in rule_names()} | set(REASONS.values())
    paths = {"path.vendored", "path.minified", "path.lock"}
    assert reasons.known_reasons(config_of()) - written - paths == set()


@pytest.mark.parametrize("reason", [*sorted(reasons.known_reasons(config_of())), *BUILT])
def test_a_reason_says_by_which_key_or_what_to_do(reason: str) -> None:
    for content in ("prose", "web", "notes", "code", "math"):
        for language in ("auto", "en", "zh", "th", "jv"):
            governed = reasons.governs(reason, "mine", config_of(content=content, language=language))
            assert governed.settings or governed.advice
            for setting in governed.settings:
                assert setting.override or governed.advice


def words(count: int, letters: tuple[int, int] = (4, 7), seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(*letters))) for _ in range(count)]


def sentences(count: int, of: int = 10, seed: int = 0) -> list[str]:
    """Different ones, with what Gopher wants of English."""
    plain_words = words(count * (of - 2), seed=seed)
    return [" ".join(["the", *plain_words[i * (of - 2) : (i + 1) * (of - 2)], "with"]) + " end." for i in range(count)]


def lines_of(count: int, of: int) -> list[str]:
    """Lines of so many words each, with a full stop behind."""
    drawn = words(count * of, seed=7)
    return [" ".join(drawn[i * of : (i + 1) * of]) + "." for i in range(count)]


def letters(count: int, first: int, last: int) -> str:
    return "".join(chr(code) for code in random.Random(0).choices(range(first, last), k=count))


HAN = letters(4_000, 0x4E00, 0x5E00)
THAI = letters(4_000, 0x0E01, 0x0E2E)
PROSE, ENGLISH = "\n".join(sentences(12)), {"language": "en"}
CHINESE, SIAMESE = {"language": "zh"}, {"language": "th"}
QUALITY = "corpus.quality"
# reason, source, keys that are set first, a text just beyond the threshold
CASES: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("too_short", ENGLISH, [], "\n".join(sentences(4))),
    ("too_long", ENGLISH, [f"{QUALITY}.prose.max_words=100"], PROSE),
    ("word_length", ENGLISH, [], "the with " + " ".join(words(60, (2, 2))) + "."),
    ("word_length", ENGLISH, [], "the with " + " ".join(words(60, (13, 14))) + "."),
    ("symbol_ratio", ENGLISH, [], PROSE + " # # #" * 5 + "."),
    ("bullets", ENGLISH, [], "\n".join(f"- {one}" for one in sentences(12))),
    (
        "ellipsis",
        ENGLISH,
        [f"{QUALITY}.prose.max_symbol_ratio=1.0"],
        "\n".join(one[:-1] + "..." for one in sentences(6)) + "\n" + "\n".join(sentences(6, seed=9)),
    ),
    ("alphabetic_ratio", ENGLISH, [], PROSE.replace(" ", " / ", 80)),
    (
        "alphabetic_ratio",
        ENGLISH,
        [],
        "\n".join(f"{one[:-1]} {' '.join(str(971 * n + i) for i in range(9))}." for n, one in enumerate(sentences(12))),
    ),
    ("stop_words", ENGLISH, [], "the " + PROSE.replace("the ", "").replace("with ", "")),
    ("line_punctuation", ENGLISH, [], "\n".join(one[:-1] for one in sentences(11)) + "\n" + sentences(12, seed=3)[0]),
    ("repeated_paragraphs", ENGLISH, [], "\n\n".join([*sentences(4), *sentences(4, seed=0), *sentences(2, seed=5)])),
    (
        "repeated_lines",
        ENGLISH,
        [f"{QUALITY}.prose.min_words=10"],
        "\n".join([*sentences(4), *sentences(4), *sentences(2, seed=5)]),
    ),
    ("repeated_ngrams", ENGLISH, [], " ".join(["the", *words(9), "with"] * 5) + "."),
    ("too_short", CHINESE, [], HAN[:15] + "。"),
    ("too_long", CHINESE, [f"{QUALITY}.chinese.max_characters=300"], HAN[:400] + "。"),
    ("alphabetic_ratio", CHINESE, [], HAN[:40] + " ".join(words(18)) + "。"),
    ("alphabetic_ratio", CHINESE, [], HAN[:40] + " ".join(str(i * 9973) for i in range(11, 22)) + "。"),
    ("symbol_ratio", CHINESE, [], HAN[:60] + "★▲" * 30 + "。"),
    (
        "line_punctuation",
        CHINESE,
        [],
        "\n".join(HAN[i * 9 : i * 9 + 9] for i in range(30)) + "\n" + HAN[300:306] + "。",
    ),
    ("repeated_lines", CHINESE, [], "\n".join([*(HAN[i * 9 : i * 9 + 9] + "。" for i in range(9))] * 2)),
    ("repeated_paragraphs", CHINESE, [], "\n\n".join([*(HAN[i * 9 : i * 9 + 9] + "。" for i in range(9))] * 2)),
    ("repeated_ngrams", CHINESE, [], HAN[:30] * 6 + "。"),
    ("too_short", SIAMESE, [], THAI[:80]),
    ("too_long", SIAMESE, [f"{QUALITY}.unspaced.max_characters=300"], THAI[:400]),
    ("alphabetic_ratio", SIAMESE, [], THAI[:90] + " " + " ".join(words(40))),
    ("symbol_ratio", SIAMESE, [], THAI[:120] + "★▲" * 50),
    ("repeated_lines", SIAMESE, [], "\n".join([THAI[i * 30 : i * 30 + 30] for i in range(6)] * 2)),
    ("repeated_paragraphs", SIAMESE, [], "\n\n".join([THAI[i * 30 : i * 30 + 30] for i in range(6)] * 2)),
    ("repeated_ngrams", SIAMESE, [], THAI[:60] * 6),
    ("no_rules", {"language": "nah"}, [f"{QUALITY}.without_rules=drop"], PROSE),
    ("lorem_ipsum", {**ENGLISH, "content": "web"}, [], PROSE + " lorem ipsum."),
    ("curly_brackets", {**ENGLISH, "content": "web"}, [], PROSE + " { }."),
    ("short_lines", {**ENGLISH, "content": "web"}, [], "\n".join([*sentences(2), *lines_of(30, 4)])),
    (
        "repeated_line_characters",
        {**ENGLISH, "content": "web"},
        [f"{QUALITY}.web.max_repeated_line_characters=0.05"],
        "\n".join([*sentences(12), sentences(1)[0]]),
    ),
    (
        "list",
        {**ENGLISH, "content": "web"},
        [f"{QUALITY}.web.max_short_lines=1.0"],
        "\n".join([*sentences(2), *lines_of(40, 2)]),
    ),
    ("too_short", {"content": "notes"}, [], "- milk"),
    ("too_long", {"content": "notes"}, [f"{QUALITY}.notes.max_characters=300"], " ".join(words(80))),
    ("alphabetic_ratio", {"content": "notes"}, [], "ab cd 1234 5678 90"[:14] + " 1234"),
    ("coded", {"content": "notes"}, [f"{QUALITY}.notes.min_letter_share=0.1"], "the sum of the file is a3f09c2b77de41"),
    ("repeated_lines", {"content": "notes"}, [], "\n".join(["milk and bread", "- eggs for two"] * 3)),
    ("repeated_words", {"content": "notes"}, [], " ".join(words(15) * 8)),
    ("lorem_ipsum", {"content": "notes"}, [], "Lorem ipsum dolor"),
    ("too_short", {"content": "code"}, [], "x = 1\nprint(x + 2)\nprint(x + 3)"),
    ("long_lines", {"content": "code"}, [], "x = 1\n" * 40 + "y = " + "+".join(words(500))),
    ("long_lines", {"content": "code"}, [], "\n".join(" ".join(words(25, seed=i)) for i in range(9))),
    ("symbol_ratio", {"content": "code"}, [], "\n".join(f"{{({w[:2]})}}[];" for w in words(20))),
    ("digit_ratio", {"content": "code"}, [], "\n".join(f"abcdefgh {i * 99999989:012}" for i in range(1, 20))),
    ("repeated_lines", {"content": "code"}, [], "\n".join(["pass_over(one)", "pass_over(two)"] * 5)),
    *[
        case
        for content in ("math", "dialogue", "verse")
        for case in (
            ("too_short", {"content": content}, [f"{QUALITY}.{content}.min_characters=30"], "1 + 1 is two and no more"),
            (
                "repeated_lines",
                {"content": content},
                [f"{QUALITY}.{content}.max_repeated_lines=0.4"],
                "\n".join(["all of it is one line, and long"] * 3 + ["and another line beside it all"] * 3),
            ),
        )
    ],
]


def reason_of(text: str, config: CorpusConfig) -> str | None:
    source = config.chosen["mine"]
    language = "en" if source.language == "auto" else source.language
    return judge([text], source.content, [language], config.corpus.quality)[0]


@pytest.mark.parametrize(("name", "source", "before", "text"), CASES, ids=lambda value: str(value)[:24])
def test_what_is_to_be_typed_lets_the_text_pass(
    name: str, source: dict[str, Any], before: list[str], text: str
) -> None:
    config = config_of(**source)
    for override in before:
        config = with_override(config, override)
    reason = f"quality.{name}"
    assert reason_of(text, config) == reason
    thresholds = [
        one for one in reasons.governs(reason, "mine", config).settings if one.key.startswith("corpus.quality")
    ]
    assert thresholds
    passes = {setting.key: reason_of(text, with_override(config, setting.override)) != reason for setting in thresholds}
    assert any(passes.values()), passes


def test_each_threshold_of_the_table_has_a_text_that_it_lets_pass() -> None:
    """No key stands in the table that changes nothing: each is what one of the cases above needs."""
    needed = set()
    for name, source, before, text in CASES:
        config = config_of(**source)
        for override in before:
            config = with_override(config, override)
        for setting in reasons.governs(f"quality.{name}", "mine", config).settings:
            if setting.key.startswith("corpus.quality"):
                passed = reason_of(text, with_override(config, setting.override)) != f"quality.{name}"
                needed |= {setting.key} if passed else set()
    listed = {
        f"corpus.quality.{rules}.{threshold}"
        for rules, named in reasons._RULES.items()
        for thresholds in named.values()
        for threshold in thresholds
    }
    assert listed - needed == set()


def test_every_override_is_taken_by_the_command_line() -> None:
    """As typed, after the shipped corpus of one's own data; `~` and lists included."""
    typed = []
    for content in ("prose", "web", "notes", "code", "math", "dialogue", "verse"):
        for language in ("auto", "en", "zh", "th"):
            config = config_of(content=content, language=language)
            for reason in reasons.known_reasons(config):
                typed += [setting.override for setting in reasons.governs(reason, "mine", config).settings]
    typed = [word for override in typed for word in shlex.split(override)]
    overrides = [override.replace(".mine.", ".books.") for override in dict.fromkeys(typed)]
    assert len(overrides) > 50
    config = compose_config("corpus", CorpusConfig, ["corpus=own_data", *overrides])
    assert config.corpus.quality.prose.min_words == 25
    assert config.corpus.sources["books"].content == "notes"
    assert config.corpus.quality.web.max_curly_brackets == 10


FRENCH = "Le marché ouvre à huit heures et ferme à midi, sauf le dimanche où il reste ouvert jusqu'à treize heures."
GERMAN = "Der Markt öffnet um acht Uhr und schließt am Mittag, außer am Sonntag, wo er bis ein Uhr geöffnet bleibt."
ENGLISH_TEXT = "The market opens at eight in the morning and closes at noon, but on Sundays it stays open until one."
CHINESE_TEXT = "今天天气很好，我们一起去公园散步。路边的花开了，孩子们在草地上奔跑。老人坐在树下下棋，谁也不着急。"


def lost(reason: str, *texts: str) -> dict[str, list[dict[str, str]]]:
    """Samples of what the source `mine` lost for one reason."""
    return {"mine": [{"id": "", "reason": reason, "where": str(i), "text": text} for i, text in enumerate(texts)]}


def rows_of(config: CorpusConfig, reason: str, *texts: str, count: int | None = None, **kept: int) -> list[list[str]]:
    """(governed by, to drop fewer) of a reason. Args: kept, bytes of what was kept, by language."""
    figures = {"train": {"documents": 1, "languages": kept}, "dropped": {reason: count or len(texts) or 1}}
    return [row[3:] for row in reasons.lines({"mine": figures}, config, lost(reason, *texts))]


@pytest.mark.parametrize("language", ["auto", "en"])
def test_a_language_that_is_not_accepted_stays_where_it_is_accepted_as_told(language: str) -> None:
    config = config_of(content="notes", language=language)

    def result(config: CorpusConfig) -> Any:
        [one] = clean_batch([Document(text=FRENCH, id="a", metadata={})], config.chosen["mine"], config.corpus)
        return one

    dropped = result(config)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "language.other"
    [(_, override), (now, surer)] = rows_of(config, dropped.reason, FRENCH, FRENCH, GERMAN)
    assert (
        override
        == {
            "auto": "'corpus.language.accept=[en,zh,fr]'",
            "en": "++corpus.sources.mine.language=auto 'corpus.language.accept=[en,zh,fr]'",
        }[language]
    )
    assert isinstance(result(with_override(config, override)), Document)
    assert (now, surer) == ("corpus.language.max_other_score=0.65", "corpus.language.max_other_score=0.9")


def test_of_many_languages_none_is_told_to_be_accepted() -> None:
    """One text of each language: a list of stop words, say. The examples show which, if any, is wanted."""
    spanish = (
        "El mercado abre a las ocho de la mañana y cierra al mediodía, salvo los domingos, cuando cierra a la una."
    )
    russian = "Рынок открывается в восемь утра."
    [(now, told), _] = rows_of(config_of(), "language.other", FRENCH, GERMAN, spanish, russian)
    assert now == "corpus.language.accept=[en,zh]"
    assert told.startswith("accept the language that is wanted")


def test_only_keys_of_the_languages_that_were_dropped_are_listed() -> None:
    config = config_of()

    def keys(*texts: str, **more: Any) -> list[str]:
        return [now.partition("=")[0] for now, _ in rows_of(config, "quality.too_short", *texts, **more)]

    english, chinese = "corpus.quality.prose.min_words", "corpus.quality.chinese.min_characters"
    notes = "corpus.sources.mine.content"
    assert keys() == [english, chinese, notes]  # nothing is known of them
    assert keys(ENGLISH_TEXT) == [english, notes]
    assert keys(CHINESE_TEXT) == [chinese, notes]
    assert keys(CHINESE_TEXT, CHINESE_TEXT, ENGLISH_TEXT) == [chinese, english, notes]
    assert keys("?!") == [english, notes]  # judged by the first language that is accepted
    # of 40 there are but ten samples: what was kept tells the rest, unless it is hardly there
    assert keys(ENGLISH_TEXT, count=40, en=900, zh=100) == [english, chinese, notes]
    assert keys(ENGLISH_TEXT, count=40, en=990, zh=10) == [english, notes]


def test_a_sample_that_looks_like_a_language_without_the_rule_is_not_believed() -> None:
    rows = rows_of(config_of(), "quality.stop_words", CHINESE_TEXT)
    assert [now for now, _ in rows] == ["corpus.quality.prose.min_stop_words=2", "corpus.sources.mine.content=prose"]


def test_that_a_source_may_hold_notes_is_told_once() -> None:
    figures = {"train": {"documents": 1}, "dropped": {"quality.too_short": 9, "quality.bullets": 5}}
    rows = reasons.lines({"mine": figures, "other": figures}, config_of_two(), {})
    assert [row[4] for row in rows if row[3].endswith("content=prose")] == ["++corpus.sources.mine.content=notes"]


def config_of_two() -> CorpusConfig:
    source = {"licence": "MIT", "reader": READER, "language": "en"}
    return parse(CorpusConfig, {"name": "t", "corpus": {"sources": {"mine": source, "other": source}}})


def test_pages_of_the_web_are_not_told_to_be_notes() -> None:
    """Their content masks personal data, too."""
    keys = [one.key for one in reasons.governs("quality.too_short", "mine", config_of(content="web")).settings]
    assert keys == ["corpus.quality.prose.min_words", "corpus.quality.chinese.min_characters"]


MEANT = (
    "dedup.near_heldout", "dedup.heldout_question", "dedup.exact", "dedup.known_exact", "dedup.known_near",
    "contaminated.exam", "url.denied", "code.licence", "path.vendored", "path.minified", "path.lock",
)  # fmt: skip


@pytest.mark.parametrize("reason", MEANT)
def test_what_is_meant_to_go_is_told_in_a_sentence_and_no_key_is_typed(reason: str) -> None:
    rows = rows_of(config_of(content="code" if reason.startswith("path") else "prose"), reason)
    assert rows[0][1].startswith("meant to go: ")
    assert not any(told for _, told in rows[1:])
    assert "{" not in rows[0][1]
    governed = reasons.governs(reason, "mine", config_of())
    assert governed.first == f"{governed.settings[0].now}: {governed.advice}"


def test_what_is_said_of_a_held_out_text_names_what_decides_how_many_there_are() -> None:
    assert rows_of(config_of(), "dedup.near_heldout") == [
        [
            "corpus.sources.mine.heldout=0.01",
            "meant to go: nearly a held-out text, which must not be learnt; fewer go if less is held out",
        ],
        ["corpus.sources.mine.heldout_minimum=8", ""],
    ]


def test_near_copies_go_by_a_threshold_where_they_are_compared() -> None:
    exact = ["corpus.sources.mine.duplicates=near", "++corpus.sources.mine.duplicates=exact"]
    assert rows_of(config_of(), "dedup.near") == [["corpus.dedup.threshold=0.7", "corpus.dedup.threshold=0.85"], exact]
    assert rows_of(with_override(config_of(), "corpus.dedup.verify=false"), "dedup.near") == [exact]


def test_boilerplate_goes_by_a_maximum_that_is_raised_and_not_switched_off() -> None:
    config = with_override(config_of(), "corpus.dedup.lines.max_documents=20")
    assert rows_of(config, "quality.boilerplate") == [
        ["corpus.dedup.lines.max_documents=20", "corpus.dedup.lines.max_documents=40"]
    ]


def test_an_empty_file_has_no_field_to_name() -> None:
    said = "the file is empty, or holds white space alone: nothing is lost"
    assert rows_of(config_of(), "read.no_text", "", " \n") == [["no key", said]]
    [(now, told)] = rows_of(config_of(), "read.no_text", '{"content": "a"}')
    assert (now, told) == ("corpus.sources.mine.reader.text_field=text", "name the field that holds the text")


def test_a_rule_stands_once_for_all_sources_that_it_governs() -> None:
    source = {"licence": "MIT", "reader": READER}
    sources = {
        "one": {**source, "language": "en"},
        "two": {**source, "language": "en"},
        "three": {**source, "language": "zh"},
    }
    config = parse(CorpusConfig, {"name": "t", "corpus": {"sources": sources}})
    figures = {
        "one": {"dropped": {"quality.too_long": 2, "read.corrupt_parquet": 1}},
        "two": {"dropped": {"quality.too_long": 1_500, "dedup.exact": 7}},
        "three": {"dropped": {"quality.too_long": 3}},
    }
    assert reasons.lines(figures, config) == [
        [
            "quality.too_long",
            "1,502",
            "two 1,500, one 2",
            "corpus.quality.prose.max_words=100000",
            "corpus.quality.prose.max_words=200000",
        ],
        [
            "dedup.exact",
            "7",
            "two 7",
            "corpus.sources.two.duplicates=near",
            "meant to go: of equal texts one stays; ++corpus.sources.two.duplicates=keep trains on each",
        ],
        [
            "quality.too_long",
            "3",
            "three 3",
            "corpus.quality.chinese.max_characters=500000",
            "corpus.quality.chinese.max_characters=1000000",
        ],
        ["read.corrupt_parquet", "1", "one 1", "no key", "load the file again, or write it anew"],
    ]


def figures(kept: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    return {"train": {"documents": kept - 1}, "heldout": {"documents": 1}, "dropped": dict(dropped)}


def test_a_source_that_lost_more_than_half_is_told_of_with_the_first_key() -> None:
    config = config_of(language="en")
    assert reasons.mostly_dropped({"mine": figures(50, {"quality.too_short": 50})}, config) == []
    [(sentence, reason)] = reasons.mostly_dropped(
        {"mine": figures(50, {"dedup.exact": 20, "quality.too_short": 31})}, config
    )
    assert reason == "quality.too_short"
    assert sentence == (
        "51 of 101 documents of mine were dropped, most (31) for quality.too_short: are these notes, lists or mails? "
        "then ++corpus.sources.mine.content=notes; else corpus.quality.prose.min_words=50 says so, and "
        "corpus.quality.prose.min_words=25 drops fewer"
    )
    [(sentence, _)] = reasons.mostly_dropped({"mine": figures(1, {"read.corrupt_parquet": 9})}, config)
    assert sentence.endswith("for read.corrupt_parquet: no key governs it: load the file again, or write it anew")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("too_short", "quality.too_short"),
        ("quality.too-short", "quality.too_short"),
        ("Quality.Too_Shrt", "quality.too_short"),
        ("bulets", "quality.bullets"),
        ("dedup.exat", "dedup.exact"),
        ("xyz", None),
        ("", None),
    ],
)
def test_a_reason_that_is_nearly_one(asked: str, meant: str | None) -> None:
    assert reasons.nearest(asked, ["quality.too_short", "quality.bullets", "dedup.exact"]) == meant


def test_a_further_pass_is_told_by_the_passes() -> None:
    recipe = CleaningRecipe()
    config = config_of()
    asked = dataclasses.replace(
        config, corpus=dataclasses.replace(config.corpus, passes=[type("P", (), {"name": "shouting"})()])
    )
    [setting] = reasons.governs("quality.shouting", "mine", asked).settings
    assert (setting.now, setting.override) == ("corpus.passes=[shouting]", "'corpus.passes=[]'")
    assert recipe.passes == []


def test_the_notes_of_the_tests_are_judged_by_the_thresholds_of_the_recipe() -> None:
    assert judge_notes(
        ["- milk"], with_override(config_of(), f"{QUALITY}.notes.min_characters=5").corpus.quality.notes
    ) == [None]
