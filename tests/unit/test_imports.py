"""Imports point one way: no module and no room imports, by whatever way round, what imports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.structure import between_rooms, circles, imports, level, modules, upward
from tests.unit.test_docs import rooms

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    return imports(modules(ROOT))


def test_no_module_is_in_a_circle(edges: dict[str, set[str]]) -> None:
    assert circles(edges) == []


def test_no_room_is_in_a_circle(edges: dict[str, set[str]]) -> None:
    assert circles(between_rooms(edges)) == []


def test_no_import_points_up(edges: dict[str, set[str]]) -> None:
    assert upward(edges) == []


@pytest.mark.parametrize("above", ["pipelines.data.", "pipelines.train."])
def test_a_room_imports_only_from_those_that_the_design_lists_before_it(edges: dict[str, set[str]], above: str) -> None:
    between = between_rooms(edges)
    listed = [room for path, _ in rooms() if (room := path.rstrip("/").replace("/", ".")) in between]
    listed = [room for room in listed if room.startswith(above)]
    climbs = [f"{room} -> {other}" for n, room in enumerate(listed) for other in between[room] if other in listed[n:]]
    assert len(listed) > 5
    assert climbs == []


def test_every_room_has_a_level(edges: dict[str, set[str]]) -> None:
    assert [name for name in edges if level(name) < 0 and name.startswith("pipelines.")] == []


def test_circles_are_seen_also_those_within_functions(tmp_path: Path) -> None:
    for name, text in (
        ("a", "from pipelines.store.b import x\n"),
        ("b", "def f():\n    from pipelines.store import c\n"),
        ("c", "import pipelines.store.a\nfrom pipelines.train.d import y\n"),
    ):
        (tmp_path / "pipelines/store").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"pipelines/store/{name}.py").write_text(text)
    (tmp_path / "pipelines/train").mkdir()
    (tmp_path / "pipelines/train/d.py").write_text("from pipelines.store.a import x\n")
    found = imports(modules(tmp_path))
    assert circles(found) == [["pipelines.store.a", "pipelines.store.b", "pipelines.store.c", "pipelines.train.d"]]
    assert circles(between_rooms(found)) == [["pipelines.store", "pipelines.train.d"]]
    assert upward(found) == ["pipelines.store.c -> pipelines.train.d"]
