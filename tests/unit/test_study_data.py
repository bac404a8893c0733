"""The study of data compares its arms seed by seed, at equal SFT tokens or not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.train.studies.data import DataSettings, analyse, check
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.trials.result import TrialResult
from tests.unit.planted import model, stage_run, trial

SETTINGS = DataSettings(conversations=0.33, bootstrap=100)
# of the arm's answers and documents, beside what its seed does to all arms
EFFECTS = {"in_decay": (-0.10, 0.01), "after": (0.0, 0.0), "after_short": (0.06, 0.0)}
SFT_STEPS = {"in_decay": 32, "after": 53, "after_short": 32}


def chains(
    seeds: int = 3, noise: float = 0.004, effects: dict[str, tuple[float, float]] = EFFECTS
) -> list[TrialResult]:
    draw, trials = np.random.default_rng(0), []
    for seed in range(seeds):
        luck = draw.normal(0, 0.05)
        for arm, (on_answers, on_documents) in effects.items():
            runs = tuple(
                stage_run(stage, f"{arm}-{seed}", steps, model())
                for stage, steps in (("pretrain", 256), ("anneal", 64), ("sft", SFT_STEPS[arm]))
            )
            losses = {
                "answers": {n: 2.0 + luck + on_answers + draw.normal(0, noise) for n in ("tutor-en", "tutor-zh")},
                "heldout": {n: 3.0 + luck + on_documents + draw.normal(0, noise) for n in ("sotu", "stdlib")},
            }
            trials.append(trial(arm, {"arm": arm}, seed, runs, losses))
    return trials


def finding(outcome: Outcome, words: str) -> Finding:
    (one,) = [finding for finding in outcome.findings if words in finding.claim]
    return one


def test_planted_differences_are_found_though_seeds_differ_more_than_arms() -> None:
    outcome = analyse(SETTINGS, chains())
    worth = finding(outcome, "worth more")
    assert worth.verdict == "reproduced"
    assert worth.estimate is not None
    assert worth.estimate.low < -0.10 < worth.estimate.high < -0.05
    assert worth.seeds == 3
    assert len(worth.runs) == 9
    assert finding(outcome, "More SFT").verdict == "contradicted"
    (proposal,) = outcome.proposals
    assert (proposal.key, proposal.value) == ("sft_in_decay", True)
    assert outcome.notes == ()
    assert outcome.plain()["findings"][0]["verdict"] == "reproduced"


def test_the_other_way_round_it_is_contradicted_and_proposed_against() -> None:
    outcome = analyse(SETTINGS, chains(effects={"in_decay": (0.10, 0.05), "after": (0.0, 0.0)}))
    assert finding(outcome, "worth more").verdict == "contradicted"
    assert finding(outcome, "does not cost").verdict == "contradicted"
    assert outcome.proposals[0].value is False
    assert len(outcome.findings) == 2


def test_no_difference_is_no_finding_and_no_proposal() -> None:
    outcome = analyse(SETTINGS, chains(effects=dict.fromkeys(EFFECTS, (0.0, 0.0)), noise=0.02))
    assert finding(outcome, "worth more").verdict == "cannot be told at this size"
    assert outcome.proposals == ()


def test_longer_sft_that_changes_nothing_is_reproduced() -> None:
    effects = {"in_decay": (-0.3, 0.0), "after": (0.0, 0.0), "after_short": (0.0, 0.0)}
    assert finding(analyse(SETTINGS, chains(effects=effects)), "More SFT").verdict == "reproduced"


def test_too_few_seeds_and_half_a_study_say_so() -> None:
    two = analyse(SETTINGS, chains(seeds=2))
    assert {one.verdict for one in two.findings} == {"cannot be told at this size"}
    one_seed = analyse(SETTINGS, chains(seeds=1))
    assert any("no interval yet" in note for note in one_seed.notes)
    assert one_seed.findings[0].estimate is None
    half = analyse(SETTINGS, chains()[:1])
    assert half.findings == ()
    assert any("No seed has ended in both arms" in note for note in half.notes)
    assert analyse(SETTINGS, []).findings == ()


def test_a_diverged_trial_takes_its_seed_out_and_is_named() -> None:
    trials = chains(seeds=4)
    trials[0] = dataclasses.replace(trials[0], status="diverged", measured=())
    outcome = analyse(SETTINGS, trials)
    assert finding(outcome, "worth more").seeds == 3
    assert any("1 trial diverged" in note for note in outcome.notes)


def test_the_picture_has_a_line_for_each_set() -> None:
    (plot,) = analyse(SETTINGS, chains()).plots
    (axes,) = plot.draw().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stdlib", "sotu", "tutor-zh", "tutor-en"]


def test_unequal_sft_tokens_missing_arms_and_other_chains_are_refused() -> None:
    trials = chains()
    check(SETTINGS, trials)
    longer = [
        dataclasses.replace(one, runs=(*one.runs[:2], stage_run("sft", "long", 90, model())))
        if one.settings["arm"] == "after"
        else one
        for one in trials
    ]
    with pytest.raises(ConfigError, match="set sft.steps of after to 53"):
        check(SETTINGS, longer)
    with pytest.raises(ConfigError, match="has no arm after; it has in_decay"):
        check(SETTINGS, [one for one in trials if one.settings["arm"] == "in_decay"])
    with pytest.raises(ConfigError, match="trains pretrain -> anneal; a study of data compares"):
        check(SETTINGS, [dataclasses.replace(one, runs=one.runs[:2]) for one in trials])
