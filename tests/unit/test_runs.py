"""How a test run behaves: its home, its lanes, what it leaves out and what it asks of CI."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import lanes
from tests.programs import missing, need
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def test_nothing_is_kept_in_the_users_home() -> None:
    user = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert Path.home() != user
    for place in (os.path.expanduser("~/.cache"), os.environ["TRUNKLINE_CACHE"]):
        assert Path.home() in Path(place).parents
    assert len((Path.home() / ".ray" / "auth_token").read_text()) == 64  # one for all lanes, made before they start


def test_a_missing_program_skips_at_home_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not on PATH: install no-such-program"):
        need("no-such-program")
    for value in ("1", "true"):
        monkeypatch.setenv("CI", value)
        with pytest.raises(pytest.fail.Exception, match="CI must have it: a thing"):
            missing("a thing")
    assert Path(need("python")).exists()


def test_every_file_of_a_lane_is_there_and_once() -> None:
    files = [file for _, group in lanes.FIRST for file in group]
    assert len(set(files)) == len(files)
    for file in files:
        assert (ROOT / "tests" / file).is_file(), file
        assert lanes.group(f"tests/{file}::test_a[b::c]") == lanes.group(f"tests/{file}::test_d")


# what a file has in it that uses a fixture of a whole session, and the groups that it may be in
SHARED = {
    "head: RayCluster": ("head",),
    "server: S3Server": ("S3 and ranks",),
    # two groups: one alone would be the longest lane by far
    "_rank: Ranks": ("S3 and ranks", "ranks of trials"),
    "_ranks: Ranks": ("S3 and ranks", "ranks of trials"),
}


def test_what_a_session_starts_once_is_used_in_one_lane() -> None:
    for path in (ROOT / "tests" / "integration").glob("test_*.py"):
        for words, groups in SHARED.items():
            if words in path.read_text():
                assert lanes.group(f"tests/integration/{path.name}::test") in groups, (
                    f"list {path.name} in tests/lanes.py"
                )


def test_a_file_that_leaves_something_behind_fails_itself(tmp_path: Path) -> None:
    toys = {
        "conftest": "import pytest, tests.conftest\ntests.conftest.ENDING_SECONDS = 1\n"
        "@pytest.fixture(scope='session')\ndef thing():\n    print('made')\n    yield 1\n    print('ended')\n",
        "test_a": "def test_one(thing): print('one')",
        "test_b": "def test_two(thing): print('two')",
        "test_c": "import subprocess\ndef test_three(): subprocess.Popen(['sleep', '600'])",
        "test_d": "import os\ndef test_four(): os.environ['AWS_LEFT'] = '1'",
        "test_e": "import os\ndef test_five(): os.chdir('/')",
        "test_f": "import os\nfrom tests.processes import below\n"
        "def test_six(): assert 'AWS_LEFT' not in os.environ and os.getcwd() != '/' and not below()",
    }
    for name, text in toys.items():
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-rE", "-p", "tests.conftest", "-c", os.devnull]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    for told in (
        r"made\none\n.*ended\n.*made\ntwo\n.*ended\n.*",  # what files share ends with each, where no lane lists them
        r"test_c.py, or its group, leaves running: psutil.Process\(.*name='sleep'",
        "test_d.py leaves other values in the environment: AWS_LEFT",
        "test_e.py leaves this process in another folder",
        "6 passed, 3 errors",
    ):
        assert re.search(told, done.stdout, re.DOTALL), (told, done.stdout)


@pytest.mark.parametrize("options", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)])
def test_campaigns_are_left_out_by_name_and_run_when_asked_for(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_short(): pass\n@pytest.mark.campaign\ndef test_long(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", os.devnull, f"--rootdir={tmp_path}"]

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *options, *arguments, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    output = said("-m", "not slow")
    assert "1 campaign tests were left out: `make test-full`, or --campaigns, runs them" in output
    assert output.splitlines()[-1].startswith("1 passed")  # what CI reads
    output = said("--campaigns")
    assert "left out" not in output
    assert output.splitlines()[-1].startswith("2 passed")
