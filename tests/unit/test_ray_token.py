"""Ray's token is its owner's alone, whoever wrote it: the command that we advise, Ray, or we."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster.ray_token import ensure_private_token, read_by_others, token_file, token_source
from workflows.submit import token_command

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, a shell that leaves files for all to read, no token anywhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def advised(home: Path, answer: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the advised command in a plain shell, where `aws` answers so."""
    (home / "bin").mkdir(exist_ok=True)
    (home / "answer").write_text(answer)
    (home / "bin" / "aws").write_text(f'#!/bin/sh\necho "$*" > {home}/asked\ncat {home}/answer\nexit {status}\n')
    (home / "bin" / "aws").chmod(0o755)
    environment = os.environ | {"PATH": f"{home}/bin:{os.environ['PATH']}"}
    command = token_command("demo cluster/ray")
    return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("there", [None, 0o644, 0o600], ids=["new", "one that all can read", "one of before"])
def test_the_advised_command_leaves_a_private_token(home: Path, there: int | None) -> None:
    if there is not None:
        token_file().parent.mkdir()
        token_file().write_text("old")
        token_file().chmod(there)
    done = advised(home, json.dumps({"token": TOKEN, "ca_key": "secret"}))
    assert done.returncode == 0, done.stderr
    assert token_file().read_text() == TOKEN
    assert mode(token_file()) == 0o600
    assert "--secret-id demo cluster/ray --query" in (home / "asked").read_text()
    assert [path.name for path in token_file().parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("answer", ["", "None", "{}", '{"token": ""}', "<html>"])
def test_the_advised_command_keeps_the_token_when_there_is_none_to_fetch(home: Path, answer: str) -> None:
    token_file().parent.mkdir()
    token_file().write_text(TOKEN)
    assert advised(home, answer, status=0 if answer else 254).returncode != 0
    assert token_file().read_text() == TOKEN


def test_a_private_ray_gets_a_private_token(home: Path) -> None:
    ensure_private_token()
    assert len(token_file().read_text()) == 64
    assert mode(token_file()) == 0o600
    before = token_file().read_text()
    ensure_private_token()
    assert token_file().read_text() == before
    assert [path.name for path in token_file().parent.iterdir()] == ["auth_token"]


def test_a_token_that_ray_left_open_is_closed_with_a_word(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token_file().parent.mkdir()
    token_file().write_text(TOKEN)
    token_file().chmod(0o644)
    assert read_by_others() == token_file()
    ensure_private_token()
    assert (token_file().read_text(), mode(token_file())) == (TOKEN, 0o600)
    assert "could be read by other accounts of this machine" in capsys.readouterr().out
    assert read_by_others() is None
    ensure_private_token()
    assert capsys.readouterr().out == ""


def test_no_token_is_made_beside_one_that_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    ensure_private_token()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    ensure_private_token()
    assert token_source() is None  # Ray says so itself
    (tmp_path / "mine").write_text(TOKEN)
    ensure_private_token()
    assert token_source() == f"RAY_AUTH_TOKEN_PATH={tmp_path / 'mine'}"
    assert read_by_others() == tmp_path / "mine"
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ensure_private_token()
    assert not token_file().exists()


def test_no_page_advises_a_token_for_all_to_read() -> None:
    """Wherever a command writes a token, it stands behind a umask."""
    project = Path(__file__).parent.parent.parent
    pages = [
        *project.glob("*.md"),
        *project.glob("docs/*.md"),
        *project.glob("infra/**/*.md"),
        *project.glob("infra/**/*.tf"),
    ]
    writes = ("get-auth-token --generate", "> ~/.ray/")
    lines = [line for page in pages for line in page.read_text().splitlines() if any(write in line for write in writes)]
    assert lines
    assert [line for line in lines if "umask 077" not in line] == []
