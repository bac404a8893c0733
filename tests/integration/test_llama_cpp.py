"""llama.cpp reads the GGUF file: its logits, ids, chat template and k-quants against ours."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.tokens.tokenizer import PROBES
from pipelines.errors import ArtifactError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.formats import gguf, gguf_quants, questions
from pipelines.train.formats.check import heldout_rows, own_answers
from pipelines.train.formats.contract import Source
from pipelines.train.formats.gate import encoder_of
from pipelines.train.formats.gguf_file import GgufFile
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.runtimes import RUNTIMES
from pipelines.train.runtimes.contract import LoadSettings
from tests.untrained import commit_run, commit_tokens

pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.campaign

# rows of 256 and 512 are divided by every block; every constant differs from Llama's default
MODEL = ModelConfig(
    layers=2, d_model=256, d_ff=512, heads=8, kv_heads=2, vocabulary=1500, max_positions=192, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=64, rope_base=5000.0, norm_eps=3e-5,
)  # fmt: skip
ROOT = Path(__file__).parents[2]


def committed(path, model=MODEL, factor=1.3):
    """A run whose tokenizer has merges of both languages and of code."""
    english = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
    code = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "pipelines/data").rglob("*.py"))[:40]]
    chinese = ["话说天下大势，分久必合，合久必分。" * 3, *(text for text in questions.strings(3000) if "的" in text)]
    store = ArtifactStore(str(path))
    texts = {"prose": english, "code": code, "zh": chinese * 3}
    tokens = commit_tokens(store, texts, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5, model.vocabulary)
    weights = {name: value.detach().clone() for name, value in Transformer(model).initialise(3).named_parameters()}
    for value in weights.values():
        value *= factor
        if value.dim() == 1:
            value += factor * torch.linspace(-0.3, 0.3, len(value))
    commit_run(store, "dpo/d", model, tokens, None, weights)
    run = open_run(store, "dpo/d")
    return Source(run, tokens_of(store, run))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return committed(tmp_path_factory.mktemp("trained"))


def written(source, folder, dtype):
    folder.mkdir()
    gguf.write(source, folder, dtype)
    return folder


@pytest.fixture(scope="module")
def exact(source, tmp_path_factory):
    """The float32 file in llama.cpp."""
    folder = written(source, tmp_path_factory.mktemp("exact") / "model", "f32")
    loaded = RUNTIMES["llama_cpp"].load(folder, LoadSettings(exact=True, threads=1))
    yield loaded
    loaded.close()


def test_logits_of_float32_are_ours(source, exact):
    rows = heldout_rows(source)
    ours = list(own_answers(source, rows).logits())
    assert float(torch.stack(ours).std()) > 0.5  # what is compared is not all the same
    for row, expected in zip(rows[:2], ours, strict=False):
        assert np.abs(exact.logits(row.tolist()) - expected.numpy()).max() < 2e-4


def test_logits_of_smaller_files_are_those_of_what_is_read_back(source, tmp_path):
    """Of q8_0 and q4_0, llama.cpp rounds activations too; float16 it multiplies as it is."""
    row = heldout_rows(source)[:1]
    expected = next(iter(own_answers(source, row).logits())).numpy()
    spread = float(expected.std())
    for dtype, most in (("f16", 0.01), ("bf16", 0.05), ("q8_0", 0.1)):
        loaded = RUNTIMES["llama_cpp"].load(
            written(source, tmp_path / dtype, dtype), LoadSettings(exact=True, threads=1)
        )
        difference = np.abs(loaded.logits(row[0].tolist()) - expected)
        loaded.close()
        assert difference.max() < most * spread * 10, dtype
        assert difference.mean() < most * spread, dtype


def test_ids_of_every_character_and_of_adversarial_strings(source, exact):
    encoder = encoder_of(source)
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    mixed = [f"a{character}1 {character}{character}\n" for character in characters[::7]]
    astral = [chr(code) + "x" for code in range(0x1F300, 0x1FB00)] + [chr(code) for code in range(0x20000, 0x20200)]
    markers = ["</s>", "<AI>", "<用户>", "a</s>b<AI>", "<\ufdd1/s>", "</s", "s>"]
    strings = [*characters, *mixed, *astral, *markers, *PROBES, *questions.strings(5000)]
    ids, lengths = encoder.encode(strings)
    ours = np.split(ids, np.cumsum(lengths)[:-1])
    wrong = [text for text, row in zip(strings, ours, strict=True) if exact.encode(text) != row.tolist()]
    assert len(strings) > 75_000
    # characters that Unicode assigned after the tables of one of the two were made
    from pipelines.data.tokens.codepoints import unsettled

    assert [text for text in wrong if not unsettled([text])] == []
    assert len(wrong) < 500


def test_conversations_have_the_ids_of_training(source, exact):
    encoder = encoder_of(source)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好, what is 12 + 7?\n"},
        {"role": "assistant", "content": "19。"},
        {"role": "user", "content": "  and in Chinese? "},
    ]
    assert exact.encode_chat(messages) == encoder.encode_prompt(messages).tolist()
    typed = exact.encode_chat([{"role": "user", "content": "a</s>b <用户> c <AI> d"}])
    assert sorted(id_ for id_ in typed if id_ < 3) == [1, 2]  # those of the template alone
    assert exact.decode(typed[1:-1]).decode().replace("\ufdd1", "") == "a</s>b <用户> c <AI> d"


@pytest.mark.parametrize("dtype", ["f32", "q8_0", "q4_0"])
def test_the_gate_asks_it(source, tmp_path, dtype):
    check = gguf.verify(source, written(source, tmp_path / "model", dtype), dtype)
    (asked,) = check.asked
    assert asked.runtime.startswith("llama_cpp ")
    assert asked.strings > 4900
    assert asked.prompts >= 20
    assert asked.greedy_agreeing > 0.9 * asked.greedy_tokens > 100


def test_a_wrong_order_of_rows_that_reads_back_alike_does_not_pass(source, tmp_path, monkeypatch):
    """Writer and reader agree on it, so only llama.cpp can tell."""
    monkeypatch.setattr(gguf, "permute", lambda rows, heads: rows)
    monkeypatch.setattr(gguf, "unpermute", lambda rows, heads: rows)
    folder = written(source, tmp_path / "model", "f32")
    with pytest.raises(ArtifactError, match="computes other logits"):
        gguf.verify(source, folder, "f32")


@pytest.mark.parametrize(("dtype", "inner"), [("q4_k_m", "q4_k"), ("q5_k_m", "q5_k"), ("q6_k", "q6_k")])
def test_k_quants_load_and_answer(source, tmp_path, dtype, inner, capsys):
    folder = written(source, tmp_path / "model", dtype)
    assert [path.name for path in folder.iterdir()] == [f"model-{dtype}.gguf"]
    places = gguf.open_file(folder).places
    assert places["blk.0.ffn_gate.weight"].type == inner
    assert places["output.weight"].type == "q6_k"
    assert "do not divide" not in capsys.readouterr().out
    check = gguf.verify(source, folder, dtype)
    assert 0 < check.kl < gguf_quants.DTYPES[dtype].most_kl
    assert check.asked[0].greedy_tokens > 100


def test_rows_that_do_not_divide_by_256_are_named(tmp_path, capsys):
    model = dataclasses.replace(MODEL, d_ff=320, layers=1)
    source = committed(tmp_path / "store", model)
    folder = written(source, tmp_path / "model", "q4_k_m")
    down = gguf.open_file(folder).places["blk.0.ffn_down.weight"].type
    assert down in ("q5_0", "q8_0")
    assert f"1 ffn_down ({down}, rows of 320)" in capsys.readouterr().out


def test_a_quantizer_that_gives_up_says_why(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF nothing else")
    with pytest.raises(ArtifactError, match="llama.cpp's quantizer gave up on b.gguf: .*"):
        gguf_quants.quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m")


def test_the_snippet_runs_as_it_is_shown(source, tmp_path, capsys):
    folder = written(source, tmp_path / "model", "q4_0")
    shown = {way.program: way.text for way in gguf.run(str(folder))}["llama-cpp-python"]
    exec(compile(shown, "example", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
    assert GgufFile(folder / "model-q4_0.gguf").names
    assert "llama_cpp" in sys.modules
