"""The table of stages: a row that cannot be meant fails by the name of its entry, and every list follows from the
rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.checkpoint.average import AVERAGED
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.stages import STAGES, TRAINED, Stage, check_objectives, check_table, stage_named

ENTRIES = [field.name for field in dataclasses.fields(Stage)]


def row(**changes: Any) -> Stage:
    return dataclasses.replace(STAGES["sft"], **changes)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_row_that_misses_an_entry_fails_by_its_name(entry: str) -> None:
    entries = {name: getattr(STAGES["sft"], name) for name in ENTRIES if name != entry}
    with pytest.raises(TypeError, match=f"missing 1 required keyword-only argument: '{entry}'"):
        Stage(**entries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": "anew"}, r"STAGES\['new'\]\.starts names anew; there are fresh, branch, initialise"),
        ({"learning_rate": "mine"}, r"\.learning_rate names mine; there are own, parent, trunk"),
        ({"parents": ("sft", "sff")}, r"\.parents names sff; there are pretrain, anneal, sft, dpo, new, average"),
        ({"followed_by": "exprot"}, r"\.followed_by names exprot; there are pretrain, .*, None"),
        ({"parents": ()}, r"starts initialise with parents \(\); a fresh run has none"),
        ({"starts": "fresh"}, r"starts fresh with parents"),
        ({"starts": "branch"}, r"\.parents has average, which keeps no optimizer state to branch from"),
    ],
)
def test_a_row_that_names_what_there_is_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_table({**STAGES, "new": row(**changes)})


def test_an_objective_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"STAGES\['new'\]\.objective names dpoo; there are next_token, dpo"):
        check_objectives({**STAGES, "new": row(objective="dpoo")}, OBJECTIVES)


def test_a_row_may_name_itself_as_its_parent() -> None:
    check_table({**STAGES, "new": row(parents=("sft", "new"), followed_by="new")})


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="sftt is no training stage; there are pretrain, anneal, sft, dpo"):
        stage_named("sftt")


def test_the_lists_follow_from_the_rows() -> None:
    assert TRAINED == ("pretrain", "anneal", "sft", "dpo", "average")
    assert AVERAGED == ("pretrain", "anneal", "sft")
