"""A delivered model sent to a bucket of a real S3 server, also through a proxy that refuses and cuts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StorageError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.s3 import S3Storage
from pipelines.train.results.publication import RECORD, SUMS
from tests.integration.faulty_s3 import Fault, faulty_s3
from tests.integration.s3_server import S3Server
from tests.unit.test_publish import commit_export, publish, published

LARGE = os.urandom(20_000_000)  # goes up in parts


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path / "store"))
    commit_export(store, weights=LARGE)
    return store


@pytest.fixture
def prefix(server: S3Server, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A prefix of the test's own; the environment reaches the server."""
    with server.environment(TRUNKLINE_CACHE=str(tmp_path / "cache")):
        yield re.sub(r"[^a-z_]", "", request.node.name)


def listed(server: S3Server, prefix: str) -> dict[str, int]:
    answer = server.client().list_objects_v2(Bucket=server.bucket, Prefix=f"{prefix}/")
    return {item["Key"].removeprefix(f"{prefix}/"): item["Size"] for item in answer.get("Contents", [])}


def test_all_files_arrive_and_the_same_command_finds_them(store: ArtifactStore, server: S3Server, prefix: str) -> None:
    to = f"to=s3://{server.bucket}/{prefix}"
    out = published(store, to)
    assert f"aws s3 cp --recursive s3://{server.bucket}/{prefix} FOLDER" in out
    assert set(listed(server, prefix)) == {
        "model.safetensors", "config.json", "README.md", "LICENSE.md", SUMS, RECORD,
    }  # fmt: skip
    body = server.client().get_object(Bucket=server.bucket, Key=f"{prefix}/model.safetensors")["Body"].read()
    assert body == LARGE
    assert "it lies there whole" in published(store, to)
    server.client().delete_object(Bucket=server.bucket, Key=f"{prefix}/config.json")
    assert "missing: config.json" in publish(store, to).err
    assert "sent 2 B in 1 files" in published(store, to, "on_change=rebuild")


def test_one_that_was_cut_off_goes_on_with_the_file_that_is_missing(
    store: ArtifactStore, server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line breaks after the large file: it lies there, and no card over it."""
    real = S3Storage.send

    def send(self: S3Storage, source: Path, key: str, *told: Any) -> None:
        if key == "config.json":
            raise StorageError("the line is cut")
        real(self, source, key, *told)

    with monkeypatch.context() as patched:
        patched.setattr(S3Storage, "send", send)
        assert publish(store, f"to=s3://{server.bucket}/{prefix}").code == 3
    assert set(listed(server, prefix)) == {"model.safetensors", RECORD}
    out = published(store, f"to=s3://{server.bucket}/{prefix}")
    assert "in 4 files; 1 lay there already" in out
    assert "README.md" in listed(server, prefix)


def test_uploads_that_are_damaged_on_their_way_arrive_whole(
    store: ArtifactStore, server: S3Server, prefix: str
) -> None:
    with faulty_s3(server.endpoint) as proxy, server.environment(AWS_ENDPOINT_URL=proxy.endpoint):
        proxy.inject(Fault("corrupt_upload", times=2, path="^P(UT|OST) .*model"))
        published(store, f"to=s3://{server.bucket}/{prefix}")
        assert proxy.fired() == 2
    body = server.client().get_object(Bucket=server.bucket, Key=f"{prefix}/model.safetensors")["Body"].read()
    assert body == LARGE


def test_another_model_and_strange_files_are_kept(store: ArtifactStore, server: S3Server, prefix: str) -> None:
    commit_export(store, "other", LARGE[:100], more={"tokenizer.json": b"[]"})
    to = f"to=s3://{server.bucket}/{prefix}"
    published(store, "parent=export/other", to)
    assert "would replace export/other" in publish(store, to).err
    server.client().put_object(Bucket=server.bucket, Key=f"{prefix}/notes.txt", Body=b"mine")
    published(store, to, "replace=true")
    there = listed(server, prefix)
    assert there["model.safetensors"] == len(LARGE)
    assert "notes.txt" in there
    assert "tokenizer.json" not in there


def test_a_bucket_that_is_not_there_and_keys_that_may_not_are_told(
    store: ArtifactStore, server: S3Server, prefix: str
) -> None:
    ended = publish(store, f"to=s3://nobody/{prefix}")
    assert ended.code == 3
    assert "The specified bucket does not exist" in ended.err
    with server.environment(AWS_SECRET_ACCESS_KEY="wrong"):
        ended = publish(store, f"to=s3://{server.bucket}/{prefix}")
        assert ended.code == 3
        assert "check AWS_ACCESS_KEY_ID" in ended.err
        out = published(store, f"to=s3://{server.bucket}/{prefix}", "dry_run=true")
        assert re.search(r"refused +cannot reach s3://", out)
    assert not store.storage.folders("publish")


def test_a_model_of_a_store_in_a_bucket_goes_to_a_folder(server: S3Server, prefix: str, tmp_path: Path) -> None:
    store = ArtifactStore(f"s3://{server.bucket}/{prefix}")
    commit_export(store, weights=LARGE)
    published(store, f"to={tmp_path}/place")
    assert (tmp_path / "place/model.safetensors").read_bytes() == LARGE
    assert "lie one within the other" in publish(store, f"to=s3://{server.bucket}/{prefix}/export/e").err
