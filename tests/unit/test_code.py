"""What is part of a module's hash, and which modules a row of a table brings."""

import ast
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.store import code
from pipelines.store.code import behaviour, chosen_modules, imports_of, source_fingerprint

CONFIG = """
from pipelines.config import Count, config_class
from pipelines.errors import ConfigError


@config_class
class Sizes:
    width: Count = 3

    def __post_init__(self) -> None:
        if self.width > 9:
            raise ConfigError("too wide")

    @property
    def area(self) -> int:
        return self.width**2
"""


def of(text: str) -> str:
    return behaviour(ast.parse(text))


@pytest.mark.parametrize("other", ['"""Other."""\n# why\nx = 1', "x  =  1", "import os\nx = 1"])
def test_comments_layout_and_unused_imports_do_not_change_a_module(other: str) -> None:
    assert of('"""Doc."""\nx = 1') == of(other)


@pytest.mark.parametrize("other", ["x = 2", "y = 1", "x: int = 1", "x = 1\ny = x"])
def test_behaviour_does(other: str) -> None:
    assert of("x = 1") != of(other)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    width: Count = 3\n", "    width: Count = 3\n    lora: int | None = None\n"),
        ("    width: Count = 3\n", "    width: Count = 4\n"),
        ("import Count, config_class", "import Count, Share, config_class"),
        ("\n\n@config_class", "\nfrom pipelines.lora import Lora\n\n@config_class"),
        (
            "\n\n@config_class",
            '\n\n@config_class\nclass Lora:\n    """Doc."""\n\n    rank: Count = 4\n\n\n@config_class',
        ),
    ],
)
def test_a_field_of_a_config_and_what_it_alone_needs_do_not_change_a_module(before: str, after: str) -> None:
    grown = CONFIG.replace(before, after, 1)
    assert grown != CONFIG
    assert of(grown) == of(CONFIG)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("self.width**2", "self.width**3"),
        ("> 9", "> 8"),
        ("@property", "@cached_property"),
        ("@config_class", "@dataclass"),
        ("from pipelines.errors import", "from pipelines.mistakes import"),
        ("    @property", "    COUNT = 3\n\n    @property"),
        ("    @property", "    POWER: ClassVar[int] = 3\n\n    @property"),
        ("\n\n@config_class", "\n\n@config_class\nclass Wide(Sizes):\n    more: Count = 4\n\n\n@config_class"),
    ],
)
def test_what_a_config_computes_does(before: str, after: str) -> None:
    changed = CONFIG.replace(before, after, 1)
    assert changed != CONFIG
    assert of(changed) != of(CONFIG)


def test_what_a_config_inherits_does() -> None:
    """A class of fields alone computes what its bases do."""
    narrow = f"{CONFIG}\n\n@config_class\nclass Own(Sizes):\n    depth: Count = 1\n"
    assert of(narrow) == of(narrow.replace("depth: Count = 1", "depth: Count = 2"))
    assert of(narrow) != of(narrow.replace("Own(Sizes)", "Own(Others)"))


def test_fields_of_a_class_that_is_no_config_are_hashed() -> None:
    assert of("@dataclass\nclass A:\n    x: int = 1") != of("@dataclass\nclass A:\n    x: int = 2")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of two rows, each with a file of its own; one shares a file with nobody, both share a contract."""
    room = tmp_path / "pipelines" / "rows"
    room.mkdir(parents=True)
    (tmp_path / "pipelines" / "other.py").write_text("x = 1\n")
    (room / "__init__.py").write_text(
        "from pipelines.rows import left\nfrom pipelines.rows.right import Right\n\n"
        'ROWS: dict[str, object] = {"left": left.Left(), "right": Right}\n'
    )
    (room / "contract.py").write_text("class Row: ...\n")
    (room / "left.py").write_text(
        "from pipelines.rows.contract import Row\n\n\nclass Left(Row):\n    def work(self):\n"
        "        from pipelines.rows import helper\n        from pipelines.other import x\n        return helper, x\n"
    )
    (room / "helper.py").write_text("y = 2\n")
    (room / "right.py").write_text("from pipelines.rows.contract import Row\n\n\nclass Right(Row): ...\n")
    monkeypatch.setattr(code, "_ROOT", tmp_path)
    for function in (code._file, code.imports_of, code.source_fingerprint):
        function.cache_clear()
    yield room  # type: ignore[misc]
    for function in (code._file, code.imports_of, code.source_fingerprint):
        function.cache_clear()


def test_a_row_brings_its_module_and_those_of_its_package(house: Path) -> None:
    left = ("pipelines.rows.contract", "pipelines.rows.helper", "pipelines.rows.left")
    assert chosen_modules("pipelines.rows", ["left"]) == left
    assert chosen_modules("pipelines.rows", ["right"]) == ("pipelines.rows.contract", "pipelines.rows.right")
    assert set(chosen_modules("pipelines.rows", ["right", "left"])) == {*left, "pipelines.rows.right"}
    beside = chosen_modules("pipelines.rows", ["left"], beside=["pipelines.other"])
    assert set(beside) == {*left, "pipelines.other"}
    assert imports_of("pipelines.rows.left") >= {"pipelines.other", "pipelines.rows.helper"}


def test_an_unknown_row_is_refused_with_the_known_ones(house: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipelines.rows has no row centre; there are left, right"):
        chosen_modules("pipelines.rows", ["centre"])


def test_a_row_that_lies_in_its_table_is_refused(house: Path) -> None:
    table = house / "__init__.py"
    table.write_text(table.read_text() + 'def make(): ...\n\n\nMORE = {"inline": make}\n')
    with pytest.raises(ConfigError, match="pipelines.rows holds inline itself, and no table is hashed"):
        chosen_modules("pipelines.rows", ["inline"])


@pytest.mark.parametrize(
    "row", ["Pass(left.work)", "lambda: left.work()", "Pass(left.Left, share=0.5)", "partial(left)"]
)
def test_a_row_of_which_the_table_says_more_than_a_name_is_refused(house: Path, row: str) -> None:
    """What stands in the table is in no hash, and the first name in it need not be that of the row's file."""
    table = house / "__init__.py"
    table.write_text(table.read_text().replace("left.Left()", row).replace("import left", "import Pass, left, partial"))
    with pytest.raises(ConfigError, match="pipelines.rows holds left itself, and no table is hashed"):
        chosen_modules("pipelines.rows", ["left"])


@pytest.mark.parametrize(
    "line",
    [
        "from . import helper",
        "from .helper import y",
        "from ..rows import helper",
        "from ..rows.helper import y",
        "import pipelines.rows.helper",
        "if not TYPE_CHECKING:\n    from pipelines.rows import helper",
        "if TYPE_CHECKING:\n    y: int\nelse:\n    from pipelines.rows import helper",
    ],
)
def test_a_row_brings_what_it_imports_however_it_says_so(house: Path, line: str) -> None:
    (house / "right.py").write_text(f"{line}\n\n\nclass Right: ...\n")
    assert chosen_modules("pipelines.rows", ["right"]) == ("pipelines.rows.helper", "pipelines.rows.right")


def test_a_row_may_be_imported_relatively(house: Path) -> None:
    table = house / "__init__.py"
    table.write_text(table.read_text().replace("from pipelines.rows.right", "from .right"))
    assert "pipelines.rows.right" in chosen_modules("pipelines.rows", ["right"])


def test_a_module_without_a_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot find the source of pipelines.nowhere"):
        source_fingerprint("pipelines.nowhere")
