"""A prefix in an S3 bucket as a store.

Enters: `s3://bucket/prefix` and keys relative to it. Leaves: whole objects, each by one PUT or a completed multipart
upload.
Credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), as for every AWS
tool.

botocore retries a request until its answer begins, but neither a body that is cut or damaged on its way down nor one
whose checksum the server refuses; those are retried here. Every object carries its SHA-256 as metadata, which is
compared whenever the whole of it is read, so that damage is seen also where a server keeps no checksums.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipelines.errors import ConfigError, StorageError
from pipelines.store.cache import Cache, cache_folder
from pipelines.store.disk import writes_in
from pipelines.store.storage import REQUESTS_AT_ONCE, Storage, disk_errors, sha256, whole_range

T = TypeVar("T")
_DELETED_AT_ONCE = 1_000  # the most that one S3 request deletes
_ATTEMPTS = 5  # each with botocore's own, so a busy or restarted server has about three minutes to come back
_PAUSE_SECONDS = 0.2  # before the second attempt, up to 3 before the last
_BUSY = {"500", "503", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
_DAMAGED_UPLOAD = {
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "MalformedXML",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}


class S3Storage(Storage):
    """A prefix in an S3 bucket; downloads are kept in the cache (`pipelines/store/cache.py`)."""

    def __init__(self, uri: str):
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigError(f"store {uri!r} names no bucket; expected s3://bucket/prefix")
        self.bucket, self.prefix, self.uri = bucket, prefix.strip("/"), uri.rstrip("/")
        self._client: Any = None
        self._forgotten: set[str] = set()  # copies in the cache that were damaged

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}  # a boto3 client cannot travel

    @property
    def client(self) -> Any:
        if self._client is None:
            # not "adaptive": one refusal slows that mode to a request in two seconds
            self._client = _s3_client(retries={"mode": "standard", "max_attempts": 8}, connect_timeout=10)
        return self._client

    def check(self) -> None:
        with _s3_errors("reach", self.uri):
            once = _s3_client(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=5, read_timeout=20)
            once.list_objects_v2(Bucket=self.bucket, Prefix=self._full(""), MaxKeys=1)

    def read(self, key: str) -> bytes:
        return self._attempts("read", key, lambda: self._get(key))

    def find(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except _Missing:
            return None

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        if start == stop:  # HTTP has no empty range
            return b""

        def attempt() -> bytes:
            data = self._get(key, Range=f"bytes={start}-{stop - 1}")
            guarded = self.client.meta.endpoint_url.startswith("https://")
            if not guarded and data != self._get(key, Range=f"bytes={start}-{stop - 1}"):
                raise _Damaged("the same range came differently the second time")
            return data

        return whole_range(self._attempts("read", key, attempt), f"{self.uri}/{key}", start, stop)

    def _get(self, key: str, **range_: str) -> bytes:
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

        answer = self.client.get_object(Bucket=self.bucket, Key=self._full(key), **range_)
        try:
            body: bytes = answer["Body"].read()
        except (HTTPClientError, IncompleteReadError, FlexibleChecksumError) as error:
            raise _Damaged(str(error)) from error
        if not range_:
            _compare(hashlib.sha256(body).hexdigest(), answer)
        return body

    def write(self, key: str, data: bytes) -> None:
        digest = {"sha256": hashlib.sha256(data).hexdigest()}
        self._attempts(
            "write",
            key,
            lambda: self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data, Metadata=digest),
        )

    def create(self, key: str, data: bytes) -> bool:
        put = functools.partial(self.client.put_object, Bucket=self.bucket, Key=self._full(key), Body=data)
        try:
            self._attempts("write", key, functools.partial(put, IfNoneMatch="*"))
        except StorageError as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
                return False
            if code not in ("NotImplemented", "501"):
                raise
            self._attempts("write", key, put)  # a server without conditions: the last of several at once succeeds
        return True

    def scratch(self, key: str) -> Path:
        folder = cache_folder() / "upload"
        with disk_errors("write", folder):
            folder.mkdir(parents=True, exist_ok=True)
        writes_in(folder)
        return folder / f"{uuid.uuid4().hex[:8]}-{Path(key).name}"

    def put(self, source: Path, key: str) -> None:
        try:
            self.send(source, key)
        finally:  # also what could not be sent: checkpoints that fail would fill the disk
            source.unlink(missing_ok=True)

    def send(self, source: Path, key: str, sent: Callable[[int], None] = lambda count: None) -> None:
        extra = {"Metadata": {"sha256": sha256(source)}}
        self._attempts(
            "write",
            key,
            lambda: self.client.upload_file(str(source), self.bucket, self._full(key), ExtraArgs=extra, Callback=sent),
        )

    def digest(self, key: str) -> str | None:
        try:
            head = self._attempts(
                "look for", key, lambda: self.client.head_object(Bucket=self.bucket, Key=self._full(key))
            )
        except _Missing:
            return None
        digest: str | None = head.get("Metadata", {}).get("sha256")  # another tool's object has none
        return digest

    def download(self, key: str, target: Path) -> None:
        """The whole object into a local file, its checksum compared. Raises: StorageError."""

        def attempt() -> None:
            head = self.client.head_object(Bucket=self.bucket, Key=self._full(key))
            self.client.download_file(self.bucket, self._full(key), str(target))
            _compare(sha256(target), head)

        self._attempts("read", key, attempt)

    def fetch(self, key: str) -> Path:
        head = self._attempts("read", key, lambda: self.client.head_object(Bucket=self.bucket, Key=self._full(key)))
        # the ETag is part of the cached name, so an object that was replaced is downloaded again
        tag = hashlib.sha256(f"{self.uri}/{key}@{head['ETag']}".encode()).hexdigest()[:16]
        cache = Cache(cache_folder() / "objects")
        with disk_errors("write", cache.folder):
            return cache.get(f"{tag}-{Path(key).name}", head["ContentLength"], lambda path: self.download(key, path))

    def forget(self, path: Path) -> bool:
        if not path.is_relative_to(cache_folder()) or str(path) in self._forgotten:
            return False
        self._forgotten.add(str(path))  # the object itself is damaged when its copy is so a second time
        path.unlink(missing_ok=True)
        return True

    def size(self, key: str) -> int | None:
        try:
            head = self._attempts(
                "look for", key, lambda: self.client.head_object(Bucket=self.bucket, Key=self._full(key))
            )
        except _Missing:
            return None
        return int(head["ContentLength"])

    def exists(self, key: str) -> bool:
        try:
            self._attempts("look for", key, lambda: self.client.head_object(Bucket=self.bucket, Key=self._full(key)))
        except _Missing:
            return False
        return True

    def keys(self, prefix: str = "") -> list[str]:
        folder = self._full(prefix) + "/" if self._full(prefix) else ""
        keys = self._attempts("list", prefix, lambda: self._listed(folder))
        cut = len(self.prefix) + 1 if self.prefix else 0
        if not keys and prefix and self.exists(prefix):
            return [prefix]
        return sorted(key[cut:] for key in keys)

    def folders(self, prefix: str = "") -> list[str]:
        folder = self._full(prefix) + "/" if self._full(prefix) else ""
        listed = self._attempts("list", prefix, lambda: self._listed(folder, folders=True))
        return sorted(name.removeprefix(folder).rstrip("/") for name in listed)

    def sweep(self, prefix: str) -> None:
        """Nothing: an unfinished upload is no object. The bucket's lifecycle rule removes parts of multipart
        uploads.
        """

    def _listed(self, folder: str, folders: bool = False) -> list[str]:
        """Every key below a folder, or, asked for `folders`, the ones directly in it."""
        pages = self.client.get_paginator("list_objects_v2")
        if folders:
            asked = pages.paginate(Bucket=self.bucket, Prefix=folder, Delimiter="/")
            listed = [item["Prefix"] for page in asked for item in page.get("CommonPrefixes", [])]
        else:
            asked = pages.paginate(Bucket=self.bucket, Prefix=folder)
            listed = [item["Key"] for page in asked for item in page.get("Contents", [])]
        if strange := [key for key in listed if not key.startswith(folder)]:
            raise _Damaged(f"asked for what begins with {folder}, the server listed {strange[0]}")
        return listed

    def delete(self, prefix: str) -> None:
        keys = [{"Key": self._full(key)} for key in self.keys(prefix)]
        for i in range(0, len(keys), _DELETED_AT_ONCE):
            request = {"Bucket": self.bucket, "Delete": {"Objects": keys[i : i + _DELETED_AT_ONCE], "Quiet": True}}
            answer = self._attempts("delete", prefix, functools.partial(self.client.delete_objects, **request))
            for refused in answer.get("Errors", []):
                raise StorageError(
                    f"cannot delete s3://{self.bucket}/{refused['Key']}: {refused['Code']}: {refused['Message']}; "
                    "check that these keys may delete there"
                )

    def _attempts(self, verb: str, key: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, tried again after a failure that may pass."""
        for number in range(1, _ATTEMPTS):
            try:
                with _s3_errors(verb, f"{self.uri}/{key}".rstrip("/")):
                    return attempt()
            except _Passing:
                time.sleep(random.uniform(0.5, 1) * _PAUSE_SECONDS * 2**number)
        with _s3_errors(verb, f"{self.uri}/{key}".rstrip("/")):
            return attempt()

    def _full(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)


class _Missing(StorageError):
    """There is no such object."""


class _Passing(StorageError):
    """A failure that another attempt may not meet."""


class _Damaged(Exception):
    """What arrived is not what was sent."""


def _compare(digest: str, answer: dict[str, Any]) -> None:
    said = answer.get("Metadata", {}).get("sha256", digest)  # an object that another tool put there carries none
    if said != digest:
        raise _Damaged(f"its SHA-256 is {digest}, expected {said}")


def _s3_client(**options: Any) -> Any:
    import boto3
    from botocore.config import Config

    # a session of its own: the default one keeps the credentials that it saw first
    return boto3.session.Session().client("s3", config=Config(max_pool_connections=REQUESTS_AT_ONCE, **options))


@contextlib.contextmanager
def _s3_errors(verb: str, uri: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, ResponseParserError, _Damaged) as error:
        cause = error.__context__ if isinstance(error, Boto3Error) else error
        code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
        if code in ("404", "NoSuchKey"):
            raise _Missing(f"{uri} does not exist") from error
        if code == "InvalidRange":
            raise StorageError(f"{uri} ends before the bytes that were expected of it") from error
        if code in _DAMAGED_UPLOAD or isinstance(cause, (_Damaged, ResponseParserError)):
            advice = (
                "it was damaged on its way, or lies damaged in the bucket: check the network and any proxy between "
                "here and the endpoint; where those are sound, make what it belongs to anew with on_change=rebuild"
            )
        elif code in _BUSY:
            advice = "the server is busy or failing; finished pieces are kept: run the same command again later"
        elif isinstance(cause, (ConnectionError, HTTPClientError)):
            advice = (
                "is AWS_ENDPOINT_URL right, and does the server answer? Finished pieces are kept: run the same "
                "command again"
            )
        else:
            raise StorageError(
                f"cannot {verb} {uri}: {error}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and "
                "the bucket's name"
            ) from error
        raise _Passing(f"cannot {verb} {uri}: {error}; {advice}") from error
