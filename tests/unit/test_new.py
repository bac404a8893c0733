"""`trunkline new lab`: a folder whose every file composes, beside ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.errors import ConfigError
from tests.unit.test_confs import config_class
from workflows import new
from workflows.command_line import places
from workflows.command_line.composing import compose_config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    places.use([])


def typed(monkeypatch: pytest.MonkeyPatch, *words: str, program: str = "trunkline") -> None:
    monkeypatch.setattr(sys, "argv", [program, *words])
    new.main()


@pytest.mark.parametrize("workflow", new._OVERLAYS)
def test_every_overlay_composes_beside_ours(workflow: str) -> None:
    new.make("lab", Path("lab"))
    places.use([("lab/conf", "--config-dir")])
    config = compose_config(workflow, config_class(workflow), ["+experiment=lab"])
    if workflow == "evaluate":
        assert config.parent == "anneal/lab"
    else:
        assert config.name == "lab"


def test_what_the_overlays_choose_is_what_the_folder_holds() -> None:
    new.make("lab", Path("lab"))
    places.use([("lab/conf", "--config-dir")])
    corpus = compose_config("corpus", config_class("corpus"), ["+experiment=lab"])
    assert list(corpus.corpus.sources) == ["code", "problems"]
    mixture = compose_config("mixture", config_class("mixture"), ["+experiment=lab"])
    assert (mixture.mixture.name, mixture.tokens) == ("lab", "tokens/lab")
    trunk = compose_config("pretrain", config_class("pretrain"), ["+experiment=lab"])
    assert (trunk.hours, trunk.data) == (0.05, "mixture/lab")
    shaped = compose_config("pretrain", config_class("pretrain"), ["+experiment=lab", "model=lab"])
    assert shaped.model.layers == 4
    assert shaped.model.vocabulary == 4096  # of conf/model/demo.yaml, which it builds on


@pytest.mark.parametrize("workflow", new._OVERLAYS)
def test_another_name_is_another_run_on_the_same_data(workflow: str) -> None:
    new.make("lab", Path("lab"))
    places.use([("lab/conf", "--config-dir")])

    def reads(*more: str) -> list[object]:
        config = compose_config(workflow, config_class(workflow), ["+experiment=lab", *more])
        return [getattr(config, key, None) for key in ("data", "tokens", "parent")]

    if workflow not in ("corpus", "recipe"):  # what these make, the rest of a chain is named after
        assert any(reads())
    assert reads("name=wide") == reads()


def test_what_is_commented_out_composes_too() -> None:
    for path in new.make("lab", Path("lab")):
        if path.endswith(".yaml"):
            lines = (Path("lab") / path).read_text().splitlines()
            begins = [
                line.startswith(("# ", "  # ")) and ":" in line.partition("#")[2].split(" #")[0] for line in lines
            ]
            head = lines.index("defaults:")
            opened = [
                line.replace("# ", "", 1)
                if n > head and begins[n] and not line.rstrip().endswith((".", "away."))
                else line
                for n, line in enumerate(lines)
            ]
            (Path("lab") / path).write_text("\n".join(opened) + "\n")
    places.use([("lab/conf", "--config-dir")])
    corpus = compose_config("corpus", config_class("corpus"), ["+experiment=lab"])
    assert list(corpus.corpus.sources) == ["code", "problems", "texts", "chats"]
    assert corpus.corpus.sources["chats"].kind == "conversations"
    mixture = compose_config("mixture", config_class("mixture"), ["+experiment=lab"])
    assert mixture.mixture.weights == {"code": 0.4, "problems": 0.6}
    trunk = compose_config("pretrain", config_class("pretrain"), ["+experiment=lab"])
    assert trunk.schedule.peak_lr == 0.01
    assert compose_config("tokenize", config_class("tokenize"), ["+experiment=lab"]).tokenizer.vocabulary_size == 4096


def test_it_says_what_it_wrote_and_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "lab", "work/ours here")
    said = capsys.readouterr().out
    assert said.endswith("   next: trunkline corpus +experiment=lab --config-dir 'work/ours here/conf'\n")
    written = {str(path.relative_to("work/ours here")) for path in Path("work").rglob("*.*") if path.is_file()}
    assert written == set(new.files("lab", "x"))
    readme = Path("work/ours here/README.md").read_text()
    commands = [line.strip() for line in readme.splitlines() if line.startswith("    ")]
    assert all(line.endswith("+experiment=lab --config-dir 'work/ours here/conf'") for line in commands)
    for path in Path("work").rglob("*.yaml"):
        assert path.read_text().startswith("# "), path
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "new nothing: expected a name, and a folder"),
        (["a", "b", "c"], "new a b c: expected a name, and a folder"),
        (["name=lab"], "new name=lab: expected a name"),
        (["My Lab"], "new My Lab: expected a name of lower-case letters"),
        (["../lab"], "new ../lab: expected a name of lower-case letters"),
        (["demo"], "Trunkline has conf/corpus/demo.yaml and conf/model/demo.yaml and conf/experiment/demo itself"),
        (["lab", "full"], "full holds mine.txt: expected a folder that is not there yet, or is empty"),
        (["lab", "full/mine.txt"], "full/mine.txt is a file"),
    ],
)
def test_what_will_not_do_is_refused_and_nothing_written(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        typed(monkeypatch, *words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: new ")
    assert [str(path) for path in Path().rglob("*") if path.is_file()] == ["full/mine.txt"]


def test_an_empty_folder_is_filled_and_a_second_time_refused() -> None:
    Path("lab").mkdir()
    new.make("lab", Path("lab"))
    with pytest.raises(ConfigError, match=r"lab holds README\.md, conf: expected a folder"):
        new.make("lab", Path("lab"))
