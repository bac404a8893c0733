"""The stream: its order, its bounds, and the arrays of a batch, against small known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.config import parse
from pipelines.data.stream.cuts import cut_shards
from pipelines.data.stream.interleave import BLOCK_SAMPLES, Interleaving, interleave, shares_of
from pipelines.data.stream.loader import Loader, Segment, rank_indices
from pipelines.data.stream.mixture import MixturePlan, MixtureRecipe, PlannedSource, foreseen
from pipelines.data.stream.order import permute
from pipelines.data.stream.source_stream import pack
from pipelines.data.tokens.token_shards import TokenShardWriter, shard_paths
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.errors import ConfigError, DataError

EOS = 0
CONF = Path(__file__).parents[2] / "conf"


def write(folder, prefix, documents, masks=None):
    """A shard of explicit documents (lists of ids, closed by 0)."""
    paths = {suffix: folder / f"{prefix}.{suffix}" for suffix in ("bin", "idx", "bytes", *(["mask"] if masks else []))}
    writer = TokenShardWriter(paths, vocabulary_size=60_000)
    for i, document in enumerate(documents):
        mask = np.array(masks[i], np.uint8) if masks else None
        writer.add(np.array(document), np.array([len(document)]), bytes=np.array([len(document) - 1]), mask=mask)
    writer.close()
    return writer.tokens


def source(folder, name, shards, kind="documents", masks=None):
    """A source of several shards."""
    tokens = [write(folder, f"{name}{i}", documents, masks[i] if masks else None) for i, documents in enumerate(shards)]
    prefixes = tuple(f"{name}{i}" for i in range(len(shards)))
    return TokenSource(name, kind, prefixes, np.array(tokens), lambda prefix: shard_paths(folder, prefix))


def numbered(folder, name, shards, tokens_per_shard, first):
    """A source whose ids count up from `first`, so that a window is known by its first id."""
    ids = first + np.arange(shards * tokens_per_shard).reshape(shards, -1)
    return source(folder, name, [[list(row)] for row in ids])


def plan(packing="windows", **weights):
    planned = (
        PlannedSource(
            name=n, kind="documents", weight=w, available_tokens=1, budget_tokens=1, epochs=1, packing=packing
        )
        for n, w in weights.items()
    )
    return MixturePlan(tokens="tokens/t", tokens_fingerprint="", sources=tuple(planned), dropped={})


@pytest.fixture
def three(tmp_path):
    """Three sources of 12, 20 and 5 windows of 4 tokens."""
    return {
        "a": numbered(tmp_path, "a", 3, 17, 1000),
        "b": numbered(tmp_path, "b", 4, 21, 2000),
        "c": numbered(tmp_path, "c", 1, 21, 3000),
    }


def test_every_prefix_keeps_each_source_within_one_sample_of_its_weight():
    rng = np.random.default_rng(0)
    for _ in range(60):
        weights = rng.dirichlet(np.full(rng.integers(2, 12), rng.choice([0.2, 1.0, 5.0])))
        weights = weights[weights > 1e-6] / weights[weights > 1e-6].sum()
        pattern = interleave(tuple(weights.tolist()), 2000)
        counts = np.cumsum(pattern[:, None] == np.arange(len(weights)), axis=0)
        assert np.abs(counts - np.arange(1, 2001)[:, None] * weights).max() < 1


def test_two_equal_sources_alternate():
    assert interleave((0.5, 0.5), 6).tolist() == [0, 1, 0, 1, 0, 1]
    assert interleave((0.75, 0.25), 8).tolist().count(1) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 1000])
def test_permutation_is_a_bijection_and_depends_on_its_key(count):
    items = np.arange(count)
    assert sorted(permute(items, count, 7).tolist()) == list(range(count))
    if count >= 64:
        assert permute(items, count, 7).tolist() != permute(items, count, 8).tolist()
        assert np.count_nonzero(permute(items, count, 7) == items) < count / 8


def test_each_window_of_a_source_comes_once_per_epoch_and_epochs_differ(three):
    loader = Loader({"b": three["b"]}, [Segment(0, plan(b=1.0))], seed=1, sequence_length=4, shards_per_group=2)
    assert loader.epoch_samples("b") == 20
    first = loader.batch(range(20))["tokens"][:, 0].tolist()
    second = loader.batch(range(20, 40))["tokens"][:, 0].tolist()
    every = [2000 + 21 * shard + 4 * window for shard in range(4) for window in range(5)]
    assert sorted(first) == sorted(second) == every
    assert first != second
    assert first != every


def test_a_group_of_shards_is_finished_before_the_next_begins(three):
    loader = Loader({"b": three["b"]}, [Segment(0, plan(b=1.0))], seed=3, sequence_length=4, shards_per_group=2)
    early, late = loader.shards(0, 10), loader.shards(10, 20)
    assert len(early) == len(late) == 2
    assert not set(early) & set(late)


@pytest.mark.parametrize("group", [1, 4, 32])
def test_a_block_shuffle_leaves_the_correlation_that_groups_must_and_none_inside(group):
    shards, windows = 32, 300
    far = TokenSource("a", "documents", tuple(map(str, range(shards))), np.full(shards, windows + 1), lambda prefix: {})
    loader = Loader({"a": far}, [Segment(0, plan(a=1.0))], seed=4, sequence_length=1, shards_per_group=group)
    _, shard, item = loader.addresses(np.arange(shards * windows))
    place = (shard * windows + item).astype(float)
    assert sorted(place) == list(range(shards * windows))
    blocks = place.reshape(-1, group * windows)
    between = blocks.mean(axis=1).var() / place.var()  # what shuffling whole shards leaves: some 1/group - 1/shards
    assert np.corrcoef(place[:-1], place[1:])[0, 1] == pytest.approx(between, abs=0.03)
    inside = (blocks - blocks.mean(axis=1, keepdims=True)).ravel()
    assert abs(np.corrcoef(inside[:-1], inside[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_ranks_sees_the_same_stream_before_and_after_a_change(three, world_size):
    segments = [Segment(0, plan(a=0.5, b=0.5)), Segment(20, plan(a=0.2, b=0.3, c=0.5))]
    whole = Loader(three, segments, seed=5, sequence_length=4).batch(range(64))
    for step in range(8):
        seen = {}
        for rank in range(world_size):
            loader = Loader(three, segments, seed=5, sequence_length=4)  # a fresh one: nothing is remembered
            for micro in rank_indices(step, global_batch=8, rank=rank, world_size=world_size, micro_batch=2):
                batch = loader.batch(micro)
                seen |= {int(i): {key: value[row] for key, value in batch.items()} for row, i in enumerate(micro)}
        assert sorted(seen) == list(range(8 * step, 8 * step + 8))
        for i, arrays in seen.items():
            for key, value in arrays.items():
                assert np.array_equal(value, whole[key][i]), (key, i)


def test_a_source_in_a_later_segment_goes_on_where_it_stopped(three):
    segments = [Segment(0, plan(a=0.5, b=0.5)), Segment(10, plan(b=0.5, c=0.5))]
    loader = Loader(three, segments, seed=2, sequence_length=4)
    batch = loader.batch(range(10 + 2 * 15))
    of_b = batch["tokens"][batch["sources"] == loader.names.index("b"), 0]
    assert len(of_b) == len(set(of_b.tolist())) == 20  # one epoch, no window twice


def test_delivered_counts_what_batches_hold_and_stays_within_one(three):
    segments = [Segment(0, plan(a=0.6, b=0.4)), Segment(33, plan(a=0.25, b=0.25, c=0.5))]
    loader = Loader(three, segments, seed=2, sequence_length=4)
    sources = loader.batch(range(200))["sources"]
    for samples in (0, 1, 33, 34, 100, 200):
        counted = {name: int((sources[:samples] == i).sum()) for i, name in enumerate(loader.names)}
        assert loader.delivered(samples) == counted
    later = {name: loader.delivered(200)[name] - loader.delivered(33)[name] for name in loader.names}
    assert all(abs(later[name] - 167 * weight) < 1 for name, weight in {"a": 0.25, "b": 0.25, "c": 0.5}.items())


def empty(weights):
    """Sources of whose shards only the sizes are known."""
    return {name: TokenSource(name, "documents", ("x",), np.array([10**6]), lambda prefix: {}) for name in weights}


@pytest.mark.parametrize("mixture", ["minicpm_stable", "minicpm_decay"])
def test_delivered_is_within_one_window_per_source_of_what_is_asked(mixture):
    """Over three blocks of the published mixtures, at every sample; and the loader's own counts."""
    recipe = parse(MixtureRecipe, yaml.safe_load((CONF / "mixture" / f"{mixture}.yaml").read_text()), "mixture")
    weights, _ = foreseen(recipe)
    shares, order, last = np.array(list(weights.values())), Interleaving(list(weights.values())), 3 * BLOCK_SAMPLES
    pattern = np.concatenate([order.block(block)[0] for block in range(3)])
    for source, share in enumerate(shares):
        assert np.abs(np.cumsum(pattern == source) - share * np.arange(1, last + 1)).max() < 1
    loader = Loader(empty(weights), [Segment(0, plan(**weights))], seed=0, sequence_length=4)
    counts = np.bincount(pattern, minlength=len(weights)).tolist()
    assert loader.delivered(last) == dict(zip(weights, counts, strict=True))


def test_a_weight_below_one_sample_in_a_block_is_delivered():
    """Against the shares in exact fractions, at samples drawn over two million and around the first of the tiny
    sources.
    """
    rng = np.random.default_rng(1)
    cases = [
        {"most": 1 - 7e-6, "tiny": 7e-6},
        {"most": 0.99999, "tiny": 1e-5},
        {"a": 0.5, "b": 0.3, "c": 0.2 - 1e-9 - 7e-6, "d": 1e-9, "e": 7e-6},
        {f"s{i}": 1 / 22 for i in range(22)},
        dict(
            zip(map(str, range(30)), (weights := rng.dirichlet(np.full(30, 0.2)) + 1e-9) / weights.sum(), strict=True)
        ),
    ]
    for weights in cases:
        loader = Loader(empty(weights), [Segment(0, plan(**weights))], seed=0, sequence_length=4)
        for samples in [*rng.integers(1, 2_000_000, 40).tolist(), 71_428, 71_429, 142_857, 1_999_999]:
            delivered = loader.delivered(samples)
            assert sum(delivered.values()) == samples
            assert all(abs(delivered.get(name, 0) - weight * samples) < 1 for name, weight in weights.items())
    assert Loader(empty(cases[0]), [Segment(0, plan(**cases[0]))], 0, 4).delivered(10**7) == {
        "most": 9_999_930,
        "tiny": 70,
    }


def test_the_sequence_is_the_same_from_anywhere():
    rng = np.random.default_rng(2)
    weights = rng.dirichlet(np.full(7, 0.5)).tolist()
    whole, order = interleave(tuple(weights), 3 * BLOCK_SAMPLES), Interleaving(weights)
    for block in (2, 0, 1):  # compiled and not, forward and back
        pattern, rank, before = order.block(block)
        assert np.array_equal(pattern, whole[block * BLOCK_SAMPLES : (block + 1) * BLOCK_SAMPLES])
        assert before.tolist() == np.bincount(whole[: block * BLOCK_SAMPLES], minlength=7).tolist()
        assert rank[-1] == np.count_nonzero(pattern[:-1] == pattern[-1])
    assert (
        Interleaving(weights).counts(2 * BLOCK_SAMPLES + 5).tolist()
        == np.bincount(whole[: 2 * BLOCK_SAMPLES + 5], minlength=7).tolist()
    )
    assert shares_of([0.7, 0.2, 0.1]) == ([7, 2, 1], 10)
    pattern = Interleaving([0.7, 0.2, 0.1]).block(10**9)[0]  # a repetition of 10 samples, begun in its middle
    first = 10**9 * BLOCK_SAMPLES % 10
    assert pattern[:20].tolist() == interleave((0.7, 0.2, 0.1), 40)[first : first + 20].tolist()


def test_a_branch_keeps_to_its_weights_from_where_it_begins():
    weights = {"most": 1 - 7e-6, "tiny": 7e-6}
    segments = [
        Segment(0, plan(most=1.0)),
        Segment(200_003, plan(**weights)),
        Segment(700_001, plan(most=0.5, tiny=0.5)),
    ]
    loader = Loader(empty(weights), segments, seed=0, sequence_length=4)
    for samples in (200_003, 271_429, 342_860, 500_000, 700_000):
        assert abs(loader.delivered(samples)["tiny"] - 7e-6 * (samples - 200_003)) < 1
    stream, _, _ = loader.addresses(np.arange(200_003, 700_001))
    assert np.count_nonzero(stream == 1) == loader.delivered(700_001)["tiny"] in (3, 4)


def test_far_samples_need_no_walk(three):
    loader = Loader(three, [Segment(0, plan(a=0.5, c=0.5))], seed=2, sequence_length=4)
    far = 10**12
    assert loader.batch([far])["tokens"].shape == (1, 5)
    assert abs(loader.delivered(far)["a"] - far / 2) < 1


def test_window_positions_restart_at_documents_and_their_first_id_is_no_target(tmp_path):
    documents = [[5, 6, EOS], [7, EOS], [8, 9, 10, 11, 12, EOS]]
    loader = Loader({"d": source(tmp_path, "d", [documents])}, [Segment(0, plan(d=1.0))], 0, sequence_length=5)
    assert loader.epoch_samples("d") == 2
    rows = {row[0]: i for i, row in enumerate(loader.batch([0, 1])["tokens"].tolist())}
    batch = loader.batch([0, 1])
    first, second = rows[5], rows[8]
    assert batch["tokens"][first].tolist() == [5, 6, EOS, 7, EOS, 8]
    assert batch["positions"][first].tolist() == [0, 1, 2, 0, 1]
    assert batch["loss_mask"][first].tolist() == [1, 1, 0, 1, 0]
    assert batch["tokens"][second].tolist() == [8, 9, 10, 11, 12, EOS]
    assert batch["positions"][second].tolist() == [0, 1, 2, 3, 4]
    assert batch["loss_mask"][second].tolist() == [1, 1, 1, 1, 1]
    assert {key: str(value.dtype) for key, value in batch.items()} == {
        "tokens": "int32", "positions": "int32", "loss_mask": "uint8", "sources": "int16",
    }  # fmt: skip
    assert all(value.flags.c_contiguous for value in batch.values())


def test_packed_conversations_are_whole_padded_and_masked(tmp_path):
    documents = [[1, 5, 2, 6, EOS], [1, 7, EOS], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, EOS], [1, 9, 2, EOS]]
    masks = [[0, 0, 0, 1, 1], [0, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1]]
    chats = source(tmp_path, "s", [documents], "conversations", [masks])
    loader = Loader({"s": chats}, [Segment(0, plan("documents", s=1.0))], seed=0, sequence_length=8, pad_id=EOS)
    batch = loader.batch(range(loader.epoch_samples("s")))
    assert loader.epoch_samples("s") == 3
    cut = loader.cuts["s"]
    assert (cut.rows, cut.cut, cut.left_out, cut.lost_tokens, cut.lost_targets, cut.whole_from) == (4, 1, 0, 2, 2, 10)
    rows = {tuple(row): i for i, row in enumerate(batch["tokens"].tolist())}
    packed, cut, short = (
        rows[1, 5, 2, 6, 0, 1, 7, 0, 0],
        rows[1, 2, 3, 4, 5, 6, 7, 8, 9],
        rows[1, 9, 2, 0, 0, 0, 0, 0, 0],
    )
    assert batch["positions"][packed].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch["loss_mask"][packed].tolist() == [0, 0, 1, 1, 0, 1, 1, 0]
    assert batch["loss_mask"][cut].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert batch["positions"][short].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert batch["loss_mask"][short].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_documents_whose_answers_lie_behind_the_window_are_left_out_and_counted(tmp_path):
    documents = [[1, 5, 2, 6, EOS], [1, *range(4, 12), 2, 50, EOS], [1, *range(4, 14), 2, 60, 61, EOS], [1, 9, 2, EOS]]
    masks = [[0, 0, 0, 1, 1], [0] * 10 + [1, 1], [0] * 12 + [1, 1, 1], [0, 0, 0, 1]]
    chats = {"s": source(tmp_path, "s", [documents], "conversations", [masks])}
    loader = Loader(chats, [Segment(0, plan("documents", s=1.0))], seed=0, sequence_length=8)
    assert loader.epoch_samples("s") == 2
    assert {row[1] for row in loader.batch([0, 1])["tokens"].tolist()} == {5, 9}
    assert loader.batch(range(20))["loss_mask"].any(axis=1).all()  # no row is read in vain
    cut = loader.cuts["s"]
    assert (cut.rows, cut.cut, cut.left_out, cut.lost_tokens, cut.lost_targets) == (4, 0, 2, 12 + 15, 2 + 3)
    assert (cut.counts_from, cut.whole_from) == (10, 14)
    reached = Loader(chats, [Segment(0, plan("documents", s=1.0))], seed=0, sequence_length=cut.counts_from)
    assert reached.cuts["s"].left_out == 1
    none = {"n": source(tmp_path, "n", [documents[1:3]], "conversations", [masks[1:3]])}
    with pytest.raises(
        DataError, match=r"nothing of source n counts in windows of 8 tokens: all 2 conversations .* to 10 .* or 14"
    ):
        Loader(none, [Segment(0, plan("documents", n=1.0))], 0, 8)


def test_ends_of_shards_that_fill_no_window_are_told_where_they_are_many(tmp_path):
    ids = [[list(range(100, 100 + n))] for n in (9, 3, 4, 12)]  # windows of 4 and one id more
    loader = Loader({"d": source(tmp_path, "d", ids)}, [Segment(0, plan(d=1.0))], 0, sequence_length=4)
    cut = loader.cuts["d"]
    assert (cut.rows, cut.cut, cut.left_out, cut.lost_tokens) == (4, 1, 2, 3 + 4 + 3)
    assert "10 tokens at the end of 4 shards fill no window and are not read, nothing at all of 2 of them;" in (
        cut.describe("d")
    )
    one = cut_shards(np.array([12]), np.array([2]), 4)
    assert "3 tokens at the end of 1 shard fill no window and are not read; larger" in one.describe("d")
    whole = Loader({"d": source(tmp_path, "w", ids[:1] * 3)}, [Segment(0, plan(d=1.0))], 0, sequence_length=4)
    assert whole.cuts == {}


def test_a_flipped_bit_in_the_mask_of_what_is_cut_is_noticed(tmp_path):
    paths = {suffix: tmp_path / f"x.{suffix}" for suffix in ("bin", "idx", "bytes", "mask", "sums")}
    writer = TokenShardWriter(paths, vocabulary_size=60_000)
    writer.add(np.arange(12), np.array([12]), bytes=np.array([11]), mask=np.array([0] * 10 + [1, 1], np.uint8))
    writer.close()
    damaged = bytearray(paths["mask"].read_bytes())
    damaged[3] ^= 1  # the document would count
    paths["mask"].write_bytes(damaged)
    chats = TokenSource("s", "conversations", ("x",), np.array([12]), lambda prefix: shard_paths(tmp_path, prefix))
    with pytest.raises(DataError, match="does not match its checksum"):
        Loader({"s": chats}, [Segment(0, plan("documents", s=1.0))], seed=0, sequence_length=8)


def test_pack_fills_rows_exactly_and_gives_a_long_document_its_own():
    offsets = np.cumsum([0, 4, 4, 8, 9, 1, 2])
    assert pack(offsets, 8).tolist() == [0, 2, 3, 4, 6]


def test_what_cannot_be_read_is_refused(three):
    with pytest.raises(ConfigError, match=r"segments begin at samples \[1\]"):
        Loader(three, [Segment(1, plan(a=1.0))], 0, 4)
    with pytest.raises(DataError, match="names z; the tokens hold a, b, c"):
        Loader(three, [Segment(0, plan(z=1.0))], 0, 4)
    with pytest.raises(DataError, match=r"less than one window of 101"):
        Loader(three, [Segment(0, plan(a=1.0))], 0, 100)
    with pytest.raises(ConfigError, match="expected a multiple of 6"):
        rank_indices(0, global_batch=8, rank=0, world_size=3, micro_batch=2)


def test_a_stream_of_longer_windows_reads_nothing_that_the_shorter_have_read(tmp_path):
    sources = {"a": numbered(tmp_path, "a", 6, 65, 0)}
    segments = [Segment(0, plan(a=1.0))]
    short = Loader(sources, segments, 3, 4, shards_per_group=2)  # 16 windows a shard, 32 a group, 96 an epoch
    read = set(short.batch(np.arange(10))["tokens"][:, :-1].ravel().tolist())
    (carried,) = short.carry_on(10, 16)
    assert (carried.epoch, carried.group, carried.groups, carried.begin) == (0, 1, 3, 8)
    assert carried.left_out == pytest.approx(22 / 96)
    long = Loader(sources, segments, 3, 16, shards_per_group=2, begin={("a", "windows"): carried.begin})
    rest = long.batch(np.arange(16))["tokens"][:, :-1].ravel().tolist()  # the other two groups, of 8 windows each
    assert not read & set(rest)
    assert len(set(rest)) == 16 * 16
    assert long.delivered(16) == {"a": 16}  # what was left out is not counted as given
    # in the last group of an epoch there is nothing left that was not begun: the next epoch, and back to short windows
    assert long.carry_on(9, 4)[0].epoch == 1
    assert long.carry_on(8, 4)[0].begin == 64
    assert short.carry_on(0, 16)[0].begin == 0
    assert short.carry_on(32, 16)[0].begin == 8  # a group that was read whole leaves nothing out
