"""A folder as a store: ranges, and what is named when a key is not whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StorageError
from pipelines.store.storage import FolderStorage


def test_a_range_is_read_alone_and_a_short_one_is_refused(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("a/b.bin", b"0123456789")
    assert storage.read_range("a/b.bin", 2, 5) == b"234"
    assert storage.read_range("a/b.bin", 0, 10) == b"0123456789"
    assert storage.read_range("a/b.bin", 4, 4) == b""
    with pytest.raises(StorageError, match=r"b\.bin ends at byte 10; bytes 8 to 12"):
        storage.read_range("a/b.bin", 8, 12)
    with pytest.raises(StorageError, match=r"cannot read .*none\.bin"):
        storage.read_range("none.bin", 0, 1)


def test_folders_are_listed_without_what_is_in_them(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("corpus/a/deep/file.bin", b"x")
    storage.write("sft/b/claim.json", b"{}")
    storage.write("note.txt", b"no folder")
    (tmp_path / "corpus" / ".partial-1234-gone").mkdir()
    assert storage.folders() == ["corpus", "sft"]
    assert storage.folders("corpus") == ["a"]
    assert storage.folders("none") == storage.folders("note.txt") == []
    assert storage.find_all(["sft/b/claim.json", "corpus/a/claim.json"]) == [b"{}", None]


def test_what_killed_writers_left_is_no_key_and_is_swept(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("a/b.bin", b"whole")
    storage.scratch("a/deep/c.bin").write_bytes(b"half")
    half_deleted = tmp_path / "a" / ".partial-1234-gone"
    half_deleted.mkdir()
    (half_deleted / "manifest.json").write_bytes(b"{}")
    assert storage.keys() == ["a/b.bin"]
    storage.sweep("a")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b.bin"]
    storage.delete("a")
    storage.delete("a")
    assert not list(tmp_path.iterdir())


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("a/work/b.bin", b"whole")
    writing = storage.scratch("a/work/b.bin")
    storage.write("a/work.bin", b"stays")

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            storage.delete("a/work")
    other = storage.scratch("a/work")  # a file of that name, which somebody is writing
    other.write_bytes(b"half")
    assert storage.keys("a") == ["a/work.bin"]
    storage.delete("a/work")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted([other.name, "work.bin"])
    assert not writing.exists()


def test_a_deletion_leaves_alone_what_ends_in_the_same_name(tmp_path: Path) -> None:
    """What is left of `b-a` is that deletion's own; and somebody may be writing there."""
    storage = FolderStorage(tmp_path)
    other = storage.scratch("corpus/b-a")
    other.mkdir()
    storage.write("corpus/a/x", b"")
    storage.delete("corpus/a")
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == [other.name]


def test_of_a_link_to_a_folder_the_link_is_deleted(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "store")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x").touch()
    storage.write("a/y", b"")
    (tmp_path / "store/a/work").symlink_to(tmp_path / "elsewhere")
    storage.delete("a/work")
    assert [path.name for path in (tmp_path / "store/a").iterdir()] == ["y"]
    assert (tmp_path / "elsewhere/x").exists()


def test_a_file_where_the_store_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file; expected a folder"):
        FolderStorage(tmp_path / "store").check()
