"""What a batch of documents becomes: masked, named, judged; each document on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import parse
from pipelines.data.cleaning.passes import clean_batch
from pipelines.data.corpus.recipe import CorpusConfig, CorpusRecipe
from pipelines.data.text.document import Document, Dropped
from pipelines.errors import ConfigError

ENGLISH = (
    "The committee met on Tuesday to discuss the new bridge that will cross the river near the old mill. Several "
    "members said that the cost was too high, and they asked for a second plan with fewer pillars. The engineer "
    "answered that a lighter bridge would not carry the trucks which bring stone from the quarry. After two hours of "
    "debate the chair proposed to visit the place."
)
SIMPLIFIED = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。汉朝自高祖斩白蛇而起义，一统天下，后来光武中兴，传至献帝，遂分为三国。"
TRADITIONAL = "話說天下大勢，分久必合，合久必分。周末七國分爭，並入於秦。及秦滅之後，楚、漢分爭，又並入於漢。漢朝自高祖斬白蛇而起義，一統天下，後來光武中興，傳至獻帝，遂分為三國。"


def clean(texts: list[str], metadata: list[dict[str, Any]] | None = None, **source: Any) -> list[Document | Dropped]:
    recipe = parse(
        CorpusRecipe, {"sources": {"s": {"licence": "MIT", "reader": {"type": "files", "path": "x.jsonl"}, **source}}}
    )
    notes = metadata or [{} for _ in texts]
    documents = [Document(text=t, id=f"s/{i}", metadata=m) for i, (t, m) in enumerate(zip(texts, notes, strict=True))]
    return clean_batch(documents, recipe.sources["s"], recipe)


def test_personal_data_is_masked_in_web_text_or_when_asked() -> None:
    text = ENGLISH + " Write to jane@example.org or call 415-555-2671, jane@example.org again."
    for source, masked in (
        ({"content": "web"}, True),
        ({}, False),
        ({"pii": "mask"}, True),
        ({"content": "web", "pii": "keep"}, False),
        ({"reader": {"type": "files", "path": "crawl/*.warc.gz"}}, True),
        ({"reader": {"type": "files", "path": "pages", "format": "html"}}, True),
        ({"reader": {"type": "files", "path": "pages.txt", "format": "text"}}, False),
    ):
        (found,) = clean([text], [{"masked": "a field of the record's own"}], **source)
        assert isinstance(found, Document)
        assert ("<email> or call <phone>, <email> again" in found.text) is masked
        assert found.metadata.get("masked") == ({"email": 2, "phone": 1} if masked else None)


def test_samples_of_what_is_dropped_hold_no_personal_data() -> None:
    (found,) = clean(["Too short: jane@example.org"], content="web", language="en")
    assert found == Dropped("quality.too_short", "s/0", "Too short: <email>")


def test_turns_are_masked_and_normalised_where_they_are_kept() -> None:
    turns = [{"role": "user", "content": "Wer ist\r\n13812345678?"}, {"role": "assistant", "content": "me@x.org"}]
    (found,) = clean([""], [{"messages": turns}], kind="conversations", language="en", pii="mask")
    assert isinstance(found, Document)
    assert [turn["content"] for turn in found.metadata["messages"]] == ["Wer ist\n<phone>?", "<email>"]
    assert found.text == "Wer ist\n<phone>?\n<email>"
    assert found.metadata["masked"] == {"phone": 1, "email": 1}


def test_the_script_of_chinese_is_noted_whatever_the_source_declares() -> None:
    for source in ({}, {"language": "zh"}, {"language": "zh", "content": "math"}):
        found = clean([SIMPLIFIED, TRADITIONAL, ENGLISH], **source)
        assert [item.metadata.get("script") for item in found[:2] if isinstance(item, Document)] == ["hans", "hant"]
    problem = {"type": "generated", "generator": "chinese_problems", "count": 1}
    (short,) = clean(
        ["小明有三个苹果，又买了五个，问一共有几个？答：八个。"], language="zh", content="math", reader=problem
    )
    assert isinstance(short, Document)
    assert short.metadata == {"script": "hans", "language": "zh"}


def test_other_languages_are_dropped_and_the_order_stays() -> None:
    found = clean(["", SIMPLIFIED, "kurz", ENGLISH], language="en")
    assert [item.reason if isinstance(item, Dropped) else item.text for item in found] == [
        "quality.empty",
        "language.other",
        "quality.too_short",
        ENGLISH,
    ]


def test_lines_of_notices_are_taken_out_of_web_pages_only() -> None:
    text = ENGLISH + "\nThis site uses cookies."
    for content, expected in (("web", ENGLISH), ("prose", text)):
        (found,) = clean([text], content=content, language="en")
        assert isinstance(found, Document)
        assert found.text == expected


def test_a_language_that_the_detector_cannot_name_is_what_it_is_declared_to_be() -> None:
    declaration = json.loads((Path(__file__).parent / "declaration.json").read_text(encoding="utf-8"))
    for declared, like in (("dz", "bo"), ("ti", "am"), ("yue", "zh"), ("lzh", "zh")):
        (found,) = clean([declaration[like]], language=declared)
        assert isinstance(found, Document), (declared, found)
        assert found.metadata["language"] == declared
    (other,) = clean([declaration["ru"]], language="th")
    assert isinstance(other, Dropped)
    assert other.reason == "language.other"


def test_what_the_detector_cannot_name_is_not_to_be_accepted() -> None:
    source = {"s": {"licence": "MIT", "reader": {"type": "files", "path": "x.jsonl"}}}
    recipe = {"sources": source, "language": {"accept": ["en", "zh-TW"]}}
    with pytest.raises(ConfigError, match="accept names zh-TW, which the detector cannot name"):
        parse(CorpusConfig, {"name": "x", "corpus": recipe})
