"""From corpus files to a tokens artifact, a mixture and a stream, without Ray."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.data.tokens.tokenizer
from pipelines.cluster.cluster import serial_map
from pipelines.config import TrackingConfig
from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixtureRecipe, plan_conversations, plan_mixture
from pipelines.data.stream.preferences import PreferenceLoader, open_preferences
from pipelines.data.tokens.sample import sample_shares, sample_texts
from pipelines.data.tokens.token_shards import TokenShard
from pipelines.data.tokens.token_sources import open_sources
from pipelines.data.tokens.tokenize import compression, encode_shard, plan_shards, statistics
from pipelines.data.tokens.tokenizer import Encoder, TokenizerConfig, load_encoder, tokenizer_files, train_tokenizer
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.store.artifacts import ArtifactStore
from workflows.running.session import Session
from workflows.tokenize import TokenizeConfig, _with_shares, run

CONFIG = TokenizerConfig(vocabulary_size=300, sample_bytes=20_000)
SIDES = ("chosen", "rejected")
PROSE = ["It was the best of times, it was the worst of times.", "", "话说天下大势，分久必合。", "the </s> end"]


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def rows(kind, copies):
    for copy in range(copies):
        if kind == "documents":
            yield from ({"id": f"{copy}-{i}", "text": text} for i, text in enumerate(PROSE))
        elif kind == "conversations":
            yield {"id": f"{copy}", "messages": turns("hi", "你好", "bye", "再见")}
            yield {"id": f"{copy}?", "messages": turns("no answer")}
        else:
            yield {"id": f"{copy}", "prompt": turns("1+1", "2", "2+2"), "chosen": "4", "rejected": "fish"}
            yield {"id": f"{copy}=", "prompt": turns("a"), "chosen": "same", "rejected": "same"}


@pytest.fixture
def corpus(tmp_path):
    """A corpus of one source of each kind: two training files, one held out."""
    draft = ArtifactStore(str(tmp_path)).begin("corpus", "c", {})
    facts = {}
    for kind, name in (("documents", "prose"), ("conversations", "chat"), ("preferences", "pairs")):
        facts[name] = {"kind": kind, "language": "en", "licence": "CC0"}
        for split, files in (("train", 2), ("heldout", 1)):
            held = list(rows(kind, 3))
            for index in range(files):
                file = f"{split}/{name}/{index:05d}.parquet"
                path = draft.scratch(file)
                pq.write_table(pa.Table.from_pylist(held), path)
                draft.publish(file, {file: path})
            size = sum(len(json.dumps(row)) for row in held)
            facts[name][split] = {"documents": len(held) * files, "bytes": size * files}
    return draft.commit({}, {"sources": facts}, {"prose": "CC0"})


def tokenise(corpus, tmp_path, order=1):
    store = ArtifactStore(str(tmp_path))
    draft = store.begin("tokens", "t", {}, [corpus])
    if draft.receipt("tokenizer") is None:
        paths = {}
        for name, content in tokenizer_files(train_tokenizer(sample_texts(corpus, CONFIG), CONFIG)).items():
            paths[f"tokenizer/{name}"] = draft.scratch(f"tokenizer/{name}")
            paths[f"tokenizer/{name}"].write_bytes(content)
        draft.publish("tokenizer", paths)
    receipts = serial_map(encode_shard, plan_shards(corpus, draft)[::order], "encode")
    return draft, receipts


@pytest.fixture
def tokens(corpus, tmp_path):
    draft, receipts = tokenise(corpus, tmp_path)
    return draft.commit({}, statistics(corpus, receipts, 300))


def test_documents_are_closed_text_stays_text_and_bytes_are_kept(tokens):
    encoder = Encoder(tokens.path("tokenizer/tokenizer.json").read_text())
    source = open_sources(tokens)["prose"]
    shard = source.shard(0)
    kept = [text for text in PROSE if text] * 3
    assert shard.documents == len(kept)
    for i, text in enumerate(kept):
        ids = shard.document(i)
        assert ids[-1] == 0
        assert ids[:-1].min() > 2
        assert encoder.decode(ids[:-1]) == text
    assert shard.document_bytes.tolist() == [len(text.encode()) for text in kept]
    facts = tokens.statistics["sources"]["prose"]["train"]
    assert facts["dropped"] == {"text.empty": 6}
    assert facts["documents"] == 18
    assert facts["bytes"] == facts["loss_bytes"] == 6 * sum(len(text.encode()) for text in PROSE)
    assert facts["tokens"] == facts["loss_tokens"] == sum(facts["shard_tokens"])
    assert facts["shards"] == ["train/prose/00000", "train/prose/00001"]


def test_conversations_count_answers_alone(tokens):
    encoder = Encoder(tokens.path("tokenizer/tokenizer.json").read_text())
    shard = open_sources(tokens, "heldout")["chat"].shard(0)
    assert shard.documents == 3
    document = shard.document(0)
    assert encoder.decode(document, skip_markers=False) == "<用户>hi<AI>你好</s><用户>bye<AI>再见</s>"
    assert encoder.decode(document[shard.mask[: len(document)] == 1], skip_markers=False) == "你好</s>再见</s>"
    assert shard.document_bytes.tolist() == [12, 12, 12]
    assert tokens.statistics["sources"]["chat"]["heldout"]["dropped"] == {"chat.no_answer": 3}


def test_preferences_are_two_parallel_documents(tokens):
    encoder = Encoder(tokens.path("tokenizer/tokenizer.json").read_text())
    files = {side: {s: tokens.path(f"train/pairs/00000.{side}.{s}") for s in ("bin", "idx", "mask")} for side in SIDES}
    chosen, rejected = (TokenShard.open(files[side]) for side in SIDES)
    assert chosen.documents == rejected.documents == 3
    assert encoder.decode(chosen.document(0), skip_markers=False) == "<用户>1+1<AI>2</s><用户>2+2<AI>4</s>"
    assert encoder.decode(rejected.document(0)[rejected.mask[: len(rejected.document(0))] == 1]) == "fish"
    loader = PreferenceLoader(open_preferences(tokens), seed=0, sequence_length=32)
    assert len(loader) == 6
    assert tokens.statistics["sources"]["pairs"]["train"]["dropped"] == {"preference.same_answers": 6}


def test_another_order_of_work_gives_the_same_files_and_a_rerun_encodes_nothing(corpus, tmp_path, monkeypatch):
    draft, receipts = tokenise(corpus, tmp_path)
    first = draft.commit({}, statistics(corpus, receipts, 300))
    monkeypatch.setattr("pipelines.data.tokens.tokenize.load_encoder", lambda text: pytest.fail("encoded again"))
    assert serial_map(encode_shard, plan_shards(corpus, draft), "encode") == receipts
    monkeypatch.undo()
    draft.storage.delete(draft.folder)
    draft, receipts = tokenise(corpus, tmp_path, order=-1)
    second = draft.commit({}, statistics(corpus, receipts, 300))
    assert second.manifest["files"] == first.manifest["files"]
    assert second.statistics == first.statistics


def test_a_shard_in_which_gigatoken_is_caught_is_encoded_anew_by_tokenizers(corpus, tmp_path, monkeypatch):
    honest = tokenise(corpus, tmp_path / "honest")[0]
    encode_fast = pipelines.data.tokens.tokenizer._encode_fast

    def wrong_on_worst(fast, texts):
        ids, lengths = encode_fast(fast, texts)
        return (ids[::-1] if any("worst" in text for text in texts) else ids), lengths

    monkeypatch.setattr("pipelines.data.tokens.tokenizer._encode_fast", wrong_on_worst)
    load_encoder.cache_clear()
    caught, receipts = tokenise(corpus, tmp_path / "caught")
    load_encoder.cache_clear()
    encoders = {r["source"]: r["encoder"] for r in receipts}
    assert encoders["prose"].startswith("tokenizers (gigatoken disagrees with tokenizers on ")
    assert encoders["chat"] == "gigatoken"  # the shards after it begin with gigatoken again
    for name in ("train/prose/00001", "heldout/chat/00000"):
        assert caught.receipt(name)["files"] == honest.receipt(name)["files"]


def test_compression_stands_beside_the_published_table(tokens):
    header, rows = compression(tokens.statistics)
    assert header == ["language", "bytes/token", "characters/token", "MiniCPM 122,753 ids", "MiniCPM 73,440 ids"]
    prose = tokens.statistics["sources"]["prose"]
    sums = {key: prose["train"][key] + prose["heldout"][key] for key in ("bytes", "characters", "tokens")}
    assert sums["characters"] == 9 * sum(map(len, PROSE))
    assert rows == [
        ["en", round(sums["bytes"] / sums["tokens"], 4), round(sums["characters"] / sums["tokens"], 4), 4.14, 4.02]
    ]


def test_a_failed_shard_leaves_nothing_behind(corpus, tmp_path, monkeypatch):
    draft, _ = tokenise(corpus, tmp_path)
    draft.storage.delete(f"{draft.folder}/receipts/train")
    before = sorted(path.name for path in (tmp_path / draft.folder / "train/prose").iterdir())
    monkeypatch.setattr(
        "pipelines.data.tokens.token_shards.TokenShardWriter.close", lambda self: (_ for _ in ()).throw(OSError("disk"))
    )
    with pytest.raises(OSError, match="disk"):
        serial_map(encode_shard, plan_shards(corpus, draft), "encode")
    assert sorted(path.name for path in (tmp_path / draft.folder / "train/prose").iterdir()) == before


def test_tokens_to_mixture_to_stream(tokens):
    recipe = MixtureRecipe(weights={"prose": 0.75, "chat": 0.25}, budget_tokens=300, max_epochs=9)
    plan = plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics)
    loader = Loader(open_sources(tokens), [Segment(0, plan)], seed=0, sequence_length=16)
    batch = loader.batch(np.arange(8))
    assert np.bincount(batch["sources"]).tolist() == [2, 6]  # chat, prose
    assert batch["loss_mask"].sum() > 0
    assert plan_conversations(tokens.folder, "", tokens.statistics).weights == {"chat": 1.0}


def test_sample_is_shared_out_and_small_sources_yield_to_large(corpus):
    sizes = {name: corpus.statistics["sources"][name]["train"]["bytes"] for name in ("prose", "chat")}
    everything = sample_shares(corpus, TokenizerConfig(sample_bytes=10**9))
    assert everything == {"prose": 1.0, "chat": 1.0}
    half = sample_shares(corpus, TokenizerConfig(sample_bytes=min(sizes.values())))
    assert half["prose"] * sizes["prose"] == pytest.approx(half["chat"] * sizes["chat"])
    assert sample_shares(corpus, TokenizerConfig(shares={"chat": 1.0}))["prose"] == 0
    with pytest.raises(DataError, match="shares names x; the corpus holds chat, prose"):
        sample_shares(corpus, TokenizerConfig(shares={"x": 1.0}))


def test_a_source_that_is_not_there_is_named(tokens):
    with pytest.raises(DataError, match="holds no source x; it holds chat, pairs, prose"):
        open_sources(tokens, names=["x"])


def test_the_sample_follows_a_mixture_by_name(corpus, tmp_path):
    mixed = _with_shares(TokenizerConfig(mixture="demo_stable"))
    assert mixed.mixture is None
    assert mixed.shares["sotu"] == 0.35
    assert _with_shares(TokenizerConfig(mixture="minicpm_decay")).shares["code"] == pytest.approx(0.196 / 0.9549)
    with pytest.raises(ConfigError, match="tokenizer.mixture=demo: no such mixture; there are demo_decay, demo_stable"):
        _with_shares(TokenizerConfig(mixture="demo"))
    weights = {"prose": 0.75, "chat": 0.25}
    config = TokenizerConfig(shares=weights, sample_bytes=400)
    taken = sample_shares(corpus, config)
    sizes = {name: corpus.statistics["sources"][name]["train"]["bytes"] for name in weights}
    assert {name: taken[name] * sizes[name] / 400 for name in weights} == pytest.approx(weights)
    assert list(sample_texts(corpus, config)) == list(sample_texts(corpus, config))


def test_a_rebuild_over_a_damaged_corpus_keeps_the_old_tokens(corpus, tmp_path, monkeypatch):
    """Its tokenizer is trained and published by then."""
    monkeypatch.setattr(Session, "cluster", property(lambda self: None))
    monkeypatch.setattr(Session, "map_shards", staticmethod(serial_map))

    def make(on_change):
        config = TokenizeConfig(
            name="t", store=str(tmp_path), on_change=on_change, data="corpus/c", tokenizer=CONFIG,
            tracking=TrackingConfig(enabled=False),
        )  # fmt: skip
        with Session(config) as session:
            return run(config, session)

    make("refuse")
    before = {path: path.read_bytes() for path in (tmp_path / "tokens").rglob("*") if path.is_file()}
    (damaged,) = (tmp_path / "corpus/c/heldout/pairs").iterdir()  # no sample of the tokenizer reads it
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ArtifactError, match="heldout/pairs/00000.parquet does not match its checksum"):
        make("rebuild")
    assert {path: path.read_bytes() for path in (tmp_path / "tokens").rglob("*") if path.is_file()} == before
