"""A corpus whose sources and store lie on a server under fire: the same bytes as in peace, or a clear error and no
manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StorageError, TrunklineError
from pipelines.store.s3 import S3Storage
from tests.integration.faulty_s3 import Fault, FaultyS3, Kind, faulty_s3
from tests.integration.s3_server import S3Server
from tests.integration.test_s3_readers import make, raw, upload

__all__ = ["raw"]  # a fixture


@pytest.fixture
def proxy(server: S3Server, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Before a server that holds the sources of `raw`."""
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    upload(server, raw)
    with faulty_s3(server.endpoint) as running, server.environment(AWS_ENDPOINT_URL=running.endpoint):
        yield running


def corpus(server: S3Server, name: str) -> dict[str, Any]:
    """Every file of the corpus made on the server, with its checksum."""
    return dict(make(f"s3://{server.bucket}/{name}", f"s3://{server.bucket}/raw").manifest["files"])


@pytest.mark.parametrize("kind", ["slow_down", "cut_upload", "cut_download", "corrupt_upload", "corrupt_download"])
def test_faults_now_and_then_leave_the_same_bytes(server: S3Server, proxy: FaultyS3, kind: Kind) -> None:
    in_peace = corpus(server, f"peace-{kind}")
    # a listing has no checksum: the next test damages those too
    proxy.inject(Fault(kind, times=5, every=4, path="^(GET|PUT|POST) (?!.*list-type)"))
    assert corpus(server, kind) == in_peace
    assert proxy.fired() == 5


def test_damage_anywhere_ends_in_the_same_bytes_or_an_error(server: S3Server, proxy: FaultyS3) -> None:
    in_peace = corpus(server, "peace")
    for every in (2, 5):
        proxy.inject(Fault("corrupt_download", times=1_000, every=every))
        name = f"anywhere-{every}"
        try:
            assert corpus(server, name) == in_peace
        except TrunklineError:
            proxy.inject()
            assert not S3Storage(f"s3://{server.bucket}/{name}").exists("corpus/s3/manifest.json")
            assert corpus(server, name) == in_peace  # the same command, in peace, goes on from there


def test_faults_without_end_are_an_error_and_nothing_is_committed(server: S3Server, proxy: FaultyS3) -> None:
    proxy.inject(Fault("corrupt_upload", times=10_000, path="PUT /bucket/.*receipts"))
    with pytest.raises(
        StorageError, match=r"cannot write s3://bucket/endless/.*receipts.*BadDigest.*damaged on its way"
    ):
        corpus(server, "endless")
    proxy.inject()
    assert not S3Storage(f"s3://{server.bucket}/endless").exists("corpus/s3/manifest.json")
