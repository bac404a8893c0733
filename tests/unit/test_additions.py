"""The harness of additions: whatever is changed besides a new file and a row is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import additions
from tests.additions import Tree

TABLE = "pipelines/train/schedules/decays.py"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "new.py").write_text("HERE = True\n")
    monkeypatch.setattr(additions, "TOYS", tmp_path / "toys")
    return Tree(tmp_path)


def test_a_file_and_a_row_open_nothing(tree: Tree) -> None:
    tree.add("pipelines/train/new.py", "new.py")
    tree.row(TABLE, after="import", line="# a row")
    assert tree.opened() == []
    assert "# a row" in (tree.folder / TABLE).read_text()


def test_what_else_is_changed_is_named(tree: Tree) -> None:
    tree.edit("pipelines/errors.py", "class TrunklineError", "class  TrunklineError")
    (tree.folder / "conf" / "stray.yaml").write_text("a: 1\n")
    with (tree.folder / TABLE).open("a") as file:
        file.write("# more\n")
    tree.row(TABLE, after="import", line="# a row")
    assert tree.opened() == ["conf/stray.yaml", "pipelines/errors.py", TABLE]


def test_commands_run_in_the_copy(tree: Tree) -> None:
    tree.add("pipelines/new.py", "new.py")
    (tree.folder / "workflows" / "shown.py").write_text(
        "import pipelines, pipelines.new; print(pipelines.__file__, pipelines.new.HERE)\n"
    )
    done = tree.run("workflows.shown")
    assert done.stdout.split() == [str(tree.folder / "pipelines" / "__init__.py"), "True"], done.stderr


def test_an_addition_replaces_nothing(tree: Tree) -> None:
    with pytest.raises(AssertionError, match="is there already"):
        tree.add("pipelines/errors.py", "new.py")
