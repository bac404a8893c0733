"""What a person is shown to ask a delivered model: held-out text of its own data, and no question of the demo."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import lineage
from pipelines.train.formats import FORMATS
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.results.sample_question import WRITTEN, SampleQuestion, asking, sample_question
from tests.untrained import commit_run, commit_tokens

MODEL = ModelConfig(
    layers=1, d_model=32, d_ff=48, heads=4, kv_heads=2, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=1e-5,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))
    texts = {
        "notes": ["What's a valve? It opens and it closes, says the handbook."] * 5,
        "zh": ["话说天下大势。"] * 2,
    }
    turns = [("Why " * 60 + "?", "Because."), ("Where's the valve?", "In the cellar.")]
    tokens = commit_tokens(store, texts, turns, [("Which valve?", "This one.", "None.")])
    parent = None
    for kind in ("pretrain", "anneal", "sft"):
        parent = commit_run(store, f"{kind}/d", MODEL, tokens, parent)
    return store


def asked_of(store: ArtifactStore, run: str, **heldout: int) -> SampleQuestion:
    tokens = store.get("tokens/t")
    sources = {
        name: {**one, "heldout": {**one["heldout"], "documents": heldout.get(name, one["heldout"]["documents"])}}
        for name, one in tokens.statistics["sources"].items()
    }
    manifest = {**tokens.manifest, "statistics": {**tokens.statistics, "sources": sources}}
    known = dataclasses.replace(tokens, manifest=manifest)
    assert isinstance(known, Artifact)
    return sample_question(known, lineage(store, store.get(run)))


def test_a_model_that_answers_is_asked_the_first_short_question_that_was_held_out(store: ArtifactStore) -> None:
    question = asked_of(store, "sft/d")
    assert (question.text, question.chat, question.source) == ("Where's the valve?", True, "chat")
    assert str(question) == '"Where\'s the valve?", a held-out question of chat'
    assert asked_of(store, "sft/d", chat=0).text == "Which valve?"


@pytest.mark.parametrize("run", ["pretrain/d", "anneal/d"])
def test_a_base_model_goes_on_with_the_first_words_of_the_largest_source(store: ArtifactStore, run: str) -> None:
    question = asked_of(store, run)
    assert (question.text, question.chat, question.source) == (
        "What's a valve? It opens and it closes,",
        False,
        "notes",
    )


def test_where_nothing_is_held_out_that_is_said(store: ArtifactStore) -> None:
    chat, base = asked_of(store, "sft/d", chat=0, pairs=0), asked_of(store, "anneal/d", notes=0, zh=0)
    assert (chat.source, base.source) == (None, None)
    assert str(chat) == "a question of your own: no conversation was held out of the training data"
    assert base.remark == "no document was held out of the training data: begin a text of your own"
    (first, *_) = asking(FORMATS["llama"], chat).run("folder")
    assert first.text.startswith(f"# {chat.remark}\n")
    assert '"content": "your question"' in first.text


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_every_way_to_run_every_format_asks_it_in_valid_code(name: str, chat: bool) -> None:
    question = SampleQuestion('Who\'s "there"?\n谁？', chat, "mine")
    written, ways = FORMATS[name].run("folder"), asking(FORMATS[name], question).run("folder")
    assert [way.program for way in ways] == [way.program for way in written]
    for before, way in zip(written, ways, strict=True):
        assert WRITTEN not in way.text, way.program
        if WRITTEN not in before.text:
            assert way == before
            continue
        assert way.text.startswith("# asked: ")
        if way.language == "python":
            compile(way.text, way.program, "exec")
            assert json.dumps(question.text, ensure_ascii=False) in way.text
            assert ("messages" in way.text) == chat
        else:
            body = json.loads(shlex.split(way.text[way.text.index("curl ") :])[-1])
            assert (body["messages"][0]["content"] if chat else body["prompt"]) == question.text
            assert ("/chat/completions" in way.text) == chat


def test_the_formats_are_as_they_were_so_that_finished_exports_stay(store: ArtifactStore) -> None:
    """The module that puts the question in is hashed nowhere."""
    from workflows.export import code_of

    for name in FORMATS:
        assert "pipelines.train.results.sample_question" not in code_of(name)
    assert Path(store.storage.root / "tokens/t/manifest.json").is_file()  # type: ignore[attr-defined]
