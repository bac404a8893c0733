"""A copy of the project to which something is added, so that a test can say which files had to be opened for it.

    tree = Tree(tmp_path)
    tree.add("pipelines/train/optimizers/lion.py", "optimizer/lion.py")              # a file below tests/additions/
    tree.row("pipelines/train/optimizers/__init__.py", after="muon", line='    "lion": lion.Lion(),')
    tree.run("workflows.pretrain", "+experiment=smoke", "optimizer=lion", "dry_run=true")
    assert tree.opened() == []

A wall stands where it should when what is new is one file (and, for some, a YAML) and one row of a table. Whatever else
is changed in the copy, by `edit` or by hand, is named by `opened`.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
TOYS = Path(__file__).parent / "additions"
_COPIED = ("pipelines", "workflows", "conf")


class Tree:
    """The project's `pipelines`, `workflows` and `conf` in a folder of their own.

    Attributes: folder, where they lie; commands run there and import from there.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "tree"
        for name in _COPIED:
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self._added: set[str] = set()
        self._rows: dict[str, list[str]] = {}

    def add(self, path: str, toy: str) -> None:
        """Put a file of `tests/additions/` into the copy, under a path that the project does not have."""
        target = self.folder / path
        assert not target.exists(), f"{path} is there already: an addition is a new file"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TOYS / toy, target)
        self._added.add(path)

    def row(self, table: str, *, after: str, line: str) -> None:
        """Put a line into a table (and, where the table needs it, a line that imports it), below the last line that
        holds `after`.
        """
        lines = (self.folder / table).read_text(encoding="utf-8").splitlines()
        places = [number for number, text in enumerate(lines) if after in text]
        assert places, f"{table} has no line with {after!r}"
        lines.insert(places[-1] + 1, line)
        (self.folder / table).write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._rows.setdefault(table, []).append(line)

    def edit(self, path: str, old: str, new: str) -> None:
        """Change a file as one who adds should not have to: `opened` names it."""
        text = (self.folder / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        (self.folder / path).write_text(text.replace(old, new), encoding="utf-8")

    def run(self, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`python -m module arguments` in the copy. Args: variables, of its environment."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def opened(self) -> list[str]:
        """The files that differ from the project's, apart from those that were added and the rows of tables."""
        names = sorted(
            str(path.relative_to(self.folder))
            for name in _COPIED
            for path in (self.folder / name).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        )
        return [name for name in names if name not in self._added and not self._as_it_was(name)]

    def _as_it_was(self, name: str) -> bool:
        """Whether a file is the project's, once the rows that were put into it are taken out."""
        if not (ROOT / name).exists():
            return False
        if name not in self._rows:
            return filecmp.cmp(ROOT / name, self.folder / name, shallow=False)
        lines = (self.folder / name).read_text(encoding="utf-8").splitlines()
        for line in self._rows[name]:
            lines.remove(line)
        return lines == (ROOT / name).read_text(encoding="utf-8").splitlines()
