"""The study of mixtures proposes the planted law's best weights, asks for their trial, and says how it went."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.train.studies.mixtures import MIXTURES, analyse, check, further
from pipelines.train.studies.mixtures_findings import MixturesSettings
from pipelines.train.studies.mixtures_points import in_thousandths
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.trials.result import Status, TrialResult
from tests.unit.planted import model, stage_run, trial

START = {"chat": 0.1, "code": 0.3, "en": 0.4, "zh": 0.2}
# held-out set -> what a share of each source does to it: more code and chat, less English and Chinese are better
SLOPES = {"code": (0.3, -0.9, 0.6, 0.7), "en": (0.1, 0.0, 0.2, 0.5), "talk": (-0.9, 0.2, 0.4, 0.5)}
SETTINGS = MixturesSettings(start=START, bootstrap=60)
KEY = "mixture.weights"


def planted(
    weights: dict[str, float], seed: int, number: int, round: int = 0, noise: float = 0.003, worse: float = 0.0,
    status: Status = "finished",
) -> TrialResult:  # fmt: skip
    draw = np.random.default_rng(1000 * seed + number)
    luck = np.random.default_rng(seed).normal(0, 0.05)
    losses = {
        name: float(0.5 + luck + np.exp(np.dot(slopes, [weights.get(source, 0.0) for source in START])))
        + worse
        + draw.normal(0, noise)
        for name, slopes in SLOPES.items()
    }
    runs = tuple(stage_run(stage, f"m{number}-{seed}", 64, model()) for stage in ("pretrain", "anneal"))
    values = {"heldout": {n: losses[n] for n in ("code", "en")}, "answers": {"talk": losses["talk"]}}
    return trial(f"#{number}", {KEY: weights}, seed, runs, values, status, round)


def sampled(count: int = 20, seeds: int = 3) -> list[TrialResult]:
    draw = np.random.default_rng(0)
    rows = [START, *(dict(zip(START, map(float, row), strict=True)) for row in draw.dirichlet([2, 6, 8, 4], count - 1))]
    return [planted(in_thousandths(row), seed, number) for number, row in enumerate(rows) for seed in range(seeds)]


def both_rounds(seeds: int = 3) -> list[TrialResult]:
    first = sampled()
    asked = further(dataclasses.replace(SETTINGS, seeds=seeds), first)
    second = [planted(dict(one.settings[KEY]), one.seed, 100 + n, 1) for n, one in enumerate(asked)]
    return [*first, *second]


def finding(outcome: Outcome, words: str) -> Finding:
    (one,) = [finding for finding in outcome.findings if words in finding.claim]
    return one


def test_it_asks_for_the_proposed_and_the_starting_mixture_at_every_seed_that_is_not_there() -> None:
    asked = further(SETTINGS, sampled())
    # the start is among the sampled ones, at these seeds
    assert [one.seed for one in asked] == [0, 1, 2]
    weights = asked[0].settings[KEY]
    assert sum(weights.values()) == pytest.approx(1)
    assert all(round(share * 1000) == pytest.approx(share * 1000) for share in weights.values())
    assert weights["en"] < START["en"]
    assert weights["zh"] < START["zh"]
    assert asked == further(SETTINGS, sampled()), "equal results give equal trials"
    assert len(further(dataclasses.replace(SETTINGS, seeds=5), sampled())) == 5 + 2
    assert further(SETTINGS, sampled(count=3)) == ()
    assert MIXTURES.further is further


def test_the_proposed_mixture_is_better_as_foreseen() -> None:
    outcome = analyse(SETTINGS, both_rounds())
    better, foreseen = finding(outcome, "are better"), finding(outcome, "foresees")
    assert better.verdict == "reproduced"
    assert better.estimate is not None
    assert better.estimate.high < 0
    assert foreseen.verdict == "reproduced"
    assert better.seeds == 3
    (proposal,) = outcome.proposals
    assert proposal.key == "mixture.weights"
    assert sum(proposal.value.values()) == pytest.approx(1)
    assert set(outcome.laws) == {"mixing", "mixing code", "mixing en", "mixing talk"}
    assert proposal.law in outcome.laws
    assert json.loads(json.dumps(outcome.plain()))["proposals"][0]["value"] == proposal.value
    assert not [note for note in outcome.notes if "not been trained" in note]


def test_a_mixture_that_turns_out_worse_is_contradicted_and_not_proposed() -> None:
    trials = both_rounds()
    worse = [
        planted(dict(one.settings[KEY]), one.seed, 200 + n, 1, worse=0.3) if one.round else one
        for n, one in enumerate(trials)
    ]
    outcome = analyse(SETTINGS, worse)
    assert finding(outcome, "foresees").verdict == "contradicted"
    assert finding(outcome, "are better").verdict == "contradicted"
    assert outcome.proposals == ()


def test_before_the_second_round_the_weights_are_foreseen_only() -> None:
    outcome = analyse(SETTINGS, sampled())
    assert outcome.findings == ()
    assert "foreseen, not trained yet" in outcome.proposals[0].sentence
    assert any("has not been trained yet" in note for note in outcome.notes)


def test_two_seeds_support_no_claim() -> None:
    trials = [one for one in both_rounds() if one.seed < 2]
    assert {one.verdict for one in analyse(SETTINGS, trials).findings} == {"cannot be told at this size"}


def test_importance_decides_what_is_made_least() -> None:
    talk = MixturesSettings(start=START, bootstrap=40, importance={"talk": 1.0})
    code = MixturesSettings(start=START, bootstrap=40, importance={"code": 1.0})
    by_talk, by_code = (further(settings, sampled())[0].settings[KEY] for settings in (talk, code))
    assert by_talk["chat"] > by_code["chat"]
    assert by_code["code"] > by_talk["code"]
    absent = dataclasses.replace(talk, importance={"talk": 1.0, "poems": 1.0})
    assert any("poems, which was not measured" in note for note in analyse(absent, sampled()).notes)


def test_half_a_study_and_diverged_trials_are_told() -> None:
    assert analyse(SETTINGS, []).notes == ("No trial has been measured yet.",)
    few = analyse(SETTINGS, sampled()[:9])
    assert few.laws == {}
    assert any("No mixing law yet" in note and "there are 3" in note for note in few.notes)
    trials = sampled()
    trials[4] = planted(dict(trials[4].settings[KEY]), trials[4].seed, 4, status="diverged")
    outcome = analyse(SETTINGS, trials)
    assert any("1 trial diverged" in note for note in outcome.notes)
    assert outcome.laws["mixing"].points == 20


def test_the_pictures_are_drawn_and_tables_have_a_row_for_each_source() -> None:
    outcome = analyse(SETTINGS, both_rounds())
    assert [plot.name for plot in outcome.plots] == ["mixtures_law", "mixtures_weights", "mixtures_change"]
    for plot in outcome.plots:
        assert plot.draw().axes[0].get_lines()
    weights = outcome.tables["Weights of the sources"]
    assert [row[0] for row in weights[1:]] == sorted(START)
    assert {len(row) for row in weights} == {5}


def test_thousandths_sum_to_one() -> None:
    assert in_thousandths({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}) == {"a": 0.334, "b": 0.333, "c": 0.333}
    draw = np.random.default_rng(1)
    for row in draw.dirichlet([0.5] * 9, 50):
        parts = in_thousandths({str(place): float(share) for place, share in enumerate(row)})
        assert sum(round(1000 * part) for part in parts.values()) == 1000


def test_what_no_law_could_be_fitted_to_is_refused() -> None:
    trials = sampled()
    check(SETTINGS, trials)
    with pytest.raises(ConfigError, match="varies no weights"):
        check(SETTINGS, [dataclasses.replace(one, settings={"width": "d32"}) for one in trials])
    with pytest.raises(ConfigError, match="5 different mixtures of 4 sources"):
        check(SETTINGS, trials[:15])
    with pytest.raises(ConfigError, match="start has poems"):
        check(MixturesSettings(start={**START, "poems": 0.1}), trials)
    with pytest.raises(ConfigError, match="sums to 0.9"):
        check(MixturesSettings(start={**START, "en": 0.3}), trials)
