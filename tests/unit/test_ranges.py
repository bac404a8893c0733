"""Numbers of configs: every field of every workflow says which it takes, and no other is taken."""

from __future__ import annotations

import dataclasses
import importlib
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from pipelines.config import Amount, Chosen, ChosenByName, Count, Range, Seed, Share, parse
from pipelines.errors import ConfigError

WORKFLOWS = Path(__file__).parents[2] / "workflows"


def config_classes() -> list[type]:
    """The config of every workflow: what its `run` takes."""
    modules = [importlib.import_module(f"workflows.{path.stem}") for path in sorted(WORKFLOWS.glob("*.py"))]
    return [typing.get_type_hints(module.run)["config"] for module in modules if hasattr(module, "run")]


def fields_of(cls: type, seen: set[type]) -> Iterator[tuple[type, str, Any]]:
    """Every field of a config class and of those inside it: its class, name and hint."""
    if cls in seen:
        return
    seen.add(cls)
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        yield cls, name, hint
        for inner in classes_in(hint):
            yield from fields_of(inner, seen)


def classes_in(hint: Any) -> list[type]:
    """The config classes that a value of this hint may hold, those of a table's rows included."""
    if isinstance(hint, (Chosen, ChosenByName)):
        return list(hint.settings().values())
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [cls for part in get_args(hint) for cls in classes_in(part)]


def numbers_in(hint: Any) -> list[tuple[Any, Range | None]]:
    """Each int or float in a hint, with the range it has."""
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        return [(base, next((mark for mark in marks if isinstance(mark, Range)), None))] if base in (int, float) else []
    if hint in (int, float):
        return [(hint, None)]
    if get_origin(hint) is typing.Literal:
        return []
    return [number for part in get_args(hint) for number in numbers_in(part)]


def numeric_fields() -> list[tuple[type, str, Any, Range | None]]:
    seen: set[type] = set()
    return [
        (cls, name, base, range_)
        for config in config_classes()
        for cls, name, hint in fields_of(config, seen)
        for base, range_ in numbers_in(hint)
    ]


FIELDS = numeric_fields()


def test_every_workflow_is_looked_at() -> None:
    assert len({cls for cls, *_ in FIELDS}) > 20
    assert {"peak_lr", "workers", "min_words", "retries", "weights"} <= {name for _, name, *_ in FIELDS}


def test_every_config_is_a_config_class() -> None:
    """Else a field that is added to it would change the fingerprints of all that was made."""
    seen: set[type] = set()
    for config in config_classes():
        list(fields_of(config, seen))
    assert [cls.__name__ for cls in seen if "__is_config_class__" not in vars(cls)] == []


@pytest.mark.parametrize(
    ("cls", "name", "base", "range_"), FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name, *_ in FIELDS]
)
def test_a_numeric_field_says_which_numbers_it_takes(cls: type, name: str, base: type, range_: Range | None) -> None:
    """And takes neither nan, nor inf, nor what is below anything that makes sense, nor more than 64 bits."""
    assert range_ is not None, f"{cls.__name__}.{name} has no Range: see pipelines/config.py"
    assert range_.low is not None or range_.above is not None, "nothing here may be negative"
    for wrong in (math.nan, math.inf, -math.inf, "nan", "inf", 10**400) if base is float else ():
        refused(cls, name, wrong)
    refused(cls, name, -1)
    refused(cls, name, 10**400)
    if range_.low is None:
        refused(cls, name, range_.above)
    if range_.high is not None:
        refused(cls, name, range_.high + 1)


def refused(cls: type, name: str, value: Any) -> None:
    """Whatever else the class needs, and whatever holds the number: a list, a mapping, a tuple."""
    hint = typing.get_type_hints(cls, include_extras=True)[name]
    holder = {list: [value], dict: {"x": value}, tuple: [value, value]}
    outer = next((get_origin(part) for part in (hint, *get_args(hint)) if get_origin(part) in holder), None)
    one = dataclasses.make_dataclass("One", [(name, hint)], frozen=True)
    with pytest.raises(ConfigError, match=rf"^{name}\S* is .*; expected (a finite|(one of .* or )?a( whole)?) number"):
        parse(one, {name: holder[outer] if outer else value})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    parts: dict[str, Share] = dataclasses.field(default_factory=dict)
    count: Count | None = None
    seed: Seed = 0
    base: typing.Literal["keep"] | Amount = "keep"


def test_a_number_out_of_range_is_told_by_its_path_and_what_is_accepted() -> None:
    for values, message in (
        ({"parts": {"a": 1.5}}, "parts.a is 1.5; expected a number of at least 0 and at most 1"),
        ({"count": 0}, "count is 0; expected a whole number of at least 1"),
        ({"count": 1.5}, "count is 1.5 (a number); expected a whole number"),
        ({"base": math.nan}, "base is nan; expected one of keep or a number of at least 0"),
        ({"base": -1}, "base is -1; expected one of keep or a number of at least 0"),
        ({"seed": 2**70}, f"seed is {2**70}; expected a whole number of at least 0 and at most {2**63 - 1}"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(Example, values)
        assert str(caught.value).startswith(message)


def test_what_lies_within_is_taken() -> None:
    found = parse(Example, {"parts": {"a": 0, "b": "1e-3"}, "count": None, "seed": 2**63 - 1, "base": 0})
    assert found == Example(parts={"a": 0.0, "b": 1e-3}, seed=2**63 - 1, base=0.0)


def test_what_is_counted_one_by_one_has_an_end() -> None:
    """The largest whole number kept a plan busy for ever, or overflowed in it."""
    for name in ("layers", "sequence_length"):
        found = [cls for cls, field, *_ in FIELDS if field == name]
        assert found
        for cls in found:
            refused(cls, name, 2**63 - 1)
