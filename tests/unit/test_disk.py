"""What a full, read-only or barred disk does to each library's writer is told as a StorageError that names it."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipelines.errors import ConfigError, StorageError
from pipelines.store import disk
from pipelines.store.disk import disk_error, naming_disk_errors, writes_in

BIG = np.random.default_rng(0).integers(0, 2**62, 500_000)


def write_npy(path: Path) -> None:
    with path.open("wb") as handle:
        np.save(handle, BIG)


def write_rows(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as link:
        link.execute("create table a (b)")
        link.executemany("insert into a values (?)", [("x" * 1000,)] * 3000)
        link.commit()


def write_gzip(path: Path) -> None:
    with gzip.open(path, "wb", 0) as handle:
        handle.write(BIG.tobytes())


def write_safetensors(path: Path) -> None:
    save_file({"x": torch.from_numpy(BIG)}, path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "numpy": write_npy,
    "numpy bare": lambda path: BIG.tofile(path),
    "pyarrow": lambda path: pq.write_table(pa.table({"x": BIG}), path),
    "json": lambda path: path.write_text("x" * 5_000_000, encoding="utf-8"),
    "sqlite": write_rows,
    "shutil": lambda path: shutil.copytree(Path(torch.__file__).parent / "utils", path),
    "gzip": write_gzip,
    "safetensors": write_safetensors,
    "torch": lambda path: torch.save(torch.from_numpy(BIG), path),
}


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_written", {})
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path_factory.mktemp("small")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_whatever_library_wrote(small: Path, writer: str) -> None:
    for left in small.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    (small / "filling").write_bytes(bytes(500_000))
    writes_in(small)
    with pytest.raises(Exception) as failed:  # noqa: PT011 - whatever the library raises
        WRITERS[writer](small / "written")
    said = str(disk_error(failed.value))
    assert said.startswith(f"cannot write to {small}"), said
    assert "of 1.05 MB free): No space left on device" in said
    assert "free some space there" in said
    assert "give a store= on a larger disk" in said


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError("500000 requested and 131056 written"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        Exception("I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_way_of_saying_it_is_known_also_as_a_cause(tmp_path: Path, error: Exception) -> None:
    writes_in(tmp_path)
    assert isinstance(disk_error(error), StorageError)
    outer = RuntimeError("a task failed")
    outer.__cause__ = error
    assert isinstance(disk_error(outer), StorageError)
    wrapped = RuntimeError("Ray's wrapping")
    wrapped.cause = error  # type: ignore[attr-defined]
    assert isinstance(disk_error(wrapped), StorageError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO])
def test_a_barred_disk_is_named(tmp_path: Path, number: int) -> None:
    told = disk_error(OSError(number, os.strerror(number), str(tmp_path / "x" / "y")))
    assert f"cannot use {tmp_path}/x/y: {os.strerror(number)}" in str(told)
    assert "permissions" in str(told)


def test_what_no_disk_caused_stays_what_it_is() -> None:
    assert disk_error(ValueError("a mistake of ours")) is None
    assert disk_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")) is None
    assert disk_error(OSError(errno.EACCES, "a port below 1024")) is None
    wrong = ConfigError("name is empty")
    wrong.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert disk_error(wrong) is None


def test_the_way_out_is_that_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_SPARE_BYTES", 1 << 62)
    monkeypatch.setattr(disk, "temporary_folder", lambda: tmp_path / "temporary")
    for name, advice in {"cache": "TRUNKLINE_CACHE=", "temporary": "TMPDIR="}.items():
        (tmp_path / name).mkdir()
        told = disk_error(OSError(errno.ENOSPC, "", str(tmp_path / name / "file")))
        assert f"cannot write to {tmp_path}/{name} (" in str(told)
        assert f"set {advice}/larger/disk" in str(told)
    (tmp_path / "store").mkdir()
    writes_in(tmp_path / "store")
    assert "give a store= on a larger disk" in str(
        disk_error(OSError(errno.ENOSPC, "", str(tmp_path / "store/corpus/a")))
    )


def test_a_shard_that_meets_a_full_disk_says_so_and_other_mistakes_stay_theirs() -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def wrong(_: int) -> None:
        raise KeyError("x")

    with pytest.raises(StorageError, match="No space left on device"):
        naming_disk_errors(full)(1)
    with pytest.raises(KeyError):
        naming_disk_errors(wrong)(1)
