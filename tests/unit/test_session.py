"""The command line of every workflow: what a user may type, in any order."""

from __future__ import annotations

import re
import sys

import pytest
import yaml

from pipelines.train.stages import TrainConfig
from workflows.session import Session, entry


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Names of the configs that `python -m workflows.pretrain <arguments>` would run."""
    names: list[str] = []

    def run(config: TrainConfig, session: Session) -> None:
        names.append(config.name)

    monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
    entry(TrainConfig, run, "pretrain")()
    return names


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "job", "+experiment=demo", "name=mine"],
        ["+experiment=demo", "--cfg", "job", "name=mine"],
        ["+experiment=demo", "name=mine", "--cfg", "job"],
        ["+experiment=demo", "--cfg=job", "--resolve", "name=mine"],
    ],
)
def test_the_composed_config_is_shown_wherever_the_option_stands(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *arguments) == []  # shown, not run
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["steps"]) == ("mine", 400)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sweep_runs_each_choice_wherever_the_option_stands(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["+experiment=demo", "name=a,b", "dry_run=true"]
    arguments.insert(place, "-m")
    assert command(monkeypatch, *arguments) == ["a", "b"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("schedul.peak_lr=1", r"unknown key schedul; accepted there: name, .*: did you mean schedule.peak_lr\?"),
        ("zero.ofload=cpu", r"unknown key zero.ofload; accepted there: stage, .*: did you mean zero.offload\?"),
        ("profile=maybe", r"profile is 'maybe' \(str\); expected true or false"),
        ("compute=fast", "compute=fast: no such choice; there are auto"),
        ("steps=[1,2", r"expected key=value, in quotes where the shell would change it"),
        ("demo", "'demo': expected key=value"),
        ("name=a,b", r"several values are a list, 'key=\[a,b\]', or a sweep, with -m"),
        ("model.layers.x=3", "error: "),
    ],
)
def test_a_mistyped_argument_is_explained(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, argument, "dry_run=true")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.search(message, shown)
