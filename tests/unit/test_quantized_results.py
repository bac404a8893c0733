"""What quantizing costs: the numbers are those of `workflows.evaluate`, and what cannot be told is not told."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import whole_model
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.formats.llama import fold
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.untied import untied_model
from pipelines.train.results.quantized import FULL, compared, sentences, with_interval
from pipelines.train.results.quantized_evidence import (
    Answers,
    ComparisonSettings,
    Heldout,
    HeldoutPassages,
    Passage,
    answers,
    read_heldout,
    reference,
)
from pipelines.train.results.quantized_page import metrics, rows, spans, write_page
from pipelines.train.tasks import TASKS
from pipelines.train.tasks.task import Subject
from tests.untrained import commit_run, commit_tokens

LENGTH = 24
MODEL = ModelConfig(
    layers=2, d_model=64, d_ff=96, heads=2, kv_heads=1, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = ArtifactStore(str(tmp_path_factory.mktemp("trained")))
    texts = {
        "prose": [f"Once upon a time there were {n} models, and each was small. " * (1 + n % 3) for n in range(20)],
        "zh": ["话说天下大势，分久必合。" * 3] * 12,
    }
    pairs = [(f"{n} + 2?", f"{n + 2}", "fish") for n in range(9)]
    tokens = commit_tokens(made, texts, [(f"{n} + 1?", f"{n + 1}, I think") for n in range(9)], pairs)
    commit_run(made, "dpo/d", MODEL, tokens)
    return made


@pytest.fixture(scope="module")
def run(store):
    return open_run(store, "dpo/d")


def weights_of(run):
    return fold(((name, value) for name, value in whole_model(run.checkpoint).named_parameters()), MODEL)


def nudged(run, size):
    """The model's weights with a little noise in every matrix of a block."""
    random = torch.Generator().manual_seed(1)
    for name, value in weights_of(run):
        noise = size * torch.randn(value.shape, generator=random) * value.detach().square().mean().sqrt()
        yield name, value.detach() + noise if "proj" in name else value.detach()


def subject(store, run, seed):
    return Subject(
        run=run, architecture=MODEL, tokens=tokens_of(store, run), sequence_length=LENGTH, seed=seed, store=store
    )


@pytest.mark.parametrize(("max_tokens", "seed"), [(150, 0), (10_000, 3)])
def test_the_numbers_of_a_model_are_those_of_its_evaluation(store, run, max_tokens, seed):
    settings = ComparisonSettings(max_tokens=max_tokens, max_pairs=7, kl_tokens=50, seed=seed)
    heldout = read_heldout(tokens_of(store, run), LENGTH, settings)
    model = untied_model(weights_of(run), MODEL)
    levels = compared(heldout, answers(model, heldout), {}, MODEL.vocabulary, 0)["models"][FULL]
    about = subject(store, run, seed)
    text = TASKS["text"].measure(model, about, TASKS["text"].Settings(max_tokens=max_tokens))
    pairs = TASKS["preferences"].measure(model, about, TASKS["preferences"].Settings(max_pairs=7))
    for name, row in text.rows.items():
        assert levels["bits_per_byte"]["by_source"][name] == pytest.approx(row["bits_per_byte"], rel=1e-9)
        assert heldout.sources[name].tokens == row["tokens"]
        assert heldout.sources[name].documents == row["documents"]
    assert levels["bits_per_byte"]["mean"] == pytest.approx(text.summary["bits_per_byte"], rel=1e-9)
    assert levels["assistant_loss"] == pytest.approx(text.summary["assistant_loss"], rel=1e-9)
    assert levels["preference_accuracy"] == pairs.summary["preference_accuracy"]


def test_the_full_model_against_itself_differs_in_nothing(store, run):
    heldout = read_heldout(tokens_of(store, run), LENGTH, ComparisonSettings(max_tokens=200, kl_tokens=100))
    model = untied_model(weights_of(run), MODEL)
    full = answers(model, heldout)
    kept = reference(model, heldout, model.lm_head.weight.detach())
    again = answers(model, heldout, kept)
    content = compared(heldout, full, {"same": again}, MODEL.vocabulary, 0)["models"]["same"]
    assert content["lost_bits_per_byte"]["mean"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert abs(content["kl"]["mean"]["value"]) < 1e-6
    assert content["top1"]["mean"]["value"] == 1
    assert content["drift"] == [0.0] * (MODEL.layers + 1)


def test_kl_and_likeliest_ids_are_those_of_whole_logits(store, run):
    """Against logits of every place of a few passages, computed at once."""
    settings = ComparisonSettings(max_tokens=200, kl_tokens=60)
    heldout = read_heldout(tokens_of(store, run), LENGTH, settings)
    full_model, other = untied_model(weights_of(run), MODEL), untied_model(nudged(run, 0.2), MODEL)
    kept = reference(full_model, heldout, full_model.lm_head.weight.detach())
    found = answers(other, heldout, kept)
    for name, read in heldout.sources.items():
        assert 0 < read.compared <= len(read.passages)
        assert len(found.kl[name]) == read.compared
        for place, passage in enumerate(read.passages[: read.compared]):
            ids = torch.from_numpy(passage.ids.astype(np.int64))[None]
            p, q = (_log_probabilities(model, ids)[torch.from_numpy(passage.counted)] for model in (full_model, other))
            kl = float((p.exp() * (p - q)).sum())
            assert found.kl[name][place] == pytest.approx(kl, rel=1e-3, abs=1e-5)
            assert found.agreeing[name][place] == int((p.argmax(-1) == q.argmax(-1)).sum())
    assert len(found.drift) == MODEL.layers + 1
    assert 0 < found.drift[0] < found.drift[1]  # errors add up


def _log_probabilities(model, ids):
    from pipelines.train.network.batch import ModelInput

    positions = torch.arange(ids.shape[1] - 1)[None]
    with torch.no_grad():
        return torch.log_softmax(model.logits(model(ModelInput(inputs=ids[:, :-1], positions=positions))), -1)[0]


# ── Intervals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def passages(documents, per_document=1, kind="documents"):
    """Passages of 10 ids and 20 bytes."""
    made = tuple(
        Passage(number, np.zeros(11, np.int64), np.ones(10, np.bool_), False, 20.0)
        for number in range(documents)
        for _ in range(per_document)
    )
    return HeldoutPassages(kind, "en", made, compared=len(made))


def answered(heldout, nats):
    return Answers(
        {name: nats(name, len(read.passages)) for name, read in heldout.sources.items()},
        {},
        {name: np.zeros(len(read.passages)) for name, read in heldout.sources.items()},
        {name: np.full(len(read.passages), 10.0) for name, read in heldout.sources.items()},
        (0.0,),
    )


def lost(heldout, **losses):
    """Args: losses, by method: nats that each passage of a source loses."""
    full = answered(heldout, lambda _, n: np.full(n, 30.0))
    models = {name: answered(heldout, lambda s, n, f=f: 30.0 + f(s, n)) for name, f in losses.items()}
    return compared(heldout, full, models, 320, 0)


def test_a_loss_that_every_document_has_is_told_exactly():
    heldout = Heldout({"a": passages(30), "b": passages(12)}, {})
    content = lost(heldout, gptq=lambda _, n: np.full(n, 1.0), rtn=lambda _, n: np.full(n, 4.0))
    expected = 1.0 / (math.log(2) * 20)
    mean = content["models"]["gptq"]["lost_bits_per_byte"]["mean"]
    assert mean["value"] == pytest.approx(expected)
    assert mean["low"] == pytest.approx(expected)
    (pair,) = content["between"]
    assert (pair["better"], pair["worse"], pair["told"]) == ("gptq", "rtn", True)
    assert pair["share"]["value"] == pytest.approx(0.25)
    assert sentences(content)[-1].startswith("gptq loses 25% (25% to 25%) of what rtn loses: 0.22 (0.22 to 0.22) bits")


def test_the_share_is_paired_so_that_hard_documents_do_not_blur_it():
    hard = np.random.default_rng(0).exponential(2.0, 40)
    heldout = Heldout({"a": passages(40)}, {})
    content = lost(heldout, gptq=lambda _, n: 0.3 * hard, rtn=lambda _, n: hard)
    (pair,) = content["between"]
    assert pair["share"]["value"] == pytest.approx(0.3)
    assert pair["share"]["high"] - pair["share"]["low"] < 1e-9
    own = content["models"]["rtn"]["lost_bits_per_byte"]["mean"]
    assert own["high"] - own["low"] > 0.2 * own["value"]


def test_what_lies_within_the_noise_cannot_be_told():
    noise = np.random.default_rng(1).normal(0, 3, (2, 25))
    heldout = Heldout({"a": passages(25)}, {})
    content = lost(heldout, gptq=lambda _, n: noise[0] - noise[0].mean(), awq=lambda _, n: noise[1] - noise[1].mean())
    (pair,) = content["between"]
    assert not pair["told"]
    assert pair["share"] is None
    told = " / ".join(sentences(content))
    assert "whether gptq loses bits per byte of held-out text cannot be told" in told
    assert "which of gptq and awq loses less bits per byte cannot be told" in told or "which of awq and gptq" in told


def test_windows_of_one_document_count_as_one_of_several_documents():
    """Drawn apart they would look like so many more."""
    noise = np.random.default_rng(2).normal(1.0, 1.0, 8)
    together = Heldout({"a": passages(8, per_document=10)}, {})
    content = lost(together, rtn=lambda _, n: np.repeat(noise, 10))
    own = content["models"]["rtn"]["lost_bits_per_byte"]["mean"]
    spread = noise.std(ddof=1) / math.sqrt(8) / (math.log(2) * 20)
    assert own["high"] - own["low"] == pytest.approx(2 * 2.36 * spread, rel=0.25)  # Student's t, 7 degrees of freedom


def test_one_document_is_drawn_by_its_windows_and_one_window_has_no_interval():
    several = Heldout({"a": dataclasses.replace(passages(1, per_document=6))}, {})
    content = lost(several, rtn=lambda _, n: np.arange(n, dtype=float))
    assert content["sources"]["a"]["drawn"] == "windows of its one document"
    assert content["models"]["rtn"]["lost_bits_per_byte"]["mean"]["low"] is not None
    single = lost(Heldout({"a": passages(1)}, {}), rtn=lambda _, n: np.ones(n))
    estimate = single["models"]["rtn"]["lost_bits_per_byte"]["mean"]
    assert estimate["value"] > 0
    assert estimate["low"] is None
    assert "cannot be told: 0.072 (no interval: too few documents)" in sentences(single)[0]


def test_preferences_are_paired_and_too_few_tell_nothing():
    row = (np.zeros(5, np.int64), np.ones(4, np.bool_))
    heldout = Heldout({}, {"pairs": [row] * 40})
    full = Answers({}, {"pairs": np.ones(20)})
    same = Answers({}, {"pairs": np.full(20, 0.1)})
    worse = Answers({}, {"pairs": np.where(np.arange(20) % 2, 1.0, -1.0)})
    content = compared(heldout, full, {"gptq": same, "rtn": worse}, 320, 0)
    assert content["models"]["rtn"]["lost_preference_accuracy"]["value"] == pytest.approx(0.5)
    told = sentences(content)
    assert told[0] == "gptq and the full model are right about the same pairs, of 20: too few to tell a loss"
    assert told[1].startswith("rtn loses 50% (")


@pytest.mark.parametrize(
    ("estimate", "share", "said"),
    [
        ({"value": 0.01234, "low": 0.0101, "high": 0.0149}, False, "0.012 (0.010 to 0.015)"),
        ({"value": 0.00001, "low": -0.00002, "high": 0.00004}, False, "0.000010 (-0.000020 to 0.000040)"),
        ({"value": 0.312, "low": 0.27, "high": 0.36}, True, "31% (27% to 36%)"),
        ({"value": 1.5, "low": None, "high": None}, False, "1.5 (no interval: too few documents)"),
        (None, False, "–"),
    ],
)
def test_numbers_are_told_with_the_digits_that_they_have(estimate, share, said):
    assert with_interval(estimate, share) == said


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def content_of(measured):
    grid = {"bits": 4, "group_size": 32, "symmetric": True}
    return {
        "parent": "dpo/d@step-1",
        "method": "gptq",
        "words": "a method & its words",
        "dtype": "bfloat16",
        "bits_per_weight": 4.5,
        "bytes": {"linear": 28, "rest": 50, "total": 78, "bfloat16": {"linear": 100, "rest": 50, "total": 150}},
        "grids": {f"layers.{n}.mlp.down_proj.weight": grid for n in (0, 1, 3)},
        "calibration": None,
        "choice": None,
        "seconds": 1.0,
        "measured": measured,
    }


def test_the_page_holds_every_number_and_picture_in_one_file(tmp_path):
    heldout = Heldout({"prose": passages(9), "中文": passages(7)}, {})
    measured = lost(heldout, gptq=lambda _, n: np.full(n, 1.0), rtn=lambda _, n: np.full(n, 4.0))
    content = content_of(measured)
    names = write_page(tmp_path, "quantize/x", content)
    page = (tmp_path / names[0]).read_text("utf-8")
    assert names == ["quantization.html", "lost_bits_per_byte.png", "size.png", "kl.png", "drift.png", "top1.png"]
    assert page.count("data:image/png") == 5
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "a method &amp; its words" in page
    assert "gptq loses 25% (25% to 25%) of what rtn loses" in page
    assert "28.0%" in page
    assert "0 to 1, 3" in page
    assert len(rows(content)) == 3
    told = metrics(content)
    assert told["linear_share_of_bfloat16"] == 0.28
    assert told["gptq/lost_bits_per_byte"] == pytest.approx(1.0 / (math.log(2) * 20))
    assert told["rtn/kl_nats/prose"] == 0


def test_without_measuring_the_page_still_says_what_was_made(tmp_path):
    assert write_page(tmp_path, "quantize/x", content_of(None)) == ["quantization.html", "size.png"]
    assert spans([3, 0, 1, 7]) == "0 to 1, 3, 7"
