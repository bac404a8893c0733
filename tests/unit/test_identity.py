"""What is part of an identity, and what differs between two of them."""

from dataclasses import field
from typing import Annotated, Any

from pipelines.config import Chosen, changed, config_class, runtime
from pipelines.identity import decisive, difference, fingerprint, founding_defaults, identity, with_defaults
from tests.unit.test_config import SHAPES, Album, Brick, Drawing, Shape, Square


@config_class
class Sized:
    size: int
    rate: float = 0.5
    workers: int = runtime(2)


def test_runtime_fields_do_not_change_the_fingerprint() -> None:
    base, more, other = Sized(size=1), Sized(size=1, workers=8), Sized(size=2)
    assert fingerprint(identity(base)) == fingerprint(identity(more)) != fingerprint(identity(other))
    assert difference(identity(base), identity(other)) == ["size: 1 -> 2"]


def test_what_decides_is_told_with_its_defaults() -> None:
    assert decisive(Sized(size=1)) == {"size": 1, "rate": 0.5}
    assert decisive(Drawing()) == {"shape": {"edge": 1.0, "kind": "square"}, "frame": None}


def test_a_row_is_told_by_its_name_in_the_identity() -> None:
    """`kind` is a default of its own class: left out, two rows at their defaults would be one."""
    assert identity(Drawing()) == {}
    assert identity(Drawing(shape=Brick())) == {"shape": {"kind": "brick"}}
    assert identity(Drawing(frame=Square())) == {"frame": {"kind": "square"}}
    assert identity(Drawing(shape=Square(edge=3.0))) == {"shape": {"kind": "square", "edge": 3.0}}
    assert identity(Album()) == {}
    assert identity(Album(cover=Brick())) == {"cover": {"kind": "brick"}}


@config_class
class Gallery:
    shapes: list[Annotated[Shape, Chosen("kind", lambda: SHAPES)]] = field(default_factory=list)
    named: dict[str, Annotated[Shape, Chosen("kind", lambda: SHAPES)]] = field(default_factory=dict)


def test_rows_in_a_list_or_a_mapping_are_told_by_their_names() -> None:
    """Two passes of a recipe at their defaults, in one order or the other, are not the same recipe."""
    assert identity(Gallery()) == {}
    assert identity(Gallery(shapes=[Square(), Brick()])) == {"shapes": [{"kind": "square"}, {"kind": "brick"}]}
    assert identity(Gallery(named={"left": Brick()})) == {"named": {"left": {"kind": "brick"}}}
    assert difference(identity(Gallery(shapes=[Brick()])), identity(Gallery(shapes=[Square()]))) == [
        'shapes[0].kind: "brick" -> "square"'
    ]


@config_class
class Grown:
    """As `Brick` in a later version: a field more, and one whose default has changed."""

    size: float
    height: float = changed(5.0, founding=2.0)
    lora: int | None = None
    exact: bool | int = False


@config_class
class House:
    brick: Grown = field(default_factory=lambda: Grown(size=1.0))
    inner: Drawing = field(default_factory=Drawing)


def test_a_field_at_its_founding_default_is_no_part_of_the_identity() -> None:
    assert identity(Grown(size=1.0, height=2.0)) == {"size": 1.0}
    assert identity(Grown(size=1.0)) == {"size": 1.0, "height": 5.0}
    assert identity(Grown(size=1.0, height=2.0, lora=8)) == {"size": 1.0, "lora": 8}
    assert identity(House(inner=Drawing(shape=Square(edge=2.0)))) == {
        "inner": {"shape": {"kind": "square", "edge": 2.0}}
    }


def test_equal_numbers_of_another_type_are_no_default() -> None:
    assert identity(Grown(size=1.0, height=2.0, exact=0)) == {"size": 1.0, "exact": 0}


@config_class
class Part:
    height: float = changed(5.0, founding=2.0)


@config_class
class Whole:
    part: Part = field(default_factory=Part)


def test_a_default_inside_a_default_is_the_one_of_its_founding() -> None:
    """What was made with a height of 2 has no part in its identity, so a part with a height of 5 must be in it."""
    assert identity(Whole(part=Part(height=2.0))) == {}
    assert identity(Whole()) == {"part": {"height": 5.0}}


@config_class
class Listed:
    kinds: list[str] = changed(default_factory=lambda: ["a"], founding=["a", "b"])
    parts: dict[str, Part] = field(default_factory=dict)


def test_a_founding_default_may_be_a_list() -> None:
    assert identity(Listed(kinds=["a", "b"])) == {}
    assert identity(Listed()) == {"kinds": ["a"]}
    assert founding_defaults(Listed) == {"kinds": ["a", "b"], "parts": {}}


def differs(before: Any, config: Any) -> list[str]:
    """What is told of a config now, where `before` was recorded."""
    return difference(with_defaults(before, config), with_defaults(identity(config), config))


def test_an_identity_that_lists_its_defaults_is_told_by_what_really_differs() -> None:
    old = {"size": 1.0, "height": 2.0, "lora": None, "exact": False}
    assert differs(old, Grown(size=1.0, height=2.0)) == []
    assert differs(old, Grown(size=1.0)) == ["height: 2.0 -> 5.0"]
    assert differs(old, Grown(size=1.0, height=2.0, lora=8)) == ["lora: null -> 8"]


def test_a_default_that_one_side_left_out_is_told_by_its_value() -> None:
    assert differs({"size": 1.0}, Grown(size=1.0)) == ["height: 2.0 -> 5.0"]
    assert differs({"size": 1.0, "lora": 8}, Grown(size=1.0, height=2.0)) == ["lora: 8 -> null"]
    assert differs({"kinds": ["a"]}, Listed(kinds=["a", "b"])) == ['kinds[1]: (absent) -> "b"']


def test_defaults_inside_what_was_left_out_are_told_too() -> None:
    old = {"part": {"height": 2.0}}
    assert differs(old, Whole(part=Part(height=2.0))) == []
    assert differs(old, Whole(part=Part(height=3.0))) == ["part.height: 2.0 -> 3.0"]
    named = {"parts": {"x": {"height": 2.0}, "gone": {"height": 3.0}}}
    assert differs(named, Listed(kinds=["a", "b"], parts={"x": Part(height=2.0)})) == [
        "parts.gone.height: 3.0 -> (absent)"
    ]


def test_another_row_of_a_table_is_told_by_its_name() -> None:
    assert differs({}, Drawing(shape=Brick(height=3.0))) == [
        "shape.height: 2.0 -> 3.0",
        'shape.kind: "square" -> "brick"',
    ]


def test_what_no_config_knows_is_told_as_it_is() -> None:
    assert differs({"size": 1, "inventory": "3 files"}, Sized(size=1)) == ['inventory: "3 files" -> (absent)']
