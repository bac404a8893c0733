"""The cache: within its bound, what is held stays, one of several downloads, and a killed process leaves nothing
behind.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, StorageError
from pipelines.store.cache import Cache, cache_limit
from tests.waits import PATIENCE_SECONDS

FORK = multiprocessing.get_context("fork")


def get(cache: Cache, name: str, size: int = 100) -> Path:
    return cache.get(name, size, lambda path: path.write_bytes(name[:1].encode() * size))


def names(cache: Cache) -> set[str]:
    return {path.name for path in cache.folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 300)
    for name in ("aa", "bb", "cc"):
        assert get(cache, name).read_bytes() == name[:1].encode() * 100
        time.sleep(0.01)
    get(cache, "aa")  # used again: now bb is the oldest
    get(cache, "dd")
    assert names(cache) == {"aa", "cc", "dd"}
    assert cache.used_bytes() == 300


def test_a_held_file_stays_and_too_little_room_is_refused_with_numbers(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 300)
    held = [get(cache, "aa"), get(cache, "bb")]
    get(cache, "cc")
    get(cache, "dd")
    assert names(cache) == {"aa", "bb", "dd"}
    with pytest.raises(
        StorageError, match=r"may hold 300 bytes; 200 are in use .* ee needs 101 more: raise TRUNKLINE_CACHE_BYTES"
    ):
        get(cache, "ee", 101)
    assert [path.read_bytes()[:1] for path in held] == [b"a", b"b"]
    assert type(pickle.loads(pickle.dumps(held[0]))) is type(Path())
    held.clear()
    gc.collect()
    get(cache, "ee", 300)
    assert names(cache) == {"ee"}


def test_another_process_holds_too_until_it_ends(tmp_path: Path) -> None:
    cache, ready = Cache(tmp_path, 200), FORK.Event()

    def hold() -> None:
        path = get(cache, "aa")
        ready.set()
        time.sleep(PATIENCE_SECONDS if path else 0)

    process = FORK.Process(target=hold)
    process.start()
    assert ready.wait(PATIENCE_SECONDS)
    get(cache, "bb")
    get(cache, "cc")
    assert names(cache) == {"aa", "cc"}
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    get(cache, "bb", 200)
    assert names(cache) == {"bb"}


def test_one_of_several_downloads(tmp_path: Path) -> None:
    cache, log = Cache(tmp_path / "cache", 1000), tmp_path / "log"

    def download(path: Path) -> None:
        with log.open("a") as handle:
            handle.write("x")
        time.sleep(0.2)
        path.write_bytes(b"y" * 100)

    def ask() -> None:
        threads = [threading.Thread(target=cache.get, args=("aa", 100, download)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    processes = [FORK.Process(target=ask) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == "x"
    assert names(cache) == {"aa"}


def test_a_killed_download_is_no_object_and_takes_no_room(tmp_path: Path) -> None:
    cache, ready = Cache(tmp_path, 150), FORK.Event()

    def half(path: Path) -> None:
        path.write_bytes(b"half")
        ready.set()
        time.sleep(PATIENCE_SECONDS)

    process = FORK.Process(target=cache.get, args=("aa", 100, half))
    process.start()
    assert ready.wait(PATIENCE_SECONDS)
    assert cache.used_bytes() == 100  # what is on its way counts
    with pytest.raises(StorageError, match="100 are in use"):
        get(cache, "bb")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    get(cache, "bb")
    assert get(cache, "aa").read_bytes() == b"a" * 100
    assert names(cache) == {"aa"}


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("cut")

    cache = Cache(tmp_path, 150)
    with pytest.raises(ValueError, match="cut"):
        cache.get("aa", 100, fail)
    assert names(cache) == set()


def test_many_processes_never_exceed_the_bound(tmp_path: Path) -> None:
    cache, sizes = Cache(tmp_path, 1000), {f"{i:02d}": 60 + 7 * i for i in range(20)}

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            name = rng.choice(list(sizes))
            assert len(get(cache, name, sizes[name]).read_bytes()) == sizes[name]

    processes = [FORK.Process(target=work, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        most = max(most, cache.used_bytes())  # at one moment, downloads on their way included
    assert [process.exitcode for process in processes] == [0] * 4
    assert 500 < most <= 1000
    assert 500 < sum(path.stat().st_size for path in tmp_path.glob("??/[0-9]*")) <= 1000


def test_the_bound_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path))
    for said, size in (("20GB", 20 * 10**9), ("1.5 tb", 15 * 10**11), ("500_000", 500_000)):
        monkeypatch.setenv("TRUNKLINE_CACHE_BYTES", said)
        assert cache_limit() == size
    for said in ("lots", "0", "-5GB"):
        monkeypatch.setenv("TRUNKLINE_CACHE_BYTES", said)
        with pytest.raises(ConfigError, match="expected a number of bytes, e.g. 50GB"):
            cache_limit()
    monkeypatch.delenv("TRUNKLINE_CACHE_BYTES")
    assert 0 < cache_limit() <= 50 * 10**9
