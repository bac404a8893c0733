"""A search in a study is checked before it has proposed any trial, by the ends of its space."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.sandbox.ledger import StudyState
from pipelines.train.studies import STUDIES
from tests.unit.toy_study import TOY, sandbox
from workflows.sandbox import data_of
from workflows.studies import study_state


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, "toy", TOY)


def foreseen(space: dict[str, Any], **search: Any) -> StudyState:
    state = study_state("toy", sandbox({"vary": {}, "search": {"trials": 4, "space": space, **search}}))
    state.plan(state.trials, None)
    state.foresee(None)
    return state


def test_the_ends_of_a_space_stand_for_its_proposals() -> None:
    state = foreseen({"schedule.peak_lr": {"log": [0.001, 0.1]}, "model.layers": {"whole": [2, 6]}})
    assert state.trials == []
    models = [(runs[-1].model.layers, runs[-1].schedule.peak_lr) for _, runs in state.foreseen]
    assert models == [(2, 0.001), (6, 0.1)]
    assert data_of([state]) == ["mixture/wind_tunnel_stable"]


@pytest.mark.parametrize(
    ("space", "search", "words"),
    [
        ({"model.nope": {"log": [1, 2]}}, {}, "unknown key model.nope"),
        ({"model.layers": {"linear": [1, 2]}}, {}, "model.layers is 1.0"),
        ({"schedule.peak_lr": {"log": [0.001, 0.1]}}, {"prune": {"rungs": [10, 10**6]}}, "rungs before its last step"),
    ],
)
def test_a_search_that_no_trial_could_follow_is_refused(
    space: dict[str, Any], search: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        foreseen(space, **search)


def test_a_study_whose_name_is_no_folder_is_refused() -> None:
    study = sandbox({}).studies["toy"]
    with pytest.raises(ConfigError, match="is called 'a/b'; expected letters"):
        type(sandbox({}))(**{**vars(sandbox({})), "studies": {"a/b": study}})
