"""A new corpus is compared with finished ones by their keys: nothing of theirs comes in again, and they are not made
again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup.census import refuse_other_keys
from pipelines.errors import ArtifactError, ConfigError
from pipelines.identity import identity
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from tests.unit.test_corpus import article, config_of, near_copy, rows, write

__all__ = ["write"]  # the fixture


def make(store: Path, config: CorpusConfig, *known: Any) -> Any:
    draft = ArtifactStore(str(store)).begin("corpus", config.name, identity(config), known)
    assert isinstance(draft, Draft)
    return build(config, draft, serial_map, known)


@pytest.mark.parametrize("task_memory", [1 << 30, 20_000])
def test_copies_of_a_finished_corpus_stay_out(tmp_path: Path, write: Any, task_memory: int) -> None:
    old = [article(i) for i in range(60)]
    # longer than what they copy, so that only being known decides; the first 20 copy exactly, the next 20 nearly
    new = [*old[:20], *(near_copy(text) + " More." for text in old[20:40]), *(article(i) for i in range(100, 130))]
    first = make(tmp_path, config_of({"old": write("old", old, heldout=0.1)}, name="first", file_bytes=20_000))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus/first").rglob("*") if path.is_file()}
    dedup = {"minhash": {"rows": 4}}
    other = config_of({"a": write("a", new)}, name="second", dedup=dedup)
    with pytest.raises(ConfigError, match="rows=8 there, 4 here"):
        refuse_other_keys(other.name, other.corpus.dedup.minhash, [first])
    config = config_of({"new": write("new", new, heldout=0.1)}, name="second", dedup={"task_memory": task_memory})
    second = make(tmp_path, config, first)
    facts = second.statistics["sources"]["new"]
    assert facts["dropped"] == {"dedup.known_exact": 20, "dedup.known_near": 20}
    kept = {row["text"] for split in ("train", "heldout") for row in rows(second, split, "new")}
    assert kept == set(new[40:])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    clusters = pq.read_table(second.path("duplicates/clusters.parquet")).to_pylist()
    assert [row["role"] for row in clusters[::2]] == ["known"] * 40
    assert sorted(row["role"] for row in clusters[1::2]) == ["known_exact"] * 20 + ["known_near"] * 20
    assert {row["source"] for row in clusters} == {"old", "new"}
    assert all(0.7 <= row["similarity"] <= 1 for row in clusters)


def test_a_third_corpus_knows_both(tmp_path: Path, write: Any) -> None:
    sets = [[article(i) for i in range(start, start + 20)] for start in (0, 20, 40)]
    first = make(tmp_path, config_of({"a": write("a", sets[0])}, name="first"))
    second = make(tmp_path, config_of({"b": write("b", sets[0][:5] + sets[1])}, name="second"), first)
    third = config_of({"c": write("c", sets[0][3:6] + sets[1][3:6] + sets[2])}, name="third")
    assert second.statistics["sources"]["b"]["dropped"] == {"dedup.known_exact": 5}
    made = make(tmp_path, third, first, second)
    assert made.statistics["sources"]["c"]["dropped"] == {"dedup.known_exact": 6}
    assert made.statistics["dedup"]["known"] == ["corpus/first", "corpus/second"]


def test_a_corpus_cannot_know_itself(tmp_path: Path, write: Any) -> None:
    config = config_of({"a": write("a", [article(i) for i in range(20)])}, name="first")
    with pytest.raises(ConfigError, match="which is the corpus to be made"):
        refuse_other_keys(config.name, config.corpus.dedup.minhash, [make(tmp_path, config)])


def test_copies_of_a_known_source_that_keeps_its_copies_stay_out(tmp_path: Path, write: Any) -> None:
    old = [article(i) for i in range(20)]
    keeps = write("old", [*old, *old], duplicates="keep", heldout=0)
    first = make(tmp_path, config_of({"old": keeps}, name="first"))
    second = make(tmp_path, config_of({"new": write("new", [*old, article(50)], heldout=0)}, name="second"), first)
    assert second.statistics["sources"]["new"]["dropped"] == {"dedup.known_exact": 20}
    assert [row["text"] for row in rows(second, "train", "new")] == [article(50)]


@pytest.mark.parametrize("verify", [True, False])
def test_an_id_says_nothing_about_another_corpus(tmp_path: Path, write: Any, verify: bool) -> None:
    recipe: dict[str, Any] = {"dedup": {"verify": verify}}
    config = config_of({"web": write("web", [article(i) for i in range(20)], heldout=0)}, name="first", **recipe)
    first = make(tmp_path, config)
    others = write("web", [article(100 + i) for i in range(19)] + [article(0)], heldout=0)  # under the same ids
    second = make(tmp_path, config_of({"web": others}, name="second", **recipe), first)
    facts = second.statistics["sources"]["web"]
    assert facts["dropped"] == {"dedup.known_exact": 1}
    assert facts["train"]["documents"] == 19


def test_a_question_that_a_finished_corpus_trains_on_is_not_held_out(tmp_path: Path) -> None:
    def chats(name: str, heldout: float, start: int) -> dict[str, Any]:
        turns = [(f"What is {q} + 1?", f"{name} says {q + 1}") for q in range(start, start + 40)]
        talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in turns]
        (tmp_path / f"{name}.json").write_text(json.dumps([{"messages": talk} for talk in talks]))
        reader = {"type": "files", "path": str(tmp_path / f"{name}.json"), "record": "messages"}
        return {name: {"kind": "conversations", "heldout": heldout, "reader": reader}}

    def asked(corpus: Any, split: str, name: str) -> set[str]:
        return {row["messages"][0]["content"] for row in rows(corpus, split, name)}

    first = make(tmp_path, config_of(chats("a", 0, 0), name="first"))
    second = make(tmp_path, config_of(chats("b", 0.4, 20), name="second"), first)
    held, trained = asked(second, "heldout", "b"), asked(second, "train", "b")
    assert held
    assert not held & asked(first, "train", "a")
    dropped = second.statistics["sources"]["b"]["dropped"]
    assert list(dropped) == ["dedup.known_near"]
    assert len(held) + len(trained) + dropped["dedup.known_near"] == 40


def test_a_damaged_file_of_a_known_corpus_is_refused_by_name(tmp_path: Path, write: Any) -> None:
    old = [article(i) for i in range(20)]
    first = make(tmp_path, config_of({"old": write("old", old)}, name="first"))
    config = config_of({"new": write("new", [*old[:10], article(50)], heldout=0)}, name="second")
    for pattern in ("index/facts/train/**/*.npy", "index/keys/train/**/*.bin", "train/**/*.parquet"):
        (path,) = (tmp_path / "corpus/first").glob(pattern)
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(ArtifactError, match=rf"{path.name} does not match its checksum"):
            make(tmp_path, config, first)
        path.write_bytes(whole)
    assert make(tmp_path, config, first).statistics["sources"]["new"]["train"]["documents"] == 1
