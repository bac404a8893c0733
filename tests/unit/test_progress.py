"""The live line of a long job, on a terminal and in a log, and what it adds up."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.display import progress
from pipelines.display.progress import Progress, announce, duration, human, hushed, say, table, tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_has_one_line_that_is_cut_to_its_width(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    line = Progress("clean", 3, stream=stream)
    for _ in range(3):
        clock[0] += 1
        line.update(dropped="quality.too_short 1, 文言 " + "x" * 80)
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    lines = [part for part in re.split(r"\r\x1b\[K|\n", shown) if part]
    assert len(lines) == 4
    assert all(progress.width(part) < 60 for part in lines)
    assert "0/3 shards" in lines[0]
    assert lines[-1].endswith("…")


def test_a_log_gets_few_lines_with_the_time_left(clock: list[float]) -> None:
    stream = io.StringIO()
    line = Progress("clean", 7200, stream=stream)
    for _ in range(7200):  # two hours, a shard a second
        clock[0] += 1
        line.update(kept="10")
    lines = stream.getvalue().splitlines()
    assert 120 <= len(lines) <= 300  # every five seconds at first, once a minute later
    assert lines[0] == "   clean                  5/7,200 shards  kept 10  ETA 1h59m"
    assert lines[-1] == "   clean                  7,200/7,200 shards  kept 10  in 2h00m"


def test_the_time_left_forgets_shards_that_were_there_already(clock: list[float]) -> None:
    stream = io.StringIO()
    line = Progress("clean", 1100, stream=stream)
    for done in range(1, 1001):  # found finished
        line.update(done)
    for _ in range(40):  # then one in two seconds
        clock[0] += 2
        line.update()
    assert stream.getvalue().splitlines()[-1].endswith("1,039/1,100 shards  ETA 2m02s")


def test_other_lines_do_not_run_into_the_live_one(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    Progress("clean", 2, stream=stream)
    say("a warning")
    say("another")
    assert stream.getvalue().count("\n") == 1
    assert capsys.readouterr().out == "a warning\nanother\n"


def test_tally_adds_up_documents_rate_and_reasons(clock: list[float]) -> None:
    describe = tally({"read": "documents", "documents": "kept"}, rate="bytes", reasons="dropped")
    clock[0] += 1
    assert describe({"read": 1500, "documents": 1500, "bytes": 2_000_000, "dropped": {}}) == {
        "documents": "1,500", "kept": "1,500", "": "2.0 MB/s", "dropped": "none",
    }  # fmt: skip
    clock[0] += 1
    facts = describe(
        {"read": 20, "documents": 9, "bytes": 4_000_000, "dropped": {"a": 2, "b": 5, "c": 1, "d": 1, "e": 2}}
    )
    assert facts == {
        "documents": "1,520", "kept": "1,509", "": "3.0 MB/s", "dropped": "11 (b 5, a 2, e 2 and 2 more)",
    }  # fmt: skip
    clock[0] += 1000  # after a long pause the rate is that of the last half minute
    assert describe({"read": 0, "documents": 0, "bytes": 0, "dropped": {}})[""] == "0.0 MB/s"


def test_numbers_and_tables_line_up() -> None:
    assert [human(950), human(1_234_567), human(2e9, "B")] == ["950", "1.23M", "2 GB"]
    assert [duration(4.2), duration(65), duration(3725)] == ["4.2s", "1m05s", "1h02m"]
    assert table(["name", "n"], [["三国", 5], ["x", 12_000]]).splitlines() == [
        "   name       n",
        "   ────  ──────",
        "   三国       5",
        "   x     12,000",
    ]


SAYS = """
import sys
from pipelines.display.progress import Progress, announce, say, table
announce("pretrain/démo", {"tokens": "1.3M → 2M ≥ 中", "bad name": "\\udce9"})
say(table(("a", "b"), [[1, None], [2, "x…"]]))
line = Progress("clean ─", 2)
line.update(2)
"""


def run_with(folder: Path, code: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "says.py").write_text(code, encoding="utf-8")
    project = str(Path(__file__).parents[2])
    return subprocess.run(
        ["bash", "-c", f"{sys.executable} {folder}/says.py {redirect}"], capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": project, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "gbk"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "utf-8"},
        {"TERM": "dumb"},
    ],
    ids=lambda environment: "-".join(environment.values()),
)
def test_any_terminal_can_be_written_to(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run_with(tmp_path, SAYS, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8"))
    assert "2/2 shards" in text
    if environment.get("PYTHONIOENCODING") == "ascii":
        assert "tokens    1.3M -> 2M >= \\u4e2d" in text
        assert "d\\xe9mo" in text


def test_a_closed_output_ends_the_command_as_a_shell_expects(tmp_path: Path) -> None:
    endless = 'from pipelines.display.progress import say\nwhile True: say("x" * 1000)'
    done = run_with(tmp_path, endless, redirect="| head -1; exit ${PIPESTATUS[0]}")
    assert done.returncode == 141
    assert done.stderr == b""


def test_a_command_without_an_output_works(tmp_path: Path) -> None:
    done = run_with(tmp_path, SAYS, redirect=">&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_closed_streams_go_nowhere_and_no_file_takes_their_place(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from pipelines.display.progress import reopen_closed_streams
reopen_closed_streams()
subprocess.run([sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"], check=True)
with open(sys.argv[0] + ".data", "w", encoding="utf-8") as file:
    os.write(1, b"of a library")
    print("an error", file=sys.stderr)
    sys.exit(0 if file.fileno() > 2 and sys.stderr.fileno() == 2 and sys.stdin.read() == "" else 9)
"""
    assert run_with(tmp_path, code, redirect="<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "says.py.data").read_bytes() == b""


def test_a_complaint_that_cannot_be_written_keeps_its_exit_code(tmp_path: Path) -> None:
    code = "from workflows.entry import fail; fail('a mistake', 2)"
    assert run_with(tmp_path, code, redirect="2> /dev/full").returncode == 2


def test_an_output_that_takes_no_more_is_named(tmp_path: Path) -> None:
    done = run_with(tmp_path, "from pipelines.display.progress import say; say()", redirect="> /dev/full")
    assert b"StorageError: cannot write to the standard output: No space left on device" in done.stderr


def test_every_text_file_is_read_and_written_in_utf_8_whatever_the_locale() -> None:
    bare = []
    for file in (path for room in ("pipelines", "workflows", "benchmarks") for path in Path(room).rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            opens = (
                name == "open"
                and not any("b" in str(mode) for mode in modes)
                and all(mode in ("r", "w", "a", "x") for mode in modes)
            )
            texts = name in ("read_text", "write_text") and not (name == "read_text" and call.args)
            if (texts or (opens and modes)) and "encoding" not in {keyword.arg for keyword in call.keywords}:
                bare.append(f"{file}:{call.lineno}")
    assert bare == [], "give them encoding='utf-8'"


def test_what_is_said_within_a_hush_goes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with hushed():
        say("a step among many")
        with hushed():
            announce("mixture/a", {"tokens": "1"})
        say("still")
    say("heard")
    assert capsys.readouterr().out == "heard\n"
