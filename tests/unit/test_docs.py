"""Pages that are read in one sitting, and that speak of files and rooms that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DESIGN = sorted((DOCS / "design").glob("*.md"))
# a list to look things up in, and what is kept of every experiment
REFERENCE = {DOCS / name for name in ("log.md", "licences.md", "recipe.md")}
SITTINGS = [*sorted(set(DOCS.rglob("*.md")) - REFERENCE), ROOT / "CONTRIBUTING.md"]
PAGES = [*SITTINGS, DOCS / "recipe.md", ROOT / "README.md"]
CODE = [path for folder in ("pipelines", "workflows", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = [path for folder in ("tests", "infra") for path in sorted((ROOT / folder).rglob("*.py"))]
FILES = {f"/{path.relative_to(ROOT)}" for path in [*CODE, *TESTS]}
# files that a text names and that are not ours, or shall never be
OTHERS = {"utils.py", "modeling_minicpm.py", "configuration_minicpm.py"}
MOST_WORDS, WIDEST = 1500, 120


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", SITTINGS, ids=name)
def test_a_page_is_read_in_one_sitting(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").split()) < MOST_WORDS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_fit_a_screen(page: Path) -> None:
    """Rows of tables and commands cannot be wrapped."""
    prose = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith(("|", "    "))]
    if page.name == "README.md":
        prose = re.sub("```.*?```", "", "\n".join(prose), flags=re.DOTALL).splitlines()  # what a run printed
    assert [line for line in prose if len(line) > WIDEST] == []


def absent(path: Path) -> set[str]:
    """The files that a text names, by a path or the end of one, and that are not there."""
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    named |= set(re.findall(r"\b((?:pipelines|workflows|benchmarks|tests|infra)/[\w/]+\.py)\b", text))
    return {file for file in named - OTHERS if not any(path.endswith(f"/{file}") for path in FILES)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    assert absent(page) == set()


def test_files_that_the_code_names_are_there() -> None:
    assert {name(path): files for path in CODE if (files := absent(path))} == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_first_page_lists_every_other() -> None:
    listed = re.findall(r"^- \[\w+\]\(design/(\w+\.md)\): ", (DOCS / "design.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == [page.name for page in DESIGN]


def rooms() -> Iterator[tuple[str, list[str]]]:
    """Folders of the layout on the first page, each with its modules: the words behind the colon."""
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    layout = text.partition("## The rooms")[2].partition("```")[2].partition("```")[0]
    above: list[tuple[int, str]] = []
    lines = re.sub(r"\n {20,}", " ", layout).strip("\n").splitlines()  # a line that goes on
    for line in lines:
        indent, folder, told = re.fullmatch(r"( *)([\w/]+/) +(.*)", line).groups()  # type: ignore[union-attr]
        above = [(depth, path) for depth, path in above if depth < len(indent)]
        path = (above[-1][1] if above else "") + folder
        above.append((len(indent), path))
        yield path, told.partition(": ")[2].split()


def test_the_layout_names_every_room_and_only_modules_that_are_there() -> None:
    layout = dict(rooms())
    packages = {f"{name(path.parent)}/" for path in CODE if path.name == "__init__.py" and path.parent != ROOT}
    assert packages - {"benchmarks/"} <= set(layout)
    for room, modules in layout.items():
        assert (ROOT / room).is_dir(), room
        if room.startswith(("pipelines", "workflows")):
            assert [module for module in modules if not (ROOT / room / f"{module}.py").exists()] == [], room
