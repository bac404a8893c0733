"""One command at a time on one name: refused while the holder lives, taken over once it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import ArtifactError
from pipelines.store.lease import Lease
from pipelines.store.storage import FolderStorage

HOLD = """
import sys, time
from pipelines.store.lease import Lease
from pipelines.store.storage import FolderStorage
Lease(FolderStorage(sys.argv[1]), "corpus/a")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds corpus/a."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def elsewhere(storage: FolderStorage) -> None:
    """Make the lease look like one of another machine."""
    path = storage.root / ".leases/corpus/a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another", "host": "far"}))


def test_a_living_holder_is_named_and_a_killed_one_does_not_keep_anybody_waiting(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    storage = FolderStorage(tmp_path)
    with pytest.raises(ArtifactError, match=rf"corpus/a .* by another command: process {holder.pid} on .*, since 20"):
        Lease(storage, "corpus/a")
    Lease(storage, "corpus/b").release()  # another name is free
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until the end
    lease = Lease(storage, "corpus/a")
    lease.release()
    assert storage.keys() == []


def test_a_name_is_free_again_after_its_release(tmp_path: Path) -> None:
    for _ in range(2):
        Lease(FolderStorage(tmp_path), "corpus/a").release()


def test_a_silent_holder_elsewhere_is_taken_over_and_a_beating_one_is_not(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    silent = Lease(storage, "corpus/a", beat_seconds=60)
    elsewhere(storage)
    taken = Lease(storage, "corpus/a", beat_seconds=0.05, silent_seconds=0.2)
    silent.release()  # wakes up too late: it is no longer its own
    assert storage.keys() == [".leases/corpus/a.json"]
    taken._lease["machine"] = "another"  # its beats write it
    with pytest.raises(ArtifactError, match="is being made by another command"):
        Lease(storage, "corpus/a", beat_seconds=0.05, silent_seconds=30)
    taken.release()


def test_of_several_at_once_one_creates(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    assert [storage.create("a/key", data) for data in (b"1", b"2")] == [True, False]
    assert storage.read("a/key") == b"1"


def test_a_damaged_lease_is_refused_by_name(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write(".leases/corpus/a.json", b'{"host": "x", "pi')
    with pytest.raises(ArtifactError, match=r"\.leases/corpus/a\.json is damaged, .* when none does, delete it"):
        Lease(storage, "corpus/a")
