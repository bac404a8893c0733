"""WSD against points computed by hand."""

import math
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.schedules.decays import DECAYS
from pipelines.train.schedules.schedule import Schedule, ScheduleConfig, check, decay_values, learning_rate, resolve


def rates(schedule: Schedule, steps: int) -> list[float]:
    return [learning_rate(schedule, step, steps) for step in range(steps)]


def test_trunk_warms_up_and_stays() -> None:
    assert rates(Schedule(peak_lr=0.01, warmup_steps=4), 7) == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.01]
    )


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # peak 1, floor 0.1, 4 decay steps: p = 1/4, 1/2, 3/4, 1
        ("linear", [1, 1, 0.775, 0.55, 0.325, 0.1]),
        ("1-sqrt", [1, 1, 0.1 + 0.9 * 0.5, 0.1 + 0.9 * (1 - math.sqrt(0.5)), 0.1 + 0.9 * (1 - math.sqrt(0.75)), 0.1]),
        (
            "cosine",
            [1, 1, 0.1 + 0.45 * (1 + math.cos(math.pi / 4)), 0.55, 0.1 + 0.45 * (1 - math.cos(math.pi / 4)), 0.1],
        ),
    ],
)
def test_decays_to_the_floor(decay: str, expected: list[float]) -> None:
    schedule = Schedule(peak_lr=1.0, decay=decay, decay_steps=4)
    assert rates(schedule, 6) == pytest.approx(expected)


def test_exponential_halves_every_half_life() -> None:
    schedule = Schedule(peak_lr=0.01, decay="exponential", decay_steps=6, half_life_steps=2)
    assert rates(schedule, 7) == pytest.approx([0.01] + [0.01 * 0.5 ** (k / 2) for k in range(1, 7)])
    # the published run: half-life 5000, 18,500 decay steps, 1e-2 down to 7.7e-4 (reference arithmetic)
    published = Schedule(peak_lr=0.01, decay="exponential", decay_steps=18_500, half_life_steps=5000)
    assert learning_rate(published, 279_499, 279_500) == pytest.approx(7.69e-4, rel=1e-3)


def test_geometric_is_exponential_to_a_tenth_at_any_length() -> None:
    geometric = Schedule(peak_lr=0.01, decay="geometric", decay_steps=20)
    exponential = Schedule(peak_lr=0.01, decay="exponential", decay_steps=20, half_life_steps=20 * math.log10(2))
    assert rates(geometric, 30) == pytest.approx(rates(exponential, 30))


def test_wsd_s_decays_goes_back_to_its_peak_and_decays_again() -> None:
    config = ScheduleConfig(peak_lr=1.0, decay="linear", decay_fraction=0.5, earlier_decays=(0.5,))
    twice = resolve(config, 8, None)
    assert twice.earlier_decays == ((4, 2),)
    # the first four steps are those of a run of four steps, so the two share them
    assert rates(twice, 8)[:4] == rates(Schedule(peak_lr=1.0, decay="linear", decay_steps=2), 4)
    assert rates(twice, 8) == pytest.approx([1, 1, 0.55, 0.1, 0.775, 0.55, 0.325, 0.1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decay": "linear", "decay_fraction": 0.1, "earlier_decays": (0.5, 0.3)}, "put the ends in ascending order"),
        ({"decay": "linear", "decay_fraction": 0.6, "earlier_decays": (0.5,)}, "begins at step 40"),
        ({"earlier_decays": (0.5,), "decay_fraction": 0.5}, "choose schedule.kind=wsd and a schedule.decay"),
        ({"decay": "linear", "decay_fraction": 0.1, "earlier_decays": (0.01,)}, "before step 1 has no steps"),
        ({"kind": "cosine", "earlier_decays": (0.5,)}, "has no steps: set schedule.decay_fraction"),
    ],
)
def test_earlier_decays_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(ScheduleConfig(peak_lr=1.0, **values), 100, None)


def test_cosine_and_constant_baselines() -> None:
    cosine = Schedule(kind="cosine", peak_lr=1.0, warmup_steps=1, final_ratio=0.1)
    assert rates(cosine, 5) == pytest.approx(
        [1.0, *(0.1 + 0.45 * (1 + math.cos(math.pi * k / 4)) for k in range(1, 5))]
    )
    assert rates(Schedule(kind="constant", peak_lr=0.3, warmup_steps=2), 4) == pytest.approx([0.15, 0.3, 0.3, 0.3])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peak_lr": 0.0}, "peak_lr is 0.0"),
        ({"warmup_steps": 8, "decay": "linear", "decay_steps": 8}, "exceed steps 10"),
        ({"kind": "cosine", "decay": "linear", "decay_steps": 2}, "takes no decay phase"),
        ({"decay": "linear"}, "a decay needs steps .*: set schedule.decay_steps to"),
        ({"decay_steps": 3}, "a decay needs steps"),
        ({"decay": "exponential", "decay_steps": 3}, "half_life_steps is None"),
        ({"final_ratio": 2.0}, "final_ratio is 2.0"),
        ({"decay": "1-sqr", "decay_steps": 3}, r"expected one of none, exponential, linear.* did you mean 1-sqrt\?"),
    ],
)
def test_contradictions_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Schedule(**{"peak_lr": 0.01, **values}), 10)  # type: ignore[arg-type]


def test_fractions_and_inheritance_resolve() -> None:
    config = ScheduleConfig(decay="linear", decay_fraction=0.5)
    assert resolve(config, 40, 0.01) == Schedule(peak_lr=0.01, decay="linear", decay_steps=20)
    with pytest.raises(ConfigError, match="takes no LR from a parent"):
        resolve(config, 40, None)
    with pytest.raises(ConfigError, match="both set"):
        resolve(ScheduleConfig(peak_lr=1, warmup_steps=1, warmup_fraction=0.1), 40, None)


@pytest.mark.parametrize("name", DECAYS)
def test_every_shape_goes_down_from_one_to_zero(name: str) -> None:
    values = [DECAYS[name](k / 64) for k in range(65)]
    assert (values[0], values[-1]) == pytest.approx((1, 0))
    assert values == sorted(values, reverse=True)


def test_another_shape_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Schedule(peak_lr=1.0, decay="linear", decay_steps=4)
    before = decay_values(linear)
    monkeypatch.setitem(DECAYS, "square", lambda progress: 1 - progress**2)
    schedule = resolve(ScheduleConfig(decay="square", decay_fraction=1.0), 4, 1.0)
    assert rates(schedule, 4) == pytest.approx([0.1 + 0.9 * (1 - p * p) for p in (0.25, 0.5, 0.75, 1)])
    # what fingerprints hold: each its own shape, so a finished run of another shape stays what it is
    assert decay_values(schedule) != decay_values(linear) == before == [1 - k / 8 for k in range(1, 9)]
    assert decay_values(Schedule(peak_lr=1.0)) == []
    assert decay_values(Schedule(kind="cosine", peak_lr=1.0))[3] == pytest.approx(0.5)
