"""Study hparams finds a planted valley, compares its best with the published values on fresh seeds, and says so when it
cannot.
"""

from __future__ import annotations

import dataclasses
import math

import matplotlib
import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.train.studies.hparams import HPARAMS, PUBLISHED, HparamsSettings
from pipelines.train.studies.hparams_reading import Point, flat_range, noise_of, points_of
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.studies.surface import Valley, fewest_points, valleys
from pipelines.train.trials.result import Status, TrialResult
from tests.planted import planted_trial

SETTINGS = HparamsSettings(bootstrap=100)
FLOOR = {"model.scale_depth": 1.4, "model.scale_emb": 12.0, "model.init_std": 0.1, "schedule.peak_lr": 0.03}
BENDS = {"model.scale_depth": 0.02, "model.scale_emb": 0.01, "model.init_std": 0.02, "schedule.peak_lr": 0.05}


def trial(
    values: dict[str, float], seed: int, *, round_: int = 0, noise: float = 0.003, status: Status = "finished"
) -> TrialResult:
    random = np.random.default_rng([seed, *(int(1e6 * value) for value in values.values())])
    loss = 2 + 0.05 * seed + sum(BENDS[key] * math.log2(value / FLOOR[key]) ** 2 for key, value in values.items())
    name = " ".join(f"{value:g}" for value in values.values()) + f" s{seed} r{round_}"
    planted = planted_trial(
        name, {100 * 2048: loss + random.normal(0, noise)}, seed=seed, settings=values, status=status
    )
    return dataclasses.replace(planted, round=round_)


def search(points: int = 40, seeds: int = 3, noise: float = 0.003) -> list[TrialResult]:
    random, made = np.random.default_rng(1), []
    tried = [dict(PUBLISHED)]
    tried += [{key: value * 2 ** random.normal(0, 1.2) for key, value in FLOOR.items()} for _ in range(points - 1)]
    for values in tried:
        made += [trial(values, seed, noise=noise) for seed in range(seeds)]
    return made


def both_rounds(results: list[TrialResult]) -> list[TrialResult]:
    assert HPARAMS.further is not None
    asked = HPARAMS.further(SETTINGS, results)
    return [*results, *(trial(dict(further.settings), further.seed, round_=1) for further in asked)]


def finding(outcome: Outcome, words: str) -> Finding:
    return next(found for found in outcome.findings if words in found.claim)


def test_planted_floors_are_found() -> None:
    outcome = HPARAMS.analyse(SETTINGS, search())
    for key, floor in FLOOR.items():
        found = finding(outcome, f"the best {key.rpartition('.')[2]} is")
        assert found.estimate is not None
        assert found.estimate.low <= floor <= found.estimate.high, key
        assert found.verdict == ("contradicted" if key == "schedule.peak_lr" else "reproduced"), key
        assert found.seeds == 3


def test_the_best_and_the_published_are_trained_again_with_fresh_seeds() -> None:
    results = search()
    assert HPARAMS.further is not None
    asked = HPARAMS.further(SETTINGS, results)
    assert [further.seed for further in asked] == [3, 4, 5, 3, 4, 5]
    assert asked[3].settings == PUBLISHED
    assert asked == HPARAMS.further(SETTINGS, results)
    outcome = HPARAMS.analyse(SETTINGS, both_rounds(results))
    found = finding(outcome, "as good as")
    assert found.estimate is not None
    # the planted price of 0.01 where 0.03 is best
    assert found.estimate.value == pytest.approx(0.05 * math.log2(3) ** 2, abs=0.04)
    assert (found.verdict, found.seeds) == ("contradicted", 3)
    proposed = {proposal.key: proposal.value for proposal in outcome.proposals}
    assert proposed["schedule.peak_lr"] == pytest.approx(0.03, rel=0.5)


def test_published_values_stay_where_nothing_is_better() -> None:
    alike = [trial({**FLOOR, "schedule.peak_lr": lr}, seed) for seed in range(3) for lr in (0.029, 0.03, 0.031)]
    settings = dataclasses.replace(SETTINGS, published=FLOOR)
    assert HPARAMS.further is not None
    asked = HPARAMS.further(settings, alike)
    results = [*alike, *(trial(dict(further.settings), further.seed, round_=1) for further in asked)]
    outcome = HPARAMS.analyse(settings, results)
    assert {proposal.value for proposal in outcome.proposals} <= set(FLOOR.values())


def test_published_values_that_are_the_best_point_are_compared_with_nothing() -> None:
    settings = dataclasses.replace(SETTINGS, published=FLOOR)
    points = [trial({**FLOOR, "schedule.peak_lr": lr}, seed, noise=0) for seed in range(3) for lr in (0.01, 0.03, 0.1)]
    assert HPARAMS.further is not None
    asked = HPARAMS.further(settings, points)
    assert [further.settings for further in asked] == [FLOOR] * 3
    results = [*points, *(trial(dict(further.settings), further.seed, round_=1) for further in asked)]
    outcome = HPARAMS.analyse(settings, results)
    assert (outcome.findings, outcome.proposals) == ((), ())
    assert any("themselves the best" in note for note in outcome.notes)


def test_few_points_one_seed_or_none_give_notes() -> None:
    few = HPARAMS.analyse(SETTINGS, search(points=5))
    assert few.findings == ()
    assert any("takes 14" in note for note in few.notes)
    one = HPARAMS.analyse(SETTINGS, search(seeds=1))
    assert {found.verdict for found in one.findings} == {"cannot be told at this size"}
    assert HPARAMS.analyse(SETTINGS, []) == Outcome()
    lost = [dataclasses.replace(result, status="diverged", measured=()) for result in search(points=3)]
    assert HPARAMS.analyse(SETTINGS, lost).findings == ()


def test_diverged_and_pruned_points_are_counted_and_left_out() -> None:
    results = search()
    ended = [dataclasses.replace(result, status="pruned", measured=()) for result in results[3:6]]
    lost = [dataclasses.replace(result, status="diverged", measured=()) for result in results[6:7]]
    outcome = HPARAMS.analyse(SETTINGS, [*results[:3], *ended, *lost, *results[7:]])
    assert any(note.startswith("3 trials were ended") for note in outcome.notes)
    assert any(note.startswith("1 trial diverged") for note in outcome.notes)
    keys = list(FLOOR)
    assert len(points_of([*results[:3], *ended, *lost, *results[7:]], keys)) == 38


def test_valleys_by_hand() -> None:
    points = [{"a": 2.0**i} for i in range(-4, 5)]
    found = valleys(points, [1 + 0.5 * (i - 1) ** 2 for i in range(-4, 5)])
    assert found["a"].at == pytest.approx(2.0)
    assert found["a"].bend == pytest.approx(0.5)
    assert valleys(points, [float(-(i**2)) for i in range(-4, 5)])["a"].at is None
    assert valleys(points[:2], [1.0, 2.0]) == {}
    assert fewest_points(4) == 14


def test_noise_and_flatness_by_hand() -> None:
    points = [Point({"a": 1.0}, {0: 1.0, 1: 2.2}), Point({"a": 2.0}, {0: 3.0, 1: 3.8})]
    # what seed 1 has in common is 1; ±0.1 is left of each: 4 · 0.01 over one degree of freedom
    assert noise_of(points) == pytest.approx(0.2)
    assert math.isnan(noise_of([Point({"a": 1.0}, {0: 1.0})]))
    low, high = flat_range(Valley(4.0, math.sqrt(2) * 0.2), 0.2, (1.0, 5.0)) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2.0, 5.0))
    assert flat_range(Valley(None, 1.0), 0.2, (1.0, 5.0)) is None


def test_a_study_without_numbers_is_refused() -> None:
    HPARAMS.check(SETTINGS, [])
    HPARAMS.check(SETTINGS, search(points=2))
    with pytest.raises(ConfigError, match="varies none"):
        HPARAMS.check(SETTINGS, [trial(FLOOR, 0)])
    wrong = [dataclasses.replace(trial(FLOOR, 0), settings={"model.init_std": value}) for value in ("a", "b")]
    with pytest.raises(ConfigError, match="no numbers above 0"):
        HPARAMS.check(SETTINGS, wrong)


def test_the_plots_can_be_drawn() -> None:
    matplotlib.use("Agg")
    results = both_rounds(search())
    results[3] = dataclasses.replace(results[3], status="pruned", measured=())
    plots = HPARAMS.analyse(SETTINGS, results).plots
    assert [plot.name for plot in plots] == ["hparams_valleys", "hparams_gain"]
    for plot in plots:
        assert plot.draw().axes
