"""Typed configs: unknown keys, wrong types and what enters a fingerprint."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest

from pipelines.config import (
    Chosen,
    ChosenByName,
    Positive,
    WorkflowConfig,
    config_class,
    parse,
    plain,
    runtime,
    type_name,
)
from pipelines.data.sources.config import ReaderConfig
from pipelines.errors import ConfigError
from pipelines.train.spec import BatchConfig
from tests.unit.test_ranges import fields_of
from workflows.command_line.explain import follow


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    mode: Literal["fast", "safe"] = "safe"
    pair: tuple[float, float] = (0.9, 0.95)
    names: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    parent: str | None = None
    workers: int = runtime(2)


def test_nested_values_reach_their_types() -> None:
    parsed = parse(Outer, {"inner": {"size": 3, "rate": 1}, "pair": [0.1, 0.2], "weights": {"a": 1}, "parent": None})
    assert parsed.inner == Inner(size=3, rate=1.0)
    assert parsed.pair == (0.1, 0.2)
    assert parsed.weights == {"a": 1.0}
    assert parse(Outer, plain(parsed)) == parsed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"inner": {"size": 3, "rat": 1}},
            "unknown key inner.rat; accepted here: size, rate: did you mean inner.rate?",
        ),
        ({"inner": {"size": "3"}}, "inner.size is '3' (text); expected a whole number"),
        ({"inner": {"size": True}}, "inner.size is true; expected a whole number"),
        ({"inner": {}}, "missing key inner.size (a whole number)"),
        ({}, "missing key inner"),
        ({"inner": {"size": 1}, "mode": "quick"}, "mode is 'quick' (text); expected one of fast, safe"),
        ({"inner": {"size": 1}, "pair": [1.0]}, "pair is [1.0] (a list)"),
        ({"inner": {"size": 1}, "weights": {"a": "x"}}, "weights.a is 'x' (text); expected a number"),
        ({"inner": 4}, "inner is 4 (a number); expected a mapping with keys size, rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_full_path(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, values)
    assert message in str(caught.value)


def test_yaml_floats_written_without_a_dot_are_numbers() -> None:
    assert parse(Inner, {"size": 1, "rate": "1e-5"}).rate == 1e-5


@pytest.mark.parametrize("name", ["a/b", "", "..", "-x", "a b"])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected letters, digits"):
        WorkflowConfig(name=name)


def test_an_empty_store_is_refused() -> None:
    with pytest.raises(ConfigError, match="is TRUNKLINE_STORE set to nothing"):
        WorkflowConfig(name="x", store=" ")


def test_a_number_may_be_a_name() -> None:
    assert parse(WorkflowConfig, {"name": 2024}).name == "2024"


@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999])
def test_a_seed_out_of_range_is_refused_with_the_range(seed: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"seed is {seed}; expected .* of at least 0 and at most 9223372036854775807"
    ):
        parse(ReaderConfig, {"type": "generated", "seed": seed})


@pytest.mark.parametrize("rows", [0, -8, 10**15, 10**30])
def test_a_batch_out_of_range_is_refused_with_the_range(rows: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"batch.global_batch is {rows}; expected .* of at least 1 and at most 16777216"
    ):
        parse(BatchConfig, {"sequence_length": 8, "global_batch": rows}, "batch")


def test_a_store_whose_name_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="whose name is no UTF-8"):
        parse(WorkflowConfig, {"name": "x", "store": "/data/b\udcff"})
    assert parse(WorkflowConfig, {"name": "x", "store": "/data/ü 中"}).store == "/data/ü 中"


@pytest.mark.parametrize("path", ["data/b\udcff.jsonl", ["data", "data/b\udcff.jsonl"]])
def test_a_path_whose_name_is_no_text_is_refused_with_what_to_give(path: str | list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"path.* is 'data/b\\udcff.jsonl'; expected text in UTF-8.* by its folder or by a pattern"
    ):
        parse(ReaderConfig, {"type": "files", "path": path}, "reader")


def test_a_password_in_a_list_of_paths_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"reader.path\[1\] holds a password in a URI") as caught:
        parse(ReaderConfig, {"type": "files", "path": ["data", "s3://anna:s3cr3t@host/b"]}, "reader")
    assert "s3cr3t" not in str(caught.value)


@config_class
class Shape:
    """What every row's settings extend."""

    kind: str
    edge: Positive = 1.0


@config_class
class Square(Shape):
    kind: Literal["square"] = "square"


@config_class
class Brick(Shape):
    kind: Literal["brick"] = "brick"
    height: Positive = 2.0


SHAPES: dict[str, Any] = {"square": SimpleNamespace(Settings=Square), "brick": SimpleNamespace(Settings=Brick)}


@config_class
class Drawing:
    shape: Annotated[Shape, Chosen("kind", lambda: SHAPES)] = field(default_factory=Square)
    frame: Annotated[Shape | None, Chosen("kind", lambda: SHAPES)] = None


@config_class
class Album:
    first: Drawing = field(default_factory=Drawing)
    cover: Annotated[Shape, Chosen("kind", lambda: SHAPES)] = field(default_factory=lambda: Brick(height=9.0))


def test_a_key_picks_the_class_of_its_mapping() -> None:
    parsed = parse(Drawing, {"shape": {"kind": "brick", "height": 3}, "frame": {"kind": "square", "edge": 2}})
    assert parsed == Drawing(shape=Brick(height=3.0), frame=Square(edge=2.0))
    assert parse(Drawing, plain(parsed)) == parsed
    assert parse(Drawing, {"frame": None}) == Drawing()


def test_without_the_key_the_class_is_that_of_the_default() -> None:
    assert parse(Drawing, {"shape": {"edge": 3}}).shape == Square(edge=3.0)
    assert parse(Album, {"cover": {"edge": 3}}).cover == Brick(edge=3.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape": {"kind": "circle"}}, "first.shape.kind is 'circle'; expected one of brick, square"),
        ({"shape": {"kind": None}}, "first.shape.kind is None; expected one of brick, square"),
        ({"shape": {"kind": ["brick"]}}, "first.shape.kind is ['brick']; expected one of brick, square"),
        ({"frame": {"edge": 1}}, "missing key first.frame.kind (one of brick, square)"),
        ({"shape": {"height": 1}}, "unknown key first.shape.height; accepted here: kind, edge"),
        ({"shape": {"kind": "brick", "edge": 0}}, "first.shape.edge is 0; expected a number above 0"),
        ({"shape": 3}, "first.shape is 3 (a number); expected a mapping whose kind is one of brick, square"),
        ({"shape": None}, "first.shape is null; expected a mapping whose kind is one of brick, square"),
        ({"frame": 3}, "first.frame is 3 (a number); expected a mapping whose kind is one of brick, square or null"),
    ],
)
def test_what_does_not_fit_a_chosen_class_is_refused_by_its_full_path(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Album, {"first": values})
    assert str(caught.value).startswith(message)


def test_a_table_is_said_as_its_names() -> None:
    hint = Annotated[Shape, Chosen("kind", lambda: SHAPES)]
    assert type_name(hint) == "a mapping whose kind is one of brick, square"


def test_a_mistyped_key_is_followed_into_the_rows_of_a_table() -> None:
    assert follow(Album, "first.shape.height") is None
    assert follow(Album, "first.frame.edge") is None
    said = follow(Album, "first.shape.hight")
    assert said is not None
    assert "accepted there: kind, edge, height: did you mean first.shape.height?" in said


def test_the_rows_of_a_table_are_walked_for_their_numbers() -> None:
    assert (Brick, "height", Positive) in list(fields_of(Album, set()))


@config_class
class Box:
    lid: Shape = field(default_factory=Square)
    sides: dict[str, Annotated[Shape | None, ChosenByName(lambda: SHAPES)]]


def test_a_name_picks_the_class_of_what_stands_under_it() -> None:
    parsed = parse(Box, {"sides": {"brick": {"height": 3}, "square": None}})
    assert parsed.sides == {"brick": Brick(height=3.0), "square": None}
    assert parse(Box, plain({"sides": parsed.sides})).sides == parsed.sides


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sides": {"brik": {}}}, "unknown key sides.brik; accepted here: square, brick: did you mean sides.brick?"),
        ({"sides": {"brick": {"hight": 1}}}, "unknown key sides.brick.hight; accepted here: kind, edge, height: did"),
        ({"sides": {"brick": {"height": 0}}}, "sides.brick.height is 0; expected a number above 0"),
        ({"sides": {"brick": 3}}, "sides.brick is 3 (a number); expected a mapping with keys kind, edge, height"),
        ({"sides": 3}, "sides is 3 (a number); expected a mapping with some of the keys square, brick"),
        ({"sides": {}, "height": 3}, "unknown key height; accepted here: lid, sides: did you mean sides.brick.height?"),
    ],
)
def test_what_does_not_fit_the_class_that_a_name_picks_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Box, values)
    assert str(caught.value).startswith(message)


def test_a_mistyped_key_is_followed_into_the_rows_that_names_pick() -> None:
    assert follow(Box, "sides.brick.height") is None
    for key, meant in (
        ("sides.brik.height", "accepted there: square, brick: did you mean sides.brick.height?"),
        ("sides.brick.hight", "accepted there: kind, edge, height: did you mean sides.brick.height?"),
        ("height", "did you mean sides.brick.height?"),
    ):
        said = follow(Box, key)
        assert said is not None
        assert meant in said


def test_the_rows_that_names_pick_are_walked() -> None:
    assert (Brick, "height", Positive) in list(fields_of(Box, set()))
