"""Shards on disk, read back by an independent parse of Megatron's layout."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pipelines.data.tokens.megatron import token_dtype
from pipelines.data.tokens.token_shards import TokenShard, TokenShardWriter, shard_paths
from pipelines.errors import DataError


def write(folder, vocabulary_size, masked):
    suffixes = ("bin", "idx", "bytes", "mask") if masked else ("bin", "idx", "bytes")
    writer = TokenShardWriter({suffix: folder / f"s.{suffix}" for suffix in suffixes}, vocabulary_size)
    mask = np.array([0, 1, 1, 0, 1], np.uint8) if masked else None
    writer.add(np.array([5, 6, 0, 7, 0]), np.array([3, 2]), bytes=np.array([9, 4]), mask=mask)
    writer.add(
        np.array([8, 0]), np.array([2]), bytes=np.array([1]), mask=np.array([0, 1], np.uint8) if masked else None
    )
    writer.close()
    return writer


@pytest.mark.parametrize(("vocabulary_size", "code", "width", "letter"), [(4096, 8, 2, "H"), (122_753, 4, 4, "i")])
def test_layout_is_megatrons(tmp_path, vocabulary_size, code, width, letter):
    write(tmp_path, vocabulary_size, masked=False)
    data = (tmp_path / "s.idx").read_bytes()
    assert data[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<Q", data, 9) == (1,)
    assert struct.unpack_from("<B", data, 17) == (code,)
    assert struct.unpack_from("<QQ", data, 18) == (3, 4)
    assert struct.unpack_from("<3i", data, 34) == (3, 2, 2)
    assert struct.unpack_from("<3q", data, 46) == (0, 3 * width, 5 * width)
    assert struct.unpack_from("<4q", data, 70) == (0, 1, 2, 3)
    assert len(data) == 70 + 32
    assert struct.unpack(f"<7{letter}", (tmp_path / "s.bin").read_bytes()) == (5, 6, 0, 7, 0, 8, 0)


def test_shard_reads_back_with_its_sidecars(tmp_path):
    writer = write(tmp_path, 4096, masked=True)
    shard = TokenShard.open(shard_paths(tmp_path, "s"))
    assert [shard.document(i).tolist() for i in range(shard.documents)] == [[5, 6, 0], [7, 0], [8, 0]]
    assert shard.mask.tolist() == [0, 1, 1, 0, 1, 0, 1]
    assert shard.document_bytes.tolist() == [9, 4, 1]
    assert (writer.tokens, writer.loss_tokens, writer.documents, writer.loss_bytes) == (7, 4, 3, 14)


def test_empty_shard_is_readable(tmp_path):
    TokenShardWriter({suffix: tmp_path / f"s.{suffix}" for suffix in ("bin", "idx", "bytes")}, 4096).close()
    assert TokenShard.open(shard_paths(tmp_path, "s")).documents == 0


def test_width_of_an_id_follows_megatrons_bound():
    assert [token_dtype(size) for size in (65_499, 65_500)] == [np.uint16, np.int32]


def test_damaged_shards_are_refused(tmp_path):
    write(tmp_path, 4096, masked=True)
    paths = shard_paths(tmp_path, "s")
    paths["mask"].write_bytes(b"\x01")
    with pytest.raises(DataError, match="sidecar"):
        TokenShard.open(paths)
    paths["bin"].write_bytes(b"\x01\x00")
    with pytest.raises(DataError, match="holds 1 tokens, its index says 7"):
        TokenShard.open(paths)
    paths["idx"].write_bytes(paths["idx"].read_bytes()[:40])
    with pytest.raises(DataError, match="expected version 1 and whole arrays"):
        TokenShard.open(paths)
    paths["idx"].write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a Megatron index"):
        TokenShard.open(paths)


def test_a_mask_that_does_not_fit_is_refused(tmp_path):
    paths = {suffix: tmp_path / f"s.{suffix}" for suffix in ("bin", "idx", "bytes", "mask")}
    writer = TokenShardWriter(paths, 4096)
    with pytest.raises(ValueError, match="mask"):
        writer.add(np.array([1, 0]), np.array([2]), bytes=np.array([1]))
    writer.abandon()
    assert not any(path.exists() for path in paths.values())
