"""One small interface over a folder and an S3 bucket; the only room that imports boto3.

Enters: a store URI (`./store`, `/data/store`, `s3://bucket/prefix`) and keys relative to it.
Leaves: whole objects. A key either holds all of what was put there or does not exist: a folder gets a file by
write, fsync and rename; S3 gets it by one PUT or a completed multipart upload. S3 calls are retried by botocore
(10 attempts, adaptive back-off); credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`,
`AWS_ENDPOINT_URL`, ...), as for every AWS tool.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StorageError

_CHUNK_BYTES = 1 << 20


class Storage(ABC):
    """Objects under one root. Instances are small and picklable: they travel to Ray workers."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object. Raises: StorageError when it is not there."""

    @abstractmethod
    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive) of an object, without fetching the rest of it.

        Raises: StorageError when the object is not there or ends before `stop`.
        """

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Put a small object, atomically."""

    @abstractmethod
    def scratch(self, key: str) -> Path:
        """A fresh local path to write a file to before `put`; never readable as `key`."""

    @abstractmethod
    def put(self, source: Path, key: str) -> None:
        """Publish a finished local file as `key`, atomically; `source` is consumed."""

    @abstractmethod
    def fetch(self, key: str) -> Path:
        """A local path holding the object (downloaded into the cache when remote)."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """Every key that begins with the folder `prefix`, sorted; scratch files are not listed."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove the object or folder `prefix`; removing nothing is no error."""


class FolderStorage(Storage):
    """A folder on a local or shared file system."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().resolve()
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        with _disk_errors("read", self.root / key):
            return (self.root / key).read_bytes()

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        with _disk_errors("read", self.root / key), (self.root / key).open("rb") as handle:
            handle.seek(start)
            return _whole_range(handle.read(stop - start), self.root / key, start, stop)

    def write(self, key: str, data: bytes) -> None:
        path = self.scratch(key)
        with _disk_errors("write", self.root / key, leftover=path):
            path.write_bytes(data)
            self.put(path, key)

    def scratch(self, key: str) -> Path:
        target = self.root / key
        with _disk_errors("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".partial-{uuid.uuid4().hex[:8]}-{target.name}")

    def put(self, source: Path, key: str) -> None:
        target = self.root / key
        with _disk_errors("write", target, leftover=source):
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as handle:
                os.fsync(handle.fileno())
            try:
                source.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                beside = self.scratch(key)  # another file system: copy beside the target, then rename
                shutil.copy2(source, beside)
                self.put(beside, key)
                source.unlink()
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def fetch(self, key: str) -> Path:
        path = self.root / key
        if not path.exists():
            raise StorageError(f"{path} does not exist")
        return path

    def exists(self, key: str) -> bool:
        return (self.root / key).exists()

    def keys(self, prefix: str = "") -> list[str]:
        base = self.root / prefix
        if base.is_file():
            return [prefix]
        found = (path for path in base.rglob("*") if path.is_file() and not path.name.startswith(".partial-"))
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def delete(self, prefix: str) -> None:
        path = self.root / prefix
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class S3Storage(Storage):
    """A prefix in an S3 bucket; downloads are cached under `TRUNKLINE_CACHE` (default `~/.cache/trunkline`)."""

    def __init__(self, uri: str):
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigError(f"store {uri!r} names no bucket; expected s3://bucket/prefix")
        self.bucket, self.prefix, self.uri = bucket, prefix.strip("/"), uri.rstrip("/")
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}  # a boto3 client cannot travel

    @property
    def client(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            # a session of its own: the default one keeps the credentials that it saw first
            self._client = boto3.session.Session().client(
                "s3", config=Config(retries={"mode": "adaptive", "max_attempts": 10})
            )
        return self._client

    def read(self, key: str) -> bytes:
        with _s3_errors("read", f"{self.uri}/{key}"):
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
            return body

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        if start == stop:  # HTTP has no empty range
            return b""
        with _s3_errors("read", f"{self.uri}/{key}"):
            answer = self.client.get_object(Bucket=self.bucket, Key=self._full(key), Range=f"bytes={start}-{stop - 1}")
            return _whole_range(answer["Body"].read(), f"{self.uri}/{key}", start, stop)

    def write(self, key: str, data: bytes) -> None:
        with _s3_errors("write", f"{self.uri}/{key}"):
            self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data)

    def scratch(self, key: str) -> Path:
        folder = cache_folder() / "upload"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{uuid.uuid4().hex[:8]}-{Path(key).name}"

    def put(self, source: Path, key: str) -> None:
        with _s3_errors("write", f"{self.uri}/{key}"):
            self.client.upload_file(str(source), self.bucket, self._full(key))
        source.unlink()

    def fetch(self, key: str) -> Path:
        with _s3_errors("read", f"{self.uri}/{key}"):
            head = self.client.head_object(Bucket=self.bucket, Key=self._full(key))
            # the ETag is part of the cached name, so an object that was replaced is downloaded again
            tag = hashlib.sha256(f"{self.uri}/{key}@{head['ETag']}".encode()).hexdigest()[:16]
            path = cache_folder() / "objects" / tag[:2] / f"{tag}-{Path(key).name}"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
                os.close(handle)
                self.client.download_file(self.bucket, self._full(key), partial)
                Path(partial).replace(path)
        return path

    def exists(self, key: str) -> bool:
        with _s3_errors("look for", f"{self.uri}/{key}"):
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._full(key), MaxKeys=1)
            found = [item["Key"] for item in answer.get("Contents", [])]
            return bool(found) and (found[0] == self._full(key) or found[0].startswith(self._full(key) + "/"))

    def keys(self, prefix: str = "") -> list[str]:
        with _s3_errors("list", f"{self.uri}/{prefix}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._full(prefix))
            found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        base = self._full(prefix)
        cut = len(self.prefix) + 1 if self.prefix else 0
        return sorted(key[cut:] for key in found if not base or key == base or key.startswith(base.rstrip("/") + "/"))

    def delete(self, prefix: str) -> None:
        for key in self.keys(prefix):
            with _s3_errors("delete", f"{self.uri}/{key}"):
                self.client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def _full(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)


def open_storage(uri: str) -> Storage:
    """The storage behind a folder path or an `s3://bucket/prefix` URI."""
    if uri.startswith("s3://"):
        return S3Storage(uri)
    if "://" in uri:
        raise ConfigError(f"store {uri!r} is of an unknown kind; expected a folder or s3://bucket/prefix")
    return FolderStorage(uri)


def cache_folder() -> Path:
    """Where downloads are kept between runs: `$TRUNKLINE_CACHE`, else `~/.cache/trunkline`."""
    return Path(os.environ.get("TRUNKLINE_CACHE") or Path.home() / ".cache" / "trunkline")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _whole_range(data: bytes, where: Path | str, start: int, stop: int) -> bytes:
    if len(data) != stop - start:
        raise StorageError(f"{where} ends at byte {start + len(data)}; bytes {start} to {stop} were expected of it")
    return data


@contextlib.contextmanager
def _disk_errors(verb: str, path: Path, leftover: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if leftover is not None:
            leftover.unlink(missing_ok=True)
        advice = (
            "free some space and run the same command again"
            if error.errno == errno.ENOSPC
            else "check the path and its permissions"
        )
        raise StorageError(
            f"cannot {verb} {path}: {error.strerror or error}; nothing was committed: {advice}"
        ) from error


@contextlib.contextmanager
def _s3_errors(verb: str, uri: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise StorageError(
            f"cannot {verb} {uri}: {error}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the bucket's name"
        ) from error
