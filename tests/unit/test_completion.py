"""What the TAB key gives: asked of the module, and of real shells."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waits import PATIENCE_SECONDS
from workflows import completion
from workflows.command_line import places
from workflows.completion import candidates

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a lab's configs, and a store with one artifact."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("lab/conf/model/tall.yaml", "layers: 30\n"),
        ("lab/conf/experiment/ours/pretrain.yaml", "# @package _global_\ndefaults:\n  - override /model: tall\n"),
        ("store/corpus/mine/manifest.json", "{}"),
        ("store/corpus/unfinished/claim.json", "{}"),
        ("store/tokens/mine/manifest.json", "{}"),
        ("a file.txt", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.delenv("TRUNKLINE_STORE", raising=False)
    monkeypatch.setattr(places, "_labs", ())
    monkeypatch.setattr(places, "_typed", ())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pre", ["pretrain"]),
        ("comp", ["completion"]),
        ("help anne", ["anneal"]),
        ("completion z", ["zsh"]),
        ("new la", ["lab/"]),
        ("pretrain +exp", ["+experiment="]),
        ("pretrain +experiment=smo", ["+experiment=smoke"]),
        ("sandbox +experiment=smo", []),  # which has no overlay for it
        ("pretrain mod", ["model.", "model="]),
        ("pretrain model=pock", ["model=pocket"]),
        ("pretrain model=demo,pock", ["model=demo,pocket"]),
        ("pretrain model.d_", ["model.d_ff=", "model.d_model="]),
        ("pretrain ++model.kv", ["++model.kv_heads="]),
        ("pretrain model.kv_heads=2 model.kv", []),
        ("pretrain checkpoint.keep_l", ["checkpoint.keep_last="]),
        ("pretrain dry_r", ["dry_run="]),
        ("pretrain dry_run=", ["dry_run=true", "dry_run=false"]),
        ("pretrain on_change=re", ["on_change=refuse", "on_change=rebuild"]),
        ("pretrain seed=", []),
        ("pretrain nothing.", []),
        ("pretrain --c", ["--config-dir", "--cfg"]),
        ("pretrain --cfg j", ["job"]),
        ("export format=comp", ["format=compressed-tensors"]),
        ("quantize method=", ["method=rtn", "method=gptq", "method=awq"]),
        ("corpus corpus=smoke corpus.sources.std", ["corpus.sources.stdlib."]),
        ("corpus corpus=smoke corpus.sources.stdlib.max", ["corpus.sources.stdlib.max_bytes="]),
        ("sandbox sandbox=smoke/l", ["sandbox=smoke/lr"]),
        ("tokenize data=", ["data=corpus/mine"]),
        ("pretrain store=st", ["store=store/"]),
        ("fit data=a", ["data=a file.txt"]),
        ("submit cluster=a", ["cluster=aws"]),
        ("submit cluster=aws -- workflows.pre", ["workflows.pretrain"]),
        ("submit cluster=aws -- workflows.pretrain model=pock", ["model=pocket"]),
        ("nothing m", []),
        # a lab's own
        ("pretrain --config-dir la", ["lab/"]),
        ("pretrain model=tal", []),
        ("pretrain --config-dir lab/conf model=tal", ["model=tall"]),
        ("pretrain --config-dir lab/conf +experiment=ou", ["+experiment=ours"]),
        ("pretrain --config-dir lab/conf +experiment=ours model.", ["model.layers="]),
        ("pretrain --config-dir nowhere model=pock", ["model=pocket"]),
    ],
)
def test_what_may_stand_in_the_place_of_the_last_word(line: str, found: list[str]) -> None:
    assert candidates(line.split(" ")) == found


def test_every_key_of_every_command_is_one_that_its_config_has() -> None:
    """Following the defaults lists ends where Hydra does."""
    from tests.unit.test_confs import WORKFLOWS, config_class
    from workflows.command_line.composing import composed_values

    def leaves(values: object, path: str = "") -> set[str]:
        if isinstance(values, dict) and values:
            return {leaf for key, value in values.items() for leaf in leaves(value, f"{path}{key}.")}
        return {path.rstrip(".")}

    def offered(workflow: str, path: str = "") -> set[str]:
        found = set()
        for key in candidates([workflow, path]):
            if key.endswith("."):
                found |= offered(workflow, key) or {key.rstrip(".")}
            elif not key.startswith("+"):
                found.add(key[:-1])
        return found

    for workflow in WORKFLOWS:
        composed = leaves(composed_values(workflow, config_class(workflow), []))
        groups = {path.name for path in places.SHIPPED.iterdir() if path.is_dir()}
        assert offered(workflow) - groups == composed - groups, workflow


def test_torch_and_hydra_are_not_needed() -> None:
    script = (
        "import sys; from workflows.completion import candidates; candidates(['pretrain', 'model=']);"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'ray') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True) == "[]\n"


@pytest.mark.parametrize("words", [["tcsh"], [], ["bash", "zsh"], ["candidates"], ["candidates", "bash", "x"]])
def test_an_unknown_shell_is_refused_with_those_there_are(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trunkline", *words])
    with pytest.raises(SystemExit) as ended:
        completion.main()
    assert ended.value.code == 2
    said = f"error: completion {' '.join(words) or 'nothing'}: expected one of bash, zsh, fish"
    assert capsys.readouterr().err.startswith(said)


# ── Real shells ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables under which `trunkline` is found, and no settings of the user's."""
    program = tmp_path / "bin" / "trunkline"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom workflows.__main__ import main\nmain()\n"
    )
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return {
        **os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(home),
        "TERM": "dumb", "PS1": "> ",
    }  # fmt: skip


class Terminal:
    """A shell that believes somebody types."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.execvpe(command[0], command, environment)
        self.shown = ""

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self.screen, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the text is on the screen."""
        end = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            assert time.monotonic() < end, f"waited for {text!r}; there is {self.shown!r}"
            if select.select([self.screen], [], [], 1)[0]:
                self.shown += os.read(self.screen, 65536).decode(errors="replace")

    def close(self) -> None:
        os.close(self.screen)
        os.waitpid(self.process, 0)


# the shell's prompt, and what stands on its line once the TAB key was pressed
TYPED = (
    ("trunkline pretr\t", "trunkline pretrain "),
    ("trunkline pretrain +experiment=smo\t", "+experiment=smoke "),
    ("trunkline pretrain model=pock\t", "model=pocket "),
    ("trunkline pretrain model=demo,pock\t", "model=demo,pocket "),
    ("trunkline pretrain model.d_m\t8", "model.d_model=8"),  # and no space between
    ("trunkline fit data=a\t", "data=a\\ file.txt "),
)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_tab_key_completes_what_was_typed(shell: str, environment: dict[str, str]) -> None:
    options = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[shell]
    if shutil.which(shell) is None:  # a program for one test is nothing that CI must have
        pytest.skip(f"{shell} is not on PATH: apt-get install {shell}")
    terminal = Terminal([shell, *options], environment)
    try:
        terminal.type(f'PS1="ready> "; eval "$(trunkline completion {shell})"; echo completion is "on"\n')
        terminal.wait_for("completion is on\r\n")
        for typed, expected in TYPED:
            terminal.type(typed)
            terminal.wait_for(expected)
            terminal.type("\x15")  # the line away
        terminal.type("exit\n")
    finally:
        terminal.close()


@pytest.mark.slow
def test_fish_completes_what_was_typed(environment: dict[str, str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not on PATH: apt-get install fish")

    def completed(line: str) -> list[str]:
        command = ["fish", "--no-config", "-c", f"trunkline completion fish | source; complete -C '{line}'"]
        return subprocess.check_output(command, env=environment, text=True, timeout=PATIENCE_SECONDS).splitlines()

    assert completed("trunkline pretr") == [
        "pretrain\tThe trunk: Warmup-Stable pretraining on the stable mixture, fresh or resumed."
    ]
    assert completed("trunkline pretrain model=pock") == ["model=pocket"]
    assert completed("trunkline pretrain +experiment=smo") == ["+experiment=smoke"]
    assert "seed=" in completed("trunkline pretrain +experiment=smoke ")
    assert completed("trunkline fit data=a") == ["data=a file.txt"]
