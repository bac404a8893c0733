"""The scaling study finds planted laws again, and says what half a study cannot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.laws.minicpm import PUBLISHED
from pipelines.laws.optimum import ratio_exponent, tokens_per_parameter
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.studies.scaling import SCALING, analyse, check
from pipelines.train.studies.scaling_findings import ScalingSettings, published_ratio
from pipelines.train.trials.result import TrialResult
from tests.unit.planted import BATCH_TOKENS, model, stage_run, trial

SETTINGS = ScalingSettings(bootstrap=60)
SHAPES = ((32, 4), (48, 4), (64, 4), (80, 5), (96, 7))
STEPS = (100, 200, 400, 800)
# held-out set -> C_N, C_D; α, β as published, L0 = 0.5
SETS = {"en": (0.05, 0.30), "code": (0.10, 0.20)}


def grid(
    noise: float = 0.004, shapes: tuple[tuple[int, int], ...] = SHAPES, seeds: int = 3, bend: float = 0.0
) -> list[TrialResult]:
    """Decays of three trunks a size. Args: bend, of the largest size's loss, as a part of it."""
    draw, trials = np.random.default_rng(0), []
    for d_model, layers in shapes:
        shape = model(d_model, layers)
        n = parameter_counts(shape)["non_embedding"] / 1e9
        for seed in range(seeds):
            luck = draw.normal(0, noise)
            for steps in STEPS:
                d = steps * BATCH_TOKENS / 1e9
                factor = np.exp(luck + draw.normal(0, noise / 2)) * (1 + bend * (d_model == 96))
                losses = {
                    name: float((c_n * n ** -PUBLISHED["alpha"] + c_d * d ** -PUBLISHED["beta"] + 0.5) * factor)
                    for name, (c_n, c_d) in SETS.items()
                }
                run = dataclasses.replace(
                    stage_run("pretrain", f"d{d_model}-{steps}-{seed}", steps, shape),
                    schedule=Schedule(peak_lr=0.01, decay="linear", decay_steps=steps // 10),
                )
                settings = {"width": f"d{d_model}", "tokens": run.tokens}
                trials.append(trial(f"d{d_model} {steps}", settings, seed, (run,), {"heldout": losses}))
    return trials


def finding(outcome: Outcome, words: str) -> Finding:
    (one,) = [finding for finding in outcome.findings if words in finding.claim]
    return one


def test_planted_exponents_and_the_best_split_are_found() -> None:
    outcome = analyse(SETTINGS, grid())
    law = outcome.laws["scaling"]
    assert set(outcome.laws) == {"scaling", "scaling en", "scaling code"}
    assert (law.points, law.runs, law.unit) == (60, 15, "bits per byte")
    for name in ("alpha", "beta"):
        assert law.parameters[name].low <= PUBLISHED[name] <= law.parameters[name].high
    assert finding(outcome, "power 0.29").verdict == "reproduced"
    assert finding(outcome, "power 0.23").verdict == "reproduced"
    # (α-β)/(α+β) of the planted exponents
    assert finding(outcome, "The more compute").verdict == "reproduced"
    exponent = ratio_exponent(law)
    assert exponent is not None
    assert exponent.low <= 0.06 / 0.52 <= exponent.high
    largest = finding(outcome, "smaller sizes")
    assert largest.verdict == "reproduced"
    assert largest.estimate is not None
    assert abs(largest.estimate.value) < 0.02
    assert outcome.notes == ()


def test_what_lies_far_beyond_the_trials_is_not_claimed() -> None:
    far = finding(analyse(SETTINGS, grid()), "At 1e21 FLOPs")
    assert far.verdict == "cannot be told at this size"
    assert "1e+08 times the most of these trials" in far.reason
    assert far.estimate is not None
    assert far.estimate.width > 50


def test_a_size_that_the_others_do_not_predict_is_contradicted() -> None:
    largest = finding(analyse(SETTINGS, grid(bend=0.08)), "smaller sizes")
    assert largest.verdict == "contradicted"
    assert "outside the interval" in largest.reason


def test_two_seeds_support_no_claim() -> None:
    outcome = analyse(SETTINGS, grid(seeds=2))
    assert {finding.verdict for finding in outcome.findings} == {"cannot be told at this size"}


def test_half_a_study_says_what_it_cannot_and_does_not_fail() -> None:
    assert analyse(SETTINGS, []).notes == ("No trial has been measured yet.",)
    trials = grid()
    early = analyse(SETTINGS, trials[:12])
    assert early.findings == ()
    assert any("No law of the mean yet" in note for note in early.notes)
    three = analyse(SETTINGS, trials[:36])
    assert "scaling" in three.laws
    assert any("cannot be predicted" in note for note in three.notes)
    assert not [one for one in three.findings if "smaller sizes" in one.claim]


def test_diverged_trials_are_named_and_left_out() -> None:
    trials = grid()
    trials[5] = dataclasses.replace(trials[5], status="diverged", measured=(), reason="loss is nan")
    outcome = analyse(SETTINGS, trials)
    assert outcome.laws["scaling"].points == 59
    assert any("1 trial diverged" in note and trials[5].name in note for note in outcome.notes)


def test_the_pictures_and_tables_are_drawn_and_the_outcome_is_plain() -> None:
    outcome = analyse(SETTINGS, grid())
    for plot in outcome.plots:
        figure = plot.draw()
        assert all(axes.get_lines() for axes in figure.axes)
    assert [plot.name for plot in outcome.plots] == ["scaling_loss", "scaling_optimum", "scaling_exponents"]
    assert len({len(row) for rows in outcome.tables.values() for row in rows[:1]}) >= 1
    for rows in outcome.tables.values():
        assert len({len(row) for row in rows}) == 1
    assert outcome.plain()["proposals"][0]["key"] == "tokens"
    assert outcome.proposals[0].law in outcome.laws


def test_the_published_reading_is_that_of_the_rounded_constants() -> None:
    assert published_ratio(1e21) == pytest.approx(184, abs=1)
    assert published_ratio(1e18) == pytest.approx(83, abs=1)
    law = analyse(SETTINGS, grid(noise=1e-5)).laws["scaling"]
    # of the mean of the planted sets: C_N 0.075, C_D 0.25
    split = (0.29 * 0.075 / (0.23 * 0.25)) ** (2 / 0.52)
    expected = (1e13 / 6 / 1e18) ** (0.06 / 0.52) / split
    ratio = tokens_per_parameter(law, 1e13)
    assert ratio is not None
    assert ratio.value == pytest.approx(expected, rel=0.02)


def test_trials_that_no_law_goes_through_are_refused() -> None:
    trials = grid()
    check(SETTINGS, trials)
    assert SCALING.further is None
    with pytest.raises(ConfigError, match="models of 47,392 and 106,416 parameters; its law needs 3 sizes"):
        check(SETTINGS, trials[:24])
    with pytest.raises(ConfigError, match=r"trained for 2 different length"):
        check(SETTINGS, [trial for trial in trials if trial.runs[-1].steps in (100, 200)])
    flat = dataclasses.replace(trials[0].runs[0], schedule=Schedule(peak_lr=0.01))
    with pytest.raises(ConfigError, match="ends at its stable learning rate"):
        check(SETTINGS, [*trials[1:], dataclasses.replace(trials[0], runs=(flat,))])
