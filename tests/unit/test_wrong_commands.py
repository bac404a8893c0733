"""Commands that name what is not there, or is not free: what is said, and that a dry run ends as the command would."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipelines.config import parse
from pipelines.errors import ArtifactError, ConfigError, StorageError
from pipelines.store import missing
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.lease import Lease
from pipelines.store.references import Reference
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint.lineage import open_run
from pipelines.train.network.architecture import ModelConfig
from tests import tiny
from tests.commands import run_here
from tests.integration.conftest import TINY_MODEL
from tests.ports import free_port
from tests.untrained import commit_run

MODEL = parse(ModelConfig, TINY_MODEL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tokens, mixtures and a run; and `<kind>/taken`, begun by other configs."""
    store = tiny.build(str(tmp_path_factory.mktemp("wrong") / "store"))
    commit_run(store, "pretrain/t", MODEL, store.get("tokens/tiny"), steps=(4, 8))
    for kind in ("pretrain", "evaluate", "average", "mixture", "tokens", "corpus"):
        store.begin(kind, "taken", {"other": 1}, made_with=f"python -m workflows.{kind} name=taken")
    return Path(store.uri)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which no store is named."""
    monkeypatch.delenv("TRUNKLINE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ── A reference that is none ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smoke", "e.g. pretrain/demo@latest: its kind is missing, as in mixture/smoke or pretrain/smoke"),
        ("dpo/smoke@10", "write dpo/smoke@step-10"),
        ("dpo/smoke@step10", "write dpo/smoke@step-10"),
        ("dpo/smoke@step_000010", "write dpo/smoke@step-10"),
        ("dpo/smoke:step-10", "write dpo/smoke@step-10"),
        ("dpo/smoke/checkpoints/step-000010", "write dpo/smoke@step-10"),
        ("/data/store/dpo/smoke/checkpoints/step-000010/", "write dpo/smoke@step-10"),
        ("DPO/smoke", "write dpo/smoke"),
        ("https://huggingface.co/org/model", "nothing is read from an address here"),
        ("http://mlflow:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef", "id alone, 0123456789abcdef"),
        ("notes.jsonl", "files become artifacts first: text by `python -m workflows.corpus` (corpus="),
        (r"C:\data\notes.txt", "files become artifacts first"),
        ("/", "a folder is no artifact"),
        ("a b/c", "expected kind/name, kind/name@step-200 or kind/name@latest"),
    ],
)  # fmt: skip
def test_what_is_no_reference_is_told_as_what_it_is(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Reference.parse(text)
    assert said in str(refused.value)


def test_a_name_without_a_kind_is_told_as_one_though_a_folder_is_called_so(elsewhere: Path) -> None:
    """`trunkline new lab` makes a folder `lab`, and corpora, tokens and runs of that name."""
    (elsewhere / "lab").mkdir()
    with pytest.raises(ConfigError, match="its kind is missing, as in mixture/lab, or a folder was meant: a folder is"):
        Reference.parse("lab")


def test_a_folder_of_a_store_is_told_as_the_artifact_that_it_is(made: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        Reference.parse(f"{made}/tokens/tiny")
    assert f"that folder is tokens/tiny of a store: write tokens/tiny with store={made}" in str(refused.value)


def test_a_parent_that_is_none_is_not_told_as_a_name(elsewhere: Path) -> None:
    """`evaluate` names what it leaves after its parent."""
    ended = run_here("evaluate", "parent=https://hub/org/model", f"store={elsewhere}")
    assert (ended.code, "nothing is read from an address" in ended.err) == (2, True)
    assert "name is" not in ended.err


# ── Where it was looked for ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_is_told_with_what_sets_it(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def where(uri: str) -> str:
        return missing.where(ArtifactStore(uri).storage)

    unset = f"{elsewhere}/store (the folder `store` of this one, where neither store= nor TRUNKLINE_STORE names another"
    assert where("store") == f"{unset}; there is no such folder)"
    (elsewhere / "store").mkdir()
    assert where("store") == f"{unset})"
    assert where("other") == f"{elsewhere}/other (which store= names; there is no such folder)"
    monkeypatch.setenv("TRUNKLINE_STORE", "other")
    assert where("other").startswith(f"{elsewhere}/other (which TRUNKLINE_STORE names")


@pytest.mark.parametrize("place", ["inner", "../sibling/inner/deep", "."])
def test_a_store_nearby_that_has_it_is_named(
    made: Path, elsewhere: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = elsewhere if place != "." else elsewhere / "project"
    home.mkdir(exist_ok=True)
    (home / "store").symlink_to(made)
    folder = (elsewhere / place).resolve() if ".." not in place else elsewhere / "sibling" / "inner" / "deep"
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    ended = run_here("evaluate", "parent=pretrain/t")
    assert ended.code == 2
    assert f"pretrain/t does not exist in {folder}/store (the folder `store` of this one" in ended.err
    assert f"; {made} has it: write store={made}, or set TRUNKLINE_STORE to it: or make it with" in ended.err


def test_a_folder_inside_or_around_a_store_is_told_with_the_store(made: Path, elsewhere: Path) -> None:
    for named in (made / "pretrain", made.parent):
        with pytest.raises(ArtifactError, match=rf"; {made} has it: write store={made}"):
            ArtifactStore(str(named)).get("mixture/tiny_stable")


def test_what_is_there_is_listed_with_the_nearest_name_first(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    for number in range(20):
        store.begin("tokens", f"set-{number:02}", {}).commit({}, {})  # type: ignore[union-attr]
    store.begin("corpus", "wiki", {}).commit({}, {})  # type: ignore[union-attr]
    store.begin("mixture", "begun", {})
    said = missing.there(store.storage, "tokens", "set-7")
    assert said.startswith("tokens/{set-17, ")
    assert said.endswith(", and 8 more}")
    assert missing.there(store.storage, "tokens", "wiki").endswith("; of that name there is corpus/wiki")
    assert missing.there(store.storage, "mixture", "x") == "no finished mixture, mixture/{begun} has begun"
    assert missing.there(store.storage, "export", "x") == "no finished export"


# ── What makes it ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["pretrain", "+experiment=smoke"], "mixture {} +experiment=smoke mixture=smoke_stable`"),
        (["pretrain", "+experiment=demo"], "mixture {} +experiment=demo mixture=demo_stable`"),
        (["pretrain", "data=mixture/demo_decay"], "mixture {} +experiment=demo mixture=demo_decay`"),
        (["sft", "+experiment=smoke"], "anneal {} +experiment=smoke`"),
        (["mixture", "+experiment=smoke"], "tokenize {} +experiment=smoke`"),
        (["evaluate", "parent=dpo/smoke"], "dpo {} +experiment=smoke`"),
        (["pretrain", "+experiment=smoke", "data=mixture/tiny"],
         "mixture +experiment=smoke {} tokens=tokens/tiny name=tiny` and"),
        (["evaluate", "parent=dpo/mine"], "dpo {} name=mine` and the choices it needs"),
    ],
)  # fmt: skip
def test_the_command_that_makes_it_is_the_one_of_its_config(words: list[str], advice: str, made: Path) -> None:
    ended = run_here(*words, f"store={made}")
    assert ended.code == 2
    assert f"make it with `python -m workflows.{advice.format(f'store={made}')}" in ended.err


def test_a_recipe_that_read_it_makes_it_again(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    tokens = store.begin("tokens", "mine", {}).commit({}, {})  # type: ignore[union-attr]
    typed = f"python -m workflows.recipe +experiment=own store={tmp_path} name=mine"
    store.begin("recipe", "mine", {}, [tokens], made_with=typed).commit({}, {})  # type: ignore[union-attr]
    shutil.rmtree(tmp_path / "tokens/mine")
    ended = run_here("mixture", "tokens=tokens/mine", f"store={tmp_path}")
    assert ended.err.rstrip().endswith(f"make it with `{typed}`")


def test_what_has_begun_is_gone_on_with_by_the_command_that_began_it(made: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        ArtifactStore(str(made)).get("tokens/taken")
    assert "tokens/taken has begun but is not finished in " in str(refused.value)
    assert f"goes on with it: python -m workflows.tokens name=taken store={made}" in str(refused.value)


def test_a_run_that_is_not_finished_is_named_by_its_checkpoints(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "store")
    (tmp_path / "store/pretrain/t/manifest.json").unlink()
    store = ArtifactStore(str(tmp_path / "store"))
    with pytest.raises(ArtifactError) as refused:
        open_run(store, "pretrain/t")
    assert (
        "is not finished, and has checkpoints at steps 4, 8: name pretrain/t@latest or pretrain/t@step-8 to take it"
        in str(refused.value)
    )
    assert open_run(store, "pretrain/t@latest").checkpoint.step == 8
    assert "name pretrain/t@latest or" in run_here("evaluate", "parent=pretrain/t", f"store={store.uri}").err


# ── A dry run ends as its command ─────────────────────────────────────────────────────────────────────────────────────

_TRAIN = ["pretrain", "+experiment=smoke", "data=mixture/tiny_stable", "model.vocabulary=128"]
_SAME = "was made by another configuration"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([*_TRAIN, "name=taken"], 2, f"pretrain/taken in {{}} {_SAME}"),
        (["evaluate", "parent=pretrain/t", "name=taken"], 2, f"evaluate/taken in {{}} {_SAME}"),
        (["average", "parent=pretrain/t", "name=taken"], 2, f"average/taken in {{}} {_SAME}"),
        (["corpus", "+experiment=smoke", "name=taken"], 2, f"corpus/taken in {{}} {_SAME}"),
        ([*_TRAIN, "data=mixture/none"], 2, "mixture/none does not exist"),
        ([*_TRAIN, "data=corpus/x"], 2, "data=corpus/x is of kind corpus"),
        ([*_TRAIN, "name=x", "epochs=2"], 2, "got steps=30 and epochs=2.0"),
        ([*_TRAIN, "name=x", "checkpoint.resume=step-3"], 2, "pretrain/x has no committed checkpoint"),
        ([*_TRAIN, "name=x", "batch.micro_batch=3"], 2, "does not divide"),
        (["evaluate", "parent=pretrain/t@step-5"], 2, "committed steps: 4, 8"),
        (["evaluate", "parent=corpus/x"], 2, "is of kind corpus"),
        (["average", "parent=pretrain/t", "steps=[4,5]"], 2, "5"),
        (["export", "parent=pretrain/none"], 2, "pretrain/none does not exist"),
        (["mixture", "tokens=mixture/tiny_stable"], 2, "is of kind mixture"),
        (["chat", "model=nothing"], 2, "is no path and no model of"),
        (["chat", "prompts=hello", "model=export/x"], 2, "export/x does not exist"),
        (["checkpoints", "action=verify", "run=pretrain/none"], 2, "pretrain/none"),
    ],
)  # fmt: skip
def test_a_dry_run_refuses_what_its_command_refuses(words: list[str], code: int, said: str, made: Path) -> None:
    planned = run_here(*words, f"store={made}", "dry_run=true")
    asked = run_here(*words, f"store={made}", "tracking.enabled=false")
    assert (planned.code, planned.err) == (asked.code, asked.err)
    assert planned.code == code
    assert said.format(made) in planned.err


@pytest.mark.parametrize("words", [_TRAIN, ["evaluate", "parent=pretrain/t"], ["corpus", "+experiment=smoke"]])
def test_a_store_that_can_be_none_is_refused_by_both(words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, said in ((file, "is a file; expected a folder"), (file / "x", f"cannot be made: {file} is a file")):
        ends = [run_here(*words, f"store={place}", *more) for more in ((), ("dry_run=true",))]
        assert [ended.code for ended in ends] == [3, 3]
        assert all(said in ended.err for ended in ends)


@pytest.mark.parametrize(
    "words",
    [
        [*_TRAIN, "name=new"],
        [*_TRAIN, "-m", "name=new", "seed=1,2"],
    ],
)
def test_a_cluster_that_does_not_answer_is_refused_before_anything_begins(words: list[str], made: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    more = [f"cluster.address={address}", f"store={made}", "tracking.enabled=false"]
    planned, asked = (run_here(*words, *more, *dry) for dry in (["dry_run=true"], []))
    assert (planned.code, planned.err) == (asked.code, asked.err)
    assert planned.code == 4
    assert f"cannot reach the Ray cluster at {address} (cluster.address): " in planned.err
    assert not list(made.glob("*/new*"))
    corpus = run_here("corpus", "+experiment=smoke", "name=new", *more)
    assert (corpus.code, corpus.err) == (planned.code, planned.err)
    # what works without Ray does not ask for it
    assert run_here("evaluate", "parent=pretrain/t", "name=m", *more, "dry_run=true").code == 0


def test_the_plan_is_shown_before_a_name_that_is_taken_is_refused(made: Path) -> None:
    ended = run_here(*_TRAIN, "name=taken", f"store={made}", "dry_run=true")
    assert "   steps " in ended.out
    assert "nothing was started" in ended.out
    assert "without dry_run" not in ended.output


def test_a_dry_run_refuses_a_name_that_another_command_works_on(made: Path) -> None:
    lease = Lease(FolderStorage(made), "pretrain/held")
    try:
        ended = run_here(*_TRAIN, "name=held", f"store={made}", "dry_run=true")
    finally:
        lease.release()
    assert ended.code == 2
    assert f"pretrain/held in {made} is being made by another command: process" in ended.err
    assert run_here(*_TRAIN, "name=held", f"store={made}", "dry_run=true").code == 0


def test_a_store_without_permission_is_refused_without_writing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    storage = FolderStorage(closed / "store")
    storage.check()
    if os.access(closed, os.W_OK):  # root may write anywhere
        storage.check_writable()
    else:
        with pytest.raises(StorageError, match=rf"no permission to write in {closed}"):
            storage.check_writable()
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*_TRAIN, f"name={'a' * 300}"], "name has 300 bytes (aaaaaaaaaaaaaaaaaaaa…); folders of that name are made"),
        ([*_TRAIN, f"data=mixture/{'a' * 300}"], "a name has 200 bytes at most"),
        ([*_TRAIN, f"data={'a b ' * 99}"], "is not a reference"),
        ([*_TRAIN, "word " * 99], "is no key=value and no option"),
        ([*_TRAIN, "steps=1e3"], "steps is 1000.0; expected a whole number: write 1000"),
        ([*_TRAIN, "tracking.uri=nonsense"], "tracking.uri is 'nonsense'; expected a server or a database"),
        ([*_TRAIN, "steps=ten"], "steps is 'ten' (text); expected a whole number"),
    ],
)
def test_what_no_folder_and_no_number_can_be_is_refused(words: list[str], said: str, made: Path) -> None:
    ended = run_here(*words, f"store={made}", "dry_run=true")
    assert (ended.code, said in ended.err) == (2, True), ended.err


_SMOKE = ["pretrain", "+experiment=smoke"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # ── going on ──
        ([*_SMOKE, "checkpoint.resume=true"], "checkpoint.resume is true; expected latest or step-N"),
        ([*_SMOKE, "checkpoint.resume=null"], "the same command, given again, goes on from the last checkpoint by its"),
        ([*_SMOKE, "+checkpoint.resume_from=x"], "goes back to an earlier one\n"),
        (["recipe", "+experiment=smoke", "resume=true"], "resume is no key: run the same command again"),
        # ── choices ──
        (["pretrain", "+experiment=smoke,demo"], "+experiment=smoke,demo: a command takes one experiment; several are"),
        (["pretrain", "+experiment=own", "model.layers=2"], "choose one to change it, e.g. model=demo model.layers=2"),
        ([*_SMOKE, "model.d_model=100", "model.heads=4", "model.kv_heads=4"], "is odd; rotary positions need an even"),
        (["mixture", "+experiment=own", "name=nowhere"], "tokens/nowhere does not exist"),
        (["mixture", "+experiment=own", "mixture.weights={a: 1.0}", "name=nowhere"], "tokens/nowhere does not exist"),
        # ── values ──
        ([*_SMOKE, "batch=[1,2]"], "batch is [1,2]; expected a mapping with keys sequence_length, "),
        ([*_SMOKE, "steps=10k"], "steps is '10k' (text); expected a whole number of at least 1 or null: write steps=1"),
        ([*_SMOKE, "hours=2h"], "or null: write hours=2\n"),
        ([*_SMOKE, "hours=90min"], "write hours=1.5\n"),
        ([*_SMOKE, "hours=2km"], "write the number alone, hours=2\n"),
        (["corpus", "corpus.piece_bytes=1MB"], "write corpus.piece_bytes=1000000\n"),
        (["corpus", "corpus.piece_bytes=1MiB"], "write corpus.piece_bytes=1048576\n"),
        (["plan", "flops_per_second=1T"], "write flops_per_second=1000000000000\n"),
        ([*_SMOKE, 'schedule.peak_lr="0,01"'], "write schedule.peak_lr=0.01"),
        ([*_SMOKE, "optimizer.betas=0.9"], "expected a list of 2, each a number of at least 0 and below 1"),
        ([*_SMOKE, "dry_run=yes"], "expected true or false: write dry_run=true"),
        ([*_SMOKE, "on_change=rebild"], "expected one of refuse, rebuild, keep: did you mean rebuild?"),
        ([*_SMOKE, "name=null"], "name is null; expected text"),
        ([*_SMOKE, "model=null"], "model=null: expected the name of a choice; there are demo, "),
        ([*_SMOKE, "tracking=false"], "or tracking.enabled=false to do without it"),
        ([*_SMOKE, "+model=demo"], "model is chosen already: write model=demo without the +"),
        ([*_SMOKE, "~steps=3"], "~steps=3: steps is 30: write ~steps to leave it out"),
        (["corpus", "known=corpus/x"], "expected a list of text: write 'known=[corpus/x]'"),
        (["corpus", "corpus=demo", "corpus.sources.sotu.kind=documents"], "write +corpus.sources.sotu.kind=documents"),
        (["corpus", "corpus=demo", "corpus.sources.sotu.reader.split=a b"],
         "'+corpus.sources.sotu.reader.split=a b' to"),
        (["corpus", "corpus=data/notes"], "copy conf/corpus/own_data.yaml and set its reader's path to data/notes"),
        (["corpus", "corpus={a: 1}"], "unknown key corpus.a; accepted there: url, language"),
        (["corpus", "corpus.cleaning.min_words=3"], "did you mean corpus.quality.prose.min_words or "),
        (["quantize", "parent=pretrain/t", "group_sizes={x: 64}"], "write +group_sizes.x=…"),
        (["evaluate", "parent=pretrain/t", "tasks=[text]"], "tasks is [text]; expected a mapping with some of the"),
        (["evaluate", "parent=pretrain/t", "tasks.completions.prompts=a"], "prompts=[{text: \"a\"}]'"),
        (["mixture", "mixture.weights.x=1"], "mixture.weights has chitchat, "),
        (["anneal", "parent=pretrain/t", "model=demo"], "this stage takes its model from its parent"),
        (["publish"], "to is empty; expected hf://org/name"),
        (["sandbox", "sandbox=laptop/nope"], "sandbox=laptop/nope: no such choice; there are laptop/batch, "),
        (["sandbox", "sandbox=none"], "there are laptop/batch, "),
        # ── ${…} ──
        ([*_SMOKE, "name=${oc.env:NOT_SET_ANYWHERE}"], "error: name: the environment variable NOT_SET_ANY"),
        (["recipe", "+experiment=own", "corpus=a", "hours=${oc.env:NOT_SET}"], "error: hours: the environment"),
        ([*_SMOKE, "name=${nothing}"], "error: name: ${nothing} names a key that is not there"),
        ([*_SMOKE, "name=${foo:bar}"], "${foo:…} is no way to work a value out"),
        ([*_SMOKE, "name=${name}"], "leads back to itself"),
        ([*_SMOKE, "-m", "steps=range(1,5,0)"], "with a step that is not 0"),
        # ── addresses ──
        ([*_SMOKE, "tracking.uri=localhost:5000"], "write tracking.uri=http://localhost:5000"),
        ([*_SMOKE, "tracking.uri=ftp://x"], "expected a server or a database"),
        ([*_SMOKE, "cluster.address=http://x:8265"], "expected host:port of a Ray cluster"),
        ([*_SMOKE, "store=s3:/bucket"], "write store=s3://bucket"),
        ([*_SMOKE, "store=S3://bucket/x"], "write store=s3://bucket/x"),
        ([*_SMOKE, "store=file:///data/x"], "write store=/data/x"),
        ([*_SMOKE, "store=$HOME/store"], "begins with $HOME as it stands"),
        (["cluster_check", "address=nonsense"], "expected the address of the cluster's Jobs API"),
        (["submit", "address=ftp://x"], "expected the address of the cluster's Jobs API"),
        (["submit", "stop="], "stop is empty; expected a job's id"),
        (["ui", "group="], "group is empty; expected a name"),
        # ── a recipe's stages ──
        (["recipe", "+experiment=smoke", "pretrain=10"], "its keys are written pretrain.<key>=…"),
        (["recipe", "+experiment=smoke", "log_every_steps=1"], "of its stages: pretrain.log_every_steps=1 or "),
        (["recipe", "+experiment=smoke", "lr=0.1"], "in a recipe with the stage before it, pretrain.<key>=…"),
        (["recipe", "+experiment=smoke", "pretrain.steps=ten"], "stage pretrain smoke: steps is 'ten'"),
    ],
)  # fmt: skip
def test_what_was_typed_wrongly_is_answered_with_what_to_write(words: list[str], said: str, elsewhere: Path) -> None:
    ended = run_here(*words, "dry_run=true") if "dry_run=yes" not in words else run_here(*words)
    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, "Hydra printed a line of its own"
