"""Trunkline as a lab has it: the wheel in an environment of its own, the commands in a folder that holds nothing.

The environment's other packages are this one's, named in a `.pth` file, so that nothing is installed twice. The clone
is not among them: the line that makes it importable here stands in a `.pth` file of its own, and only those of the
environment itself are read.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import pipelines
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PACKED = ("pipelines", "workflows", "conf")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel. Attributes: bin, its programs; folder, where commands run."""

    bin: Path
    folder: Path

    def run(
        self, program: str, *words: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """A program of the environment, with nothing of this process's own paths."""
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRUNKLINE_CONF"))
        }
        return subprocess.run(
            [str(self.bin / program), *words],
            cwd=self.folder,
            env={**variables, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=patience_seconds,
        )

    def ran(self, program: str, *words: str) -> str:
        """What a program says that ends well."""
        done = self.run(program, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: setuptools leaves folders behind, and would pack what it finds in them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        shutil.copytree(ROOT / name, folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / "clone" / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        folder / "clone",
    ]
    subprocess.run(command, check=True, timeout=PATIENCE_SECONDS)
    (made,) = folder.glob("trunkline-*.whl")
    return made


def environment(folder: Path) -> Installed:
    """An empty environment, and an empty folder."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=PATIENCE_SECONDS)
    (folder / "lab").mkdir()
    return Installed(folder / "venv" / "bin", folder / "lab")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel beside the packages of this environment."""
    made = environment(tmp_path_factory.mktemp("installed"))
    made.ran("python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel))
    (site,) = made.bin.parent.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def test_the_wheel_holds_the_packages_and_the_yamls_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = {"pipelines": "pipelines", "workflows": "workflows", "conf": "workflows/conf"}
    there = {
        f"{target}/{path.relative_to(ROOT / folder)}"
        for folder, target in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(there - packed) == [], "a new folder of modules is a line of `packages` in pyproject.toml"
    assert sorted(packed - there) == []
    assert {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name} == {
        "METADATA", "WHEEL", "RECORD", "LICENSE", "entry_points.txt", "top_level.txt"
    }  # fmt: skip


def test_the_versions_that_are_pinned_are_new_enough() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [Requirement(line) for line in project["dependencies"]]
    assert [str(need) for need in needs if not need.specifier.contains(pins[canonicalize_name(need.name)])] == []


def test_nothing_is_imported_from_the_clone(installed: Installed) -> None:
    script = (
        "import importlib.util, sys, pipelines, workflows;"
        "print(pipelines.__file__, workflows.__file__, *sys.path, sep='\\n');"
        "print([name for name in ('tests', 'benchmarks', 'conf', 'infra') if importlib.util.find_spec(name)])"
    )
    *paths, others = installed.ran("python", "-c", script).splitlines()
    assert all(path.startswith(str(installed.bin.parent)) for path in paths[:2])
    assert str(ROOT) not in paths
    assert others == "[]"


def test_trunkline_alone_lists_the_commands_by_stage_with_one_line_each(installed: Installed) -> None:
    said = installed.ran("trunkline")
    assert said == installed.ran("trunkline", "--help")
    listed = [line.split()[0] for line in said.splitlines() if line.startswith("  ")]
    assert set(listed) == {path.stem for path in (ROOT / "conf").glob("*.yaml")} | {"new", "completion"}
    assert len(listed) == len(set(listed))
    assert "\nTraining\n  pretrain " in said
    assert "The trunk: Warmup-Stable pretraining" in said
    assert installed.ran("python", "-m", "workflows") == said.replace("\ntrunkline ", "\npython -m workflows ")


def test_the_version_says_of_what(installed: Installed) -> None:
    said = installed.ran("trunkline", "--version")
    assert said.startswith(f"trunkline {pipelines.__version__} (Python 3.")
    assert str(installed.bin.parent) in said


def test_help_is_in_the_words_that_were_typed(installed: Installed) -> None:
    said = installed.ran("trunkline", "pretrain", "--help")
    assert said.startswith("The trunk: Warmup-Stable pretraining")
    assert "\ntrunkline pretrain +experiment=demo\n" in said
    assert "python -m" not in said
    assert "+experiment=smoke" in said
    as_module = installed.ran("python", "-m", "workflows.pretrain", "--help")
    assert as_module.replace("python -m workflows.pretrain", "trunkline pretrain") == said
    assert installed.ran("trunkline", "help", "pretrain") == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrian"], "pretrian is no command; there are recipe, corpus, "),
        (["pretrian"], ": did you mean pretrain?"),
        (["verify-resume"], ": did you mean verify_resume?"),
        (
            ["+experiment=smoke"],
            "+experiment=smoke: expected a command first, e.g. trunkline pretrain +experiment=smoke",
        ),
        (["pretrain", "+experiment=nope"], "no such experiment; there are demo, "),
        (["pretrain", "+experiment=smoke", "modle=demo"], "unknown key modle"),
    ],
)
def test_mistakes_end_in_a_sentence(installed: Installed, words: list[str], said: str) -> None:
    done = installed.run("trunkline", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_a_stage_before_its_time_names_the_command_that_makes_its_data(installed: Installed) -> None:
    words = ["+experiment=smoke", "dry_run=true", "store=empty"]
    done = installed.run("trunkline", "pretrain", *words)
    assert done.returncode == 2
    assert "`trunkline mixture store=empty +experiment=smoke mixture=smoke_stable`" in done.stderr
    as_module = installed.run("python", "-m", "workflows.pretrain", *words)
    assert as_module.stderr == done.stderr.replace("trunkline mixture", "python -m workflows.mixture")
    assert as_module.stdout == done.stdout


def test_workers_import_what_is_installed_and_the_next_command_runs_as_printed(installed: Installed) -> None:
    said = installed.ran("trunkline", "corpus", "+experiment=smoke", "store=store", "tracking.enabled=false")
    manifest = json.loads((installed.folder / "store/corpus/smoke/manifest.json").read_text())
    assert manifest["code_version"] == pipelines.__version__
    assert "python -m workflows.corpus +experiment=smoke" in json.dumps(manifest)
    (following,) = [line.partition("next: ")[2] for line in said.splitlines() if "next: " in line]
    assert following.startswith("trunkline tokenize ")
    program, *words = following.split()
    assert "committed tokens/smoke" in installed.ran(program, *words, "tracking.enabled=false")


@pytest.mark.campaign
def test_pip_installs_it_with_everything_it_needs(wheel: Path, tmp_path: Path) -> None:
    """As a lab does: gigabytes of packages, the versions of constraints.txt, nothing of this environment."""
    made = environment(tmp_path)
    words = ["-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    done = made.run("python", *words, patience_seconds=8 * PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert made.ran("python", "-m", "pip", "check").startswith("No broken requirements")
    assert "\nTraining\n" in made.ran("trunkline")
    assert "committed corpus/smoke" in made.ran("trunkline", "corpus", "+experiment=smoke", "store=store")
    assert "committed tokens/smoke" in made.ran(
        "python", "-m", "workflows.tokenize", "+experiment=smoke", "store=store"
    )
    made.ran("trunkline", "mixture", "+experiment=smoke", "store=store", "name=smoke_stable")
    assert "committed pretrain/smoke" in made.ran("trunkline", "pretrain", "+experiment=smoke", "store=store")


@pytest.mark.campaign
def test_the_commands_of_a_new_folder_run_as_printed(installed: Installed) -> None:
    """Corpus, tokens, mixture, trunk and branch: what `tests/unit/test_new.py` composes is run here."""
    installed.ran("trunkline", "new", "ours", "a folder")
    readme = (installed.folder / "a folder/README.md").read_text()
    commands = [shlex.split(line) for line in readme.splitlines() if line.startswith("    ")]
    assert [words[1] for words in commands] == ["corpus", "tokenize", "mixture", "pretrain", "anneal", "recipe"]
    for program, workflow, *words in commands[:-1]:
        assert f"committed {workflow.replace('tokenize', 'tokens')}/ours" in installed.ran(program, workflow, *words)
    program, *words = commands[-1]
    assert "corpus/ours is finished already" in installed.ran(program, *words, "dry_run=true")
