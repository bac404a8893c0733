"""Ordinary notes survive the rules of notes, and what no one wrote by hand does not; prose drops most of both."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.data.cleaning.config import CleaningRecipe
from pipelines.data.cleaning.notes import NotesRules, judge_notes
from pipelines.data.cleaning.passes import clean_batch
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.text.document import Document, Dropped
from tests.notes_sample import junk, notes


def dropped(texts: dict[str, str], content: str) -> dict[str, str]:
    """Name -> reason, of those that the passes of a corpus drop."""
    source = SourceConfig(licence="MIT", content=content, reader=ReaderConfig(type="files", path="notes"))
    documents = [Document(text=text, id=name, metadata={}) for name, text in texts.items()]
    results = zip(texts, clean_batch(documents, source, CleaningRecipe()), strict=True)
    return {name: result.reason for name, result in results if isinstance(result, Dropped)}


def test_every_ordinary_note_stays_and_all_junk_goes() -> None:
    assert len(notes()) == 67
    assert len(junk()) == 40
    assert dropped(notes(), "notes") == {}
    assert junk().keys() - dropped(junk(), "notes").keys() == set()


def test_the_rules_of_prose_are_what_they_were() -> None:
    """They judge pages; most notes break them, which is why notes have rules of their own."""
    assert Counter(dropped(notes(), "prose").values()) == {
        "quality.too_short": 39,
        "quality.line_punctuation": 10,
        "quality.alphabetic_ratio": 6,
    }


def test_the_layout_of_a_note_stays() -> None:
    text = "# Steps\n\n- one, with a hard break  \n    - nested\n\n\n```\nls   -l\n```"
    source = SourceConfig(licence="MIT", content="notes", reader=ReaderConfig(type="files", path="notes"))
    [kept] = clean_batch([Document(text=text, id="a", metadata={})], source, CleaningRecipe())
    assert isinstance(kept, Document)
    assert kept.text == text


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        ("", NotesRules(), "quality.empty"),
        ("four", NotesRules(), "quality.too_short"),
        ("four", NotesRules(min_characters=4), None),
        ("eleven more", NotesRules(max_characters=9), "quality.too_long"),
        # 6 letters and 8 figures; the bars and the dash are layout
        ("| total | 1234 |\n|---|---|\n| a | 5678 |", NotesRules(), "quality.alphabetic_ratio"),
        ("| total | 1234 |\n|---|---|\n| a | 5678 |", NotesRules(min_letter_share=0.4), None),
        # 16 of 26 letters and figures are a checksum
        ("the sum is: a3f09c2b77de41f0", NotesRules(), "quality.coded"),
        ("the sum is: a3f09c2b77de41f0", NotesRules(max_coded_share=0.7, min_letter_share=0.1), None),
        # three lines of four occurred before, figures apart
        ("step 1 of all\nstep 2 of all\nstep 3 of all\nstep 4 of all", NotesRules(), "quality.repeated_lines"),
        ("step 1 of all\nstep 2 of all", NotesRules(), None),
        ("so it goes " * 40, NotesRules(), "quality.repeated_words"),
        ("so it goes " * 33, NotesRules(), None),
        ("Lorem ipsum dolor sit amet", NotesRules(), "quality.lorem_ipsum"),
        ("Lorem ipsum dolor sit amet", NotesRules(lorem_ipsum=False), None),
    ],
)
def test_each_rule_at_its_threshold(text: str, rules: NotesRules, reason: str | None) -> None:
    assert judge_notes([text], rules) == [reason]
