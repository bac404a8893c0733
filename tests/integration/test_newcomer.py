"""A newcomer with the README alone: every line of its "Your own data", then the same way with files of their own.

What a release has (a wheel and `constraints.txt`) lies in an empty folder; the environment is empty but for the
packages that Trunkline needs, which stand in another folder so that nothing is fetched. No clone is within reach.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.integration.test_wheel import wheel as wheel  # the fixture: a wheel is built of a copy of the clone
from tests.notes_sample import notes
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PROSE = "The river rose {} feet in the night, and the people of the village went up to the church on the hill. "


class Newcomer:
    """An empty folder, and a shell in it. Attributes: folder."""

    def __init__(self, folder: Path, wheel: Path):
        """Args: folder, that holds nothing yet."""
        self.folder, environment = folder / "home", folder / "environment"
        packages = folder / "packages"
        packages.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "trunkline" not in path.name and path.suffix != ".pth":
                (packages / path.name).symlink_to(path)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=PATIENCE_SECONDS)
        (site,) = environment.glob("lib/python*/site-packages")
        (site / "packages.pth").write_text(f"{packages}\n")
        (self.folder / "dist").mkdir(parents=True)
        shutil.copyfile(wheel, self.folder / "dist" / wheel.name)
        shutil.copyfile(ROOT / "constraints.txt", self.folder / "constraints.txt")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRUNKLINE_"))}
        self._variables = {
            **kept,
            "PATH": f"{environment / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "VIRTUAL_ENV": str(environment),
        }

    def types(self, *lines: str) -> str:
        """Lines in one shell, the first that fails being the last. Returns: all that they print."""
        script = "\n".join(["set -e", *(f"echo {marked(line)}\n{line}" for line in lines)])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self._variables, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=2 * PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Traceback" not in done.stdout
        return done.stdout

    def manifest(self, artifact: str) -> dict[str, object]:
        """What the store says of a finished artifact."""
        text = (self.folder / "store" / artifact / "manifest.json").read_text(encoding="utf-8")
        return dict(json.loads(text))


def marked(line: str) -> str:
    """The line as a word that a shell echoes before it runs it."""
    return "'$ " + line.replace("'", "'\\''") + "'"


def readme_lines(section: str) -> list[str]:
    """The lines that a section of the README shows to be typed, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.split(f"## {section}\n")[1].split("\n## ")[0]
    return [re.sub(r"\s{2,}#.*", "", line).strip() for line in body.splitlines() if line.startswith("    ")]


@pytest.fixture(scope="module")
def newcomer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    return Newcomer(tmp_path_factory.mktemp("newcomer"), wheel)


def test_every_line_of_the_readmes_own_data_runs_as_printed(newcomer: Newcomer) -> None:
    lines = readme_lines("Your own data")
    assert sum("trunkline" in line for line in lines) >= 12
    made = next(i for i, line in enumerate(lines) if "trunkline new lab" in line)
    # the trunk's three minutes are some seconds here: a newcomer edits this very line of the folder
    fewer = "sed -i 's/^hours: .*/hours: 0.001/' lab/conf/experiment/lab/pretrain.yaml"
    printed = newcomer.types(*lines[: made + 1], fewer, *lines[made + 1 :])
    said = dict(part.split("\n", 1) for part in printed.split("$ trunkline ")[1:] if "\n" in part)
    # each command of the chain names the next, in the words in which it was typed
    for this, following in (("corpus", "tokenize"), ("tokenize", "mixture"), ("mixture", "pretrain"),
                            ("pretrain", "anneal"), ("anneal", "export")):  # fmt: skip
        assert f"next: trunkline {following} +experiment=lab" in said[f"{this} +experiment=lab"]
    for artifact in ("corpus/lab", "pretrain/lab", "anneal/lab", "export/lab", "recipe/lab"):
        assert newcomer.manifest(artifact)["kind"] == artifact.split("/")[0]
    assert (newcomer.folder / "store/recipe/lab/report.html").is_file()
    # the recipe found what the single commands had made
    assert said["recipe +experiment=lab"].count("reused") >= 5


def test_files_of_their_own_go_all_the_way_by_one_command(newcomer: Newcomer) -> None:
    own = newcomer.folder / "my files"
    own.mkdir()
    for number, (name, text) in enumerate(notes().items()):
        front = f"---\ntitle: {name}\ntags: [mine]\n---\n" if number % 2 else ""
        (own / f"{name}.md").write_text(front + text + "\n", encoding="utf-8")
    for number in range(90):
        told = " ".join(PROSE.format(10 * number + k) for k in range(8 + number % 5))
        (own / f"told {number}.txt").write_text(told)
        if number < 10:
            page = (
                f"<html><head><title>Page {number}</title></head><body><article><p>{told}</p></article></body></html>"
            )
            (own / f"page {number}.html").write_text(page)
    (own / "photo.jpeg").write_bytes(bytes(range(256)))
    chats = [
        {"messages": [{"role": "user", "content": f"What is {a} plus {a + 2}?"},
                      {"role": "assistant", "content": f"{a} plus {a + 2} is {2 * a + 2}."}]} for a in range(80)
    ]  # fmt: skip
    (newcomer.folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    newcomer.types("trunkline new ours")
    sources = {
        "mine": {"content": "notes", "licence": "CC-BY-4.0", "reader": {"type": "files", "path": "my files"}},
        "chats": {"kind": "conversations", "language": "en", "licence": "CC-BY-4.0", "duplicates": "exact",
                  "heldout": 0.1, "reader": {"type": "files", "path": "chats.jsonl", "record": "messages"}},
    }  # fmt: skip
    recipe = {"defaults": [{"rules@_here_": "standard"}, "_self_"], "sources": sources}
    (newcomer.folder / "ours/conf/corpus/ours.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = "trunkline recipe +experiment=ours --config-dir ours/conf hours=0.001"
    planned = newcomer.types(f"{command} dry_run=true")
    assert "dpo" in planned.split("left out")[1]
    assert not (newcomer.folder / "store/corpus/ours").exists()
    printed = newcomer.types(command)
    # a folder of mixed kinds says what it took as what, and what it passed over
    assert re.search(r"67 Markdown.*|90 text.*", printed)
    assert "photo.jpeg" in printed
    kept = json.loads((newcomer.folder / "store/corpus/ours/manifest.json").read_text())["statistics"]["sources"][
        "mine"
    ]
    assert not any(reason.startswith("quality.") for reason in kept["dropped"]), kept["dropped"]
    for artifact in ("sft/ours", "export/ours", "recipe/ours"):
        assert newcomer.manifest(artifact)["kind"] == artifact.split("/")[0]
    assert not (newcomer.folder / "store/dpo").exists()
