"""A search finds a planted optimum, goes on where a killed driver left it, and ends early what is behind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipelines.config import parse
from pipelines.errors import ConfigError
from pipelines.store.storage import FolderStorage
from pipelines.train.sandbox.search import Search, Told, curve_value, is_pruned
from pipelines.train.sandbox.space import SearchSettings, check_search, outermost

SPACE = {"model.init_std": {"log": [0.01, 1.0]}, "model.scale_emb": {"linear": [1.0, 30.0]}}
KEY = "sandbox/x/hparams"


def settings(**changes: object) -> SearchSettings:
    return parse(SearchSettings, {"trials": 30, "space": SPACE, **changes})


def planted(values: object) -> float:
    """Lowest at 0.1 and 12."""
    assert isinstance(values, dict)
    return 2 + math.log10(values["model.init_std"] / 0.1) ** 2 + ((values["model.scale_emb"] - 12) / 20) ** 2


def finish(search: Search) -> None:
    while asked := search.ask():
        search.tell(asked.number, planted(asked.values), "finished")


def test_a_planted_optimum_is_found(tmp_path: Path) -> None:
    search = Search(settings(), FolderStorage(tmp_path), KEY)
    finish(search)
    best = search.best()
    assert best is not None
    assert 0.05 < best[0].values["model.init_std"] < 0.2
    assert best[1] == pytest.approx(planted(best[0].values), abs=1e-12)
    assert search.left == 0
    assert search.ask() is None


def test_proposals_depend_on_seed_number_and_what_was_told(tmp_path: Path) -> None:
    def proposals(folder: str, seed: int) -> list[object]:
        search, made = Search(settings(trials=14), FolderStorage(tmp_path / folder), KEY, seed=seed), []
        while asked := search.ask():
            made.append(asked)
            search.tell(asked.number, planted(asked.values), "finished")
        return made

    first = proposals("a", 0)
    assert proposals("b", 0) == first
    assert proposals("c", 1) != first
    assert len({str(asked) for asked in first}) == 14


def test_a_killed_driver_leaves_its_open_trials_to_the_next(tmp_path: Path) -> None:
    whole = Search(settings(trials=6), FolderStorage(tmp_path / "whole"), KEY)
    expected = [whole.ask() for _ in range(6)]
    killed = Search(settings(trials=6), FolderStorage(tmp_path / "killed"), KEY)
    assert [killed.ask() for _ in range(4)] == expected[:4]
    killed.tell(1, 2.0, "finished")
    killed.tell(2, None, "failed")
    again = Search(settings(trials=6), FolderStorage(tmp_path / "killed"), KEY)
    assert again.left == 5
    assert [again.ask() for _ in range(3)] == [expected[0], expected[2], expected[3]]
    assert again.ask() is not None
    assert again.ask() is not None
    assert again.ask() is None


def test_more_trials_are_asked_of_a_search_that_was_done(tmp_path: Path) -> None:
    finish(Search(settings(trials=3), FolderStorage(tmp_path), KEY))
    more = Search(settings(trials=5), FolderStorage(tmp_path), KEY)
    assert more.left == 2
    asked = more.ask()
    assert asked is not None
    assert asked.number == 3


def test_every_kind_of_value_is_proposed(tmp_path: Path) -> None:
    space = {"a": {"whole": [2, 5]}, "b": {"choices": ["x", "y"]}, "c": {"linear": [0, 1]}, "d": {"choices": [True, 3]}}
    start = {"a": 2, "b": "y", "c": 0.5, "d": True}
    search = Search(settings(trials=20, space=space, start=[start]), FolderStorage(tmp_path), KEY)
    proposed = []
    while asked := search.ask():
        proposed.append(asked.values)
        search.tell(asked.number, float(asked.values["a"]), "finished")
    assert proposed[0] == start
    assert {type(values["a"]) for values in proposed} == {int}
    assert {values["a"] for values in proposed} == {2, 3, 4, 5}
    assert {values["b"] for values in proposed} == {"x", "y"}
    assert outermost(settings(space=space, start=[start])) == [
        {"a": 2, "b": "x", "c": 0.0, "d": True},
        {"a": 5, "b": "y", "c": 1.0, "d": 3},
        start,
    ]


def test_published_values_are_proposed_first(tmp_path: Path) -> None:
    start = {"model.init_std": 0.1, "model.scale_emb": 12}
    search = Search(settings(trials=2, start=[start]), FolderStorage(tmp_path), KEY)
    asked = search.ask()
    assert asked is not None
    assert asked.values == start
    other = search.ask()
    assert other is not None
    assert other.values != start
    assert search.ask() is None


def test_a_trial_is_over_when_all_its_seeds_are(tmp_path: Path) -> None:
    search = Search(settings(), FolderStorage(tmp_path), KEY, seeds=(0, 1, 2))
    asked = search.ask()
    assert asked is not None
    search.tell(asked.number, 2.0, "finished", seed=0)
    search.tell(asked.number, 4.0, "finished", seed=2)
    assert search.best() is None
    search.tell(asked.number, 3.0, "finished", seed=1)
    best = search.best()
    assert best is not None
    assert best[1] == 3.0


def test_a_diverged_trial_counts_as_the_worst_and_is_never_the_best(tmp_path: Path) -> None:
    search = Search(settings(), FolderStorage(tmp_path), KEY)
    for status, value in (("diverged", None), ("finished", math.nan), ("finished", None)):
        asked = search.ask()
        assert asked is not None
        search.tell(asked.number, value, status)  # type: ignore[arg-type]
    assert search.best() is None
    asked = search.ask()
    assert asked is not None
    search.tell(asked.number, 9.0, "finished")
    assert search.best() == (asked, 9.0)


def test_trials_behind_at_a_rung_are_ended(tmp_path: Path) -> None:
    prune = {"rungs": [10, 20], "keep": 0.5, "after_trials": 2}
    search = Search(settings(prune=prune), FolderStorage(tmp_path), KEY)
    numbers = [asked.number for _ in range(5) if (asked := search.ask())]
    assert not search.report(numbers[0], 10, 3.0)
    assert not search.report(numbers[1], 10, 4.0)  # fewer than two others yet
    assert search.report(numbers[2], 10, 5.0)
    assert not search.report(numbers[3], 10, 2.0)
    assert not search.report(numbers[3], 15, 99.0)  # no rung
    assert not search.report(numbers[3], 20, 99.0)  # nobody else has come so far
    search.tell(numbers[2], None, "pruned")
    # the next driver compares with what was measured at equal step before it
    again = Search(settings(prune=prune), FolderStorage(tmp_path), KEY)
    assert again.ask() is not None
    assert again.report(0, 10, math.nan)
    asked = again.ask()
    assert asked is not None
    assert again.report(asked.number, 10, 5.5)


def test_seeds_are_compared_with_their_like_and_end_together(tmp_path: Path) -> None:
    prune = {"rungs": [10], "keep": 0.5, "after_trials": 1}
    search = Search(settings(prune=prune), FolderStorage(tmp_path), KEY, seeds=(0, 1))
    assert search.ask() is not None
    assert search.ask() is not None
    assert not search.report(0, 10, 2.0, seed=0)
    assert not search.report(1, 10, 9.0, seed=1)  # no other trial has this seed there yet
    assert search.report(1, 10, 2.5, seed=0)
    assert search.report(1, 10, 0.0, seed=1)  # ended already
    search.tell(1, None, "pruned", seed=0)
    search.tell(1, None, "pruned", seed=1)  # told twice: nothing more
    search.tell(0, 1.0, "finished", seed=0)
    search.tell(0, 1.0, "finished", seed=1)
    assert search.best() is not None


def test_a_damaged_journal_is_kept_and_made_anew_from_the_receipts(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    search = Search(settings(trials=4), storage, KEY)
    past = []
    for number in range(3):
        asked = search.ask()
        assert asked is not None
        search.tell(number, float(number), "finished")
        if number != 1:  # its receipt is missing
            past.append(Told(number, asked.values, "finished", float(number)))
    (journal,) = (tmp_path / KEY).iterdir()
    journal.write_bytes(journal.read_bytes()[:-20])
    again = Search(settings(trials=4), storage, KEY, past=past)
    assert "no JSON" in again.warning
    assert len(list((tmp_path / KEY).iterdir())) == 2
    best = again.best()
    assert best is not None
    assert best == (best[0], 0.0)
    assert again.left == 2  # the lost one and the last
    asked = again.ask()
    assert asked is not None
    assert asked.number == 3


def test_the_journal_is_one_that_optuna_reads(tmp_path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    finish(Search(settings(trials=3), FolderStorage(tmp_path), KEY))
    (journal,) = (tmp_path / KEY).iterdir()
    study = optuna.load_study(study_name="search", storage=JournalStorage(JournalFileBackend(str(journal))))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3


def test_comparison_at_a_rung_by_hand() -> None:
    assert not is_pruned(3.0, [1.0, 2.0], 0.5, 3)
    assert is_pruned(3.0, [1.0, 2.0], 0.5, 2)  # two better of three: 2 >= 1.5
    assert not is_pruned(1.5, [1.0, 2.0], 0.5, 2)
    assert not is_pruned(1.0, [1.0, 1.0, 1.0], 0.5, 2)  # equal is not behind
    assert is_pruned(math.inf, [], 0.5, 2)


def test_curves_are_compared_by_the_mean_of_their_last_steps() -> None:
    curve = [{"step": step, "loss": float(step)} for step in range(1, 31)]
    assert curve_value(curve, 20) == 19.5
    assert curve_value(curve, 1) == 1.0
    assert math.isnan(curve_value([], 5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {}}, "search.space is empty"),
        ({"trials": 0}, "trials is 0"),
        ({"space": {"a.b": {}}}, "search.space.a.b has nothing; expected one of log, linear, whole, choices"),
        ({"space": {"a.b": {"log": [1, 2], "linear": [1, 2]}}}, "has log, linear"),
        ({"space": {"a.b": {"log": [0, 2]}}}, "space.a.b.log.0. is 0; expected a number above 0"),
        ({"space": {"a.b": {"whole": [2, 2]}}}, "expected the lowest value, then a higher one"),
        ({"space": {"a.b": {"whole": [2, 2.5]}}}, "expected a whole number"),
        ({"space": {"a": {"whole": [2, 4]}}, "start": [{"a": 2.5}]}, r"start\[0\].a is 2.5"),
        ({"space": {"a.b": {"linear": [2, 1]}}}, "expected the lowest value, then a higher one"),
        ({"space": {"a.b": {"linear": [1, math.nan]}}}, "finite"),
        ({"space": {"a.b": {"choices": [1]}}}, "two or more"),
        ({"space": {"a.b": {"choices": [1, math.nan]}}}, "two or more"),
        ({"space": {"a.b": {"choices": [[1], [2]]}}}, "two or more"),
        ({"start": [{"model.init_std": 0.1}]}, "expected those of space"),
        ({"start": [{"model.init_std": 5.0, "model.scale_emb": 2}]}, r"start\[0\].model.init_std is 5"),
        ({"prune": {"rungs": []}}, "rising steps"),
        ({"prune": {"rungs": [5, 5]}}, "rising steps"),
        ({"prune": {"rungs": [5, 100]}}, "a trial has 100 steps"),
        ({"space": {"schedule.peak_lr": {"log": [0.001, 1]}}}, "and in vary"),
        ({"sampler": "grid"}, "one of tpe, random"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_search(settings(**changes), varied=["schedule.peak_lr"], steps=100)
