"""Evaluation against numbers computed by hand, and its refusals."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.config import TrackingConfig, parse, plain
from pipelines.data.tokens.token_shards import TokenShard
from pipelines.data.tokens.token_sources import TokenSource, open_sources
from pipelines.errors import ArtifactError, CheckpointError, ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.sealed import sealed
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.results.evaluate import EvaluateConfig, evaluate, plan_evaluation
from pipelines.train.tasks import TASKS, preferences, text
from pipelines.train.tasks.preferences import PreferenceScore, score_preferences
from pipelines.train.tasks.scoring import token_nats
from pipelines.train.tasks.task import Measured, Task, TaskPlan
from pipelines.train.tasks.text import TextScore, score_text
from pipelines.train.tasks.windows import byte_lengths, windows
from tests import tiny
from tests.untrained import commit_run, commit_tokens
from workflows import evaluate as workflow
from workflows.running.session import Session

V = 64
MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=64, heads=4, kv_heads=2, vocabulary=V, max_positions=64, dim_model_base=16
)
CONFIG = parse(EvaluateConfig, {"name": "e", "parent": "pretrain/a", "tasks": {name: {} for name in TASKS}})
PROMPTS = [{"text": "Once upon"}, {"text": "话说"}, {"text": "1 + 1?", "chat": True}]
DOCUMENTS = {"kind": "documents", "language": "en"}


def tasked(**tasks):
    """`CONFIG` with other tasks."""
    return parse(EvaluateConfig, {**plain(CONFIG), "tasks": tasks})


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads that wait for each other are slow on a busy machine."""
    torch.set_num_threads(1)


def model(uniform=False):
    network = Transformer(MODEL).initialise(0).eval().requires_grad_(False)
    if uniform:
        network.embed_tokens.weight.zero_()  # tied: every logit is 0
    return network


def source(*documents, masks=None, sizes=None):
    """A source of one shard."""
    offsets = np.cumsum([0, *map(len, documents)])
    mask = None if masks is None else np.concatenate(masks).astype(np.uint8)
    sidecars = {"mask": mask, "bytes": None if sizes is None else np.array(sizes, np.int32)}
    shard = TokenShard(np.concatenate(documents).astype(np.uint16), offsets, sidecars)
    found = TokenSource("s", "documents", ("heldout/s/00000",), np.array([offsets[-1]]), lambda prefix: {})
    found._open[0] = shard
    return found


def nats_of(network, ids, start=1):
    """Σ −log p of ids[start:], each given all before it: one plain forward."""
    ids = torch.tensor(np.asarray(ids, np.int64))[None]
    logits = network.logits(network(ModelInput(inputs=ids[:, :-1], positions=torch.arange(ids.shape[1] - 1)[None])))
    return float(F.cross_entropy(logits[0], ids[0, 1:], reduction="none")[start - 1 :].double().sum())


def test_bits_per_byte_of_a_uniform_model_is_the_code_length_per_byte():
    # 5 + 3 ids at log2(64) = 6 bits each, over 10 + 6 bytes
    score = score_text(model(uniform=True), source([5, 6, 7, 8, 0], [9, 10, 0], sizes=[10, 6]), DOCUMENTS, 16, 4000, 0)
    assert score.bits_per_byte == pytest.approx(6 * 8 / 16, rel=1e-6)
    assert score.loss == pytest.approx(math.log(64), rel=1e-6)
    assert (score.documents, score.tokens, score.bytes) == (2, 4 + 2, 16)  # the first id of each is not predicted


def test_only_counted_tokens_are_scored():
    network = model()
    ids, other = [1, 20, 21, 2, 30, 31, 32, 0], [1, 5, 2, 40, 0]
    masks = [np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1])]
    score = score_text(network, source(ids, other, masks=masks, sizes=[9, 4]), DOCUMENTS, 16, 4000, 0)
    nats = nats_of(network, ids, 4) + nats_of(network, other, 3)
    assert score.tokens == 6
    assert score.loss == pytest.approx(nats / 6, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / 13, rel=1e-5)  # no first id counts: no charge


def test_a_row_scores_alike_alone_padded_and_packed_under_document_masking():
    network = model()
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, V, size) for size in (3, 17, 9)]
    rows = [(ids, np.ones(len(ids) - 1, np.bool_)) for ids in documents]
    expected = [nats_of(network, ids) for ids in documents]
    unmasked = Transformer(dataclasses.replace(MODEL, document_masking=False))
    unmasked.load_state_dict(network.state_dict())
    for either in (network, unmasked):
        nats, counts = token_nats(either, rows)
        np.testing.assert_allclose(nats, expected, rtol=1e-5)
        assert counts.tolist() == [2, 16, 8]
    packed = torch.tensor(np.concatenate(documents))[None]
    positions = torch.cat([torch.arange(len(ids)) for ids in documents])[None]
    logits = network.logits(network(ModelInput(inputs=packed, positions=positions)))[
        0, 3:19
    ]  # of the second document, in the same window
    alone = F.cross_entropy(logits, torch.tensor(documents[1][1:]), reduction="sum")
    assert nats[1] == pytest.approx(float(alone), rel=1e-5)


def test_windows_predict_every_counted_id_once():
    rng = np.random.default_rng(3)
    documents = [rng.permutation(V)[:size] for size in (10, 1, 4, 5)]
    shard = source(*documents, sizes=[7, 7, 7, 7]).shard(0)
    found = sorted(windows(shard, 4, seed=0), key=lambda w: (w.document, not w.opens, len(w.tokens) < 5))
    first = [w.tokens.tolist() for w in found if w.document == 0]
    assert first == [documents[0][at : at + 5].tolist() for at in (0, 4, 8)]
    assert [w.tokens.tolist() for w in found if w.document == 1] == [documents[1].tolist()]  # charged, not predicted
    assert [w.opens for w in found] == [True, False, False, True, True, True]
    for document, ids in enumerate(documents):
        mine = [w for w in found if w.document == document]
        predicted = sum(int(w.counted.sum()) for w in mine)
        assert predicted == len(ids) - 1
        assert sum(w.byte_count(shard, None) for w in mine) == pytest.approx(7)  # windows share the document's bytes


def test_windows_without_a_counted_id_are_not_read():
    mask = np.zeros(13)
    mask[[9, 10]] = 1
    shard = source(np.arange(13), masks=[mask], sizes=[5]).shard(0)
    found = sorted((w.tokens.tolist(), w.counted.tolist(), w.opens) for w in windows(shard, 4, 0))
    assert found == [([8, 9, 10, 11, 12], [True, True, False, False], False)]


def test_long_documents_are_sampled_within_the_budget_and_bytes_follow():
    documents = [np.arange(length) % V for length in (400, 400, 8)]
    score = score_text(model(True), source(*documents, sizes=[800, 800, 16]), DOCUMENTS, 16, 180, 0)
    assert 140 < score.tokens <= 180
    assert score.bits_per_byte == pytest.approx(3.0, rel=0.02)  # 6 bits an id, 2 bytes an id
    again = score_text(model(True), source(*documents, sizes=[800, 800, 16]), DOCUMENTS, 16, 180, 0)
    assert again == score
    assert score_text(model(True), source(*documents, sizes=[800, 800, 16]), DOCUMENTS, 16, 4000, 0).documents == 3


def test_byte_lengths_add_up_to_the_bytes_that_the_shards_record(tmp_path):
    texts = {"prose": ["Once upon a time.\n\n\tThe end — naïve ☃"] * 3, "zh": ["话说天下大势，分久必合。", "a</s>b"]}
    tokens = commit_tokens(ArtifactStore(str(tmp_path)), texts, [("1 + 1?", "二")] * 2, [("2 + 2?", "4", "fish")] * 2)
    sizes = byte_lengths(tokens.path("tokenizer/tokenizer.json").read_text("utf-8"))
    for name, found in open_sources(tokens, "heldout").items():
        shard = found.shard(0)
        counted = np.ones(len(shard.tokens), bool) if shard.mask is None else shard.mask.astype(bool)
        spelt = [
            sizes[shard.document(i)[counted[shard.offsets[i] : shard.offsets[i + 1]]]].sum()
            for i in range(shard.documents)
        ]
        assert spelt == shard.document_bytes.tolist(), name


def test_preferences_compare_means_per_answer_token_and_sums_beside_them():
    network = model()
    rng = np.random.default_rng(1)
    pairs = [[rng.integers(0, V, rng.integers(4, 15)) for _ in range(2)] for _ in range(12)]
    masks = [[np.arange(len(ids)) >= 2 for ids in pair] for pair in pairs]
    sides = [source(*(p[side] for p in pairs), masks=[m[side] for m in masks]) for side in (0, 1)]
    score = score_preferences(network, *sides, 16, 200, 0)
    nats = np.array([[nats_of(network, ids, 2) for ids in pair] for pair in pairs])
    counts = np.array([[len(ids) - 2 for ids in pair] for pair in pairs])
    by_mean, by_sum = (nats / counts)[:, 0] < (nats / counts)[:, 1], nats[:, 0] < nats[:, 1]
    assert by_mean.tolist() != by_sum.tolist()
    assert score == PreferenceScore(float(by_mean.mean()), float(by_sum.mean()), 12, 0)
    # in a window of 8 an answer keeps its beginning
    short = score_preferences(network, *sides, 8, 200, 0)
    cut = [[ids[:9] for ids in pair] for pair in pairs]
    assert sum(len(a) < len(b) for c, p in zip(cut, pairs, strict=True) for a, b in zip(c, p, strict=True)) > 0
    nats = np.array([[nats_of(network, ids, 2) for ids in pair] for pair in cut])
    assert (short.summed_accuracy, short.pairs) == (float((nats[:, 0] < nats[:, 1]).mean()), 12)
    # a model without a preference gets no credit: all means are equal, and sums prefer the short answer
    level = score_preferences(model(uniform=True), *sides, 16, 200, 0)
    assert level.accuracy == 0.0
    assert level.summed_accuracy == float((counts[:, 0] < counts[:, 1]).mean())


def test_summaries_are_the_mean_of_document_sources_and_pools_answers_and_pairs():
    scores = {
        "a": TextScore("documents", "en", 1.0, 2.0, 1, 1000, 1000),
        "b": TextScore("documents", "zh", 2.0, 3.0, 1, 10, 10),
        "c": TextScore("conversations", "en", 1.0, 2.0, 1, 30, 60),
        "d": TextScore("conversations", "zh", 4.0, 6.0, 1, 10, 30),
    }
    pairs = {"p": PreferenceScore(1.0, 0.5, 30, 0), "q": PreferenceScore(0.0, 0.5, 10, 0)}
    assert text.summary(scores) == pytest.approx(
        {"bits_per_byte": 1.5, "assistant_loss": 3.0, "assistant_bits_per_byte": 2.0}
    )
    assert preferences.summary(pairs) == pytest.approx({"preference_accuracy": 0.75, "preference_summed_accuracy": 0.5})
    assert {*text.summary({}).values(), *preferences.summary({}).values()} == {None}


@pytest.fixture
def store(tmp_path):
    """`tokens/tiny` without a tokenizer, and a run of two checkpoints over it."""
    built = tiny.build(str(tmp_path))
    model_config = dataclasses.replace(MODEL, vocabulary=tiny.VOCABULARY)
    commit_run(built, "pretrain/a", model_config, built.get("tokens/tiny"), steps=(1, 2))
    return built


def test_every_heldout_source_is_measured(store):
    planned = plan_evaluation(CONFIG, store, "pretrain/a@step-1")
    results = evaluate(CONFIG, planned)
    assert (results.parent, results.step, results.tokens_trained) == ("pretrain/a@step-1", 1, 1000)
    assert (results.sequence_length, results.tokens) == (16, "tokens/tiny")
    assert {name: row["kind"] for name, row in results.tasks["text"]["rows"].items()} == {
        "walks": "documents", "jumps": "documents", "chat": "conversations",
    }  # fmt: skip
    assert results.tasks["preferences"]["rows"]["pairs"]["pairs"] == 20
    narrow = dataclasses.replace(CONFIG, sequence_length=8)  # prompts of 6 ids fill more than half of 9
    short = evaluate(narrow, plan_evaluation(narrow, store, "pretrain/a"))
    assert short.tasks["preferences"]["rows"] == {}
    assert "9 tokens" in short.tasks["preferences"]["unmeasured"]["pairs"]
    json.dumps(results.to_json())


def test_what_a_task_reads_besides_is_an_input_and_decides_the_fingerprint(store, monkeypatch):
    beside = store.get("mixture/tiny_decay")

    def plan_reading(subject, settings):
        known = TASKS["text"].plan_task(subject, settings)
        return dataclasses.replace(known, inputs=(beside,), identity={"file": "sha256 of it"})

    monkeypatch.setitem(TASKS, "reading", dataclasses.replace(TASKS["text"], plan_task=plan_reading))
    planned = plan_evaluation(tasked(reading={}), store, "pretrain/a")
    assert [artifact.folder for artifact in planned.inputs] == ["pretrain/a", "tokens/tiny", "mixture/tiny_decay"]
    assert planned.identity["read_by_tasks"] == {"reading": {"file": "sha256 of it"}}
    assert "read_by_tasks" not in plan_evaluation(CONFIG, store, "pretrain/a").identity


def test_a_row_that_misses_an_entry_or_forgets_a_number_is_a_fault_at_once():
    with pytest.raises(TypeError, match="'measure'"):
        Task(Settings=dict, title="t", reading="r", plan_task=lambda subject, settings: TaskPlan(announcement=""))
    with pytest.raises(ValueError, match=r"Held-out text: the summary has \[\], declared are \['bits_per_byte', "):
        TASKS["text"].described(Measured())


def test_a_trunk_still_under_way_is_measured_at_its_checkpoint(store):
    store.storage.delete("pretrain/a/manifest.json")
    assert str(plan_evaluation(CONFIG, store, "pretrain/a@latest").subject.run) == "pretrain/a@step-2"
    with pytest.raises(ArtifactError, match="is not finished, and has checkpoints at steps 1, 2: name pretrain/a@l"):
        plan_evaluation(CONFIG, store, "pretrain/a")


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_named(store):
    path = store.storage.root / "pretrain/a/checkpoints/step-000002/rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"does not match its checksum.*pretrain/a@step-1"):
        evaluate(CONFIG, plan_evaluation(CONFIG, store, "pretrain/a"))
    evaluate(CONFIG, plan_evaluation(CONFIG, store, "pretrain/a@step-1"))


def test_refusals_say_what_exists(store):
    with pytest.raises(ArtifactError, match=r"pretrain/b does not exist.*pretrain/\{a\}"):
        plan_evaluation(CONFIG, store, "pretrain/b")
    with pytest.raises(CheckpointError, match=r"step-9 does not exist; committed steps: 1, 2"):
        plan_evaluation(CONFIG, store, "pretrain/a@step-9")
    with pytest.raises(ConfigError, match="expected a trained model"):
        plan_evaluation(CONFIG, store, "tokens/tiny")
    with pytest.raises(ArtifactError, match=r"holds no tokenizer.*prompts=\[\]"):
        plan_evaluation(tasked(completions={"prompts": [{"text": "hello"}]}), store, "pretrain/a")
    with pytest.raises(ConfigError, match="positions for 1 to 64"):
        plan_evaluation(dataclasses.replace(CONFIG, sequence_length=65), store, "pretrain/a")
    with pytest.raises(ConfigError, match="is of kind mixture; expected tokens"):
        plan_evaluation(dataclasses.replace(CONFIG, tokens="mixture/tiny_decay"), store, "pretrain/a")
    with pytest.raises(ConfigError, match=r"prompts\[1\].text is empty"):
        tasked(completions={"prompts": [{"text": "hello"}, {"text": " ", "chat": True}]})
    with pytest.raises(ConfigError, match="max_pairs is 0"):
        tasked(preferences={"max_pairs": 0})
    with pytest.raises(
        ConfigError, match=r"unknown key tasks.poetry; accepted here: text, preferences, completions: remove it"
    ):
        tasked(poetry={})
    with pytest.raises(ConfigError, match=r"unknown key tasks.text.max_pairs; accepted here: max_tokens"):
        tasked(text={"max_pairs": 3})
    with pytest.raises(
        ConfigError, match=r"tasks.text is 3 \(a number\); expected a mapping with keys max_tokens or null"
    ):
        tasked(text=3)
    with pytest.raises(ConfigError, match=r"unknown key tasks.txt; .*: did you mean tasks.text\?"):
        tasked(txt={})
    with pytest.raises(ConfigError, match=r"unknown key max_tokens; .*: did you mean tasks.text.max_tokens\?"):
        parse(EvaluateConfig, {**plain(CONFIG), "max_tokens": 5})
    assert list(tasked(text={}, completions=None).tasks) == ["text"]
    with pytest.raises(ConfigError, match="tasks names none; expected some of text"):
        tasked(text=None)


def test_an_evaluation_of_which_nothing_counts_is_refused_and_a_single_source_is_named(store):
    manifest = store.storage.root / "tokens/tiny/manifest.json"
    content = json.loads(manifest.read_text())
    content["statistics"]["sources"]["chat"]["heldout"]["loss_tokens"] = 0
    manifest.write_bytes(sealed({key: value for key, value in content.items() if key != "sha256"}))
    narrow = dataclasses.replace(CONFIG, sequence_length=8)
    told = plan_evaluation(narrow, store, "pretrain/a").announcement["not measured"]
    assert told.startswith(
        "chat: no token of its held-out documents counts; pairs: no preference pair fits in windows of 8"
    )
    for name in ("walks", "jumps"):
        content["statistics"]["sources"][name]["heldout"]["documents"] = 0
    manifest.write_bytes(sealed({key: value for key, value in content.items() if key != "sha256"}))
    with pytest.raises(ConfigError, match="nothing that tokens/tiny holds out can be measured"):
        plan_evaluation(narrow, store, "pretrain/a")


def test_a_task_that_has_nothing_to_measure_is_told_as_such(store):
    manifest = store.storage.root / "tokens/tiny/manifest.json"
    content = json.loads(manifest.read_text())
    del content["statistics"]["sources"]["pairs"]
    manifest.write_bytes(sealed({key: value for key, value in content.items() if key != "sha256"}))
    told = plan_evaluation(CONFIG, store, "pretrain/a").announcement
    assert told["preferences"] == "none: the tokens hold no pairs out"  # where 200 a source had been promised


def test_a_task_with_an_input_of_its_own_may_be_alone(store, monkeypatch):
    own = Task(
        Settings=preferences.PreferenceSettings,
        title="",
        reading="",
        plan_task=lambda subject, settings: TaskPlan(announcement="of a file", identity={"sha256": "ab"}),
        measure=lambda model, subject, settings: Measured(),
    )
    monkeypatch.setitem(TASKS, "own", own)
    planned = plan_evaluation(tasked(own={}), store, "pretrain/a")
    assert planned.identity["read_by_tasks"] == {"own": {"sha256": "ab"}}


def test_tokens_made_anew_since_are_refused(store):
    draft = store.begin("tokens", "tiny", {"seed": 1}, on_change="rebuild")
    assert isinstance(draft, Draft)
    draft.commit({}, {"sources": {}})
    with pytest.raises(ArtifactError, match="another version of tokens/tiny"):
        plan_evaluation(CONFIG, store, "pretrain/a")


def test_the_workflow_commits_numbers_and_completions_once(tmp_path, capsys):
    config = EvaluateConfig(
        name="e",
        parent="dpo/d",
        store=str(tmp_path),
        tracking=TrackingConfig(enabled=False),
        tasks=tasked(text={}, completions={"prompts": PROMPTS, "max_new_tokens": 4}).tasks,
    )
    with Session(config) as session:
        texts = {"prose": ["Once upon a time there was a model."] * 5, "zh": ["话说天下大势，分久必合。"] * 5}
        tokens = commit_tokens(session.store, texts, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 3)
        sized = dataclasses.replace(MODEL, vocabulary=320)
        commit_run(session.store, "dpo/d", sized, tokens)
        made = workflow.run(config, session)
        assert "finished already" not in capsys.readouterr().out
        again = workflow.run(config, session)
    assert "finished already" in capsys.readouterr().out
    assert made.manifest == again.manifest
    results = made.json("results.json")
    assert list(results["tasks"]) == ["text", "completions"]
    assert [sample["prompt"] for sample in results["tasks"]["completions"]["samples"]] == [
        "Once upon",
        "话说",
        "1 + 1?",
    ]
    measured = results["tasks"]["text"]
    assert measured["numbers"]["bits_per_byte"]["value"] == pytest.approx(
        np.mean([measured["rows"][name]["bits_per_byte"] for name in ("prose", "zh")])
    )
    assert made.manifest["identity"]["inputs"].keys() == {"dpo/d", "tokens/t"}
