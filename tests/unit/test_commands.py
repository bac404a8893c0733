"""The list of commands, and how a command is typed."""

from __future__ import annotations

import sys

import pytest

from pipelines.display import progress
from pipelines.errors import ConfigError
from tests.commands import run_here
from workflows import __main__ as program_file
from workflows.command_line import commands, places
from workflows.command_line.commands import as_typed, check_known, listing, make, program, staged, words_of


def test_every_command_stands_in_one_stage() -> None:
    names = [name for group in staged().values() for name in group]
    assert sorted(names) == places.workflows()
    assert set(staged()) == set(commands.STAGES), "a new command is named in a stage of STAGES"


@pytest.mark.parametrize("command", places.workflows())
def test_the_first_line_says_what_a_command_is_for(command: str) -> None:
    (line,) = [line for line in listing().splitlines() if line.startswith(f"  {command} ")]
    said = line.split(maxsplit=1)[1]
    assert said == words_of(command).splitlines()[0]
    assert said.endswith((".", "?"))
    assert len(line) < 140


def test_a_command_that_stands_in_no_stage_is_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(commands.STAGES, "Planning")
    assert staged()["Others"] == ["fit", "plan", "sandbox"]
    check_known("fit")


@pytest.mark.parametrize(
    ("started", "text", "said"),
    [
        ("/venv/bin/trunkline", "next: python -m workflows.sft +experiment=x", "next: trunkline sft +experiment=x"),
        (
            "/venv/bin/trunkline",
            "`python -m workflows.sft` or `python -m workflows.dpo`",
            "`trunkline sft` or `trunkline dpo`",
        ),
        # what runs on a cluster, whose PATH may have no trunkline
        (
            "/venv/bin/trunkline",
            "ray job submit -- python -m workflows.sft",
            "ray job submit -- python -m workflows.sft",
        ),
        ("/venv/bin/trunkline", "python -m workflows", "python -m workflows"),
        ("/clone/workflows/sft.py", "next: python -m workflows.sft", "next: python -m workflows.sft"),
        ("/clone/workflows/__main__.py", "next: python -m workflows.sft", "next: python -m workflows.sft"),
    ],
)
def test_commands_are_said_in_the_words_that_were_typed(
    started: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert as_typed(text) == said
    assert program("sft") == ("trunkline sft" if started.endswith("trunkline") else "python -m workflows.sft")


def test_what_a_command_says_and_complains_of_is_in_those_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setattr(progress, "_reword", str)
    monkeypatch.setattr(sys, "argv", ["/venv/bin/trunkline", "sft", "--help"])
    program_file.main()
    assert "\ntrunkline sft " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["/venv/bin/trunkline", "sft", "+experiment=smoke", f"store={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        program_file.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "`trunkline " in error
    assert "python -m" not in error
    assert "`python -m workflows." in run_here("sft", "+experiment=smoke", f"store={tmp_path}").err


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("pretrian", "pretrain"),
        ("verify-resume", "verify_resume"),
        ("workflows.qantize", "quantize"),
        ("complete", "completion"),
    ],
)
def test_what_is_no_command_is_refused_with_what_is_near(typed: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{typed} is no command; there are recipe, .*: did you mean {near}\?$"):
        check_known(typed)


@pytest.mark.parametrize("word", ["+experiment=demo", "dry_run=true", "-m", "~x"])
def test_a_command_line_that_begins_with_a_key_lacks_its_command(word: str) -> None:
    with pytest.raises(ConfigError, match="expected a command first, e.g. "):
        check_known(word)


def test_what_the_makefile_does_has_a_name_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {line.partition(":")[0] for line in (places.SHIPPED.parent / "Makefile").read_text().splitlines()}
    assert set(commands._INSTALLED) <= targets
    assert make("llama") == "make llama"
    monkeypatch.setattr(commands, "SHIPPED", commands._HERE / "conf")
    assert make("llama") == "pip install 'trunkline[llama]'"


def test_a_mistyped_option_is_told_what_it_is_near() -> None:
    with pytest.raises(ConfigError, match=r"^--versoin: did you mean --version\?$"):
        check_known("--versoin")
