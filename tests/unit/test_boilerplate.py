"""Boilerplate: lines that too many documents share go from all but the first, the same ones however the corpus is
cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from pipelines.data.corpus.assemble import dropped_examples
from pipelines.data.dedup.boilerplate import shared_lines
from pipelines.data.dedup.config import LinesConfig
from pipelines.data.dedup.lines import without
from tests.unit.test_corpus import article, config_of, make, rows, write

__all__ = ["write"]  # the fixture

FOOTER = "This page was printed from the archive of the town; all rights belong to those who wrote it."
MENU = "Home | News | Archive | About the town and its people | Contact the editors"


def test_shared_lines_by_hand() -> None:
    hashes = np.array([7, 7, 7, 5, 5, 9], np.uint64)
    nodes = np.array([4, 2, 3, 1, 2, 0])
    removed, counted = shared_lines(hashes, nodes, most=2)
    assert removed.tolist() == [(3, 7), (4, 7)]
    assert counted == [(7, 3)]


@pytest.mark.parametrize(("piece_bytes", "task_memory"), [(1 << 20, 1 << 30), (10_000, 2_000)])
def test_shared_lines_stay_in_the_first_document(
    tmp_path: Path, write: Any, piece_bytes: int, task_memory: int
) -> None:
    texts = [f"{MENU}\n{article(i)}\n{FOOTER}" for i in range(20)] + [f"{article(i)}\n{FOOTER}" for i in range(20, 24)]
    dedup = {"lines": {"max_documents": 20}, "task_memory": task_memory}
    config = config_of({"web": write("web", texts, heldout=0)}, dedup=dedup, piece_bytes=piece_bytes)
    corpus = make(tmp_path / "s", config)
    found = [row["text"] for row in rows(corpus, "train", "web")]
    # twenty documents have the menu, which is not more than twenty; the footer stays in the first alone
    assert found == [texts[0], *(text.removesuffix(f"\n{FOOTER}") for text in texts[1:])]
    told = corpus.statistics["dedup"]["boilerplate"]
    assert (told["removed"], told["distinct"], told["documents"]) == (23, 1, 23)
    assert told["examples"] == [{"text": FOOTER, "documents": 24}]


def test_what_is_left_empty_is_dropped_and_what_is_left_alike_is_a_copy(tmp_path: Path, write: Any) -> None:
    shared = "\n".join(article(900).splitlines())
    texts = [shared, shared + "\n" + article(1), shared, article(1), *(article(i) for i in range(2, 12))]
    dedup = {"lines": {"max_documents": 2, "min_characters": 10}}
    corpus = make(tmp_path / "s", config_of({"web": write("web", texts, heldout=0, max_documents=10)}, dedup=dedup))
    facts = corpus.statistics["sources"]["web"]
    assert facts["dropped"] == {"dedup.exact": 1, "quality.boilerplate": 1}
    assert facts["train"]["documents"] == 8  # the cap is of what passed the rules, before anything was removed
    assert facts["capped"]
    examples, _ = dropped_examples(corpus, "quality.boilerplate")
    assert [row["where"] for row in examples] == ["web/2"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\n\nX\n\nb", "a\n\nb"),  # never a run of blank lines that neither side had
        ("a\nX\nb", "a\nb"),
        ("a\n\nX\nb", "a\n\nb"),
        ("a\n\nX\n\nY\n\nX\n\nb", "a\n\nb"),
        ("X\n\na\n\nX", "a"),
        ("X\n\nX", ""),
        ("a\n\n\nX\n\nb\n\n\nc", "a\n\n\nb\n\n\nc"),  # code: what lies elsewhere stays as it was
        ("X\na\n", "a\n"),
        ("a\n\nX\n", "a\n"),
        ("  a\n \nX\n\nb  ", "  a\n\nb  "),
    ],
)
def test_what_is_left_equals_a_text_that_never_had_the_lines(text: str, left: str) -> None:
    gone = {xxhash.xxh3_64_intdigest(line) for line in ("X", "Y")}
    alone = all(part in ("X", "Y") or not {"X", "Y"} & set(part) for part in text.strip("\n").split("\n\n"))
    for unit in ("line", "paragraph") if alone else ("line",):
        lines = LinesConfig(unit=unit, min_characters=1)  # type: ignore[arg-type]
        assert without(text, lines, gone) == left, unit
        assert without(left, lines, gone) == left, unit


def test_copies_with_and_without_the_shared_lines_are_exact_copies(tmp_path: Path, write: Any) -> None:
    shared = [f"{MENU}\n\n{article(i)}\n\n{FOOTER}" for i in range(6)]
    texts = [*shared, f"{article(1)}\n\n{FOOTER}\n\n{article(40)}", f"{article(1)}\n\n{article(40)}", article(3)]
    for unit in ("line", "paragraph"):
        dedup = {"lines": {"max_documents": 2, "unit": unit}}
        source = write(f"web-{unit}", texts, heldout=0, duplicates="exact")
        corpus = make(tmp_path / unit, config_of({"web": source}, dedup=dedup))
        found = [row["text"] for row in rows(corpus, "train", "web")]
        assert found[1] == article(1)
        assert not any("\n\n\n" in text for text in found)
        assert corpus.statistics["sources"]["web"]["dropped"] == {"dedup.exact": 2}


def test_what_is_left_is_judged_again_by_name(tmp_path: Path, write: Any) -> None:
    lines = [line for i in range(60, 64) for line in article(i).splitlines()]
    texts = ["\n".join([*lines, f"Only this line is its own, and it has the number {i}."]) for i in range(6)]
    texts += [article(i) for i in range(70, 74)]
    config = config_of({"web": write("web", texts, heldout=0)}, dedup={"lines": {"max_documents": 2}})
    corpus = make(tmp_path / "s", config)
    assert corpus.statistics["sources"]["web"]["dropped"] == {"quality.too_short": 5}
    assert [row["text"] for row in rows(corpus, "train", "web")] == [texts[0], *texts[6:]]
    examples, _ = dropped_examples(corpus, "quality.too_short")
    assert [row["text"] for row in examples] == [text.splitlines()[-1] for text in texts[1:6]]


def test_it_is_off_by_default_and_spares_sources_that_keep_their_copies(tmp_path: Path, write: Any) -> None:
    texts = [f"{article(i)}\n{FOOTER}" for i in range(8)]
    off = make(tmp_path / "off", config_of({"web": write("web", texts, heldout=0)}))
    assert off.statistics["dedup"]["boilerplate"] is None
    keep = config_of({"web": write("kept", texts, heldout=0, duplicates="keep")}, dedup={"lines": {"max_documents": 2}})
    assert [row["text"] for row in rows(make(tmp_path / "keep", keep), "train", "web")] == texts
