"""A lab's own folder of configs: found where ours are, refused in one sentence where it would not do what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.train.spec import TrainConfig
from tests.commands import run_here
from workflows.command_line import places
from workflows.command_line.composing import compose_config

OVERLAY = """# @package _global_
defaults:
  - override /model: mine
name: lab
data: mixture/own
steps: 10
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`my lab/conf`, whose name has a space, with a model and an experiment; the test stands in `my lab`."""
    conf = tmp_path / "my lab" / "conf"
    (conf / "model").mkdir(parents=True)
    (conf / "experiment/lab").mkdir(parents=True)
    (conf / "model/mine.yaml").write_text((places.SHIPPED / "model/demo.yaml").read_text().replace("128", "64"))
    (conf / "experiment/lab/pretrain.yaml").write_text(OVERLAY)
    monkeypatch.chdir(conf.parent)
    yield conf
    places.use([])


def composed() -> TrainConfig:
    return compose_config("pretrain", TrainConfig, ["+experiment=lab"])


def refused(*words: str) -> str:
    ended = run_here("pretrain", *words)
    assert ended.code == 2, ended.output
    assert ended.err.count("\n") == 1, ended.err
    return ended.err


@pytest.mark.parametrize("words", [["--config-dir", "conf"], ["--config-dir=conf"], ["hydra.searchpath=[file://conf]"]])
def test_a_labs_experiment_is_found_by_each_of_the_ways(lab: Path, words: list[str]) -> None:
    assert places.begin(["steps=3", *words, "seed=1"]) == ["steps=3", "seed=1"]
    assert composed().model is not None
    assert composed().name == "lab"
    assert places.words() == ["--config-dir", "conf"]
    assert places.experiments("pretrain")[-2:] != ["lab"]
    assert "lab" in places.experiments("pretrain")
    assert "lab" not in places.experiments("sft")


def test_the_environment_says_so_for_a_whole_shell(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = lab.parent / "other"
    (other / "mixture").mkdir(parents=True)
    (other / "mixture/ours.yaml").write_text("name: ours\n")
    monkeypatch.setenv("TRUNKLINE_CONF", f"{lab}:{other}")
    places.begin([])
    assert composed().model.d_model == 64
    assert "ours" in places.choices("mixture")
    assert places.words() == []  # a printed command needs no more than the environment that is there
    places.begin(["--config-dir", str(lab)])  # named twice: once is enough
    assert places.labs() == (lab, other)


def test_help_and_a_command_name_what_the_lab_has(lab: Path) -> None:
    ended = run_here("pretrain", "--config-dir", "conf", "--help")
    assert "+experiment=lab" in ended.out
    assert "mine," in ended.out
    ended = run_here("pretrain", "--config-dir", "conf", "+experiment=lab", "dry_run=true")
    assert "mixture/own does not exist" in ended.err
    ended = run_here("sft", "--config-dir", "conf", "+experiment=lab")
    told = (
        "+experiment=lab has no overlay for sft; it has pretrain: leave it out, or write conf/experiment/lab/sft.yaml"
    )
    assert ended.err == f"error: {told}\n"
    ended = run_here("export", "+experiment=wind_tunnel")
    assert ended.err.endswith("sandbox, sft, tokenize: leave it out\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OVERLAY.removeprefix("# @package _global_\n"), "pretrain.yaml:1: an overlay begins with the line"),
        (OVERLAY + "batch:\n\tglobal_batch: 3\n", "pretrain.yaml:8: begins with a tab"),
        ("# @package _global_\n- a\n", "pretrain.yaml:1: holds list, and a config is a mapping"),
        ("# @package _global_\nname: a: b\n", "pretrain.yaml:2: no YAML: mapping values are not allowed"),
        (OVERLAY.replace("override /model", "/model"), "pretrain.yaml:3: pretrain has chosen its model already"),
        (OVERLAY.replace("override /model", "model"), "write `override /model: mine`"),
        (OVERLAY.replace("mine", "mien"), "pretrain.yaml:3: there is no model mien; .* did you mean mine?"),
        (OVERLAY.replace("/model", "/modle"), "there is no group modle; .* did you mean model?"),
        (OVERLAY.replace("steps", "stepz"), r"unknown key stepz; .* did you mean steps\? \(.*pretrain.yaml:6\)"),
        (OVERLAY + "steps: 11\n", "pretrain.yaml:7: no YAML: steps stands twice: keep one"),
        (OVERLAY + "steps: 11\x00\n", "pretrain.yaml: no YAML: unacceptable character #x0000[^\\n]*\n$"),
        (OVERLAY + "batch: []\n", r"batch is a list; expected a mapping with keys .* \(.*pretrain.yaml:7\)"),
        (OVERLAY + "seed: ${\n", "error: seed: no viable alternative at input '\\$\\{': write"),
        (OVERLAY + "experiment: own\n", "experiment is no key of an overlay: it builds on another by"),
        (
            OVERLAY + "batch: {batch: {micro_batch: 3}}\n",
            "unknown key batch.batch; .*under batch: stands there without",
        ),
        # ── entries of the defaults list ──
        (
            OVERLAY.replace(": mine\n", ": mine\n  - /experiment/own/pretrian\n"),
            "pretrain.yaml:4: .* there is no experiment/own/pretrian.yaml: did you mean /experiment/own/pretrain",
        ),
        (OVERLAY.replace(": mine\n", ": mine\n  - pretrian\n"), "pretrain.yaml:4: .* no experiment/lab/pretrian.yaml"),
        (OVERLAY.replace(": mine\n", ": mine\n  - /experiment/lab/pretrain\n"), "pretrain.yaml:4: .* leads back to"),
        (OVERLAY.replace(": mine\n", ": mine\n  - pretrain\n"), "pretrain.yaml:4: `pretrain` leads back to"),
        (
            OVERLAY.replace(": mine\n", ": mine\n  - /experiment/own/pretrain\n"),
            "pretrain.yaml:4: `/experiment/own/pretrain` stands behind `override /model`: overrides come last",
        ),
        (OVERLAY.replace(": mine\n", ': mine\n  - ""\n'), "pretrain.yaml:2: ``: there is no experiment/lab.yaml"),
        (OVERLAY.replace(": mine\n", ": mine\n  - _self_\n  - _self_\n"), "pretrain.yaml:4: _self_ stands 2 times"),
        (OVERLAY.replace("/model: mine", "/model:mine"), "pretrain.yaml:3: .* write `override /model: mine`"),
        (OVERLAY.replace(": mine\n", ": mine\n  - override /model: demo\n"), "`override /model` stands twice in"),
        (
            OVERLAY.replace("/model: mine", "/corpus: demo"),
            "overrides corpus, of which pretrain makes no choice; it has",
        ),
        (OVERLAY + "~: 11\n", "pretrain.yaml:7: no YAML: a key is empty"),
        ("\ufeff" + OVERLAY, "pretrain.yaml:1: begins with a byte order mark"),
        (OVERLAY + "hydra: {run: {dir: x}}\n", "pretrain.yaml:7: Hydra's own settings are left alone"),
        ("# @package _global_\ndefaults:\nsteps: 3\n", "pretrain.yaml:2: defaults is empty; expected a list"),
        ("# @package _global_\ndefaults: [3]\n", "pretrain.yaml:2: defaults is 3; expected a list"),
        (OVERLAY + "batch.micro_batch: 3\n", "write batch: and in the next line, indented, micro_batch:"),
        (OVERLAY + "checkpoint: {resume: true}\n", "checkpoint.resume is true; expected latest or step-N"),
        (
            OVERLAY + "seed: ${oc.env:NOT_SET_ANYWHERE}\n",
            "error: seed: the environment variable NOT_SET_ANY",
        ),
        (
            OVERLAY.replace("name: lab", "name: ${nothing.here}"),
            r"\$\{nothing.here\} names a key that is not",
        ),
        (
            "# @package _global_\ndefaults: {override /model: mine}\n",
            "pretrain.yaml:2: defaults is dict; expected",
        ),
    ],
)
def test_an_overlay_that_would_not_do_what_it_says_is_told_with_its_line(lab: Path, text: str, told: str) -> None:
    (lab / "experiment/lab/pretrain.yaml").write_text(text)
    assert_told(refused("--config-dir", "conf", "+experiment=lab"), told)


def test_an_overlay_may_build_on_another_in_two_ways(lab: Path) -> None:
    (lab / "experiment/lab/base.yaml").write_text("# @package _global_\nseed: 7\n")
    (lab / "experiment/lab/middle.yaml").write_text("# @package _global_\ndefaults: [/experiment/lab/base, _self_]\n")
    both = "defaults:\n  - /experiment/lab/base\n  - /experiment/lab/middle\n"
    (lab / "experiment/lab/pretrain.yaml").write_text(OVERLAY.replace("defaults:\n", both))
    places.begin(["--config-dir", "conf"])
    assert (composed().name, composed().seed) == ("lab", 7)


def test_a_file_that_hydra_does_not_find_is_told_where_it_belongs(lab: Path) -> None:
    (lab / "experiment/flat.yaml").write_text(OVERLAY)
    assert "move it to experiment/flat/pretrain.yaml" in refused("--config-dir", "conf", "+experiment=flat")
    (lab / "models").mkdir()
    (lab / "models/ours.yaml").write_text("layers: 3\n")
    assert "lie in a folder model/: move it" in refused("--config-dir", "conf", "model=ours")
    (lab / "model/other.yml").write_text("layers: 3\n")
    assert "conf/model/other.yml is not read: name it other.yaml" in refused("--config-dir", "conf", "model=other")


def test_a_broken_choice_is_told_with_its_line(lab: Path) -> None:
    (lab / "model/mine.yaml").write_text("layers: 3\n  d_model: 4\n")
    assert "conf/model/mine.yaml:2: no YAML" in refused("--config-dir", "conf", "model=mine")
    (lab / "model/mine.yaml").write_bytes(b"layers: 3 # \xff\n")
    assert "conf/model/mine.yaml: no UTF-8" in refused("--config-dir", "conf", "model=mine")


def test_a_choice_that_begins_as_an_overlay_or_wraps_its_keys_is_told(lab: Path) -> None:
    mine = (lab / "model/mine.yaml").read_text()
    (lab / "model/mine.yaml").write_text("# @package _global_\nlayers: 3\n")
    assert "conf/model/mine.yaml: a choice of model lies under model by itself" in refused(
        "--config-dir", "conf", "model=mine"
    )
    (lab / "model/mine.yaml").write_text(mine + "model: {layers: 3}\n")
    said = refused("--config-dir", "conf", "+experiment=lab")
    assert "unknown key model.model; " in said
    assert said.endswith("what is under model: stands there without it\n")


def test_a_recipe_that_names_what_there_is_not_is_told(lab: Path) -> None:
    begins = "# @package _global_\nexperiment: smoke\nname: lab\n"
    for text, told in (
        (
            "stages: [{workflow: corpsu, name: a, overrides: []}]",
            "stages[0].workflow is 'corpsu'; expected one of anneal",
        ),
        ("stages: [{workflow: chat, name: a, overrides: []}]", "stages[0].workflow is 'chat'; expected one of anneal"),
        ("stages: [{workflow: export, name: a, overrides: [parent=<lats>]}]", "write parent=<last>"),
        ("stages: [{workflow: export, name: a, overrides: [parent=<last>]}]", "no stage before it trains (pretrain, "),
        ("takes: {sources: [corpsu]}\nstages: [{workflow: corpus, name: a, overrides: []}]", "did you mean corpus?"),
    ):
        (lab / "experiment/lab/recipe.yaml").write_text(f"{begins}{text}\n")
        ended = run_here("recipe", "--config-dir", "conf", "+experiment=lab", "dry_run=true")
        assert (ended.code, told in ended.err) == (2, True), ended.output


def test_a_broken_choice_of_a_stage_of_a_recipe_is_told_alike(lab: Path) -> None:
    (lab / "corpus").mkdir()
    (lab / "corpus/mine.yaml").write_text("sources:\n  a: b: c\n")
    ended = run_here("recipe", "--config-dir", "conf", "+experiment=own", "corpus=mine", "dry_run=true")
    assert (ended.code, ended.err) == (
        2,
        "error: conf/corpus/mine.yaml:2: no YAML: mapping values are not allowed here\n",
    )


def test_a_folder_that_is_none_is_told_before_anything_starts(lab: Path) -> None:
    assert "nope is not there; expected a folder with experiment/" in refused("--config-dir", "nope")
    assert "name --config-dir ./conf" in refused("--config-dir", ".")
    assert refused("--config-dir", "conf/model").endswith("is around it: name --config-dir conf\n")
    assert refused("--config-dir", "conf/experiment/lab").endswith("is around it: name --config-dir conf\n")
    assert "names no folder" in refused("--config-dir")
    assert "pkg://a is no folder of this machine" in refused("hydra.searchpath=[pkg://a]")
    (lab / "model/demo.yaml").write_text("layers: 3\n")
    assert "has the name of Trunkline's own" in refused("--config-dir", "conf")
    (lab / "model/demo.yaml").unlink()
    (lab / "pretrain.yaml").write_text("steps: 3\n")
    assert "goes into experiment/<name>/pretrain.yaml" in refused("--config-dir", "conf")


def test_a_config_that_a_command_writes_goes_to_the_lab(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.written_to() == places.SHIPPED
    monkeypatch.setattr(places, "SHIPPED", places._HERE / "conf")  # as in an installed wheel
    with pytest.raises(ConfigError, match="name a folder of your own, --config-dir lab/conf"):
        places.written_to()
    monkeypatch.undo()
    monkeypatch.chdir(lab.parent)
    places.begin(["--config-dir", "conf"])
    assert places.written_to() == lab


def assert_told(said: str, pattern: str) -> None:
    import re

    assert re.search(pattern, said), said
