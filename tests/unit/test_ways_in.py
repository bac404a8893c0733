"""A command that is started in a way that cannot work: by its file, by another Python, by one that lacks packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waits import PATIENCE_SECONDS
from workflows.command_line import environment

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "conf").glob("*.yaml"))


def started(python: str | Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_run_by_itself_says_how_it_is_run(command: str) -> None:
    done = started(sys.executable, f"workflows/{command}.py", "name=a b", cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: workflows/{command}.py is a file of a package")
    assert f"python -m workflows.{command} 'name=a b'`" in done.stderr
    assert "cd " not in done.stderr


def test_a_file_that_is_run_from_elsewhere_says_where_to_go(tmp_path: Path) -> None:
    done = started(sys.executable, ROOT / "workflows/pretrain.py", cwd=tmp_path)
    assert done.returncode == 2
    assert f"`cd {ROOT} && " in done.stderr
    inside = started(sys.executable, "-m", "pretrain", "steps=3", cwd=ROOT / "workflows")
    assert inside.returncode == 2
    assert inside.stderr.endswith("-m workflows.pretrain steps=3`\n")


def test_a_file_that_is_no_command_names_those_that_are() -> None:
    done = started(sys.executable, "workflows/studies.py", cwd=ROOT)
    assert done.returncode == 2
    assert "is no command: `" in done.stderr
    assert "-m workflows` lists them" in done.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without a single package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=PATIENCE_SECONDS)
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    "words", [["-m", "workflows.pretrain"], ["-m", "workflows", "pretrain"], ["-Bmworkflows.plan"]]
)
def test_a_python_without_packages_says_what_is_missing_and_what_to_type(bare: Path, words: list[str]) -> None:
    done = started(bare, *words, "+experiment=smoke", cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(
        f"error: {bare} (Python {sys.version.split()[0]}) lacks packages that Trunkline needs"
    )
    assert "(torch, numpy, hydra and " in done.stderr
    assert "make setup" in done.stderr or ".venv/bin/python -m workflows" in done.stderr


def test_where_there_is_no_environment_make_setup_comes_first(bare: Path, tmp_path: Path) -> None:
    for name in ("workflows", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    installed = started(bare, "-m", "workflows.plan", cwd=tmp_path)
    assert f"`{bare} -m pip install trunkline` brings them" in installed.stderr
    (tmp_path / "constraints.txt").touch()
    clone = started(bare, "-m", "workflows.plan", cwd=tmp_path)
    assert (
        f"`make setup` in {tmp_path} makes an environment; then `.venv/bin/python -m workflows.plan …`" in clone.stderr
    )
    assert clone.returncode == installed.returncode == 2


def test_another_python_is_named_with_those_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.lacking() == ""
    monkeypatch.setattr(sys, "version_info", (3, 13, 1, "final", 0))
    said = environment.lacking()
    assert said.startswith(f"Trunkline needs Python 3.11 or 3.12, and {sys.executable} (Python 3.13.1) is another: ")
    monkeypatch.setattr(sys, "version_info", (3, 12, 0, "final", 0))
    assert environment.lacking() == ""


def test_what_is_asked_for_is_what_the_project_depends_on() -> None:
    """A name that the project does not need would refuse an environment that is whole."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = {"hydra": "hydra-core", "yaml": "pyyaml"}
    assert [
        name for name in environment._NEEDED if f'"{names.get(name, name)}' not in project.partition("]\n\n")[0]
    ] == []
