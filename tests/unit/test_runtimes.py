"""Runtimes: what they answer, against the model that they were given; what they refuse."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.tokens.chat import EOS_ID
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import read_weights
from pipelines.train.checkpoint.lineage import open_run
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.runtimes import RUNTIMES, with_llama_cpp, with_transformers
from pipelines.train.runtimes.contract import LoadSettings, Sampling
from pipelines.train.runtimes.sampling import Sampler, probabilities
from tests.delivered import MODEL, deliver
from tests.gguf_file import write_gguf

TEXT = "Once upon a time 话说天下大势 👍 12+7"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a</s>b <AI> 分久必合?"}]
GREEDY = Sampling(temperature=0.0, max_new_tokens=20)
needs_llama_cpp = [
    pytest.mark.campaign,
    pytest.mark.skipif(with_llama_cpp.missing() is not None, reason="llama_cpp is not installed"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """See `deliver`."""
    path = tmp_path_factory.mktemp("runtimes")
    deliver(path)
    return path


@pytest.fixture(scope="module")
def ours(place):
    """The training model, and the encoder of its tokens."""
    store = ArtifactStore(str(place / "store"))
    network = Transformer(MODEL)
    network.load_state_dict(read_weights(open_run(store, "dpo/d").checkpoint))
    encoder = Encoder((place / "folder" / "tokenizer.json").read_text("utf-8"), fast=False)
    return network.eval(), encoder


@pytest.fixture(
    params=["folder", "minicpm", pytest.param("model.gguf", marks=needs_llama_cpp)],
)
def loaded(place, request):
    path = place / request.param
    runtime = next(runtime for runtime in RUNTIMES.values() if runtime.takes(path))
    model = runtime.load(path, LoadSettings(threads=1, exact=True))
    yield model
    model.close()


def own_logits(ours, ids):
    inputs = torch.tensor([ids])
    with torch.no_grad():
        return ours[0].logits(ours[0](ModelInput(inputs=inputs, positions=torch.arange(len(ids))[None])))[0].numpy()


def test_a_model_gives_the_logits_and_ids_of_the_one_that_was_trained(loaded, ours):
    ids = loaded.encode(TEXT + "</s>")
    assert ids == ours[1].encode([TEXT + "</s>"])[0].tolist()
    assert loaded.encode_chat(CHAT)[0] == 1
    assert loaded.decode(ids).decode() == TEXT + "</s>"
    assert loaded.decode([0, 1, 2]) == b""
    assert (loaded.eos, loaded.context, loaded.vocabulary) == (EOS_ID, MODEL.max_positions, MODEL.vocabulary)
    np.testing.assert_allclose(loaded.logits(ids), own_logits(ours, ids), atol=2e-4)


def test_a_conversation_has_the_ids_of_training(loaded, ours, request):
    # a program that does not know the tokenizer's rule for typed markers sees bytes there, and no marker
    chat = CHAT if "gguf" not in request.node.name else [{"role": "user", "content": TEXT}]
    assert loaded.encode_chat(chat) == ours[1].encode_prompt(chat).tolist()
    assert [id_ for id_ in loaded.encode_chat(CHAT) if id_ in (0, 1, 2)] == [1, 2]
    with pytest.raises(ConfigError, match="two questions follow each other"):
        loaded.encode_chat([CHAT[1], CHAT[1]])


def test_a_stream_takes_the_likeliest_ids_and_reads_nothing_twice(loaded, ours):
    ids = loaded.encode(TEXT)
    made = list(loaded.stream(ids, GREEDY))
    assert loaded.prompt_read == len(ids)
    text, expected = list(ids), []
    while len(expected) < 20 and (likeliest := int(own_logits(ours, text)[-1].argmax())) != EOS_ID:
        expected.append(likeliest)
        text.append(likeliest)
    assert made == expected
    again = [*ids, *made, *loaded.encode("。")]
    longer = list(loaded.stream(again, GREEDY))
    assert loaded.prompt_read < len(loaded.encode("。")) + 2
    other = loaded.encode("Quite another text")
    assert list(loaded.stream(other, GREEDY)) != longer
    assert list(loaded.stream(again, GREEDY)) == longer


def test_a_stream_that_is_left_half_way_leaves_no_trace(loaded):
    ids = loaded.encode(TEXT)
    whole = list(loaded.stream(ids, GREEDY))
    stream = loaded.stream(ids, GREEDY)
    next(stream)
    stream.close()
    assert list(loaded.stream(ids, GREEDY)) == whole


def test_an_answer_ends_where_the_model_does(loaded):
    ids = loaded.encode(TEXT)
    ids = (ids * 9)[: loaded.context - 3]
    assert len(list(loaded.stream(ids, Sampling(temperature=0.0, max_new_tokens=50, repetition_penalty=1.3)))) <= 3
    with pytest.raises(ConfigError, match="expected 1 to 96"):
        list(loaded.stream(ids + ids, GREEDY))
    with pytest.raises(ConfigError, match="expected 1 to 96"):
        loaded.logits([])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["folder", pytest.param("model.gguf", marks=needs_llama_cpp)])
def test_a_draft_changes_no_id(place, kind, temperature, tmp_path):
    """The draft is another model with the same tokenizer; and itself, which is always right."""
    other = other_weights(place, tmp_path)
    draft = other if kind == "folder" else write_gguf(other, tmp_path / "draft.gguf")
    load = RUNTIMES["transformers" if kind == "folder" else "llama_cpp"].load
    sampling = Sampling(temperature=temperature, max_new_tokens=40, top_p=1.0)
    alone = load(place / kind, LoadSettings(threads=1, exact=True))
    ids = alone.encode(TEXT)
    expected = list(alone.stream(ids, sampling))
    assert alone.draft is None
    counts = {}
    for path in (draft, place / kind):
        helped = load(place / kind, LoadSettings(threads=1, exact=True, draft=path))
        assert list(helped.stream(ids, sampling)) == expected
        assert list(helped.stream(ids, sampling)) == expected
        counts[path] = helped.draft
        helped.close()
    assert counts[draft].accepted < counts[draft].proposed
    if temperature == 0:
        # all but what lies behind the end of the answer
        assert counts[place / kind].accepted >= counts[place / kind].proposed - 16
        assert counts[place / kind].accepted > len(expected) // 2


def other_weights(place, tmp_path):
    """The folder with every embedding a little off."""
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(place / "folder", tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["lm_head.weight"] += 0.3 * torch.randn(weights["lm_head.weight"].shape, generator=torch.manual_seed(1))
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    return other


def test_a_draft_of_another_tokenizer_is_refused(place, tmp_path):
    other = Path(shutil.copytree(place / "folder", tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    one, two = [token for token, id_ in vocabulary.items() if id_ in (70, 71)]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match="another tokenizer .id 70 spells"):
        RUNTIMES["transformers"].load(place / "folder", LoadSettings(draft=other))


# ── Sampling ──────────────────────────────────────────────────────────────────────────────────────────────────────────

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0]),
        ({"min_p": 0.5}, [0.625, 0.375, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
    ],
)
def test_what_is_cut_off(settings, expected):
    sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, **settings})
    np.testing.assert_allclose(probabilities(LOGITS, sampling), expected, atol=1e-6)


def test_ids_are_drawn_as_often_as_they_are_likely_and_by_the_seed():
    def drawn(seed):
        sampler = Sampler(Sampling(temperature=1.0, top_p=1.0, seed=seed), [])
        return [sampler.choose(LOGITS) for _ in range(4000)]

    assert drawn(1) == drawn(1) != drawn(2)
    np.testing.assert_allclose(np.bincount(drawn(1)) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_what_was_said_is_less_likely_with_a_penalty():
    greedy = Sampling(temperature=0.0, repetition_penalty=3.0)
    sampler = Sampler(greedy, [3])
    # log(0.5) · 3 is below log(0.3); then that is below log(0.15)
    assert [sampler.choose(LOGITS) for _ in range(3)] == [0, 1, 2]


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "cannot load"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: edit(folder, model_type="martian"), "martian"),
        (lambda folder: edit(folder, num_hidden_layers=3), "weights are not there"),
        (lambda folder: edit(folder, model_type="minicpm"), "MiniCPM without scale_emb"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load"),
    ],
)
def test_a_folder_that_does_not_load_is_refused_in_words(place, tmp_path, damage, said, capfd):
    folder = Path(shutil.copytree(place / "folder", tmp_path / "damaged"))
    damage(folder)
    with pytest.raises(ConfigError, match=said):
        RUNTIMES["transformers"].load(folder, LoadSettings())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def edit(folder, **keys):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **keys}), encoding="utf-8")


def test_too_long_a_context_is_refused(place):
    with pytest.raises(ConfigError, match="1,000 positions was asked for"):
        RUNTIMES["transformers"].load(place / "folder", LoadSettings(context=1000))


def test_a_runtime_that_is_not_there_says_how_to_install_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert RUNTIMES["llama_cpp"].missing() == "pip install llama-cpp-python==0.3.36"
    assert "\nllama-cpp-python==0.3.36\n" in (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="not installed"):
        RUNTIMES["llama_cpp"].load(place / "model.gguf", LoadSettings())


def test_which_runtime_takes_what(place, tmp_path):
    assert [name for name, row in RUNTIMES.items() if row.takes(place / "folder")] == ["transformers"]
    assert [name for name, row in RUNTIMES.items() if row.takes(place / "model.gguf")] == ["llama_cpp"]
    shutil.copy(place / "model.gguf", tmp_path / "a-00001-of-00002.gguf")
    (tmp_path / "a-00002-of-00002.gguf").touch()
    assert with_llama_cpp.gguf_file(tmp_path).name == "a-00001-of-00002.gguf"
    (tmp_path / "b.gguf").write_bytes(b"<html>")
    with pytest.raises(ConfigError, match="name one of them"):
        with_llama_cpp.gguf_file(tmp_path)
    with pytest.raises(ConfigError, match="begins with b'<htm'"):
        with_llama_cpp.gguf_file(tmp_path / "b.gguf")


@pytest.mark.campaign
def test_a_gguf_that_does_not_load_is_refused_with_llama_cpps_reason(place, tmp_path, capfd):
    pytest.importorskip("llama_cpp")
    whole = (place / "model.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "martian.gguf").write_bytes(whole.replace(b"llama", b"lamma"))
    (tmp_path / "old.gguf").write_bytes(b"GGUF" + b"\x00" * 64)
    for name, said in (("cut", "not within the file bounds"), ("martian", "lamma"), ("old", "version")):
        with pytest.raises(ConfigError, match=said) as told:
            RUNTIMES["llama_cpp"].load(tmp_path / f"{name}.gguf", LoadSettings())
        print(told.value)
    captured = capfd.readouterr()
    assert captured.err == ""


def test_bytes_of_ids_of_other_peoples_tokenizers(tmp_path):
    """SentencePiece's spaces and bytes, as Llama 2 and MiniCPM have them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", "<0xE4>", "<0xBD>", "<0xA0>", "▁Hi", "好"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.add_tokens([AddedToken("<code>", special=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    spelled = with_transformers.token_bytes(fast)
    assert b"".join(spelled[i] for i in (1, 6, 3, 4, 5, 7, 8, 2)).decode() == " Hi你好<code>"
