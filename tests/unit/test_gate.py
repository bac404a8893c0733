"""What stands before the commit: what every reader is asked, and what is refused, with real readers on tiny models."""

import dataclasses
import functools
import json
import shutil
import sys
import unicodedata

import numpy as np
import pytest
import torch

from pipelines.data.tokens.chat import GUARD, SPECIAL_TOKENS
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.formats import FORMATS, gate, questions
from pipelines.train.formats.check import agreement, heldout_rows, own_answers, refuse_disagreement
from pipelines.train.formats.contract import Delivered, Source, Stored
from pipelines.train.formats.gate import (
    Rule,
    ask_runtime,
    ask_tokenizer,
    ask_transformers_tokenizer,
    encoder_of,
)
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.formats.parents import open_source
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.runtimes import RUNTIMES
from tests.untrained import commit_run, commit_tokens
from workflows import export as workflow
from workflows.export import ExportConfig, refuse_parent, told

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=48, heads=4, kv_heads=2, vocabulary=330, max_positions=128, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, init_std=0.5,
)  # fmt: skip
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made")
    store = ArtifactStore(str(path))
    tokens = commit_tokens(store, TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5, vocabulary=330)
    commit_run(store, "dpo/d", MODEL, tokens)
    return path


@pytest.fixture
def store(made, tmp_path):
    """A copy of it, to write into."""
    return ArtifactStore(str(shutil.copytree(made, tmp_path / "store")))


@pytest.fixture(scope="module")
def source(made):
    run = open_run(ArtifactStore(str(made)), "dpo/d")
    return Source(run, tokens_of(ArtifactStore(str(made)), run))


# ── Questions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_strings_are_many_fixed_and_of_every_kind():
    strings = questions.strings()
    assert len(set(strings)) == len(strings) == 5_000
    assert strings == questions.strings()
    assert strings != questions.strings(seed=questions.SEED + 1)
    assert not any(0xD800 <= ord(character) <= 0xDFFF for text in strings for character in text)
    found = "".join(strings)
    for marker in (*SPECIAL_TOKENS, GUARD, "\x00", "\ufeff", "\u200d", "\u3000"):
        assert marker in found, repr(marker)
    assert any(unicodedata.normalize("NFC", text) != text for text in strings)
    assert any(ord(character) >= 0x10000 for character in found)
    han = sum(any("\u4e00" <= character <= "\u9fff" for character in text) for text in strings)
    assert 1_000 < han < 4_000
    assert max(map(len, strings)) > 1_000
    assert "held out" in questions.strings(100, heldout=["held out"])


def test_the_prompts_are_twenty_half_of_them_chinese_half_conversations():
    prompts = questions.prompts()
    texts = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in prompts]
    assert len(set(texts)) == 20
    assert sum(any("\u4e00" <= character <= "\u9fff" for character in text) for text in texts) == 10
    assert sum(isinstance(prompt, str) for prompt in prompts) == 10


# ── Tokenizer ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ours(source):
    return encoder_of(source)


@pytest.mark.slow
def test_the_written_tokenizer_gives_our_ids_for_all_strings(source, tmp_path):
    FORMATS["llama"].write(source, tmp_path, "float32")
    asked = ask_transformers_tokenizer(tmp_path, source)
    assert (asked.strings, asked.strings_differing) == (5_000, 0)
    assert asked.conversations == len(questions.conversations())
    assert asked.notes[0].startswith("takes U+FDD1 out of")


def test_a_string_with_other_ids_is_refused_and_named(source, ours, monkeypatch):
    monkeypatch.setattr(questions, "STRINGS", 400)

    def encode(text):
        return ours.encode([text.replace("\u3000", " ")])[0].tolist()

    with pytest.raises(ArtifactError, match=r"reader gives other ids than the training tokenizer for the text '.*pla"):
        ask_tokenizer("reader", encode, ours.encode_prompt, source)
    asked = ask_tokenizer(
        "reader", encode, ours.encode_prompt, source, [Rule("hold an ideographic space", lambda text: "\u3000" in text)]
    )
    assert asked.strings + asked.strings_differing == 400
    assert asked.notes == (f"{asked.strings_differing} strings differ that hold an ideographic space",)


def test_a_conversation_with_a_marker_too_many_is_refused(source, ours, monkeypatch):
    monkeypatch.setattr(questions, "STRINGS", 10)

    def encode_chat(messages):
        """A template without a guard: what is typed becomes a marker."""
        return [*ours.encode_prompt(messages).tolist()] + [1] * ("</s>" in str(messages))

    with pytest.raises(ArtifactError, match=r"for the conversation .*Be brief.*place 67 on \[1\] instead of \[\]"):
        ask_tokenizer("reader", lambda text: ours.encode([text])[0].tolist(), encode_chat, source)


# ── Programs that run it ──────────────────────────────────────────────────────────────────────────────────────────────

FLOAT32 = Stored(bits=32, words="float32")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(questions, "STRINGS", 60)
    monkeypatch.setattr(questions, "PROMPTS", 4)
    monkeypatch.setattr(questions, "GREEDY_TOKENS", 8)


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    FORMATS["llama"].write(source, folder, "float32")
    return folder


def test_transformers_answers_as_the_model_that_was_exported(source, written, few):
    asked = ask_runtime("transformers", written, source, FLOAT32, FORMATS["llama"].read(written))
    assert (asked.strings, asked.prompts, asked.greedy_agreeing) == (60, 4, asked.greedy_tokens)
    assert 4 <= asked.greedy_tokens <= 32
    assert asked.kl is not None
    assert asked.kl < 1e-8
    # the checkpoint says the same as what the file holds
    by_checkpoint = ask_runtime("transformers", written, source, FLOAT32)
    assert by_checkpoint.kl == pytest.approx(asked.kl, abs=1e-7)
    assert dataclasses.replace(by_checkpoint, kl=asked.kl) == asked


def altered(monkeypatch, **changes):
    """`transformers` with other methods."""
    real = RUNTIMES["transformers"].load

    def load(path, settings):
        loaded = real(path, settings)
        for name, change in changes.items():
            setattr(loaded, name, functools.partial(change, getattr(loaded, name)))
        return loaded

    row = dataclasses.replace(RUNTIMES["transformers"], load=load)
    monkeypatch.setattr(gate, "RUNTIMES", {"transformers": row})


def test_an_answer_that_is_not_the_likeliest_is_refused_with_prompt_place_and_ids(source, written, few, monkeypatch):
    def stream(real, ids, sampling):
        for place, id_ in enumerate(real(ids, sampling)):
            yield 7 if place == 3 else id_

    altered(monkeypatch, stream=stream)
    with pytest.raises(
        ArtifactError,
        match=r"to 'Once upon a time', at new token 4 of 8, it chose id 7 .*nats behind the likeliest, \d+ ",
    ):
        ask_runtime("transformers", written, source, FLOAT32)


def test_an_answer_that_ends_too_early_is_refused(source, written, few, monkeypatch):
    altered(monkeypatch, stream=lambda real, ids, sampling: list(real(ids, sampling))[:2])
    with pytest.raises(ArtifactError, match=r"at new token 3 of 3, it chose id 0 \('</s>'\)"):
        ask_runtime("transformers", written, source, FLOAT32)


def test_other_logits_are_refused(source, written, few, monkeypatch):
    altered(monkeypatch, logits=lambda real, ids: real(ids) * np.float32(1.05))
    with pytest.raises(ArtifactError, match=r"computes other logits .* nats of KL per token .*accepted is 1e-06"):
        ask_runtime("transformers", written, source, FLOAT32)
    altered(monkeypatch, logits=lambda real, ids: real(ids) * np.float32("nan"))
    with pytest.raises(ArtifactError, match=r"computes other logits .* nan nats"):
        ask_runtime("transformers", written, source, FLOAT32)


def test_a_folder_that_holds_another_model_is_refused(source, written, few, tmp_path):
    other = shutil.copytree(written, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 500.0}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="computes other logits than the model that was exported"):
        ask_runtime("transformers", other, source, FLOAT32)


def test_a_program_that_is_not_there_is_named_with_the_line_that_installs_it(source, written, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    asked = ask_runtime("llama_cpp", written, source, FLOAT32)
    assert asked.not_asked == "pip install llama-cpp-python==0.3.36"
    assert asked.strings == asked.greedy_tokens == 0
    assert told(asked) == "llama_cpp was not asked: pip install llama-cpp-python==0.3.36"


# ── Agreement ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def delivered(source, change=lambda name, value: value):
    config = llama_config(source.model, "float32")
    return Delivered(
        config, lambda: ((name, change(name, value)) for name, value in fold(source.weights(), source.model))
    )


def test_the_same_weights_agree_and_others_are_as_far_as_their_logits(source):
    rows = heldout_rows(source, 3, 48)
    assert rows.shape == (3, 48)
    kl, top1 = agreement(source, delivered(source), rows)
    assert kl < 1e-6
    assert top1 > 0.99  # two ids may be as likely

    def coarse(name, value):
        return value if value.dim() == 1 else (value / value.abs().max() * 7).round() / 7 * value.abs().max()

    given = delivered(source, coarse)
    kl, top1 = agreement(source, given, rows)
    # by hand, with the whole model
    from pipelines.train.network.batch import ModelInput
    from pipelines.train.network.untied import untied_model

    model = untied_model(given.weights(), source.model)
    positions = torch.arange(48).expand_as(rows)
    with torch.no_grad():
        theirs = model.logits(model(ModelInput(inputs=rows, positions=positions))).double().log_softmax(-1).numpy()
    full = torch.stack(list(own_answers(source, rows).logits())).double().log_softmax(-1).numpy()
    expected = float((np.exp(full) * (full - theirs)).sum(-1).mean())
    assert expected > 0.001
    assert kl == pytest.approx(expected, rel=1e-3)
    assert top1 == pytest.approx(float((full.argmax(-1) == theirs.argmax(-1)).mean()), abs=0.02)
    assert top1 < 1


def test_beyond_the_limits_of_its_dtype_a_quantized_model_is_refused(source):
    row = Stored(bits=4.5, words="4 bits in groups of 32", most_kl=0.1, least_top1=0.8)
    refuse_disagreement(source, row, 0.1, 0.8)
    with pytest.raises(ArtifactError, match=r"0.11 nats of KL .* accepted for 4 bits in groups of 32 is 0.1"):
        refuse_disagreement(source, row, 0.11, 0.9)
    with pytest.raises(ArtifactError, match=r"at 79.0% of held-out places; accepted for .* is 80%: nothing was"):
        refuse_disagreement(source, row, 0.05, 0.79)
    with pytest.raises(ArtifactError, match="nan nats of KL"):
        refuse_disagreement(source, row, float("nan"), 0.9)


# ── Parents ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def quantized(store, parent="dpo/d@step-1", inputs=None):
    draft = store.begin("quantize", "q", {}, [store.get("dpo/d"), store.get("tokens/t")] if inputs is None else inputs)
    assert isinstance(draft, Draft)
    return draft.commit({}, {"parent": parent} if parent else {})


def test_a_quantized_parent_brings_its_checkpoint_and_tokens(store):
    artifact = quantized(store)
    source = open_source(store, "quantize/q")
    assert source.quantized is not None
    assert (source.parent, source.name, str(source.run)) == ("quantized", "quantize/q", "dpo/d@step-1")
    assert (source.quantized.fingerprint, source.tokens.folder) == (artifact.fingerprint, "tokens/t")
    plain = open_source(store, "dpo/d")
    assert (plain.parent, plain.name) == ("trained", "dpo/d@step-1")


def test_a_quantized_parent_whose_checkpoint_is_gone_is_refused(store):
    quantized(store)
    shutil.rmtree(store.storage.root / "dpo/d")
    with pytest.raises(ArtifactError, match=r"quantize/q was made of dpo/d@step-1, which is no longer there.*\.quan"):
        open_source(store, "quantize/q")


def test_a_quantized_parent_of_another_version_is_refused(store):
    quantized(store, inputs=[])
    with pytest.raises(ArtifactError, match=r"quantize/q was made of another version of dpo/d .*on_change=rebuild"):
        open_source(store, "quantize/q")


def test_a_quantized_parent_that_does_not_say_of_what_is_refused(store):
    quantized(store, parent="")
    with pytest.raises(ArtifactError, match=r"quantize/q does not say which checkpoint"):
        open_source(store, "quantize/q")


def test_what_holds_no_model_is_no_parent(store):
    with pytest.raises(
        ConfigError, match=r"parent=tokens/t is of kind tokens, which holds no model .*dpo/<name>.*quant"
    ):
        open_source(store, "tokens/t")


def test_a_format_names_the_way_to_a_parent_that_it_takes(store, monkeypatch):
    quantized(store)
    packed = dataclasses.replace(FORMATS["llama"], parents=frozenset({"quantized"}))
    monkeypatch.setattr(workflow, "FORMATS", {"llama": FORMATS["llama"], "packed": packed})
    with pytest.raises(ConfigError, match=r"format=llama stores the weights .*parent=dpo/d@step-1, .*format=packed"):
        refuse_parent(ExportConfig(name="e", parent="quantize/q"), open_source(store, "quantize/q"))
    with pytest.raises(ConfigError, match=r"quantize parent=dpo/d name=e` first, then .*quantize/e; .*format=llama"):
        refuse_parent(ExportConfig(name="e", parent="dpo/d", format="packed"), open_source(store, "dpo/d"))
