"""Evaluation sets are kept out: what counts as an overlap, in English and Chinese, and what does not."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import parse
from pipelines.data.cleaning.config import DecontaminationConfig
from pipelines.data.cleaning.decontaminate import Lookup, contents, gather, load, save
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.errors import ConfigError, DataError

QUESTION = "A farmer has seventeen sheep and all but nine of them run away; how many sheep are left over?"
CHINESE = "小明和小红一共收集了三十六张邮票，小明比小红多八张，问两人各有几张？"


def settings(folder: Path, items: list[dict[str, Any]], **options: Any) -> DecontaminationConfig:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    fields = options.pop("fields", ["question"])
    reader = {"type": "files", "path": str(path), "id_field": options.pop("id_field", None)}
    return parse(DecontaminationConfig, {"sets": {"exam": {"fields": fields, "reader": reader}}, **options})


def lookup(folder: Path, items: list[dict[str, Any]], **options: Any) -> Lookup:
    return Lookup(gather(settings(folder, items, **options)))


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not(tmp_path: Path) -> None:
    found = lookup(tmp_path, [{"question": QUESTION}], id_field=None)
    words = QUESTION.split()
    texts = [
        "Before. " + " ".join(words[2:15]) + " behind",
        "Before. " + " ".join(words[2:14]) + " behind",
        "x " + " ".join(words[:9]) + " other " + " ".join(words[9:]) + " y",
        "",
    ]
    overlap, *none = found.overlaps(texts)
    assert none == [None, None, None]
    assert overlap is not None
    assert (overlap.set, overlap.text) == ("exam", " ".join(words[2:15]))


def test_case_punctuation_and_layout_hide_nothing_and_the_whole_shared_text_is_reported(tmp_path: Path) -> None:
    found = lookup(tmp_path, [{"key": "q7", "question": QUESTION}], id_field="key")
    disguised = QUESTION.upper().replace(" ", "\n  ").replace(";", " -- ")
    (overlap,) = found.overlaps(["Naïve 前言 " + disguised + " 后记"])
    assert overlap is not None
    assert (overlap.item, overlap.text) == ("q7", disguised.rstrip("?"))


def test_chinese_is_compared_by_characters(tmp_path: Path) -> None:
    found = lookup(tmp_path, [{"question": CHINESE}])
    overlaps = found.overlaps([f"题目：{CHINESE[3:20]}……", f"题目：{CHINESE[3:15]}……"])
    assert overlaps[0] is not None
    assert overlaps[0].text == CHINESE[3:20].rstrip("，")
    assert overlaps[1] is None


def test_short_items_count_whole_and_very_short_ones_not(tmp_path: Path) -> None:
    eight, seven = "one two three four five six seven eight", "red orange yellow green blue indigo violet"
    found = lookup(tmp_path, [{"question": eight}, {"question": seven}])
    assert [o is not None for o in found.overlaps([f"a {eight} b", f"a {seven} b", eight[:-6]])] == [True, False, False]


def test_a_template_shared_by_many_items_is_no_overlap(tmp_path: Path) -> None:
    template = "Read the following passage with care and then choose the one answer that is right:"
    numbers = ["alpha beta gamma delta", "epsilon zeta eta theta", "iota kappa lambda mu", "nu xi omicron pi"]
    items = [{"question": f"{template} {' '.join([own] * 4)}"} for own in numbers]
    assert lookup(tmp_path, items, max_items=3).overlaps([template]) == [None]
    assert lookup(tmp_path, items, max_items=4).overlaps([template]) != [None]
    assert lookup(tmp_path, items, max_items=3).overlaps([" ".join([numbers[1]] * 4)]) != [None]


def test_a_passage_of_many_questions_is_no_template(tmp_path: Path) -> None:
    passage = (
        "The ferry left the northern harbour before dawn with nine passengers and a cargo of winter apples aboard."
    )
    items = [{"context": passage, "question": f"What do we learn of passenger number {n}?"} for n in range(5)]
    fields = ["context", "question"]
    (overlap,) = lookup(tmp_path, items, max_items=3, fields=fields).overlaps([f"Before. {passage} Behind."])
    assert overlap is not None
    assert overlap.text == passage.rstrip(".")


@pytest.mark.parametrize("hide", [lambda s: unicodedata.normalize("NFD", s), lambda s: s.replace("e", "e\u200b")])
def test_an_item_is_normalised_as_documents_are(tmp_path: Path, hide: Any) -> None:
    item = "là où les élèves étudient après le déjeuner à côté de la forêt près du café"
    assert lookup(tmp_path, [{"question": hide(item)}]).overlaps([item]) != [None]


def test_a_field_that_some_items_lack_is_no_mistake(tmp_path: Path) -> None:
    items = [{"question": "too short", "answer": None}, {"question": "too short", "answer": QUESTION}]
    assert lookup(tmp_path, items, fields=["question", "answer"]).overlaps([QUESTION]) != [None]


def test_several_fields_and_a_saved_table(tmp_path: Path) -> None:
    found = gather(settings(tmp_path, [{"question": "too short", "answer": QUESTION}], fields=["question", "answer"]))
    save(found, tmp_path / "grams.npz")
    assert load(tmp_path / "grams.npz").overlaps([QUESTION]) == Lookup(found).overlaps([QUESTION]) != [None]


def test_a_set_is_known_by_its_content(tmp_path: Path) -> None:
    before = contents(settings(tmp_path, [{"question": QUESTION}]))
    assert before == contents(settings(tmp_path, [{"question": QUESTION}]))
    assert before != contents(settings(tmp_path, [{"question": QUESTION.replace("nine", "five")}]))  # as many bytes


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([{"question": "too short"}], {}, "no item of 8 words or more in question: name other .*exam.fields"),
        ([{"prompt": QUESTION}], {}, "no record has text under 'question'"),
        ([], {}, "no record has text"),
        (
            [{"question": QUESTION, "choices": ["a", "b"]}],
            {"fields": ["question", "choices"]},
            "no record has text under 'choices'",
        ),
        (
            [{"question": QUESTION, "answer": QUESTION}],
            {"fields": ["question", "answr"]},
            "no record has text under 'answr'",
        ),
    ],
)
def test_a_set_with_nothing_to_look_for_is_refused(tmp_path: Path, items: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lookup(tmp_path, items, **options)


@pytest.mark.parametrize(
    ("decontaminate", "message"),
    [
        ({"ngram": 5}, "ngram is 5 and min_words 8"),
        ({"max_items": 0}, "max_items is 0"),
        ({"sets": {"x": {"fields": [], "reader": {"type": "files", "path": "x"}}}}, "fields is empty"),
        ({"sets": {"x": {"reader": {"type": "files"}}}}, "decontaminate.sets.x.reader.path is missing"),
        ({"sets": {"x": {"reader": {"type": "files", "path": "x", "record": "messages"}}}}, "sets.x.reader.record"),
    ],
)
def test_mistakes_are_named(decontaminate: Any, message: str) -> None:
    source = {"licence": "MIT", "reader": {"type": "files", "path": "x"}}
    with pytest.raises(ConfigError, match=message):
        parse(CorpusConfig, {"name": "t", "corpus": {"sources": {"s": source}, "decontaminate": decontaminate}})


def test_items_that_cannot_be_read_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, [{"question": QUESTION}, {"question": 7}, {"question": None}])
    with (tmp_path / "set.jsonl").open("a") as handle:
        handle.write("no json\n")
    assert gather(config).unread == {"exam": {"read.no_text": 2, "read.not_json": 1}}
    said = (
        "evaluation set exam: 3 of 4 records cannot be read, so nothing is compared with them: read.no_text 2, "
        "read.not_json 1"
    )
    assert said in capsys.readouterr().out


def test_a_set_behind_links_and_beside_its_card(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text(json.dumps({"question": QUESTION}) + "\n")
    folder = tmp_path / "exam [v2]"
    folder.mkdir()
    (folder / "test.jsonl").symlink_to("../blob")
    (folder / "README.md").write_text("the card of the set, which is no item of it and would take part in comparisons")
    for path in (folder, f"{folder}/*", folder / "test.jsonl"):
        reader = {"type": "files", "path": str(path)}
        config = parse(DecontaminationConfig, {"sets": {"exam": {"fields": ["question"], "reader": reader}}})
        assert len(gather(config).items) == 1
        assert contents(config) == {"exam": hashlib.sha256(_digest_of(tmp_path / "blob")).hexdigest()}


def _digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def test_a_missing_set_is_named_by_its_own_key(tmp_path: Path) -> None:
    reader = {"type": "files", "path": str(tmp_path / "gone")}
    config = parse(DecontaminationConfig, {"sets": {"exam": {"reader": reader}}})
    with pytest.raises(DataError, match=r"correct corpus\.decontaminate\.sets\.exam\.reader\.path"):
        contents(config)


def test_thai_letters_are_no_words(tmp_path: Path) -> None:
    item = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม"
    found = lookup(tmp_path, [{"question": item}])
    assert found.overlaps([f"ในตอนเช้า {item[:20]} ในตอนเย็น", f"ในตอนเช้า {item[5:]} ในตอนเย็น"])[0] is None
    overlap = found.overlaps([f"ในตอนเช้า {item[5:]} ในตอนเย็น"])[0]
    assert overlap is not None
    assert item[10:40] in overlap.text
    with pytest.raises(DataError, match="no item of 8 words"):
        lookup(tmp_path, [{"question": "สวัสดีตอนเช้า"}])  # three words
