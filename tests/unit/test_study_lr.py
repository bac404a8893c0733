"""Study lr finds planted optima, and says so when it cannot."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.studies.lr import LR, LrSettings
from pipelines.train.studies.lr_reading import OFF, ON, arms_of_trial, common_base
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.trials.result import Status, TrialResult
from tests.planted import planted_trial

RATES = tuple(0.0025 * 2.0**octave for octave in range(6))
WIDTHS = (64, 128, 256)
SETTINGS = LrSettings(bootstrap=100)


def trials(
    seeds: int = 3,
    off_drift: float = -0.8,
    noise: float = 0.002,
    diverged_above: float = math.inf,
    on_drift: float = 0.0,
) -> list[TrialResult]:
    """The optimum of width 64 is planted at 0.012."""
    random, made = np.random.default_rng(0), []
    for arm, drift in ((True, on_drift), (False, off_drift)):
        for width in WIDTHS:
            optimum = math.log2(0.012) + drift * math.log2(width / 64)
            for seed in range(seeds):
                luck = random.normal(0, 0.01)
                for rate in RATES:
                    loss = 3 - 0.2 * math.log2(width / 64) + luck + 0.02 * (math.log2(rate) - optimum) ** 2
                    status: Status = "diverged" if rate > diverged_above else "finished"
                    made.append(
                        planted_trial(
                            f"d{width} {'on' if arm else 'off'} {rate} s{seed}",
                            {100 * 2048: loss + random.normal(0, noise)},
                            width=width,
                            seed=seed,
                            schedule=Schedule(peak_lr=rate),
                            optimizer={"mup_lr": arm},
                            status=status,
                        )
                    )
    return made


def finding(outcome: Outcome, claim: str) -> Finding:
    return next(found for found in outcome.findings if claim in found.claim)


def test_planted_drifts_are_found_with_and_without_mup() -> None:
    outcome = LR.analyse(SETTINGS, trials())
    on, off = finding(outcome, "with muP"), finding(outcome, "without muP")
    assert on.estimate is not None
    assert off.estimate is not None
    assert (on.verdict, on.seeds) == ("reproduced", 3)
    assert on.estimate.low <= 0.0 <= on.estimate.high
    assert off.verdict == "reproduced"
    assert off.estimate.low <= -0.8 <= off.estimate.high
    best = finding(outcome, "is 0.01")
    assert best.estimate is not None
    assert best.estimate.value == pytest.approx(0.012, rel=0.05)
    assert best.verdict == "reproduced"
    assert outcome.notes == ()
    assert len(on.runs) == 3 * len(WIDTHS) * len(RATES)


def test_a_drift_with_mup_contradicts_the_claim() -> None:
    outcome = LR.analyse(SETTINGS, trials(on_drift=-0.9))
    assert finding(outcome, "with muP").verdict == "contradicted"
    (proposal,) = outcome.proposals
    assert proposal.value is None
    assert proposal.law == f"lr, {ON}"


def test_the_proposal_and_its_law_hold_the_planted_rate() -> None:
    outcome = LR.analyse(SETTINGS, trials())
    (proposal,) = outcome.proposals
    assert proposal.key == "schedule.peak_lr"
    assert proposal.value == pytest.approx(0.012, rel=0.05)
    law = outcome.laws[f"lr, {OFF}"]
    assert law.law == "power"
    assert law.parameters["b"].value == pytest.approx(-0.8, abs=0.1)
    at_128 = law.parameters["a"].value * 128 ** law.parameters["b"].value
    assert at_128 == pytest.approx(0.012 * 2**-0.8, rel=0.1)
    assert len(law.samples["a"]) == len(law.samples["b"])


def test_two_seeds_cannot_tell() -> None:
    outcome = LR.analyse(SETTINGS, trials(seeds=2))
    assert {found.verdict for found in outcome.findings} == {"cannot be told at this size"}


def test_one_seed_gives_no_interval_and_no_finding() -> None:
    outcome = LR.analyse(SETTINGS, trials(seeds=1))
    assert outcome.findings == ()
    assert outcome.proposals == ()


@pytest.mark.parametrize("done", [0, 1, 5, 20, 60])
def test_half_done_results_say_what_they_cannot(done: int) -> None:
    outcome = LR.analyse(SETTINGS, trials()[:done])
    assert any("no drift is told" in note for note in outcome.notes)
    draw(outcome)


def test_diverged_trials_are_counted_and_narrow_the_rates() -> None:
    outcome = LR.analyse(SETTINGS, trials(diverged_above=0.015))
    assert any("diverged" in note for note in outcome.notes)
    # three rates are left, the best of them with muP the highest: its minimum is no longer inside
    assert any("at the end of the learning rates" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (lambda trial: trial.model.d_model == 128, "has the width 128 alone"),
        (lambda trial: trial.peak_lr < 0.02, "has 3 learning rates at width 64"),
    ],
)
def test_trials_that_could_not_answer_are_refused(kept: Any, message: str) -> None:
    LR.check(SETTINGS, trials())
    with pytest.raises(ConfigError, match=message):
        LR.check(SETTINGS, [trial for trial in trials() if kept(trial)])


def draw(outcome: Outcome) -> None:
    matplotlib.use("Agg")
    for plot in outcome.plots:
        plot.draw().savefig("/dev/null", format="svg")
    assert outcome.plain()


def test_pictures_are_drawn() -> None:
    outcome = LR.analyse(SETTINGS, trials())
    assert [plot.name for plot in outcome.plots] == ["lr-loss", "lr-optimum"]
    draw(outcome)


def test_at_the_base_width_a_trial_counts_with_mup_and_without() -> None:
    small = planted_trial("d32", {1: 3.0}, width=32)
    wide = [planted_trial(f"d64 {mup}", {1: 2.9}, width=64, optimizer={"mup_lr": mup}) for mup in (True, False)]
    assert [arms_of_trial(trial, common_base([small, *wide])) for trial in (small, *wide)] == [(ON, OFF), (ON,), (OFF,)]
