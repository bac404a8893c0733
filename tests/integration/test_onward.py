"""The commands that each command prints as next are accepted as printed, all the way from a corpus to a chat.

A tiny corpus of documents, conversations and pairs goes through the experiment that is sized by its data. Every printed
line is composed and planned with `dry_run=true`; the last line of each command is the one that is run then.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_here
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
FEW = "tracking.enabled=false"


def run(workflow: str, *words: str, store: Path) -> str:
    """A command as a user starts it. Returns: what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"workflows.{workflow}", *words, FEW],
        cwd=ROOT, env={**os.environ, "TRUNKLINE_STORE": str(store)}, capture_output=True, text=True,
        input="What is 3 plus 4?\n", timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def next_of(printed: str) -> list[tuple[str, list[str]]]:
    """The workflow and the words of each printed next line."""
    lines = [line.split("next: ", 1)[1] for line in printed.splitlines() if line.strip().startswith("next: ")]
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(command[:2] == ["python", "-m"] for command in words)
    return [(command[2].removeprefix("workflows."), command[3:]) for command in words]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            [],
            ["tokenize", "mixture", "pretrain", "mixture", "anneal", "sft", "dpo", "export", "chat"],
        ),
        (
            ["~corpus.sources.tutor-en", "~corpus.sources.tutor-zh", "~corpus.sources.judged-en"],
            ["tokenize", "mixture", "pretrain", "anneal", "export", "chat"],
        ),
    ],
    ids=["with conversations and pairs", "documents alone"],
)
def test_every_next_line_runs_as_printed(
    sources: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKLINE_STORE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    small = ["corpus=smoke", "corpus.sources.stdlib.max_bytes=200000", *sources]
    workflow, words = "corpus", ["+experiment=own", "name=mine", *small]
    followed = []
    while True:
        if workflow == "pretrain":
            words = [*words, "hours=0.002"]
        following = next_of(run(workflow, *words, store=tmp_path))
        for other, others in following:
            planned = run_here(other, *others, "dry_run=true", FEW)
            assert planned.code == 0, (other, others, planned.output)
            assert "is refused" not in planned.output, (other, others, planned.output)
        if not following:
            break
        workflow, words = following[-1]
        followed.append(workflow)
    assert followed == expected
