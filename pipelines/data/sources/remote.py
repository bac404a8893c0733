"""A remote input file as a stream that can seek: some megabytes at a time, each compared, every failure named.

Enters: a path that fsspec opens. Leaves: its bytes, or a StorageError. Never an OSError: the readers take that for
damage in the file itself and drop what follows, and a lost server must not cost documents.

fsspec's file systems retry refusals and cut bodies. A byte that changes on its way is another matter: no server keeps
checksums of ranges. TLS guards them; from an endpoint without TLS each range is read until two readings agree.
"""

from __future__ import annotations

import functools
import io
import os
from typing import Any

import fsspec  # type: ignore[import-untyped]

from pipelines.errors import StorageError

_READINGS = 6


class RemoteFile(io.RawIOBase):
    """Args: path, e.g. `s3://bucket/key`; ahead_bytes, how much one request reads, so also what is held in memory.

    Raises: StorageError when the file is not there, or cannot be read, or does not arrive twice as the same.
    """

    def __init__(self, path: str, ahead_bytes: int):
        self.path, self._ahead = path, ahead_bytes
        self._position, self._begin, self._held = 0, 0, b""
        try:
            reached_by = tuple(item for item in os.environ.items() if item[0].startswith("AWS_"))
            self._files = _file_system(path.split("://")[0], reached_by)
            self._root = self._files._strip_protocol(path)
            self._size = int(self._files.info(self._root)["size"])
            self._guarded = not _endpoint(self._files, path).startswith("http://")
        except Exception as error:  # every file system behind fsspec raises its own kind
            raise self._lost(error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not self._begin <= self._position < self._begin + len(self._held):
            self._begin, self._held = self._position, self._range(self._position, self._position + self._ahead)
        start = self._position - self._begin
        piece = self._held[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _range(self, start: int, stop: int) -> bytes:
        stop = min(stop, self._size)
        if start >= stop:
            return b""
        before = None
        for _ in range(_READINGS):
            try:
                data: bytes = self._files.cat_file(self._root, start=start, end=stop)
            except Exception as error:
                raise self._lost(error) from error
            if len(data) == stop - start and (self._guarded or data == before):
                return data
            before = data
        raise self._lost(f"bytes {start} to {stop} came differently {_READINGS} times")

    def _lost(self, error: Exception | str) -> StorageError:
        reason = str(error) or type(error).__name__
        return StorageError(
            f"cannot read {self.path}: {reason}; finished pieces are kept: check the path, the network and, for s3://, "
            "the AWS_* environment, then run the same command again"
        )


@functools.lru_cache(maxsize=8)
def _file_system(scheme: str, reached_by: tuple[tuple[str, str], ...]) -> Any:
    """One client per environment: making one takes as long as reading a small file; fsspec's cache ignores it."""
    return fsspec.filesystem(scheme, skip_instance_cache=True)


def _endpoint(files: Any, path: str) -> str:
    """Where requests go, e.g. `http://127.0.0.1:9000`; an S3 client knows after it has read its environment."""
    client = getattr(files, "s3", None)
    return str(client.meta.endpoint_url) if client is not None else path
