"""A possibly compressed file as its plain bytes: gzip, Zstandard, bzip2, or nothing.

Enters: a stream. Leaves: `Plain`, which ends where damage begins and says so; what precedes the damage is given whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

_SQUEEZED_BYTES = 1 << 16  # read at once, also by Arrow
_DAMAGED = (EOFError, OSError, pa.ArrowException)


class Plain(io.RawIOBase):
    """A possibly compressed stream, decompressed.

    Damage ends it as a file ends: what precedes is given, and `broken` says why.
    """

    def __init__(self, stream: BinaryIO, squeezed: str):
        self.offset, self.broken, self.error = 0, "", ""
        self._squeezed = squeezed
        if squeezed == "gzip":
            self._stream: Any = gzip.GzipFile(fileobj=stream)
        elif squeezed:
            self._stream = io.BufferedReader(_Squeezed(stream, squeezed), _SQUEEZED_BYTES)
        else:
            self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._guarded(self._stream.read1, size)  # what there is: read() would lose it at a cut

    def whole(self) -> bytes:
        """All that is left of it."""
        return b"".join(iter(lambda: self.read(1 << 20), b""))

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """(offset, line) of every line that begins at `start` or later; only an uncompressed stream begins past 0."""
        if start:
            self._stream.seek(start - 1)
            self.offset = (
                start - 1 + len(self._stream.readline())
            )  # the line that another stretch holds, or its end alone
        while line := self._guarded(self._stream.readline):
            yield self.offset - len(line), line

    def _guarded(self, read: Any, *size: int) -> bytes:
        if self.broken:
            return b""
        try:
            data: bytes = read(*size)
        except EOFError as error:
            self.broken, self.error = f"read.truncated_{self._squeezed}", str(error)
            return b""
        except (gzip.BadGzipFile, zlib.error, OSError, pa.ArrowException) as error:
            if not self._squeezed:
                raise
            kind = "truncated" if "runcated" in str(error) else "corrupt"
            self.broken, self.error = f"read.{kind}_{self._squeezed}", str(error)
            return b""
        self.offset += len(data)
        return data


class _Squeezed(io.RawIOBase):
    """What Zstandard or bzip2 data hold, stream behind stream, up to the very byte where damage begins.

    A decompressor that meets damage keeps what it had in its hands, of Zstandard up to a megabyte. So the data are then
    read once more: those already given at once, and the rest byte by byte, until the damage is met again.
    """

    def __init__(self, stream: BinaryIO, squeezed: str):
        self._raw, self._squeezed = stream, squeezed
        self._given = 0
        self._is_slow = False
        self._damage: Exception | None = None
        self._opened: list[Any] = []  # kept, since Arrow closes the file of a stream that is forgotten
        self._open(stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._is_slow:
            try:
                data = self._opened[-1].read(len(buffer))
            except _DAMAGED:
                self._begin_again()
        if self._is_slow:
            data = self._byte_by_byte(len(buffer))
        self._given += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _open(self, stream: Any) -> None:
        arrow = self._squeezed == "zstd"
        self._opened.append(pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd") if arrow else _Bz2(stream))

    def _begin_again(self) -> None:
        """Read once more up to what was given last."""
        last = max(0, self._raw.tell() - _SQUEEZED_BYTES)
        self._raw.seek(0)
        self._open(_Dripping(self._raw, last))
        self._is_slow = True
        left = self._given
        while left and (again := self._opened[-1].read(min(left, _SQUEEZED_BYTES))):
            left -= len(again)

    def _byte_by_byte(self, most: int) -> bytes:
        data = bytearray()
        try:
            while len(data) < most and self._damage is None and (byte := self._opened[-1].read(1)):
                data += byte
        except _DAMAGED as error:
            self._damage = error
        if self._damage is not None and not data:
            raise self._damage
        return bytes(data)


class _Dripping(io.RawIOBase):
    """A stream that gives one byte at a time from `place` on: a decompressor gives all it can before the next."""

    def __init__(self, stream: BinaryIO, place: int):
        self._raw, self._place = stream, place

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._raw.read(size if self._raw.tell() + size <= self._place else min(size, 1))


class _Bz2:
    """A file of bzip2 streams; unlike `bz2.BZ2File` it does not pass over what lies behind them in silence."""

    def __init__(self, stream: BinaryIO):
        self._raw, self._decompressor, self._waiting, self._begun = stream, bz2.BZ2Decompressor(), b"", False

    def read(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:
                self._waiting, self._begun = self._decompressor.unused_data, False
                self._decompressor = bz2.BZ2Decompressor()
            if self._decompressor.needs_input and not self._waiting:
                self._waiting = self._raw.read(_SQUEEZED_BYTES)
                if not self._waiting:
                    if self._begun:
                        raise EOFError("the file ends in the middle of a bzip2 stream")
                    return b""
            given, self._waiting, self._begun = self._waiting, b"", True
            if data := self._decompressor.decompress(given, size):
                return data
