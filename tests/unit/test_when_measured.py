"""When a row is due, and that trials which share a run get the rows of both."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigError
from pipelines.train.measures.measure import MeasureSettings
from pipelines.train.sharing.chain import both


def due(settings: MeasureSettings, steps: int) -> list[int]:
    return [step for step in range(1, steps + 1) if settings.falls_on(step, steps)]


def test_the_end_alone_or_every_few_steps() -> None:
    assert due(MeasureSettings(), 10) == [10]
    assert due(MeasureSettings(every_steps=4), 10) == [4, 8, 10]


def test_evenly_in_the_logarithm_of_the_steps() -> None:
    assert due(MeasureSettings(per_doubling=1), 20) == [1, 2, 4, 8, 16, 20]
    # three from 8 to 16: at 8, and after 8·2^(1/3) = 10.08 and 8·2^(2/3) = 12.7
    assert [step for step in due(MeasureSettings(per_doubling=3), 100) if 8 <= step < 16] == [8, 11, 13]


@pytest.mark.parametrize(("one", "other"), [(2, 3), (1, 4), (5, 6)])
def test_two_trials_of_one_run_get_the_rows_of_both(one: int, other: int) -> None:
    first, second = ({"max_tokens": 100, "every_steps": None, "per_doubling": rows} for rows in (one, other))
    joined = both(first, second)
    rows = set(due(MeasureSettings(per_doubling=joined["per_doubling"]), 3000))
    assert rows >= {*due(MeasureSettings(per_doubling=one), 3000), *due(MeasureSettings(per_doubling=other), 3000)}


def test_other_settings_must_agree() -> None:
    with pytest.raises(ConfigError, match="different settings"):
        both({"max_tokens": 100}, {"max_tokens": 200})
