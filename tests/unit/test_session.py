"""The command line of every workflow: what a user may type, in any order."""

from __future__ import annotations

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
