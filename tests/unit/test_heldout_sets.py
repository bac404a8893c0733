"""Numbers are ranked together only where they were measured on the same held-out text in the same way."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.display.report.claims import claims
from pipelines.display.report.results import StageResult, sets_explained
from pipelines.train.results.heldout import heldout_set, mixed_sets

CONFIG: dict[str, Any] = {
    "parent": "anneal/a@step-10",
    "tokens": "tokens/demo",
    "sequence_length": 128,
    "tasks": {"text": {"max": 9}},
}
READ = {"tokens/demo": "cdb49c3711afb883", "anneal/a": "df5da4fd6625e47f"}


def test_one_set_whatever_is_evaluated() -> None:
    """Neither the checkpoint nor other tasks are part of the name; a default that is written out changes nothing."""
    name = heldout_set(CONFIG, READ)
    assert name.startswith("tokens/demo ")
    other = {**CONFIG, "parent": "anneal/b@step-7", "seed": 0, "tasks": {"text": {"max": 9}, "completions": {"max": 2}}}
    assert heldout_set(other, {**READ, "anneal/a": "0", "anneal/b": "1"}) == name


def test_how_many_pairs_are_compared_is_part_of_the_name() -> None:
    """Where it is not as usual: then other pairs count, and preference accuracies are not of one set."""
    text = CONFIG["tasks"]
    assert heldout_set({**CONFIG, "tasks": {**text, "preferences": {}}}, READ) == heldout_set(CONFIG, READ)
    assert heldout_set({**CONFIG, "tasks": {**text, "preferences": {"max_pairs": 9}}}, READ) != (
        heldout_set(CONFIG, READ)
    )


@pytest.mark.parametrize(
    "change", [{"sequence_length": 256}, {"seed": 1}, {"tasks": {"text": {"max": 10}}}, {"tasks": {}}]
)
def test_another_way_to_measure_is_another_set(change: dict[str, object]) -> None:
    """The window, the seed that draws, and how much is read decide which text counts."""
    assert heldout_set({**CONFIG, **change}, READ) != heldout_set(CONFIG, READ)


def test_other_tokens_of_the_same_name_are_another_set() -> None:
    """`tokens/demo` of another store, or made anew, may hold other documents out."""
    assert heldout_set(CONFIG, {**READ, "tokens/demo": "ffff"}) != heldout_set(CONFIG, READ)


def test_a_report_compares_no_numbers_of_two_sets() -> None:
    """One set is no news; of two the checkpoints of each are named, and no claim is made across them."""
    number = {"value": 1.5, "better": "lower", "share": False, "unit": "bits per byte", "column": None, "heading": ""}
    evaluation = {"tasks": {"text": {"numbers": {"bits_per_byte": number}}}}

    def at(kind: str, heldout: str) -> StageResult:
        return StageResult(kind=kind, reference=f"{kind}/a", tokens_end=9, evaluation=evaluation, heldout=heldout)

    same = [at("pretrain", "tokens/demo 1"), at("anneal", "tokens/demo 1")]
    assert sets_explained(same) == ""
    assert claims(same)[0].holds is False  # 1.5 is not below 1.5
    mixed = [at("pretrain", "tokens/demo 1"), at("anneal", "tokens/demo 2")]
    assert "tokens/demo 1: pretrain/a; tokens/demo 2: anneal/a" in sets_explained(mixed)
    assert claims(mixed)[0].holds is None
    assert "measured on different held-out sets" in claims(mixed)[0].numbers


def test_a_table_says_what_was_measured_on_what() -> None:
    """One set is no news; of two the checkpoints of each are named."""
    assert mixed_sets({"anneal/a": "tokens/demo 1", "anneal/b": "tokens/demo 1"}) == ""
    told = mixed_sets({"anneal/a": "tokens/demo 1", "anneal/b": "tokens/other 2", "sft/a": "tokens/demo 1"})
    assert "tokens/demo 1: anneal/a, sft/a; tokens/other 2: anneal/b" in told
