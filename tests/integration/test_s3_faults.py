"""Storage on a real S3 server behind a proxy that refuses, cuts and corrupts: whole objects or clear errors, never
damage.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.data.sources.remote import RemoteFile
from pipelines.errors import ArtifactError, StorageError
from pipelines.store.lease import Lease
from pipelines.store.s3 import S3Storage
from tests.integration.faulty_s3 import Fault, FaultyS3, Kind, faulty_s3
from tests.integration.s3_server import S3Server

SMALL, LARGE = os.urandom(100_000), os.urandom(20_000_000)  # the large one goes up and down in parts


@pytest.fixture
def proxy(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    with faulty_s3(server.endpoint) as running, server.environment(AWS_ENDPOINT_URL=running.endpoint):
        yield running


@pytest.fixture
def storage(server: S3Server, proxy: FaultyS3, request: pytest.FixtureRequest) -> S3Storage:
    return S3Storage(f"s3://{server.bucket}/{re.sub(r'[^a-z_]', '', request.node.name)}")


def put(storage: S3Storage, key: str, data: bytes) -> None:
    path = storage.scratch(key)
    path.write_bytes(data)
    storage.put(path, key)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["slow_down", "cut_upload", "corrupt_upload"])
def test_what_goes_up_arrives_whole(storage: S3Storage, proxy: FaultyS3, kind: Kind) -> None:
    for write, data in ((storage.write, SMALL), (lambda key, data: put(storage, key, data), LARGE)):
        proxy.inject(Fault(kind, times=2, path="^P(UT|OST)"))
        write("object", data)
        assert proxy.fired() == 2
        assert storage.read("object") == data


@pytest.mark.parametrize("kind", ["slow_down", "cut_download", "corrupt_download"])
def test_what_comes_down_arrives_whole(storage: S3Storage, proxy: FaultyS3, kind: Kind) -> None:
    put(storage, "large", LARGE)
    storage.write("small", SMALL)
    for read in (lambda: storage.fetch("large").read_bytes() == LARGE, lambda: storage.read("small") == SMALL):
        proxy.inject(Fault(kind, times=2, path="^GET"))
        assert read()
        assert proxy.fired() == 2
    proxy.inject(Fault(kind, times=2, path="^GET"))
    assert storage.read_range("large", 10_000_000, 10_000_100) == LARGE[10_000_000:10_000_100]
    assert proxy.fired() == 2


def test_a_range_beyond_the_end_is_refused(storage: S3Storage) -> None:
    storage.write("small", SMALL)
    for start in (99_990, 100_010):
        with pytest.raises(StorageError, match=r"small ends (at|before)"):
            storage.read_range("small", start, 100_020)


@pytest.mark.parametrize("kind", ["slow_down", "cut_download", "corrupt_download"])
def test_an_input_arrives_whole_or_is_refused(
    server: S3Server, storage: S3Storage, proxy: FaultyS3, kind: Kind
) -> None:
    storage.write("input", SMALL)
    file = RemoteFile(f"{storage.uri}/input", ahead_bytes=30_000)
    proxy.inject(Fault(kind, times=2, path="^GET"))
    reader = io.BufferedReader(file)
    assert reader.read() == SMALL
    assert reader.seek(-100, io.SEEK_END) == 99_900
    assert reader.read() == SMALL[-100:]
    assert proxy.fired() == 2
    if kind != "slow_down":  # s3fs retries those with a back-off of its own, for a minute
        file.seek(0)
        proxy.inject(Fault(kind, times=1_000, path="^GET"))
        with pytest.raises(StorageError, match=r"cannot read s3://bucket/.*/input"):
            file.read(10)


@pytest.mark.parametrize("kind", ["slow_down", "cut_download", "corrupt_download"])
def test_listings_survive_or_are_refused(storage: S3Storage, proxy: FaultyS3, kind: Kind) -> None:
    names = [f"folder/{number:02d}" for number in range(20)]
    for name in names:
        storage.write(name, name.encode())
    proxy.inject(Fault(kind, times=1, path="list-type"))
    listed = storage.keys("folder")
    assert proxy.fired() == 1
    if kind == "corrupt_download" and listed != names:  # a listing has no checksum: a name that is not there is refused
        with pytest.raises(StorageError):
            storage.read_all(listed)
    else:
        assert storage.read_all(listed) == [name.encode() for name in names]


def test_damage_that_does_not_stop_is_an_error(storage: S3Storage, proxy: FaultyS3) -> None:
    storage.write("small", SMALL)
    put(storage, "file", SMALL)
    for read, key, kind in ((storage.read, "small", "cut_download"), (storage.fetch, "file", "corrupt_download")):
        proxy.inject(Fault(kind, times=1_000, path="^GET"))
        with pytest.raises(StorageError, match=rf"cannot read {storage.uri}/{key}"):
            read(key)


def test_what_could_not_be_sent_does_not_stay_on_local_disk(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    with server.environment(AWS_SECRET_ACCESS_KEY="wrong"):
        storage = S3Storage(f"s3://{server.bucket}/store")
        path = storage.scratch("rank-00000.safetensors")  # gigabytes, and a run goes on after a save that failed
        path.write_bytes(SMALL)
        with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
            storage.put(path, "rank-00000.safetensors")
    assert not path.exists()


def test_many_objects_go_in_few_requests(storage: S3Storage, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.s3._DELETED_AT_ONCE", 100)  # a thousand would take ten seconds to write
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"many/{number:04d}", b"%d" % number), range(250)))
    storage.write("manyfold", b"stays")
    assert storage.read_all(storage.keys("many")) == [b"%d" % number for number in range(250)]
    proxy.inject()
    storage.delete("many")
    assert len(proxy.requests) == 4  # one listing, three deletions
    assert storage.keys() == ["manyfold"]
    storage.delete("manyfold")
    storage.delete("manyfold")
    assert storage.keys() == []


def test_of_several_at_once_one_creates_and_a_lease_is_kept(storage: S3Storage, proxy: FaultyS3) -> None:
    assert [storage.create("a/key", data) for data in (b"1", b"2")] == [True, False]
    assert storage.read("a/key") == b"1"
    proxy.inject(Fault("cut_download", times=1), Fault("slow_down", times=1))
    lease = Lease(storage, "corpus/a")
    with pytest.raises(ArtifactError, match=f"by another command: process {os.getpid()}"):
        Lease(storage, "corpus/a")
    lease.release()
    assert storage.keys() == ["a/key"]


def test_a_missing_object_is_told_from_a_failing_server(storage: S3Storage, proxy: FaultyS3) -> None:
    assert storage.find("none") is None
    assert not storage.exists("none")
    with pytest.raises(StorageError, match="none does not exist"):
        storage.read("none")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch.*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId.*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "is AWS_ENDPOINT_URL right"),
    ],
)
def test_a_store_that_cannot_be_reached_is_refused_at_once(
    server: S3Server, changes: dict[str, str], said: str
) -> None:
    with server.environment(**changes), pytest.raises(StorageError, match=said):
        S3Storage(f"s3://{server.bucket}/store").check()
    with server.environment(), pytest.raises(StorageError, match=r"NoSuchBucket.*the bucket's name"):
        S3Storage("s3://no-such-bucket/store").check()
