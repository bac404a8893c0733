"""Every shipped config composes into its workflow's typed config; misspellings are refused with advice."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import STAGES
from tests.commands import run_here
from tests.waits import PATIENCE_SECONDS
from workflows.command_line.composing import compose_config
from workflows.command_line.places import SHIPPED as CONF
from workflows.command_line.usage import print_usage

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted(path.stem for path in CONF.glob("*.yaml"))
GROUPS = sorted(
    (folder.name, path.stem)
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("experiment", "base")
    for path in folder.glob("*.yaml")
)
EXPERIMENTS = sorted((path.parent.name, path.stem) for path in CONF.glob("experiment/*/*.yaml"))
# which workflow shows a group's choices
SHOWN_BY = {
    "corpus": "corpus",
    "tokenizer": "tokenize",
    "mixture": "mixture",
    "cluster": "pretrain",
    "tracking": "pretrain",
    "device": "plan",
    "price": "cost",
}


def config_class(workflow: str) -> Any:
    return typing.get_type_hints(importlib.import_module(f"workflows.{workflow}").run)["config"]


def test_every_workflow_has_its_root_config() -> None:
    modules = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "workflows").glob("[a-z]*.py")}
    commands = {name for name, text in modules.items() if 'if __name__ == "__main__":' in text}
    assert set(WORKFLOWS) == commands - {"completion", "new"}  # which compose nothing


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_root_configs_compose(workflow: str) -> None:
    assert compose_config(workflow, config_class(workflow), []).name


@pytest.mark.parametrize("workflow", STAGES)
def test_the_help_of_a_stage_shows_every_key_once_though_stages_share_a_base(
    workflow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_usage(workflow)
    keys = [line.split(":")[0].split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert not [field.name for field in dataclasses.fields(TrainConfig) if keys.count(field.name) != 1]


@pytest.mark.parametrize(("group", "choice"), GROUPS)
def test_group_choices_compose(group: str, choice: str) -> None:
    workflow = SHOWN_BY.get(group, "pretrain")
    compose_config(workflow, config_class(workflow), [f"{group}={choice}"])


@pytest.mark.parametrize(("experiment", "workflow"), EXPERIMENTS)
def test_experiments_compose_and_say_what_they_are(experiment: str, workflow: str) -> None:
    config = compose_config(workflow, config_class(workflow), [f"+experiment={experiment}"])
    assert config.name
    assert "\n# " in (CONF / "experiment" / experiment / f"{workflow}.yaml").read_text()


def test_an_unknown_experiment_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no such experiment; there are .*demo"):
        compose_config("pretrain", config_class("pretrain"), ["+experiment=nope"])


def test_an_evaluation_is_named_after_its_parent() -> None:
    config = compose_config("evaluate", config_class("evaluate"), ["parent=pretrain/demo@step-240"])
    assert config.name == "pretrain-demo-step-240"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.layer=6"], "error: unknown key model.layer; accepted there: layers, d_model"),
        (["+model.layer=6"], "error: unknown key model.layer; accepted here: layers"),
        (["model.layers=six"], "error: model.layers is 'six' (text); expected a whole number"),
        (["model=huge"], "huge"),
        (
            ["store=gs://bucket"],
            "error: store 'gs://bucket' is of an unknown kind; expected a folder or s3://bucket/prefix",
        ),
        (["parent=pretrain/other"], "error: pretrain starts fresh"),
    ],
)
def test_mistakes_end_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run_here("pretrain", "+experiment=demo", f"store={tmp_path}", *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_ends_the_command_of_a_user_alike(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workflows.pretrain", "+experiment=demo", f"store={tmp_path}", "model.layer=6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    here = run_here(*(argument.removeprefix("workflows.") for argument in command[2:]))
    assert (done.returncode, done.stdout, done.stderr) == (here.code, here.out, here.err)
    assert done.returncode == 2
