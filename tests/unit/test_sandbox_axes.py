"""What a YAML may say of an axis, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.sandbox.axes import read_axis


def values(form: Any, name: str = "schedule.peak_lr") -> list[Any]:
    return [option.value for option in read_axis(name, form, "vary.x").options]


def test_ranges_have_both_ends_and_numbers_that_can_be_typed() -> None:
    assert values({"log": [0.001, 0.1], "points": 3}) == [0.001, 0.01, 0.1]
    assert values({"log": ["1e-3", 0.1], "points": 5}) == [0.001, 0.003162, 0.01, 0.03162, 0.1]
    assert values({"linear": [0.0, 1.0], "points": 3}) == [0.0, 0.5, 1.0]
    # whole numbers stay whole
    assert values({"log": [1, 100], "points": 3}) == [1, 10, 100]
    assert values([True, False, None, "cosine", 3]) == [True, False, None, "cosine", 3]


def test_bundles_set_keys_together_under_a_label() -> None:
    axis = read_axis("width", {"bundles": {"d32": {"model.d_model": 32, "model.heads": 2}, "d64": {}}}, "vary.width")
    assert [(option.label, option.value) for option in axis.options] == [("d32", "d32"), ("d64", "d64")]
    assert axis.options[0].keys == {"model.d_model": 32, "model.heads": 2}


def test_samples_are_drawn_by_their_seed() -> None:
    form = {"sample": {"log": [0.001, 0.1], "count": 5, "seed": 3}}
    assert values(form) == values(form)
    assert values(form) != values({"sample": {"log": [0.001, 0.1], "count": 5, "seed": 4}})
    assert all(0.001 <= value <= 0.1 for value in values(form))


def test_sampled_shares_sum_to_one_and_the_first_is_the_start() -> None:
    start = {"web": 0.7, "code": 0.3}
    drawn = values({"sample": {"around": start, "concentration": 12, "count": 6, "seed": 0}}, "mixture.weights")
    assert drawn[0] == start
    assert len(drawn) == 6
    for weights in [*drawn, *values({"sample": {"dirichlet": {"web": 4, "code": 1}, "count": 9}}, "w")]:
        assert sum(round(share * 1000) for share in weights.values()) == 1000
    assert len({str(weights) for weights in drawn}) == 6


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ([], "is empty"),
        ({"log": [0.1, 0.2], "points": 0}, "is empty"),
        ({"sample": {"log": [0.1, 0.2], "count": 0}}, "is empty"),
        ({"bundles": {}}, "is empty"),
        (
            {"log": [0.1, 0.001], "points": 3},
            r"vary\.x\.log is \[0\.1, 0\.001\]; expected \[low, high\] with low < high",
        ),
        ({"log": [0, 1], "points": 3}, "low > 0"),
        ({"log": [0.1, 1.0], "points": 1}, "a range has two ends"),
        ({"log": [0.1, 1.0]}, "points is None"),
        ({"log": [0.1, 1.0], "point": 3}, "has point, which `log` does not take"),
        ({"grid": [1, 2]}, "has the keys grid; expected a list"),
        (0.01, "is 0.01; expected a list"),
        ([1, 1], "has 1 more than once"),
        ([{"model.d_model": 3}], "for keys that are set together write"),
        ({"bundles": {"a": 3}}, "expected key: value"),
        ({"sample": {"uniform": [0, 1]}}, "expected one of"),
        ({"sample": {"dirichlet": {"web": 0}, "count": 3}}, "expected numbers above 0"),
        ({"sample": {"around": {"web": 1}, "count": 3}}, "concentration"),
        ({"log": [float("nan"), 1], "points": 3}, "expected a finite number"),
    ],
)
def test_what_is_no_axis_is_refused(form: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_axis("x", form, "vary.x")
