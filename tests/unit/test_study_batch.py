"""Study batch finds a planted law, and says so when it cannot."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.studies.batch import BATCH, BatchSettings
from pipelines.train.studies.batch_reading import tokens_to
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.trials.result import TrialResult
from tests.planted import WINDOW, planted_trial

SETTINGS = BatchSettings(bootstrap=100)
BATCHES = (2, 4, 8, 16, 32, 64, 128)  # windows
A, B = 60_000.0, 4.0


def tokens_for(loss: float, batch: int, width: int) -> float:
    """The planted plane: at a loss, log2 tokens is a parabola in log2 batch with its minimum at A / loss^B."""
    least = (loss - 1.0) ** -3 * 120_000 * 32 / width
    return least * 2.0 ** (0.12 * math.log2(batch * WINDOW / (A / loss**B)) ** 2)


def trials(seeds: int = 3, noise: float = 0.002, along: bool = True, scale: float = 1.0) -> list[TrialResult]:
    random, made = np.random.default_rng(0), []
    for width in (32, 64):
        for seed in range(seeds):
            luck = 1 + random.normal(0, 0.01)
            for batch in BATCHES:
                losses = np.geomspace(3.2, 1.9, 40)
                tokens = [tokens_for(loss, batch, width) * luck for loss in losses]
                rows = {
                    round(spent): float(loss) * (1 + random.normal(0, noise))
                    for spent, loss in zip(tokens, losses, strict=True)
                }
                noise_rows = [
                    {"tokens": round(spent), "noise_scale": scale * A / loss**B}
                    for spent, loss in zip(tokens, losses, strict=True)
                ]
                made.append(
                    planted_trial(
                        f"d{width} b{batch} s{seed}",
                        rows if along else dict(list(rows.items())[-1:]),
                        width=width,
                        seed=seed,
                        batch=batch,
                        steps=int(tokens[-1] / batch / WINDOW),
                        curve=noise_rows,
                    )
                )
    return made


def finding(outcome: Outcome, claim: str) -> Finding:
    return next(found for found in outcome.findings if claim in found.claim)


def test_tokens_until_a_loss_lie_between_two_points() -> None:
    curve = ((100.0, 4.0), (400.0, 2.0), (800.0, 2.5), (1600.0, 1.0))
    assert tokens_to(curve, 3.0) == pytest.approx(200.0)
    assert tokens_to(curve, 2.0) == pytest.approx(400.0)
    assert tokens_to(curve, 5.0) is None
    assert tokens_to(curve, 0.5) is None


def test_the_planted_law_is_found() -> None:
    outcome = BATCH.analyse(SETTINGS, trials())
    law = outcome.laws["batch"]
    assert law.parameters["b"].low <= B <= law.parameters["b"].high
    assert law.parameters["b"].value == pytest.approx(B, abs=0.4)
    assert law.parameters["a"].low <= A <= law.parameters["a"].high
    assert finding(outcome, "grows as the loss falls").verdict == "reproduced"
    assert finding(outcome, "exponent is 6.24").verdict == "contradicted"
    (proposal,) = outcome.proposals
    assert (proposal.key, proposal.law, proposal.value) == ("batch_tokens", "batch", None)


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "reproduced"), (20.0, "contradicted")])
def test_the_noise_scale_is_compared_at_equal_loss(scale: float, verdict: str) -> None:
    outcome = BATCH.analyse(SETTINGS, trials(scale=scale))
    alike = finding(outcome, "about the gradient noise scale")
    assert alike.verdict == verdict
    assert alike.estimate is not None
    assert alike.estimate.value == pytest.approx(-math.log2(scale), abs=0.1)
    assert finding(outcome, "noise scale grows").verdict == "reproduced"


def test_two_seeds_cannot_tell() -> None:
    outcome = BATCH.analyse(SETTINGS, trials(seeds=2))
    assert {found.verdict for found in outcome.findings} == {"cannot be told at this size"}


@pytest.mark.parametrize("done", [0, 1, 5, 12, 22])
def test_half_done_results_say_what_they_cannot(done: int) -> None:
    outcome = BATCH.analyse(SETTINGS, trials()[:done])
    assert done > 5 or any("no law is told" in note for note in outcome.notes)
    draw(outcome)


def test_losses_at_the_end_alone_are_told() -> None:
    outcome = BATCH.analyse(SETTINGS, trials(along=False))
    assert any("measures.heldout.every_steps" in note for note in outcome.notes)


def test_a_minimum_at_an_end_is_no_optimum() -> None:
    outcome = BATCH.analyse(SETTINGS, [trial for trial in trials() if trial.batch_tokens > 2000])
    assert any("at an end of the batch sizes" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda made: [trial for trial in made if trial.batch_tokens < 1024], "2 batch sizes at"),
        (lambda made: [*made, planted_trial("x", {1: 1.0}, schedule=Schedule(peak_lr=0.1))], "compared at one"),
    ],
)
def test_trials_that_could_not_answer_are_refused(changed: Any, message: str) -> None:
    BATCH.check(SETTINGS, trials())
    with pytest.raises(ConfigError, match=message):
        BATCH.check(SETTINGS, changed(trials()))


def draw(outcome: Outcome) -> None:
    matplotlib.use("Agg")
    for plot in outcome.plots:
        plot.draw().savefig("/dev/null", format="svg")
    assert outcome.plain()


def test_pictures_are_drawn() -> None:
    outcome = BATCH.analyse(SETTINGS, trials())
    assert [plot.name for plot in outcome.plots] == ["batch-tokens", "batch-law"]
    draw(outcome)
