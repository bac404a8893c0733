"""Rows to calibrate on: which sources they come of, that nothing held out is read, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.tokens.chat import EOS_ID
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import Run, open_run
from pipelines.train.quantization.calibration import (
    CalibrationConfig,
    counted,
    draw_calibration,
    plan_calibration,
)
from pipelines.train.quantization.contract import CalibrationRows
from tests.unit.test_quantization import MODEL
from tests.untrained import commit_run, commit_tokens

TEXTS = {
    "prose": [f"Once upon a time there was a model, number {i} of many, and it was small." for i in range(60)],
    "zh": ["话说天下大势，分久必合，合久必分。"] * 4,
}
TURNS = [(f"{i} + 1?", f"That is {i + 1}.") for i in range(60)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, Run, Artifact]:
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))
    tokens = commit_tokens(store, TEXTS, TURNS, [("1?", "2", "3")] * 3)
    commit_run(store, "sft/s", dataclasses.replace(MODEL, vocabulary=320, max_positions=64), tokens)
    return store, open_run(store, "sft/s"), tokens


def drawn(source: tuple[ArtifactStore, Run, Artifact], **asked: Any) -> CalibrationRows:
    _, run, tokens = source
    return draw_calibration(plan_calibration(run, tokens, CalibrationConfig(**asked)))


def test_rows_are_shared_over_sources_and_counted(source: tuple[ArtifactStore, Run, Artifact]) -> None:
    _, run, tokens = source
    planned = plan_calibration(run, tokens, CalibrationConfig(rows=40, documents=0.5))
    room = (tokens.statistics["sources"]["zh"]["train"]["tokens"] - 1) // 16
    assert 0 < room < 10  # fewer than its half of the documents
    assert planned.rows == {"prose": 20 - room, "zh": room, "chat": 20}
    assert str(planned).startswith("40 rows of 16 ids of tokens/t: prose ")
    rows = draw_calibration(planned)
    assert rows.ids.shape == rows.positions.shape == rows.real.shape == (40, 16)
    assert rows.tokens["prose"] == 16 * planned.rows["prose"]
    assert sum(rows.tokens.values()) == int(rows.real.sum())
    assert counted(rows, planned)[-1] == {
        "source": "chat", "kind": "conversations", "rows": 20, "tokens": rows.tokens["chat"]
    }  # fmt: skip


def test_conversations_come_whole_and_what_fills_a_row_does_not_count(
    source: tuple[ArtifactStore, Run, Artifact],
) -> None:
    rows = drawn(source, rows=8, documents=0.0, sequence_length=48)
    shard = open_sources(source[2], "train", ["chat"])["chat"].shard(0)
    conversations = {tuple(np.asarray(shard.document(i)).tolist()) for i in range(shard.documents)}
    assert not rows.real.all()
    for ids, positions, real in zip(rows.ids, rows.positions, rows.real, strict=True):
        kept = int(real.sum())
        assert real[:kept].all()
        assert (ids[kept:] == EOS_ID).all()
        begins = [*(positions[:kept] == 0).nonzero()[:, 0].tolist(), kept]
        for begin, end in itertools.pairwise(begins):
            found = tuple(ids[begin:end].tolist())
            # a row of the loader has one id more, the last target
            assert found in conversations or (end == 48 and any(found == whole[:-1] for whole in conversations))


def test_the_seed_decides_and_nothing_else(source: tuple[ArtifactStore, Run, Artifact]) -> None:
    first, again, other = (drawn(source, rows=12, seed=seed).ids for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_row_is_read_twice(source: tuple[ArtifactStore, Run, Artifact]) -> None:
    rows = drawn(source, rows=20, documents=0.0)
    assert len({tuple(ids.tolist()) for ids in rows.ids}) == 20


def test_only_the_training_split_is_opened(
    source: tuple[ArtifactStore, Run, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    path = Artifact.sized_path
    monkeypatch.setattr(
        Artifact, "sized_path", lambda self, name, *rest: (opened.append(name), path(self, name, *rest))[1]
    )
    drawn(source, rows=8)
    assert opened
    assert all(name.startswith("train/") for name in opened)


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path, source: tuple[ArtifactStore, Run, Artifact]) -> None:
    others = commit_tokens(ArtifactStore(str(tmp_path)), TEXTS, TURNS, [("1?", "2", "3")] * 3, vocabulary=300)
    with pytest.raises(ArtifactError, match="tokens/t was encoded by another tokenizer than sft/s@step-1"):
        plan_calibration(source[1], others, CalibrationConfig())


def test_what_cannot_be_drawn_is_refused(source: tuple[ArtifactStore, Run, Artifact]) -> None:
    _, run, tokens = source

    def plan(**asked: Any) -> None:
        plan_calibration(run, tokens, CalibrationConfig(**asked))

    with pytest.raises(DataError, match="asks for 5,000 rows of 16 ids of conversations; tokens/t has [0-9]+ .by sou"):
        plan(rows=5000, documents=0.0)
    with pytest.raises(DataError, match=r"of documents; tokens/t has 0 \(by source: none\)"):
        plan(sources=["chat"], documents=0.5)
    with pytest.raises(ConfigError, match=r"names fish; tokens/t holds documents and conversations in prose, zh, chat"):
        plan(sources=["fish"])
    with pytest.raises(ConfigError, match="names pairs; "):
        plan(sources=["pairs"])
    with pytest.raises(ConfigError, match="sequence_length is 65; the model has 64 positions at most"):
        plan(sequence_length=65)
    emptied = {**tokens.manifest["statistics"]["sources"]["zh"], "train": {"tokens": 0, "shards": []}}
    statistics = {**tokens.statistics, "sources": {**tokens.statistics["sources"], "zh": emptied}}
    without = dataclasses.replace(tokens, manifest={**tokens.manifest, "statistics": statistics})
    with pytest.raises(ConfigError, match="names zh, which has no training tokens"):
        plan_calibration(run, without, CalibrationConfig(sources=["zh"]))
