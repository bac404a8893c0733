"""Sidecars of every layout: what was written beside a token is beside it in a batch, however rows cut the documents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixturePlan, MixtureRecipe, plan_mixture
from pipelines.data.stream.preferences import PreferenceLoader
from pipelines.data.tokens import sidecars
from pipelines.data.tokens.blocks import BLOCK_BYTES
from pipelines.data.tokens.sidecars import SIDECARS
from pipelines.data.tokens.sidecars.layouts import Anchored, PerDocument, PerToken
from pipelines.data.tokens.token_shards import TokenShard, TokenShardWriter, shard_paths
from pipelines.data.tokens.token_sources import TokenSource, open_sources
from pipelines.errors import ConfigError, DataError
from tests import tiny

LENGTHS = np.array([5, 12, 3, 9, 40, 2, 7, 30])  # of documents
TOKENS = 1 + np.arange(LENGTHS.sum())  # each token says where it stands in the shard, from 1
NUMBERS = 100 + np.arange(len(LENGTHS))  # of documents
AT = np.array([0, 4, 5, 19, 20, 21, 68, 90, 107])  # tokens that have an image
IMAGES = np.arange(len(AT) * 6).reshape(-1, 2, 3)


def never(documents: Any) -> Any:
    raise AssertionError("nothing is encoded here")


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows more."""
    for name, row in {
        "again": PerToken(dtype=np.int32, encode=never, absent=-1, padding=-2),
        "number": PerDocument(dtype=np.int16, encode=never, absent=-1, padding=-2),
        "image": Anchored(dtype=np.float32, encode=never, shape=(2, 3)),
    }.items():
        monkeypatch.setitem(SIDECARS, name, row)


def write(folder: Path, prefix: str = "s", kind: str = "documents", parts: tuple[int, ...] = (0, 3, 8)) -> TokenSource:
    """A shard written in two batches of documents, whose masked form counts every token."""
    names = ("bytes", "again", "number", "image", *(["mask"] if kind != "documents" else []))
    writer = TokenShardWriter({name: folder / f"{prefix}.{name}" for name in ("bin", "idx", "sums", *names)}, 4096)
    ends = np.concatenate([[0], LENGTHS.cumsum()])
    for first, last in itertools.pairwise(parts):
        begin, end = int(ends[first]), int(ends[last])
        here = (begin <= AT) & (end > AT)
        records = np.zeros(here.sum(), SIDECARS["image"].stored_dtype)
        records["at"], records["value"] = AT[here] - begin, IMAGES[here]
        beside = {"bytes": LENGTHS[first:last], "again": TOKENS[begin:end], "number": NUMBERS[first:last]}
        mask = np.ones(end - begin, np.uint8) if kind != "documents" else None
        writer.add(TOKENS[begin:end], LENGTHS[first:last], **beside, image=records, mask=mask)
    writer.close()
    return TokenSource(
        "s", kind, (prefix,), np.array([writer.tokens]), lambda name: shard_paths(folder, name), sidecars=names
    )


def mixture(source: TokenSource, packing: str) -> MixturePlan:
    facts = {source.name: {"kind": source.kind, "train": {"tokens": int(source.shard_tokens.sum())}}}
    recipe = MixtureRecipe(weights={source.name: 1.0}, budget_tokens=1000, max_epochs=100)
    plan = plan_mixture(recipe, "tokens/x", "0", {"sources": facts})
    return dataclasses.replace(
        plan, sources=tuple(dataclasses.replace(source, packing=packing) for source in plan.sources)
    )


def check(batch: dict[str, Any], inputs: np.ndarray) -> Iterator[int]:
    """Everything beside the inputs is what was written beside their ids; the number of each image that was seen."""
    beside, there = batch["sidecars"], inputs > 0
    assert set(beside) == {"again", "number", "image", "image.at"}
    assert np.array_equal(beside["again"], np.where(there, inputs, -2))
    document = np.repeat(NUMBERS, LENGTHS)[inputs - 1]
    assert np.array_equal(beside["number"], np.where(there, document, -2))
    assert beside["image"].shape == (len(beside["image.at"]), 2, 3)
    places = [tuple(place) for place in np.argwhere(np.isin(inputs, AT + 1))]
    assert [tuple(place) for place in beside["image.at"].tolist()] == places
    for image, place in zip(beside["image"], places, strict=True):
        number = int(np.flatnonzero(inputs[place] == AT + 1)[0])
        assert np.array_equal(image, IMAGES[number])
        yield number


@pytest.mark.parametrize("kind", ["documents", "conversations"])
@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_what_was_written_beside_a_token_is_beside_it_in_a_batch(tmp_path: Path, packing: str, kind: str) -> None:
    source = write(tmp_path, kind=kind)
    loader = Loader({"s": source}, [Segment(0, mixture(source, packing))], 0, sequence_length=16)
    batch = loader.batch(range(loader.epoch_samples("s")))
    seen = set(check(batch, batch["tokens"][:, :-1]))
    assert seen == ({*range(len(AT))} - {8} if packing == "windows" else {*range(len(AT))} - {6, 8})
    assert batch["loss_mask"].any()


def test_a_source_without_has_the_entry_for_absence(tmp_path: Path) -> None:
    source = write(tmp_path)
    bare = dataclasses.replace(source, locate=lambda name: {"bin": tmp_path / "s.bin", "idx": tmp_path / "s.idx"})
    loader = Loader({"s": bare}, [Segment(0, mixture(bare, "windows"))], 0, sequence_length=16)
    batch = loader.batch(range(3))
    assert (batch["sidecars"]["again"] == -1).all()
    assert (batch["sidecars"]["number"] == -1).all()
    assert batch["sidecars"]["image"].shape == (0, 2, 3)
    plain = dataclasses.replace(bare, sidecars=())
    assert "sidecars" not in Loader({"s": plain}, [Segment(0, mixture(plain, "windows"))], 0, 16).batch(range(3))


def test_pairs_have_them_too_and_lose_the_columns_that_are_padding(tmp_path: Path) -> None:
    sides = write(tmp_path, "c", "preferences"), write(tmp_path, "r", "preferences")
    loader = PreferenceLoader({"s": sides}, seed=0, sequence_length=64)
    batch = loader.stored([1, 2, 3], trim_to=4)
    assert batch["tokens"].shape == (6, 13)  # the longest has 12 ids, 11 of them counted targets
    list(check(batch, batch["tokens"][:, :-1]))


@pytest.mark.parametrize("name", ["again", "image"])
def test_a_flipped_bit_in_what_is_read_by_ranges_is_noticed(tmp_path: Path, name: str) -> None:
    source = write(tmp_path)
    assert isinstance(source.shard(0), TokenShard)
    data = bytearray((tmp_path / f"s.{name}").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / f"s.{name}").write_bytes(data)
    fresh = dataclasses.replace(source, _open=type(source._open)())
    loader = Loader({"s": fresh}, [Segment(0, mixture(fresh, "windows"))], 0, sequence_length=16)
    with pytest.raises(DataError, match=rf"s\.{name} does not match its checksum"):
        loader.batch(range(6))
    (tmp_path / f"s.{name}").write_bytes(data[:-1])
    with pytest.raises(DataError, match=rf"s\.{name}"):
        dataclasses.replace(source, _open=type(source._open)()).shard(0)


def test_records_that_are_larger_than_a_block_are_compared_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = int(np.sqrt(BLOCK_BYTES))
    monkeypatch.setitem(SIDECARS, "image", Anchored(dtype=np.uint8, encode=never, shape=(side, 2 * side, 3)))
    paths = {name: tmp_path / f"s.{name}" for name in ("bin", "idx", "image", "sums")}
    writer = TokenShardWriter(paths, 4096)
    records = np.zeros(3, SIDECARS["image"].stored_dtype)
    records["at"], records["value"] = [1, 2, 5], np.arange(3)[:, None, None, None]
    writer.add(np.arange(8), np.array([8]), image=records)
    writer.close()
    data = bytearray(paths["image"].read_bytes())
    data[records.itemsize + BLOCK_BYTES * 3] ^= 1  # amid the second
    paths["image"].write_bytes(data)
    images = TokenShard.open(paths).sidecars["image"]
    assert (images[2]["value"] == 2).all()
    with pytest.raises(DataError, match=r"s\.image does not match its checksum"):
        _ = images[1]


def test_names_are_checked(tmp_path: Path) -> None:
    assert sidecars.known(["number"], "sidecars") == ("mask", "bytes", "number")
    with pytest.raises(ConfigError, match="sidecars names numbr; expected some of mask, bytes, again, number, image"):
        sidecars.known(["numbr"], "sidecars")
    tokens = tiny.build(str(tmp_path)).get("tokens/tiny")
    assert open_sources(tokens)["walks"].sidecars == ("mask", "bytes")  # whose statistics say nothing of sidecars
    tokens.statistics["sources"]["walks"]["sidecars"] = ["bytes", "depth"]
    with pytest.raises(DataError, match="source walks of tokens/tiny has depth beside its ids; known here are mask"):
        open_sources(tokens)
