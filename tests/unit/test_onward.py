"""What a command prints as next: the same when its artifact is there already, and the experiment's own first."""

from __future__ import annotations

import importlib
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.network.architecture import ModelConfig
from tests.untrained import commit_run, commit_tokens
from workflows import export
from workflows.command_line import places
from workflows.command_line.composing import compose_config
from workflows.running import onward
from workflows.running.session import Session

UNTRACKED = "tracking.enabled=false"
MODEL = ModelConfig(
    layers=1, d_model=64, d_ff=64, heads=1, kv_heads=1, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=1e-5,
)  # fmt: skip
LAB = {
    "recipe": """
        name: lab
        experiment: lab
        stages:
          - {workflow: mixture, name: "${name}_early", overrides: ["mixture=lab_early", "tokens=tokens/${name}"]}
          - {workflow: mixture, name: "${name}_late", overrides: ["mixture=lab_late", "tokens=tokens/${name}"]}
          - {workflow: pretrain, name: "${name}", overrides: ["data=mixture/${name}_early"]}
          - {workflow: anneal, name: "${name}", needs: conversations,
             overrides: ["parent=pretrain/${name}@step-1", "data=mixture/${name}_late"]}
        """,
    "mixture": "tokens: tokens/lab",
    "pretrain": "name: lab",
    "anneal": """
        defaults: [override /zero: zero2]
        name: lab
        steps: 2
        batch: {sequence_length: 16, global_batch: 2, micro_batch: 1}
        zero: {precision: float32}
        """,
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """Tokens of documents, conversations and pairs, and a trunk on them."""
    monkeypatch.setenv("TRUNKLINE_STORE", str(tmp_path))
    store = ArtifactStore(str(tmp_path))
    texts = {"notes": [f"Note {i}: the valve of pump {i} was shut." for i in range(40)]}
    turns = [(f"Is valve {i} shut?", f"Valve {i} is.") for i in range(20)]
    tokens = commit_tokens(store, texts, turns, [("Which valve?", "This one.", "None.")])
    commit_run(store, "pretrain/d", MODEL, tokens, steps=(1, 2))
    return store


def run(workflow: str, *words: str) -> None:
    """The command, in this process."""
    module = importlib.import_module(f"workflows.{workflow}")
    config = compose_config(workflow, typing.get_type_hints(module.run)["config"], [*words, UNTRACKED])
    with Session(config) as session:
        module.run(config, session)


def test_a_finished_evaluation_shows_its_numbers_again(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["parent=pretrain/d", "tasks.completions.prompts=[]", "tasks.text.max_tokens=100"]
    run("evaluate", *words)
    shown = capsys.readouterr().out.partition("Held-out text")[2].partition("   evaluated in")[0]
    run("evaluate", *words)
    again = capsys.readouterr().out
    assert "finished already" in again
    assert "bits/byte" in shown
    assert shown in again


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[None]:
    """An experiment of a lab's own, with two mixtures."""
    conf = tmp_path / "conf"
    for folder in ("experiment/lab", "mixture"):
        (conf / folder).mkdir(parents=True)
    for workflow, text in LAB.items():
        (conf / f"experiment/lab/{workflow}.yaml").write_text(f"# @package _global_\n{textwrap.dedent(text)}")
    for phase in ("early", "late"):
        (conf / f"mixture/lab_{phase}.yaml").write_text(
            f"name: lab_{phase}\nbudget_tokens: 200\nmax_epochs: 4\nmissing: refuse\n"
            "weights: {notes: 0.5, chat: 0.5}\n"
        )
    places.use([(str(conf), "--config-dir")])
    yield
    places.use([])


def next_of(printed: str) -> list[str]:
    return [line.strip().removeprefix("next: ") for line in printed.splitlines() if line.strip().startswith("next: ")]


@pytest.mark.parametrize(
    ("workflow", "words", "following"),
    [
        ("mixture", ["+experiment=own", "name=t", "tokens=tokens/t"], "pretrain"),
        ("average", ["parent=pretrain/d", "last=2"], "evaluate"),
        ("quantize", ["parent=pretrain/d", "name=d", "method=rtn", "compare=[]", "measure=null"], "export"),
    ],
)
def test_a_command_whose_artifact_is_finished_names_the_same_next_commands(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str], workflow: str, words: list[str], following: str
) -> None:
    run(workflow, *words)
    first = next_of(capsys.readouterr().out)
    run(workflow, *words)
    again = capsys.readouterr().out
    assert "finished already" in again
    assert next_of(again) == first
    assert first[0].startswith(f"python -m workflows.{following} ")


def after(store: ArtifactStore, experiment: str, parent: str = "pretrain/d") -> list[str]:
    """What follows a trunk that was trained in an experiment."""
    module = importlib.import_module("workflows.mixture")
    words = ["+experiment=own", "name=any", "tokens=tokens/t", UNTRACKED]
    with Session(compose_config("mixture", module.MixtureConfig, words), experiment) as session:
        return onward.after_training(session, parent, f"{parent}@latest")


def test_tokens_without_documents_say_who_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore(str(tmp_path))
    commit_tokens(
        store, {}, [(f"Is valve {i} shut?", f"Valve {i} is.") for i in range(20)], [("Which?", "This.", "No.")]
    )
    module = importlib.import_module("workflows.tokenize")
    words = ["+experiment=own", "name=t", f"store={tmp_path}", UNTRACKED]
    with Session(compose_config("tokenize", module.TokenizeConfig, words), "own") as session:
        assert onward.after_tokenize(session, "t") == []
    assert "no documents for a mixture: sft reads conversations, dpo pairs, by data=tokens/t" in capsys.readouterr().out


def test_a_file_that_cannot_hold_what_was_quantized_is_not_proposed(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run("quantize", "parent=pretrain/d", "name=d", "method=rtn", "compare=[]", "measure=null", "symmetric=false")
    lines = next_of(capsys.readouterr().out)
    assert [line.partition("format=")[2] for line in lines] == ["compressed-tensors", ""]


def test_the_experiments_own_mixture_for_a_stage_comes_before_that_of_the_one_for_any_data(
    store: ArtifactStore, lab: None
) -> None:
    wanted = "name=t_late mixture=lab_late tokens=tokens/t"
    assert after(store, "lab")[-1] == f"python -m workflows.mixture +experiment=lab {wanted}"


def test_the_recipes_own_stage_follows_and_the_recipe_then_finds_it(store: ArtifactStore, lab: None) -> None:
    """It begins at the step that the recipe says, and not where the trunk stands."""
    with Session(compose_config("export", export.ExportConfig, ["parent=pretrain/d", UNTRACKED]), "lab") as session:
        (one,) = onward.by_recipe(session, "lab", "anneal", "pretrain/d", "tokens/t")
    assert str(one) == (
        "python -m workflows.anneal +experiment=lab name=d parent=pretrain/d@step-1 data=mixture/d_late"
    )


def test_a_taken_name_gives_the_stage_another_name(store: ArtifactStore) -> None:
    tokens = store.get("tokens/t")
    for run_of in ("anneal/d", "sft/d"):
        commit_run(store, run_of, MODEL, tokens)
    assert after(store, "own", "anneal/d")[-1].startswith("python -m workflows.sft +experiment=own name=anneal-d ")


def test_a_run_is_of_the_tokens_that_it_reads_also_where_these_reuse_a_tokenizer(store: ArtifactStore) -> None:
    first = store.get("tokens/t")
    draft = store.begin("tokens", "u", {}, [store.get("corpus/c"), first])
    assert isinstance(draft, Draft)
    for name in first.manifest["files"]:
        draft.publish(name, {name: first.path(name)})
    again = draft.commit({}, first.statistics, first.manifest["licences"])
    commit_run(store, "pretrain/u", MODEL, again)
    assert "tokens=tokens/u" in after(store, "own", "pretrain/u")[-1]
