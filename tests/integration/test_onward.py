"""The commands that each command prints as next are accepted as printed, all the way from a corpus to a chat.

A tiny corpus of documents, conversations and pairs goes through the experiment that is sized by its data. Every printed
line is composed and planned with `dry_run=true`; the last line of each command is the one that is run then. Each
command is given twice, and names the same lines when its artifact is finished. All run in one process and one Ray, as
in a recipe.
"""

from __future__ import annotations

import importlib
import shlex
import typing
from pathlib import Path

import pytest

from tests.commands import run_here
from workflows.command_line.composing import compose_config
from workflows.corpus import CorpusConfig
from workflows.running.session import Session

UNTRACKED = "tracking.enabled=false"
SMALL = ["corpus=smoke", "corpus.sources.stdlib.max_bytes=200000", "quality_report=false"]
DOCUMENTS_ALONE = ["~corpus.sources.tutor-en", "~corpus.sources.tutor-zh", "~corpus.sources.judged-en"]


def next_of(printed: str) -> list[tuple[str, list[str]]]:
    """The workflow and the words of each printed next line."""
    lines = [line.split("next: ", 1)[1] for line in printed.splitlines() if line.strip().startswith("next: ")]
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(command[:2] == ["python", "-m"] for command in words)
    return [(command[2].removeprefix("workflows."), command[3:]) for command in words]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], ["tokenize", "mixture", "pretrain", "mixture", "anneal", "sft", "dpo", "export", "chat"]),
        (DOCUMENTS_ALONE, ["tokenize", "mixture", "pretrain", "anneal", "export", "chat"]),
    ],
    ids=["with conversations and pairs", "documents alone"],
)
def test_every_next_line_runs_as_printed(
    sources: list[str],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRUNKLINE_STORE", str(tmp_path))
    workflow, words = "corpus", ["+experiment=own", "name=mine", *SMALL, *sources]
    followed: list[str] = []
    first = compose_config("corpus", CorpusConfig, [*words, UNTRACKED])
    with Session(first, "own") as session:
        while workflow != "chat":
            module = importlib.import_module(f"workflows.{workflow}")
            config_class = typing.get_type_hints(module.run)["config"]
            little = ["hours=0.002"] if workflow == "pretrain" else []
            session.config = compose_config(workflow, config_class, [*words, *little, UNTRACKED])
            module.run(session.config, session)
            following = next_of(capsys.readouterr().out)
            assert following, f"{workflow} names no next command"
            module.run(session.config, session)  # finished already: the same follows
            assert next_of(capsys.readouterr().out) == following
            for other, others in following:
                planned = run_here(other, *others, "dry_run=true", UNTRACKED)
                assert planned.code == 0, (other, others, planned.output)
                assert "is refused" not in planned.output, (other, others, planned.output)
            workflow, words = following[-1]
            followed.append(workflow)
    assert followed == expected
