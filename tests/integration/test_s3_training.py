"""Training whose tokens, checkpoints and manifest all lie on a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StorageError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.s3 import S3Storage
from pipelines.train.checkpoint import committed_steps, open_checkpoint, read_weights
from pipelines.train.run.loop import read_metrics
from tests import tiny
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks, train
from tests.integration.s3_server import S3Server


@pytest.fixture(autouse=True)
def reached(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    with server.environment():
        yield


def test_a_run_on_s3_equals_one_on_disk_and_resumes(server: S3Server, two_ranks: Ranks, tmp_path: Path) -> None:
    def trained(spec: dict[str, Any]) -> str:
        done = two_ranks.call(train, spec, environment=dict(os.environ))
        assert not done.error, done.error
        return done.out

    remote, local = tiny.build(f"s3://{server.bucket}/run"), tiny.build(str(tmp_path / "store"))
    assert remote.get("tokens/tiny").fingerprint == local.get("tokens/tiny").fingerprint
    for store in (remote, local):
        trained(claimed_spec("pretrain", train_config(name="r", steps=4), store))
    again = remote.begin("pretrain", "r", {}, on_change="keep")
    remote.reopen(again)  # type: ignore[arg-type]
    spec = claimed_spec("pretrain", train_config(name="straight", steps=8), local)
    trained(spec)
    said = trained({**spec, "name": "r", "store": remote.uri})
    assert "resumed from pretrain/r@step-4" in said
    assert committed_steps(remote.storage, "pretrain/r") == [4, 8]
    curves = [
        [row["loss"] for row in read_metrics(store.storage, f"pretrain/{name}")]
        for store, name in ((remote, "r"), (local, "straight"))
    ]
    assert curves[0] == curves[1]
    ours, theirs = (
        read_weights(open_checkpoint(store.storage, f"pretrain/{name}"))
        for store, name in ((remote, "r"), (local, "straight"))
    )
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_wrong_keys_end_with_the_reason_and_nothing_written(server: S3Server) -> None:
    with server.environment(AWS_SECRET_ACCESS_KEY="wrong"), pytest.raises(StorageError) as caught:
        ArtifactStore(f"s3://{server.bucket}/denied").begin("corpus", "a", {})
    assert "check AWS_ACCESS_KEY_ID" in str(caught.value)
    assert S3Storage(f"s3://{server.bucket}/denied").keys() == []


def test_keys_are_whole_names_not_prefixes(server: S3Server) -> None:
    storage = S3Storage(f"s3://{server.bucket}/names")
    storage.write("corpus/ab/manifest.json", b"{}")
    assert storage.exists("corpus/ab/manifest.json")
    assert not storage.exists("corpus/a")
    assert storage.keys("corpus/a") == []
    assert storage.keys("corpus/ab") == ["corpus/ab/manifest.json"]
    storage.write("corpus/other/deep/file", b"x")
    assert storage.folders() == ["corpus"]
    assert storage.folders("corpus") == ["ab", "other"]
    assert storage.folders("corpus/ab") == storage.folders("cor") == []
    assert storage.find_all(["corpus/ab/manifest.json", "corpus/a/manifest.json"]) == [
        storage.read("corpus/ab/manifest.json"),
        None,
    ]
    storage.delete("corpus/ab")
    assert storage.keys() == ["corpus/other/deep/file"]
