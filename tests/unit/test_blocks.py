"""Sums of blocks: what is read is what was written, wherever a bit flips, and only what is read is compared."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixtureRecipe, plan_mixture
from pipelines.data.stream.preferences import PreferenceLoader, open_preferences
from pipelines.data.tokens import blocks
from pipelines.data.tokens.token_shards import TokenShard, TokenShardWriter, shard_paths
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import ArtifactError, DataError, TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.tasks.windows import windows
from tests import tiny
from tests.unit.test_checkpoint import flip


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A masked shard of 100,000 tokens: 4 blocks of ids, 2 of the mask, each with a last one that is not full."""
    rng = np.random.default_rng(0)
    writer = TokenShardWriter(
        {suffix: tmp_path / f"s.{suffix}" for suffix in ("bin", "idx", "mask", "bytes", "sums")}, 4096
    )
    for count in (1, 49_999, 20_000, 30_000):
        writer.add(
            rng.integers(0, 4096, count), np.array([count]), bytes=np.array([count]), mask=np.ones(count, np.uint8)
        )
    writer.close()
    return tmp_path


def test_a_block_is_compared_when_it_is_first_read_and_no_other(shard: Path) -> None:
    flip(shard / "s.bin", 8 * 3 * blocks.BLOCK_BYTES + 5)  # in the last block of ids
    flip(shard / "s.mask", 5)
    opened = TokenShard.open(shard_paths(shard, "s"))
    last = 3 * blocks.BLOCK_BYTES // 2
    assert len(opened.tokens[0:last]) == last
    for read in (
        lambda: opened.tokens[last - 1 : last + 1],
        lambda: opened.tokens[:],
        lambda: opened.tokens[-1],
        lambda: np.asarray(opened.tokens),
        lambda: opened.tokens.tolist(),
        lambda: opened.document(3),
    ):
        with pytest.raises(DataError, match=r"s\.bin does not match its checksum in bytes 196,608 to 200,000"):
            read()
    assert opened.mask is not None
    with pytest.raises(DataError, match=r"s\.mask does not match its checksum in bytes 0 to 65,536"):
        opened.mask[7:9]


def test_sums_do_not_depend_on_how_the_shard_was_written(shard: Path) -> None:
    data = (shard / "s.bin").read_bytes()
    for pieces in (1, 7, 1000):
        sums = blocks.BlockSums()
        for part in np.array_split(np.frombuffer(data, np.uint8), pieces):
            sums.add(part.data)
        assert sums.sums.tolist() == blocks.read_sums(shard / "s.sums")["bin"][1].tolist()


def test_damaged_sums_are_refused(shard: Path) -> None:
    whole = (shard / "s.sums").read_bytes()
    for content in (b"", whole[:-1], whole + b"0", b"X" + whole[1:], whole[:12] + b"\xff" + whole[13:]):
        (shard / "s.sums").write_bytes(content)
        with pytest.raises(DataError, match=r"s\.sums"):
            TokenShard.open(shard_paths(shard, "s"))


def test_an_index_that_contradicts_itself_says_where(shard: Path) -> None:
    data = bytearray((shard / "s.idx").read_bytes())
    data[34 + 16 + 8] ^= 2  # the offset of document 1
    (shard / "s.idx").write_bytes(data)
    with pytest.raises(DataError, match=r"document 1 of 4 begins at byte 2, by its offset at byte 0: rebuild"):
        TokenShard.open(shard_paths(shard, "s"))


def read_all(store: ArtifactStore) -> Any:
    """Everything that training and evaluation read of the tiny tokens."""
    tokens = store.get("tokens/tiny")
    recipe = MixtureRecipe(weights={"walks": 0.5, "jumps": 0.2, "chat": 0.3}, budget_tokens=20_000, max_epochs=100)
    plan = plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics)
    batch = Loader(open_sources(tokens), [Segment(0, plan)], 0, 32).batch(range(4000))
    pairs = PreferenceLoader(open_preferences(tokens), 0, 32).batch(range(120))
    held = [
        [(w.tokens.tolist(), w.byte_count(source.shard(0), None)) for w in windows(source.shard(0), 32, 0)]
        for source in open_sources(tokens, "heldout").values()
    ]
    return {k: v.tolist() for k, v in batch.items()}, {k: v.tolist() for k, v in pairs.items()}, held


@pytest.mark.parametrize("suffix", ["bin", "idx", "mask", "bytes", "sums"])
def test_a_flipped_bit_in_a_shard_is_named_or_changes_nothing(tmp_path: Path, suffix: str) -> None:
    store = tiny.build(str(tmp_path))
    found = sorted((tmp_path / "tokens/tiny").rglob(f"*.{suffix}"))
    files = [file for file in found if "heldout/pairs" not in str(file)]  # which is not read here
    before, refused, rng = read_all(store), 0, random.Random(suffix)
    for file in rng.sample(files, 3):
        for bit in rng.sample(range(8 * file.stat().st_size), 2):
            flip(file, bit)
            try:
                assert read_all(store) == before
            except ArtifactError as error:
                said = str(error)
                refused += str(file) in said and "on_change=rebuild" in said
            flip(file, bit)
    assert refused == 6
    for change in (lambda f: f.write_bytes(f.read_bytes()[:-2]), lambda f: f.unlink()):
        content = file.read_bytes()
        change(file)
        with pytest.raises(TrunklineError, match=file.name):
            read_all(store)
        file.write_bytes(content)


def test_a_store_without_sums_is_compared_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "_SUMS", ())
    store = tiny.build(str(tmp_path))
    assert not list(tmp_path.rglob("*.sums"))
    read_all(store)
    flip(tmp_path / "tokens/tiny/train/chat/00000.mask", 99)
    with pytest.raises(ArtifactError, match=r"train/chat/00000\.mask does not match its checksum \(SHA-256"):
        read_all(store)
