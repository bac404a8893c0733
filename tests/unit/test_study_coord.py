"""Study coord finds planted slopes, tells the ways to grow a model apart, and says so when it cannot."""

from __future__ import annotations

import dataclasses
import math

import matplotlib
import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.train.measures.coordinates import PARTS
from pipelines.train.schedules.schedule import Schedule
from pipelines.train.studies.coord import COORD, CoordSettings, is_flat, is_growing
from pipelines.train.studies.coord_reading import series_of
from pipelines.train.studies.outcome import Finding, Outcome
from pipelines.train.trials.result import Measured, Status, TrialResult
from tests.planted import model_of, planted_trial

SETTINGS = CoordSettings(bootstrap=100)
WIDTHS, DEPTHS = (32, 64, 128, 256), (4, 8, 16)


def trial(
    size: float, power: float, seed: int, *, noise: float = 0.02, lr: float = 0.01, status: Status = "finished",
    **model: float,
) -> TrialResult:  # fmt: skip
    """One whose parts move like size^power, measured after steps 1 and 4."""
    random = np.random.default_rng([seed, int(100 * size), int(100 * lr)])
    arm = model.pop("mup_lr", True)
    name = f"{model} {arm} {lr} s{seed}"
    planted = planted_trial(name, {}, seed=seed, steps=4, schedule=Schedule(peak_lr=lr), optimizer={"mup_lr": arm})
    rows = []
    for step in (1, 4):
        parts = (*PARTS, "weights/matrix", "layer_00/attention")
        values = {part: 0.1 * step * size**power * math.exp(random.normal(0, noise)) for part in parts}
        rows.append(Measured(measure="coordinates", folder=planted.folder, step=step, tokens=step, values=values))
    config = {**planted.runs[0].config, "zero": {"stage": 0}, "parent": None}
    run = dataclasses.replace(
        planted.runs[0], config=config, model=dataclasses.replace(model_of(32), **{"layers": 2, **model})
    )
    measured = tuple(rows) if status == "finished" else ()
    return dataclasses.replace(planted, runs=(run,), measured=measured, status=status)


def trials(seeds: int = 3, mup: float = 0.0, depth: float = 0.4, noise: float = 0.02) -> list[TrialResult]:
    """Every way to grow a model; at the base width they are one trial."""
    made = []
    for seed in range(seeds):
        made.append(trial(1, 0, seed, d_model=32, noise=noise))
        for width in WIDTHS[1:]:
            ratio = width / 32
            made.append(trial(ratio, mup, seed, d_model=width, noise=noise))
            made.append(trial(ratio, 1.0, seed, d_model=width, mup_lr=False, noise=noise))
            made.append(trial(ratio, 1.5, seed, d_model=width, dim_model_base=width, noise=noise))
        for layers in DEPTHS:
            made.append(trial(layers / 4, depth, seed, layers=layers, lr=5e-4, noise=noise))
            if layers != 4:
                scale = 1.4 * math.sqrt(layers / 4)
                made.append(trial(layers / 4, 1.0, seed, layers=layers, scale_depth=scale, lr=5e-4, noise=noise))
    return made


def finding(outcome: Outcome, words: str) -> Finding:
    return next(found for found in outcome.findings if words in found.claim)


def test_the_ways_to_grow_a_model_are_told_apart() -> None:
    named = {(series.along, series.arm): series.sizes for series in series_of(trials())}
    assert named == {
        **{("width", arm): list(WIDTHS) for arm in ("muP", "one LR", "off")},
        **{("layers", arm): list(DEPTHS) for arm in ("scale_depth/√L", "off")},
    }


def test_planted_slopes_are_found() -> None:
    outcome = COORD.analyse(SETTINGS, trials())
    for words, slope, verdict in (
        ("with muP", 0.0, "reproduced"),
        ("with one learning rate", 1.0, "reproduced"),
        ("without the scalings", 1.5, "reproduced"),
        ("scale_depth/√L", 0.4, "contradicted"),
        ("one factor", 1.0, "reproduced"),
    ):
        found = finding(outcome, words)
        assert found.estimate is not None
        assert found.estimate.value == pytest.approx(slope, abs=0.1), words
        assert found.estimate.low - 0.05 <= slope <= found.estimate.high + 0.05
        assert (found.verdict, found.seeds) == (verdict, 3), words
        assert found.runs
    assert outcome.notes == ()
    assert len(outcome.tables) == 5


def test_slopes_with_muP_contradict_it() -> None:
    assert finding(COORD.analyse(SETTINGS, trials(mup=0.6)), "with muP").verdict == "contradicted"


@pytest.mark.parametrize("changes", [{"seeds": 2}, {"seeds": 1}, {"noise": 1.0}])
def test_too_few_seeds_or_too_much_noise_cannot_be_told(changes: dict[str, float]) -> None:
    outcome = COORD.analyse(SETTINGS, trials(**changes))  # type: ignore[arg-type]
    assert finding(outcome, "with muP").verdict == "cannot be told at this size"


def test_half_of_the_results_give_notes() -> None:
    done = trials()
    lost = dataclasses.replace(done[-1], status="failed", measured=())
    outcome = COORD.analyse(
        SETTINGS, [*done[:4], *(dataclasses.replace(t, status="diverged") for t in done[4:8]), lost]
    )
    assert any("diverged" in note for note in outcome.notes)
    assert any("failed" in note for note in outcome.notes)
    assert COORD.analyse(SETTINGS, []) == Outcome()
    planned = [dataclasses.replace(t, status="finished", measured=()) for t in done]
    assert COORD.analyse(SETTINGS, planned).findings == ()
    assert any("too few sizes" in note for note in COORD.analyse(SETTINGS, planned).notes)


def test_verdicts_by_hand() -> None:
    inside, across, above = Estimate(0.0, -0.1, 0.1), Estimate(0.2, 0.0, 0.4), Estimate(0.5, 0.4, 0.6)
    assert is_flat({"a": inside}, 0.25)[:2] == (True, "a")
    assert is_flat({"a": inside, "b": across}, 0.25)[:2] == (None, "b")
    assert is_flat({"a": inside, "b": across, "c": above}, 0.25)[:2] == (False, "c")
    assert is_growing({"a": inside, "c": above}, 0.25)[:2] == (True, "c")
    assert is_growing({"a": inside}, 0.25)[0] is False
    assert is_growing({"a": inside, "b": across}, 0.25)[0] is None


def test_trials_that_could_not_answer_are_refused() -> None:
    COORD.check(SETTINGS, trials(seeds=1))
    with pytest.raises(ConfigError, match="vary model.d_model"):
        COORD.check(SETTINGS, [trial(1, 0, 0, d_model=32), trial(1, 0, 0, d_model=64)])
    split = trials(seeds=1)
    config = {**split[0].runs[0].config, "zero": {"stage": 3}}
    split[0] = dataclasses.replace(split[0], runs=(dataclasses.replace(split[0].runs[0], config=config),))
    with pytest.raises(ConfigError, match="zero.stage=3"):
        COORD.check(SETTINGS, split)


def test_the_plots_can_be_drawn() -> None:
    matplotlib.use("Agg")
    for plot in COORD.analyse(SETTINGS, trials()).plots:
        figure = plot.draw()
        assert figure.axes
        assert plot.sentence.endswith(".")
