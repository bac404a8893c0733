"""`bits=auto`: sizes as people write them, what does not fit, and which matrices have 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.train.quantization.budget import (
    Budget,
    check_budget,
    choose_bits,
    measure_errors,
    mixed_grids,
    parse_bytes,
    table_rows,
)
from pipelines.train.quantization.contract import Grid, Quantized
from pipelines.train.quantization.gptq import GPTQ, GptqSettings
from pipelines.train.quantization.grids import uniform_grids
from pipelines.train.quantization.rtn import RTN, RtnSettings
from pipelines.train.quantization.walk import quantize_stream
from tests.unit.test_quantization import MODEL, folded, rows

FOUR, EIGHT = (uniform_grids(MODEL, bits, 32, True) for bits in (4, 8))  # type: ignore[arg-type]


def size(grids: Mapping[str, Grid]) -> int:
    """Bytes of the model's weights: quantized matrices with scales of 2 bytes, all else in 2."""
    found = 0
    for name, value in quantize_stream(folded().items(), MODEL, RTN, RtnSettings(), grids, None, torch.bfloat16):
        if isinstance(value, Quantized):
            found += value.codes.numel() * value.grid.bits // 8 + 2 * value.scales.numel()
        else:
            found += 2 * value.numel()
        assert name
    return found


def checked(said: str) -> Budget:
    return check_budget(said, MODEL, FOUR, EIGHT, torch.bfloat16, size)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("1.8GB", 1_800_000_000),
        ("900MB", 900_000_000),
        ("900 mb", 900_000_000),
        ("1.5GiB", 3 * 2**29),
        ("512k", 512_000),
        ("12345", 12_345),
    ],
)
def test_sizes_are_read_as_people_write_them(said: str, expected: int) -> None:
    assert parse_bytes(said) == expected


@pytest.mark.parametrize("said", ["", "GB", "-3GB", "1.8 parsecs", "0MB", "1,8GB", "nan"])
def test_what_is_no_size_is_refused(said: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 1.8GB"):
        parse_bytes(said)


def test_budgets_that_leave_nothing_to_choose_are_refused_with_the_figures() -> None:
    least, most = size(FOUR), size(EIGHT)
    with pytest.raises(ConfigError, match=f"at 4 bits .* are not quantized: allow at least {least:,} bytes"):
        checked(str(least - 1))
    with pytest.raises(ConfigError, match=f"nothing to choose: ask for 8 bits, or allow less than {most:,} bytes"):
        checked(str(most))
    assert (checked(str(least)).least, checked(str(most - 1)).most) == (least, most)


def test_bytes_of_matrices_add_up() -> None:
    budget = checked(str(size(FOUR)))
    assert sum(budget.more.values()) == size(EIGHT) - size(FOUR)
    rest = sum(2 * value.numel() for name, value in folded().items() if "_proj" not in name)
    assert sum(budget.four.values()) == size(FOUR) - rest


def test_the_costliest_for_a_byte_have_eight_bits_until_the_bytes_are_spent() -> None:
    more = {"a": 10, "b": 20, "c": 10, "d": 5}
    budget = Budget(bytes=127, least=100, most=145, four=more, more=more)
    errors = {"a": (0.30, 0.10), "b": (0.90, 0.10), "c": (0.02, 0.01), "d": (0.04, 0.01)}
    # for a byte: b 0.04, a 0.02, d 0.006, c 0.001; after b there are 7 bytes left, too few for a
    choices = choose_bits(budget, errors)
    assert {one.parameter: one.bits for one in choices} == {"a": 4, "b": 8, "c": 4, "d": 8}
    assert [row[0] for row in table_rows(choices)] == ["b", "a", "d", "c"]


def test_a_choice_made_of_a_real_model_fits_and_follows_its_errors() -> None:
    calibration = rows()
    errors = measure_errors(folded().items(), MODEL, RTN, RtnSettings(), [FOUR, EIGHT], calibration, torch.bfloat16)
    assert list(errors) == list(FOUR)
    assert all(0.001 < four < 0.05 and eight < four / 100 for four, eight in errors.values())
    budget = checked(str((size(FOUR) + size(EIGHT)) // 2))
    choices = choose_bits(budget, errors)
    grids = mixed_grids(choices, FOUR, EIGHT)
    assert budget.bytes - min(budget.more.values()) < size(grids) <= budget.bytes
    assert {grid.bits for grid in grids.values()} == {4, 8}


def test_errors_are_those_of_the_method() -> None:
    """By what the walk tells of the first matrix: before it, nothing is quantized in either."""
    told: list[float] = []
    stream = quantize_stream(
        folded().items(), MODEL, GPTQ, GptqSettings(mend=False), FOUR, rows(), torch.bfloat16,
        tell=lambda error: told.append(error.error),
    )  # fmt: skip
    list(stream)
    (first, *_) = measure_errors(folded().items(), MODEL, GPTQ, GptqSettings(), [FOUR], rows(), torch.bfloat16).values()
    assert min(told[:3]) <= first[0] <= max(told[:3])
