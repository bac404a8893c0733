"""No sample holds personal data or a half of it, wherever the text was cut and whatever its source keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.data.cleaning.excerpts import excerpt, excerpt_of_unread, name_shown, passage
from pipelines.data.text.document import EXCERPT, RAW_EXCERPT
from tests.unit.test_corpus import article, config_of, make, near_copy, rows, write

__all__ = ["write"]  # the fixture

PERSONAL = {
    "<email>": "jane.the.elder@mail.example.org",
    "<phone>": "+44 20 7946 0958",
    "<id>": "11010519491231002X",
    "<ip>": "93.184.216.34",
    "<card>": "4111 1111 1111 1111",
}


@pytest.mark.parametrize(("placeholder", "datum"), PERSONAL.items())
def test_a_cut_at_any_place_leaves_no_half(placeholder: str, datum: str) -> None:
    parts = [datum[i : i + 5] for i in range(len(datum) - 4)]
    for before in range(EXCERPT - len(datum) - 2, EXCERPT + 3):
        shown = excerpt("x " * (before // 2) + " " * (before % 2) + datum + " and so on, until the end. " * 40)
        assert not any(part in shown for part in parts)
        assert (placeholder in shown) == (before < EXCERPT)
        assert EXCERPT <= len(shown) <= EXCERPT + len(placeholder)


@pytest.mark.parametrize(("placeholder", "datum"), PERSONAL.items())
def test_a_passage_that_begins_or_ends_within_one_shows_none_of_it(placeholder: str, datum: str) -> None:
    text = f"前言 {datum} 后记".encode()
    begin = text.index(datum.encode())
    for inside in range(1, len(datum)):
        assert passage(text, begin + inside, len(text), 100) == f"{placeholder} 后记"
        assert passage(text, 0, begin + inside, 100) == f"前言 {placeholder}"


@pytest.mark.parametrize("form", ["plain", "json", "ascii", "bytes", "utf-16", "invisible"])
@pytest.mark.parametrize(("placeholder", "datum"), PERSONAL.items())
def test_what_no_reader_could_read_is_masked_however_it_is_written(placeholder: str, datum: str, form: str) -> None:
    text = f'电话\n{datum}\t"x"'
    written = {
        "plain": text,
        "json": json.dumps(text, ensure_ascii=False),
        "ascii": json.dumps(text),
        "bytes": repr(text.encode("gb18030")),
        "utf-16": repr(text.encode("utf-16")),
        "invisible": "\u200b".join(text),
    }[form]
    shown = excerpt_of_unread(written)
    assert placeholder in shown
    assert not any(datum[i : i + 6] in shown for i in range(len(datum) - 5))


def test_an_end_that_the_reader_cut_is_not_shown() -> None:
    for datum in PERSONAL.values():
        line = f"{datum}, " * 200
        for raw in (
            line[:RAW_EXCERPT],
            f"not JSON at 7: {line[:RAW_EXCERPT]}",
            ("汉字 " + line).encode()[:RAW_EXCERPT].decode(),
        ):
            shown = excerpt_of_unread(raw)
            assert not any(datum[i : i + 5] in shown for i in range(len(datum) - 4))


def test_names_are_masked_too_but_numbers_stay() -> None:
    assert name_shown("mail/jane@example.org") == "mail/<email>"
    assert name_shown("web/a.jsonl@4111111111111111") == "web/a.jsonl@4111111111111111"
    assert name_shown("web/\ud800") == "web/?"


def test_nothing_a_corpus_shows_holds_personal_data_even_where_its_source_keeps_it(tmp_path: Path, write: Any) -> None:
    """Samples of every kind: unread, unfit, contaminated, exact and near copies, boilerplate, cut in the middle of an
    address.
    """
    jane, phone, card = "jane.the.elder@mail.example.org", "+44 20 7946 0958", "4111 1111 1111 1111"
    long, footer = (
        article(1),
        f"Write to {jane} or call {phone}, or send {card}; this line stands under every page of the town.",
    )
    at_the_cut = f"{long[:390]} {jane} {long[390:]}"
    exam = f"Alone {card} she wrote to {jane} about seven grey geese and nine brown hens that ran far away from them."
    texts = [
        at_the_cut,
        at_the_cut,
        near_copy(at_the_cut),
        f"{'short ' * 3}{jane} {phone}",
        f"{article(2)}\n{exam[6:]}",
    ]
    texts += [f"{article(i)}\n{footer}" for i in range(10, 16)]
    source = write("web", texts, heldout=0, pii="keep")
    with (tmp_path / "raw" / "web" / "000.jsonl").open("a", encoding="utf-8") as file:
        file.write(f'{{"text": "{"x" * 1170}{jane}\n' + json.dumps({"body": f"call\n{phone} or {jane}"}) + "\n")
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": exam}) + "\n", encoding="utf-8")
    exams = {"sets": {"exam": {"reader": {"type": "files", "path": str(tmp_path / "exam.jsonl")}}}}
    config = config_of({"web": source}, dedup={"lines": {"max_documents": 3}}, decontaminate=exams)
    corpus = make(tmp_path / "s", config)
    dropped = corpus.statistics["sources"]["web"]["dropped"]
    assert set(dropped) >= {"read.not_json", "quality.too_short", "contaminated.exam", "dedup.exact", "dedup.near"}
    assert corpus.statistics["dedup"]["boilerplate"]["removed"] == 5
    shown = [
        json.dumps(corpus.statistics, ensure_ascii=False),
        corpus.path("data_card.html").read_text(encoding="utf-8"),
    ]
    for file in ("dropped/web.parquet", "contamination.parquet", "duplicates/clusters.parquet"):
        shown.append(json.dumps(pq.read_table(corpus.path(file)).to_pylist(), ensure_ascii=False))
    for datum in (jane, phone, card):
        assert datum in "".join(row["text"] for row in rows(corpus, "train", "web"))  # as its source asked
        for text in shown:
            parts = [datum[i : i + 8] for i in range(len(datum) - 7)]
            assert [text[at - 60 : at + 60] for part in parts if (at := text.find(part)) >= 0] == []
