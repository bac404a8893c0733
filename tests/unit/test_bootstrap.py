"""Intervals of a few seeds hold the truth about as often as they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pipelines.laws.law import Estimate
from pipelines.train.studies.bootstrap import bootstrap, mean_of, stretched, transformed


def covered(seeds: int, sets: int) -> float:
    random = np.random.default_rng(1)
    estimates = [
        mean_of([float(value) for value in random.normal(3.0, 0.5, seeds)], level=0.95, samples=200)
        for _ in range(sets)
    ]
    return sum(estimate is not None and estimate.low <= 3.0 <= estimate.high for estimate in estimates) / sets


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_few_seeds_cover_the_mean(seeds: int) -> None:
    # unstretched percentile intervals of three seeds hold it in some 75 % of the sets
    assert 0.88 <= covered(seeds, 120) <= 1.0


def test_one_seed_gives_a_value_and_no_interval() -> None:
    assert mean_of([1.0], level=0.95, samples=50) is None
    assert mean_of([], level=0.95, samples=50) is None


def test_what_cannot_be_worked_out_in_a_tenth_of_the_samples_has_no_interval() -> None:
    def often_missing(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
        numbers = {"mean": float(np.mean(groups["a"]))}
        return numbers | ({"rare": 1.0} if 2.0 in groups["a"] else {})

    said = bootstrap(often_missing, {"a": [1.0, 2.0, 3.0]}, level=0.95, samples=200)
    assert set(said.values) == {"mean", "rare"}
    assert set(said.estimates) == {"mean"}
    assert len(said.samples["mean"]) == 200


def test_a_number_is_stretched_for_the_groups_behind_it() -> None:
    groups = {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}

    def means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {name: float(np.mean(members)) for name, members in groups.items()}

    both = bootstrap(means, groups, level=0.95, samples=300)
    own = bootstrap(means, groups, level=0.95, samples=300, behind=lambda name: [name])
    # Student's t at 4 and at 2 degrees of freedom: 2.78 and 4.30
    assert own.estimates["a"].width / both.estimates["a"].width == pytest.approx(4.303 / 2.776, rel=1e-3)
    assert stretched(0.95, [3]) == pytest.approx(1.2247 * 4.3027 / 1.96, rel=1e-3)


def test_same_seed_same_interval() -> None:
    one, two = (mean_of([1.0, 1.5, 3.0], level=0.9, samples=100, seed=4) for _ in range(2))
    assert one == two


def test_a_transformed_estimate_keeps_its_order() -> None:
    assert transformed(Estimate(1.0, 0.0, 2.0), lambda value: 2.0**-value) == Estimate(0.5, 0.25, 1.0)
