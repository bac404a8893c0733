"""Preference pairs: chosen above rejected, whole, each once per epoch."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.stream.preferences import PreferenceLoader
from pipelines.data.tokens.token_shards import TokenShardWriter, shard_paths
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.errors import DataError


def side(folder, name, documents):
    writer = TokenShardWriter({suffix: folder / f"{name}.{suffix}" for suffix in ("bin", "idx", "bytes", "mask")}, 4096)
    for document in documents:  # prompt is <用户> x <AI>, the rest is the answer
        mask = np.array([0, 0, 0] + [1] * (len(document) - 3), np.uint8)
        writer.add(np.array(document), np.array([len(document)]), bytes=np.array([len(document) - 4]), mask=mask)
    writer.close()
    return TokenSource(
        "p", "preferences", (name,), np.array([writer.tokens]), lambda prefix: shard_paths(folder, prefix)
    )


def pairs(folder, count=6):
    chosen = [[1, 10 + i, 2, 20 + i, 30, 0] for i in range(count)] + [[1, 9, 2, *range(40, 60), 0]]
    rejected = [[1, 10 + i, 2, 40 + i, 0] for i in range(count)] + [[1, 9, 2, 5, 0]]
    return {"p": (side(folder, "c", chosen), side(folder, "r", rejected))}


def test_rows_alternate_and_only_the_answer_counts(tmp_path):
    loader = PreferenceLoader(pairs(tmp_path), seed=1, sequence_length=7)
    assert loader.batch([0, 1])["tokens"].shape == (4, 8)
    first = 3
    batch = loader.stored([first, 1])
    assert batch["tokens"][0].tolist() == [1, 10 + first, 2, 20 + first, 30, 0, 0, 0]
    assert batch["tokens"][1].tolist() == [1, 10 + first, 2, 40 + first, 0, 0, 0, 0]
    assert batch["loss_mask"][:2].tolist() == [[0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0]]
    assert batch["positions"][0].tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert batch["sources"].tolist() == [0, 0, 0, 0]


def test_each_pair_once_per_epoch_and_epochs_differ(tmp_path):
    loader = PreferenceLoader(pairs(tmp_path), seed=1, sequence_length=7)
    assert len(loader) == 7
    first, second = loader.pairs(range(7)).tolist(), loader.pairs(range(7, 14)).tolist()
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert np.array_equal(loader.batch(range(7))["tokens"], loader.stored(first)["tokens"])


def test_a_long_answer_keeps_its_beginning(tmp_path):
    loader = PreferenceLoader(pairs(tmp_path), seed=1, sequence_length=7)
    cut = loader.cuts["p"]
    assert (cut.rows, cut.cut, cut.left_out, cut.whole_from) == (7, 1, 0, 23)
    assert (cut.lost_tokens, cut.lost_targets) == (16, 16)  # the long answer has 24 ids, of which 8 are read
    assert loader.stored([6])["tokens"].tolist() == [[1, 9, 2, 40, 41, 42, 43, 44], [1, 9, 2, 5, 0, 0, 0, 0]]
    assert loader.pair_tokens.tolist() == [11] * 6 + [13]
    whole = PreferenceLoader(pairs(tmp_path), seed=1, sequence_length=23)
    assert whole.cuts == {}
    assert whole.pair_tokens[6] == 24 + 5


def test_pairs_without_a_difference_or_with_a_long_prompt_are_left_out_and_counted(tmp_path):
    chosen = [[1, 9, 2, 5, 6, 7, 8, 9, 0], [1, 9, 2, 5, 0]]  # the first differs from its rejected side after 8 ids only
    rejected = [[1, 9, 2, 5, 6, 7, 8, 9, 10, 0], [1, 9, 2, 6, 0]]
    same = {"p": (side(tmp_path, "c2", chosen), side(tmp_path, "r2", rejected))}
    loader = PreferenceLoader(same, seed=1, sequence_length=7)
    cut = loader.cuts["p"]
    assert (cut.left_out, cut.lost_tokens, cut.lost_targets, cut.counts_from) == (1, 19, 13, 9)
    assert len(loader) == 1
    # 4 ids hold the prompt of 3 and one more: less than half of the window is left for answers
    with pytest.raises(
        DataError,
        match=r"no preference pair fits in windows of 3 tokens \(left out: p 7\).*sequence_length to 5 .* or 23",
    ):
        PreferenceLoader(pairs(tmp_path), seed=1, sequence_length=3)


def test_sides_that_disagree_are_refused(tmp_path):
    broken = pairs(tmp_path)["p"][0], side(tmp_path, "short", [[1, 5, 2, 6, 0]])
    with pytest.raises(DataError, match="c has 7 documents, its other side 1"):
        PreferenceLoader({"p": broken}, seed=1, sequence_length=7)
