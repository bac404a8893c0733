"""Words of a command line that are no overrides: what is said of them."""

from __future__ import annotations

import shlex

import pytest

from pipelines.errors import ConfigError
from pipelines.train.spec import TrainConfig
from tests.commands import run_here
from workflows.chat import ChatConfig
from workflows.checkpoints import CheckpointsConfig
from workflows.command_line.typed import bad_word, check_typed, quoted
from workflows.submit import SubmitConfig


def said(line: str, config: type = TrainConfig, workflow: str = "pretrain") -> str:
    with pytest.raises(ConfigError) as refused:
        check_typed(config, workflow, shlex.split(line))
    return str(refused.value)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        # ── an experiment, as an option or a word ──
        ("--experiment smoke", "--experiment: an experiment is chosen with a + and no dashes: +experiment=smoke"),
        ("--experiment=smoke", "+experiment=smoke"),
        ("--experimental-rerun x", "+experiment=<name> (there are demo, "),
        ("--exp smok", "+experiment=smoke (there are demo, "),
        ("-e smoke", "+experiment=smoke"),
        ("--smoke", "--smoke: did you mean +experiment=smoke?"),
        ("smoke", "smoke: did you mean +experiment=smoke?"),
        ("smok", "'smok' is no key=value and no option; expected e.g. +experiment=smoke name=mine: did you mean +exp"),
        ("+experiment smoke", "+experiment: which one? +experiment=smoke"),
        ("experiment", "experiment: which one? +experiment=<name> (there are demo, "),
        # ── options ──
        ("--Help", "--Help: write --help"),
        ("-help", "write --help"),
        ("help", "help: write --help"),
        ("-V", "-V: write --version"),
        ("version", "write --version"),
        ("--name x", "--name: keys are written without dashes: name=x"),
        ("--name=x", "name=x"),
        ("--batch.micro-batch=2", "keys are written without dashes: batch.micro_batch=2"),
        ("--dry-run", "dry_run=true"),
        ("--dry_run steps=3", "dry_run=true"),
        ("--lr 0.1", "keys are written without dashes, and lr is schedule.peak_lr here: write schedule.peak_lr=0.1"),
        ("--resume", "resume is no key: run the same command again"),
        ("--config x", "reads conf/pretrain.yaml; what you want otherwise is key=value, or an overlay"),
        ("-cn x", "--config-dir lab/conf +experiment=<name>"),
        ("--config-name=x", "--config-dir lab/conf +experiment=<name>"),
        ("-cp /tmp", "--config-dir lab/conf +experiment=<name>"),
        ("--config-path=/tmp", "--config-dir lab/conf +experiment=<name>"),
        ("--cfg", "--cfg: nothing came; expected --cfg job or hydra or all"),
        ("--cfg steps=3", "--cfg: nothing came"),
        ("--cfg everything", "--cfg: everything came; expected --cfg job or hydra or all"),
        ("-c x", "-c: x came"),
        ("--info x", "--info: x came; expected --info all or config or "),
        ("--multi", "did you mean --multirun?"),
        ("--step=3", "--step=3: keys are written without dashes, and step is steps here: write steps=3"),
        ("--xyz", "--xyz: no option; there are --help, --version, --config-dir lab/conf, --cfg job and -m"),
        # ── spaces, colons, signs of an editor ──
        ("name = x", "name =: expected key=value, without spaces around the =: write name=x"),
        ("name =x", "write name=x"),
        ("name= x", "name= x: expected key=value, without spaces around the =: write name=x"),
        ("= x", "'=': expected key=value, without spaces around the ="),
        ("'name = x'", "'name = x': write name=x, without spaces around the ="),
        ("name:x", "'name:x': keys are written with =: name=x"),
        ("name: x", "keys are written with =: name=x"),
        ("experiment:smoke", "+experiment=smoke"),
        ("name x", "name: a key takes a value: write name=x"),
        ("dry-run", "dry-run: a key takes a value: write dry_run=true"),
        ("lr 0.1", "lr is schedule.peak_lr here: write schedule.peak_lr=0.1"),
        ("\u2014dry-run", "\u2014dry-run: begins with \u2014, which a text editor makes of a dash"),
        ("\u2013name=x", "keys are written without dashes: name=x"),
        ("name=\u201cx\u201d", "\u201c is a quotation mark of a text editor, not of a shell: write name=x"),
        ("'name=\u2018a b\u2019'", "write 'name=\"a b\"'"),
        ("a=[1, 2]", "a=[1, 2]: the shell cuts at a space: put the whole in quotes, 'a=[1, 2] …'"),
        # ── other words ──
        ("sft", "sft is another command, and one is run at a time: trunkline sft …"),
        ("workflows.sft", "trunkline sft …"),
        ("lab.yaml", "an overlay of yours is chosen with --config-dir lab/conf +experiment=<name>"),
        ("mixture/demo", "did you mean data=mixture/demo?"),
        ("pretrain/demo@latest", "did you mean parent=pretrain/demo@latest?"),
        ("'train it'", "'train it' is no key=value and no option"),
        # ── Hydra's own settings ──
        ("hydra.foo=x", "Hydra's own settings are left alone; of them only hydra.searchpath=[file://lab/conf] is"),
        ("+hydra.foo=x", "left alone; of them only hydra.searchpath"),
        ("hydra=x", "left alone; of them only hydra.searchpath"),
        ("hydra.run.dir=/tmp/x", "Hydra writes nothing here; what a command makes goes into the store under its name"),
        ("hydra.job.name=x", "an artifact's name is set by name=x"),
        ("hydra/job_logging=none", "what is printed cannot be chosen"),
        ("hydra/launcher=joblib", "side by side by themselves"),
        # ── keys that are written in another's way ──
        ("batch/micro_batch=1", "batch/micro_batch is no key: did you mean batch.micro_batch=1?"),
        ("batch:micro_batch=1", "did you mean batch.micro_batch=1?"),
        ("BATCH.MICRO_BATCH=1", "did you mean batch.micro_batch=1?"),
        ("batch..micro_batch=1", "did you mean batch.micro_batch=1?"),
        (".steps=1", "did you mean steps=1?"),
        ("+batch.micro-batch=1", "did you mean +batch.micro_batch=1?"),
        ("''", "'' is no key=value and no option"),
        ("~", "'~': expected key=value"),
    ],
)  # fmt: skip
def test_what_is_no_override_is_told_with_what_to_write(line: str, text: str) -> None:
    assert text in said(line)


@pytest.mark.parametrize(
    "line",
    ["-m steps=1,2", "--multirun steps=1,2", "steps=1 -m", "--cfg job", "-c hydra steps=3", "--info", "--info defaults",
     "--info steps=3", "--cfg job --resolve", "--package _global_ --cfg job", "--cfg=job", "~steps", "+a.b=[1,2]",
     "name=", "'name=a b'", "++steps=3", "--hydra-help", "model/base@x=demo"],
)  # fmt: skip
def test_what_hydra_takes_is_left_to_it(line: str) -> None:
    check_typed(TrainConfig, "pretrain", shlex.split(line))


def test_words_of_commands_that_do_several_things() -> None:
    assert "lst: did you mean list? There are submit, list" in said("lst", SubmitConfig, "submit")
    assert "stands behind --: python -m workflows.submit -- workflows.sft …" in said("sft", SubmitConfig, "submit")
    assert "one of list, verify, prune at a time" in said("verify", CheckpointsConfig, "checkpoints")


def test_a_question_is_handed_to_chat_as_it_takes_one() -> None:
    assert "to ask one thing: echo 'tell me a joke' | trunkline chat" in said("'tell me a joke'", ChatConfig, "chat")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("name=\u00fcber", "because of the \u00fc in it the value takes quotes of its own: write 'name=\"\u00fcber\"'"),
        ("a=b=c", "because of the = in it the value takes quotes of its own: write 'a=\"b=c\"'"),
        ("a=[1,2", "a=[1,2: [ has no ]: put the whole in quotes for the shell, 'a=[1,2]'"),
        ("a={b: 1", "{ has no }: put the whole in quotes for the shell, 'a={b: 1}'"),
        ("a='b", "the quotation mark ' is not closed: close it, or write 'a=\"b\"'"),
        ("a=1,", "a=1,: , stands there too often: write a=1"),
        ("a==1", "= stands there too often: write a=1"),
        ("a={b: 1,}", "cannot be read: write 'a={b: 1}'"),
        ("a={b=1}", "cannot be read: write 'a={b: 1}'"),
        ("a=${oc.env:HOME", "${ has no }: write 'a=${oc.env:HOME}'"),
        ("a=rang(1,5)", "expected choice(a,b), range(first,end,step) or glob(*), each with -m"),
        ("a=[b,\u00fc]", "cannot be read; a list is 'key=[1,2]' and a mapping 'key={a: 1}'"),
    ],
)  # fmt: skip
def test_a_value_that_hydra_cannot_read_is_written_out_as_it_can(word: str, text: str) -> None:
    assert text in bad_word("?", ["-m", "steps=3", word])


@pytest.mark.parametrize("word", ["name=\u00fcber", "a=b=c", "a=it's", 'a=say "x"', "a=C:\\x"])
def test_the_quotes_that_are_advised_are_read_as_the_value(word: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, _, value = word.partition("=")
    (override,) = OverridesParser.create().parse_overrides(shlex.split(quoted(word)))
    assert (override.key_or_group, override.value()) == (key, value)


def test_a_command_says_it_and_its_version() -> None:
    ended = run_here("pretrain", "--experiment", "smoke")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: --experiment: an experiment is chosen with a + and no dashes: +experiment=smoke\n"
    assert run_here("pretrain", "--version").out.startswith("trunkline ")
