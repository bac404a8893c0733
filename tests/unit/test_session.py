"""The command line of every workflow: what a user may type, in any order."""

from __future__ import annotations

import errno
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.config import WorkflowConfig
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.errors import ConfigError
from pipelines.train.spec import TrainConfig
from tests.commands import run_here
from workflows.command_line.composing import compose_config
from workflows.entry import Ended, ended_by_signals, entry
from workflows.running.session import Session


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps=20", "steps=30"], "   steps is typed 2 times: the last counts, steps=30\n"),
        (["steps=10", "++steps=20", "steps=30"], "   steps is typed 3 times: the last counts, steps=30\n"),
        (["steps=30", "steps=30"], ""),
        (["-m", "name=a,b", "steps=20", "steps=30"], "   steps is typed 2 times: the last counts, steps=30\n"),
    ],
)
def test_of_a_key_typed_twice_it_is_told_which_counts(words: list[str], said: str, tmp_path: Path) -> None:
    ended = run_here("pretrain", "+experiment=demo", *words, "dry_run=true", f"store={tmp_path}")
    assert "".join(line for line in ended.out.splitlines(True) if " times: " in line) == said
    shown = run_here("pretrain", "+experiment=demo", *words[-2:], "--cfg", "job", "--package", "steps")
    assert shown.out == "30\n"  # what a program may read


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sweep_takes_each_choice_wherever_the_option_stands(place: int, tmp_path: Path) -> None:
    arguments = ["+experiment=demo", "name=a,b", "dry_run=true", f"store={tmp_path}"]
    arguments.insert(place, "-m")
    out = run_here("pretrain", *arguments).out
    assert re.search(r"^   pretrain/a +a +400 ", out, re.MULTILINE), out
    assert re.search(r"^   pretrain/b +b +400 ", out, re.MULTILINE), out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("schedul.peak_lr=1", r"unknown key schedul; accepted there: name, .*: did you mean schedule.peak_lr\?"),
        ("zero.ofload=cpu", r"unknown key zero.ofload; accepted there: stage, .*: did you mean zero.offload\?"),
        ("profile=maybe", r"profile is 'maybe' \(text\); expected true or false"),
        ("compute=fast", "compute=fast: no such choice; there are auto"),
        (
            "tracking=http://me:hunter2@mlflow",
            r"tracking=http://\*\*\*@mlflow: no such choice; there are local \(conf/tracking\)",
        ),
        ("steps=[1,2", r"\[ has no \]: put the whole in quotes for the shell, 'steps=\[1,2\]'"),
        ("demo", r"demo: did you mean \+experiment=demo\?"),
        ("name=a,b", "name=a,b: this key takes one value; several are a sweep, with -m"),
        ("profile_steps=1,2", r"several values are a list, 'key=\[a,b\]', or a sweep, with -m"),
        (
            "model.layers.x=3",
            "model.layers.x: model.layers is a whole number, and nothing is inside it: write model.layers=…",
        ),
        ("+seed=3", r"seed is set already: write seed=… without the \+"),
        ("~sed", r"unknown key sed; .*: did you mean seed\?"),
        ("profile_steps.first=3", r"profile_steps is a list: give the whole of it, 'profile_steps=\[…\]'"),
        ("+experment=demo", r"unknown key experment; accepted there: .*\+experiment: did you mean \+experiment=demo\?"),
        ("experiments=demo", r"did you mean \+experiment=demo\?"),
        (
            "+experiment=minicpm_2",
            r"there are demo, minicpm_2b, own, pocket, smoke, wind_tunnel, \w+: did you mean \+experiment=minicpm_2b\?",
        ),
        ("+experiment=", r"no such experiment; there are demo"),
        ("beta=0.2", r"unknown key beta; accepted there: name, .*: did you mean objective.beta\?"),
        ("++foo.bar=1", r"unknown key foo; accepted there: name, .*: remove it"),
        ("++batch.global_bach=8", r"unknown key batch.global_bach; .*: did you mean batch.global_batch\?"),
        ("+modle=demo", r"unknown key modle; .*: did you mean model\?"),
        ("cluster=gpuu", r"there are aws, gpu, local \(conf/cluster\): did you mean cluster=gpu\?"),
        ("+cluster=gpu", r"cluster is chosen already: write cluster=gpu without the \+"),
        ("~experiment", "~experiment: it is not chosen"),
        (
            "mixture=demo_stable",
            r"conf/mixture holds choices of other workflows: to read mixture/<name>, write data=mixture/<name>",
        ),
        ("--name=mine", "keys are written without dashes: name=mine"),
        ("corpus=demo", r"\+experiment; conf/corpus holds choices of other workflows$"),
        ("model=null", "model=null: expected the name of a choice"),
        ("--name", "keys are written without dashes: name=…"),
        ("tracking.uri=postgresql://host/db?sslmode=require", r"takes quotes of its own: write 'tracking.uri=\"post"),
        ("=x", "'=x': expected key=value, without spaces around the ="),
        ("+=x", "'\\+=x': expected key=value, without spaces"),
        ("~", "'~': expected key=value"),
        ("--dry-run", "keys are written without dashes: dry_run=true"),
        ("tracking.uri=http://me:hunter2@mlflow", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("--package=modle", "--package: modle is no key of pretrain; expected the one to be shown: model\n"),
        ("--package=model.x", "model.x is no key of pretrain; .*: model.layers, model.d_model, "),
        ("tracking.uri=http://me:hunter2{@mlflow", "because of the { in it the value takes quotes of its own"),
    ],
)
def test_a_mistyped_argument_is_explained(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, argument, "dry_run=true")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "hunter2" not in shown
    assert re.search(message, shown)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "corpus.sources.books.max_documents=5",
            r"corpus.sources.books.max_documents is not set in the YAML: write \+corpus.sources.books.max_",
        ),
        (
            "corpus.sources.book.max_documents=5",
            r"corpus.sources has no book; it has books, .*: did you mean corpus.sources.books.max_documents\?",
        ),
        (
            "corpus.sources.nothing.max_documents=5",
            r"corpus.sources has no nothing; it has books, .*: add a whole one, `\+corpus.sources.nothing=",
        ),
        (
            "corpus.sources.books.maxdocuments=5",
            r"unknown key corpus.sources.books.maxdocuments; .*: did you mean corpus.sources.books.max_documents",
        ),
        (
            "corpus.sources.books.reader.pth=5",
            r"unknown key corpus.sources.books.reader.pth; .*: did you mean corpus.sources.books.reader.path\?",
        ),
        (
            "corpus.quality.model.treshold=1",
            r"unknown key corpus.quality.model.treshold; .*: did you mean corpus.quality.model.threshold\?",
        ),
        ("corpus.decontaminate.sets.math.foo=1", "unknown key corpus.decontaminate.sets.math.foo; accepted there: "),
        (
            "known.0=corpus/a",
            r"known.0 cannot be set \(list index out of range\): give the whole of known, 'known=\[…\]'",
        ),
        ("known.first=corpus/a", "known is a list"),
    ],
)
def test_a_key_inside_a_mapping_or_a_list_is_followed(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["corpus", "corpus=own_data", "name=x", argument, "dry_run=true"])
    with pytest.raises(SystemExit, match="2"):
        entry(CorpusConfig, lambda config, session: None, "corpus")()
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 3, "cannot use /root/x: Permission denied"),
        (KeyError("x"), 1, "this is a fault in Trunkline"),
    ],
)
def test_what_a_disk_did_is_no_fault_of_trunkline(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: TrainConfig, session: Session) -> None:
        raise RuntimeError("a task failed") from error

    monkeypatch.setattr(sys, "argv", ["pretrain", "+experiment=demo", "dry_run=true"])
    with pytest.raises(SystemExit, match=str(code)):
        entry(TrainConfig, run, "pretrain")()
    assert words in capsys.readouterr().err


def test_a_relative_store_inside_a_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_SUBMISSION_ID", "raysubmit_x")  # as Ray sets it for the entry point of a job
    done = run_here("pretrain", "+experiment=demo", "store=store")
    assert done.code == 2
    assert "results would vanish with it; pass store=$PWD/store" in done.err


def test_the_next_command_names_a_store_that_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("TRUNKLINE_STORE", raising=False)
    typed = "python -m workflows.evaluate parent=sft/t"
    for store, given in (("store", ""), ("/a/b", "store=/a/b "), ("/a #b", "'store='\"'\"'/a #b'\"'\"'' ")):
        session = Session(WorkflowConfig(name="t", store=store), uses_store=False)
        assert session._in_experiment(typed) == f"python -m workflows.evaluate {given}parent=sft/t"


def test_a_mistyped_key_of_a_composed_command_is_explained_alike() -> None:
    """Of a recipe's stage, or of a command that is submitted."""
    with pytest.raises(ConfigError, match=r"did you mean \+experiment=demo\?"):
        compose_config("pretrain", TrainConfig, ["+experment=demo", "name=x"])
    with pytest.raises(ConfigError, match="expected key=value, without spaces around the =: write name=x"):
        compose_config("pretrain", TrainConfig, ["name", "=x"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_once_whatever_ray_makes_of_it(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup

    def wait_like_ray() -> None:
        try:
            signal.raise_signal(number)
        except SystemExit as first:
            signal.raise_signal(number)  # while things are put in order
            raise SystemExit(1) from first

    try:
        with pytest.raises(Ended) as ended, ended_by_signals():
            wait_like_ray()
        assert (ended.value.number, ended.value.code) == (number, 128 + number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_who_ignores_a_signal_goes_on_ignoring_it() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_end_by_itself_stays_what_it_is() -> None:
    with pytest.raises(SystemExit, match="3"), ended_by_signals():
        raise SystemExit(3)
