"""The corpus from files to manifest: planted copies, held-out documents, caps, bad sources, and the same bytes however
it is cut.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.config import parse, plain
from pipelines.data.cleaning import decontaminate
from pipelines.data.corpus import pieces
from pipelines.data.corpus.assemble import build, dropped_examples
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.errors import ConfigError, DataError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from workflows import corpus as corpus_workflow

VOCABULARY = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "was",
    "with",
    "for",
    "river",
    "stone",
    "bridge",
    "council",
    "letter",
    "winter",
    "garden",
    "market",
    "answer",
    "people",
    "water",
    "mountain",
    "story",
    "evening",
    "window",
    "teacher",
    "village",
    "harbour",
    "question",
    "machine",
    "picture",
    "history",
    "morning",
    "engine",
    "island",
    "forest",
    "captain",
    "journey",
]


def article(seed: int, sentences: int = 14) -> str:
    """English-like text that passes the rules and resembles no other seed's."""
    chooser = random.Random(seed)
    return "\n".join(
        " ".join(chooser.choice(VOCABULARY) for _ in range(11)).capitalize() + f" {chooser.randrange(10**6)}."
        for _ in range(sentences)
    )


def near_copy(text: str) -> str:
    """One word of some 170 changed: Jaccard similarity about 0.94."""
    words = text.split(" ")
    return " ".join([*words[:60], "changed", *words[61:]])


def config_of(entries: Mapping[str, Any], /, **recipe: Any) -> CorpusConfig:
    full = {name: {"licence": "MIT", "language": "en", **source} for name, source in entries.items()}
    top = {key: recipe.pop(key) for key in ("sources", "name") if key in recipe}
    return parse(CorpusConfig, {"name": "test", "corpus": {"sources": full, **recipe}, **top})


def make(store: Path, config: CorpusConfig, map_shards: Any = serial_map) -> Artifact:
    draft = ArtifactStore(str(store)).begin("corpus", config.name, identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, map_shards)


def rows(corpus: Artifact, split: str, source: str) -> list[dict[str, Any]]:
    files = corpus.statistics["sources"][source][split]["files"]
    return [row for file in files for row in pq.read_table(corpus.verified(file)).to_pylist()]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes a JSON Lines source, in `files` files, and gives its config."""

    def written(name: str, texts: list[str], files: int = 1, **source: Any) -> dict[str, Any]:
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True, exist_ok=True)
        size = -(-len(texts) // files) if texts else 1
        for i in range(files):
            part = texts[i * size : (i + 1) * size]
            (folder / f"{i:03d}.jsonl").write_text(
                "".join(json.dumps({"text": t, "key": f"{i * size + n}"}) + "\n" for n, t in enumerate(part))
            )
        return {"reader": {"type": "files", "path": f"{folder}/*.jsonl", "id_field": "key"}, **source}

    return written


def planted() -> list[str]:
    """200 articles; 40 near copies and 10 exact copies of the first ones, scattered by a fixed shuffle."""
    texts = [article(i) for i in range(200)]
    texts += [near_copy(texts[i]) for i in range(40)] + texts[40:50]
    random.Random(0).shuffle(texts)
    return texts


def test_planted_copies_are_found_and_counted(tmp_path: Path, write: Any) -> None:
    corpus = make(tmp_path / "store", config_of({"web": write("web", planted(), heldout=0.05)}))
    facts = corpus.statistics["sources"]["web"]
    near = facts["dropped"].get("dedup.near", 0) + facts["dropped"].get("dedup.near_heldout", 0)
    assert (facts["dropped"]["dedup.exact"], near) == (10, 40)
    assert facts["train"]["documents"] + facts["heldout"]["documents"] == 200
    assert corpus.statistics["dedup"]["near_clusters"] == 40
    kept = rows(corpus, "train", "web") + rows(corpus, "heldout", "web")
    assert sum(len(row["text"].encode()) for row in kept) == facts["train"]["bytes"] + facts["heldout"]["bytes"]
    assert [field.name for field in pq.read_schema(corpus.path("train/web/00000.parquet"))] == [
        "id",
        "text",
        "source",
        "language",
        "licence",
        "metadata",
    ]
    assert not any("work" in file for file in corpus.manifest["files"])
    assert not (tmp_path / "store" / corpus.folder / "work").exists()
    assert "dedup.near" in corpus.path("data_card.html").read_text()


@pytest.mark.parametrize("verify", [True, False])
def test_the_same_bytes_for_any_shards_partitions_and_order_of_work(tmp_path: Path, write: Any, verify: bool) -> None:
    def backwards(function: Any, shards: Any, label: str, describe: Any = None) -> Any:
        return [function(shard) for shard in reversed(shards)][::-1]

    found = []
    for files, piece_bytes, task_memory, map_shards in (
        (1, 1 << 20, 1 << 30, serial_map),
        (5, 20_000, 8_000, backwards),
        (5, 60_000, 30_000, serial_map),
    ):
        source = write(f"web{files}", planted(), files, heldout=0.05)
        config = config_of(
            {"web": source},
            piece_bytes=piece_bytes,
            file_bytes=60_000,
            dedup={"verify": verify, "task_memory": task_memory},
        )
        corpus = make(tmp_path / f"store-{piece_bytes}", config, map_shards)
        found.append(
            {
                f: e["sha256"]
                for f, e in corpus.manifest["files"].items()
                if f.startswith(("train", "heldout", "index", "dup"))
            }
        )
    assert len(found[0]) > 3
    assert found[0] == found[1] == found[2]


def test_no_copy_of_a_held_out_document_stays_in_training(tmp_path: Path, write: Any) -> None:
    texts = [article(i) for i in range(120)]
    copies = [near_copy(text) + "\n" + article(900 + i, 1) for i, text in enumerate(texts)]  # longer than the originals
    sources = {"a": write("a", texts, heldout=0.2), "b": write("b", copies, heldout=0)}
    # 4 rows a band: these pairs, of similarity 0.87, all become candidates
    corpus = make(tmp_path / "s", config_of(sources, dedup={"minhash": {"rows": 4}}))
    held = {row["text"][:200] for row in rows(corpus, "heldout", "a")}
    trained = {row["text"][:200] for source in "ab" for row in rows(corpus, "train", source)}
    assert len(held) > 10
    assert not held & trained
    sources = corpus.statistics["sources"]
    assert sources["b"]["dropped"]["dedup.near_heldout"] == len(held)
    assert sources["a"]["dropped"]["dedup.near"] == 120 - len(held)  # elsewhere the longer copy is the survivor
    examples, _ = dropped_examples(corpus, "dedup.near_heldout", 3)
    assert [row["where"].startswith("copy of a/") for row in examples] == [True] * 3


def test_who_keeps_copies_trains_on_no_held_out_text(tmp_path: Path, write: Any) -> None:
    texts = [article(i) for i in range(40)]
    sources = {
        "once": write("once", [*texts, *(text[:-9] for text in texts)], heldout=0.2),
        "keep": write(
            "keep", [*texts, *texts, *(article(i % 40 + 100) for i in range(80))], duplicates="keep", heldout=0.2
        ),
    }
    corpus = make(tmp_path / "s", config_of(sources))
    split = {
        name: [row["text"] for source in sources for row in rows(corpus, name, source)] for name in ("train", "heldout")
    }
    assert len(set(split["heldout"])) > 8
    assert not set(split["train"]) & set(split["heldout"])
    near = {row["text"][:-9] for row in rows(corpus, "heldout", "keep")}
    assert not {row["text"] for row in rows(corpus, "train", "once")} & near  # what went for an equal text stays out
    clusters = pq.read_table(corpus.path("duplicates/clusters.parquet")).to_pylist()
    ids = {row["id"] for name in split for source in sources for row in rows(corpus, name, source)}
    leaders = {row["id"] for row in clusters if row["role"] == "kept"}
    assert leaders
    assert leaders <= ids  # of each cluster one is in the corpus
    kept = [row["text"] for row in rows(corpus, "train", "keep")]
    assert len(kept) == 2 * len(set(kept)) > 40  # its copies


def test_duplicates_policies_and_caps(tmp_path: Path, write: Any) -> None:
    texts = [article(0), near_copy(article(0)), article(1), article(1), *(article(i) for i in range(2, 30))]
    corpus = make(
        tmp_path / "s",
        config_of(
            {
                "exact": write("exact", [f"{t}\nexact" for t in texts], duplicates="exact", heldout=0),
                "keep": write("keep", [f"{t}\nkeep" for t in texts], duplicates="keep", heldout=0),
                "few": write("few", [article(i + 500) for i in range(30)], files=3, heldout=0, max_documents=13),
                "small": write("small", [article(i + 600) for i in range(30)], files=3, heldout=0, max_bytes=5_000),
            },
            piece_bytes=20_000,
        ),
    )
    sources = corpus.statistics["sources"]
    assert sources["exact"]["dropped"] == {"dedup.exact": 1}
    assert sources["keep"]["dropped"] == {}
    assert sources["few"]["train"]["documents"] == 13
    assert [row["id"] for row in rows(corpus, "train", "few")] == [f"few/{i}" for i in range(13)]
    assert 3_500 < sources["small"]["train"]["bytes"] <= 5_000
    assert [sources[name]["capped"] for name in ("keep", "few", "small")] == [False, True, True]


def test_bad_input_is_counted_quarantined_and_browsable(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    good = "".join(json.dumps({"text": article(i)}) + "\n" for i in range(400)).encode()
    (raw / "a.jsonl.gz").write_bytes(gzip.compress(good)[:20_000])
    (raw / "b.jsonl").write_bytes(b'{"title": "no text"}\n{"text": "caf\xe9"}\n{"text": "short"}\n')
    (raw / "c.txt").write_bytes(b"\xff\xff\x00bad")
    (raw / "d.jsonl").write_text(json.dumps({"text": "Это предложение написано на русском языке. " * 20}) + "\n")
    corpus = make(tmp_path / "s", config_of({"web": {"reader": {"type": "files", "path": str(raw)}}}))
    facts = corpus.statistics["sources"]["web"]
    assert facts["dropped"] == {
        "language.other": 1, "quality.too_short": 1, "read.no_text": 1, "read.not_utf8": 2, "read.truncated_gzip": 1,
    }  # fmt: skip
    assert 50 < facts["train"]["documents"] < 400
    examples, counts = dropped_examples(corpus, "read.no_text")
    assert [row["where"] for row in examples] == [f"{raw}/b.jsonl@0"]
    assert counts["read.not_utf8"] == 2


def test_half_a_character_stops_nothing(tmp_path: Path) -> None:
    """JSON can hold a lone surrogate, which no file in UTF-8 can."""
    half = "cut \ud83d"
    records: list[dict[str, Any]] = [
        {"text": article(0), "key": "0", "title": half},
        {"text": article(1), "key": half},
        {"text": article(2), "key": "2", half: 1},
        {"body": half, "key": "3"},
        {"text": half},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    reader = {"type": "files", "path": str(tmp_path / "a.jsonl"), "id_field": "key"}
    corpus = make(tmp_path / "s", config_of({"web": {"heldout": 0, "reader": reader}}))
    found = {row["id"]: json.loads(row["metadata"]) for row in rows(corpus, "train", "web")}
    assert sorted(found) == ["web/0", "web/2", "web/cut ?"]
    assert (found["web/0"]["title"], found["web/2"]["cut ?"]) == ("cut ?", 1)
    dropped = pq.read_table(corpus.path("dropped/web.parquet")).to_pylist()
    assert {row["reason"]: row["text"] for row in dropped} == {
        "read.no_text": '{"body": "cut ?", "key": "3"}', "read.no_id": "cut ?",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "pii", "masked"), [("a.HTML", "auto", True), ("a.HTML", "keep", False), ("a.txt", "auto", False)]
)
def test_pages_in_a_folder_are_masked(tmp_path: Path, name: str, pii: str, masked: bool) -> None:
    (tmp_path / "data").mkdir()
    text = article(1) + "\nWrite to the captain at jane.doe@example.com for the story of the island."
    page = f"<html><body><article><p>{text.replace(chr(10), '</p><p>')}</p></article></body></html>"
    (tmp_path / "data" / name).write_text(page if name.endswith("HTML") else text)
    reader = {"type": "files", "path": str(tmp_path / "data")}
    corpus = make(tmp_path, config_of({"a": {"pii": pii, "heldout": 0, "reader": reader}}))
    (row,) = rows(corpus, "train", "a")
    assert ("jane.doe" in row["text"]) is not masked


def test_samples_of_what_the_reader_drops_are_masked(tmp_path: Path) -> None:
    lines = [json.dumps({"text": article(i)}) for i in range(3)]
    lines += ['{"text": "write to jane@example.org', json.dumps({"body": "or call 13812345678"})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    reader = {"type": "files", "path": str(tmp_path / "a.jsonl")}
    for pii in ("mask", "keep"):
        corpus = make(tmp_path / pii, config_of({"a": {"pii": pii, "reader": reader}}))
        text = "".join(row["text"] for row in pq.read_table(corpus.path("dropped/a.parquet")).to_pylist())
        assert "<email>" in text
        assert "<phone>" in text
        for shown in (text, corpus.path("data_card.html").read_text()):
            assert "jane@example.org" not in shown
            assert "13812345678" not in shown


def test_a_source_that_leaves_nothing_is_named(tmp_path: Path, write: Any) -> None:
    with pytest.raises(DataError, match=r"source empty leaves no document \(read.empty_file 1\)"):
        make(tmp_path / "s", config_of({"web": write("web", [article(0)]), "empty": write("empty", [])}))
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(DataError, match=r"source latin leaves no document \(read.not_utf8 1\)"):
        make(tmp_path / "t", config_of({"latin": {"reader": {"type": "files", "path": str(tmp_path / "latin.txt")}}}))
    assert not list(tmp_path.rglob("manifest.json"))


def test_one_document_is_a_corpus(tmp_path: Path, write: Any) -> None:
    corpus = make(tmp_path / "s", config_of({"web": write("web", [article(0)], heldout=0)}))
    assert len(rows(corpus, "train", "web")) == 1
    empty = {"documents": 0, "bytes": 0, "files": [], "lengths": {}, "languages": {}, "scripts": {}, "masked": {}}
    assert corpus.statistics["sources"]["web"]["heldout"] == empty


def test_ids_must_differ(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": article(i), "key": "same"}) + "\n" for i in range(3)))
    reader = {"type": "files", "path": str(tmp_path / "a.jsonl"), "id_field": "key"}
    with pytest.raises(DataError, match="source web: 2 documents have the id of another"):
        make(tmp_path / "s", config_of({"web": {"reader": reader}}))


def test_conversations_and_preferences_keep_their_turns(tmp_path: Path) -> None:
    chats = {"type": "generated", "generator": "chinese_tutoring", "count": 60}
    pairs = {"type": "generated", "generator": "english_judged", "count": 60}
    corpus = make(
        tmp_path / "s",
        config_of(
            {
                "chats": {"kind": "conversations", "language": "zh", "reader": chats},
                "pairs": {"kind": "preferences", "heldout": 0.1, "reader": pairs},
            }
        ),
    )
    chat, pair = rows(corpus, "train", "chats")[0], rows(corpus, "train", "pairs")[0]
    assert [turn["role"] for turn in chat["messages"]] == ["user", "assistant"]
    assert list(pair) == ["id", "prompt", "chosen", "rejected", "source", "language", "licence", "metadata"]
    assert json.loads(pair["metadata"])["task"]
    assert len(rows(corpus, "heldout", "pairs")) >= 4


def test_no_held_out_question_is_trained_on(tmp_path: Path) -> None:
    """Forty questions, each with three different pairs of answers, and once in a conversation."""
    pairs = [
        {"prompt": f"What is {q} + 1?", "chosen": f"{q + 1}", "rejected": f"{q - n}"}
        for q in range(40)
        for n in range(3)
    ]
    chats = [
        {"messages": [{"role": "user", "content": f"What is {q} + 1?"}, {"role": "assistant", "content": "?"}]}
        for q in range(40)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    (tmp_path / "chats.json").write_text(json.dumps(chats))
    reader = {"type": "files", "path": str(tmp_path / "pairs.json"), "record": "preference"}
    talk = {"type": "files", "path": str(tmp_path / "chats.json"), "record": "messages"}
    sources = {
        "pairs": {"kind": "preferences", "heldout": 0.1, "reader": reader},
        "chats": {"kind": "conversations", "heldout": 0, "reader": talk},
    }
    corpus = make(tmp_path / "s", config_of(sources))
    held = {row["prompt"][0]["content"] for row in rows(corpus, "heldout", "pairs")}
    trained = {row["prompt"][0]["content"] for row in rows(corpus, "train", "pairs")}
    trained |= {row["messages"][0]["content"] for row in rows(corpus, "train", "chats")}
    assert len(held) >= 4
    assert held | trained == {pair["prompt"] for pair in pairs}
    assert not held & trained
    dropped = {name: facts["dropped"]["dedup.heldout_question"] for name, facts in corpus.statistics["sources"].items()}
    assert dropped["chats"] == len(held)
    assert dropped["pairs"] == 3 * len(held) - len(rows(corpus, "heldout", "pairs"))


def test_what_lies_beyond_a_cap_takes_part_in_nothing(tmp_path: Path, write: Any) -> None:
    capped = [*(article(i) for i in range(5)), near_copy(article(0)), near_copy(article(50))]
    sources = {
        "capped": write("capped", capped, files=2, heldout=0, max_documents=5),
        "after": write("after", [article(i) for i in range(50, 60)], heldout=0),
    }
    corpus = make(tmp_path / "s", config_of(sources, dedup={"verify": False}, piece_bytes=20_000))
    assert [facts["dropped"] for facts in corpus.statistics["sources"].values()] == [{}, {}]


def test_copies_are_found_behind_a_source_whose_last_pieces_lie_beyond_its_cap(tmp_path: Path, write: Any) -> None:
    sources = {
        "capped": write("capped", [article(i) for i in range(100, 140)], files=8, heldout=0, max_documents=5),
        "after": write("after", [article(i % 10) for i in range(20)], heldout=0),
    }
    corpus = make(tmp_path / "s", config_of(sources, piece_bytes=10_000))
    assert corpus.statistics["sources"]["after"]["dropped"] == {"dedup.exact": 10}


def test_a_rerun_goes_on_from_what_is_committed(tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of({"web": write("web", planted(), files=5, heldout=0.05)}, piece_bytes=20_000)

    def dies(function: Any, shards: Any, label: str, describe: Any = None) -> Any:
        results = []
        for shard in shards:
            if label == "write" and results:
                raise KeyboardInterrupt
            results.append(function(shard))
        return results

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", config, dies)
    store = ArtifactStore(str(tmp_path / "s"))
    assert store.find("corpus/test") is None
    with monkeypatch.context() as forbidden:
        forbidden.setattr(
            "pipelines.data.corpus.pieces.read_piece", lambda *_: pytest.fail("a committed piece was read again")
        )
        again = make(tmp_path / "s", config)
    fresh = make(tmp_path / "fresh", config)
    assert again.manifest["files"] == fresh.manifest["files"]
    assert again.statistics == fresh.statistics


def test_an_interrupted_run_goes_on_with_other_memory_and_pieces(tmp_path: Path, write: Any) -> None:
    source = write("web", planted(), files=5, heldout=0.05)

    def config(piece_bytes: int, task_memory: int) -> CorpusConfig:
        return config_of({"web": source}, piece_bytes=piece_bytes, dedup={"task_memory": task_memory})

    def until(stop: str) -> Any:
        def mapped(function: Any, shards: Any, label: str, describe: Any = None) -> Any:
            if label == stop:
                raise KeyboardInterrupt
            return [function(shard) for shard in shards]

        return mapped

    for stop, piece_bytes, task_memory in (
        ("compare: gather", 20_000, 30_000),
        ("compare: decide", 20_000, 25_000),
        ("settle", 60_000, 40_000),
    ):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "s", config(piece_bytes, task_memory), until(stop))
    again = make(tmp_path / "s", config(20_000, 12_000))
    fresh = make(tmp_path / "fresh", config(1 << 20, 1 << 30))
    data = [
        {
            f: e["sha256"]
            for f, e in made.manifest["files"].items()
            if f.startswith(("train", "heldout", "index", "dup"))
        }
        for made in (again, fresh)
    ]
    assert data[0] == data[1]


GENERATED = {"reader": {"type": "generated", "generator": "english_problems", "count": 10}}


@pytest.mark.parametrize(
    ("sources", "recipe", "message"),
    [
        ({}, {}, "corpus.sources is empty"),
        ({"Web Text": GENERATED}, {}, "a source is named by"),
        ({"a": {"reader": {"type": "ftp"}}}, {}, "reader.type is 'ftp' .*expected one of files, package"),
        (
            {"a": {"reader": {"type": "files"}}},
            {},
            "corpus.sources.a.reader.path is missing; a reader of type files needs path",
        ),
        (
            {"a": {"reader": {"type": "files", "path": "x", "record": "instruction"}}},
            {},
            "record is 'instruction'; accepted .*: text, chapters",
        ),
        (
            {"a": {"reader": {"type": "generated", "generator": "poems", "count": 1}}},
            {},
            "accepted .*: english_problems",
        ),
        ({"a": {"reader": {**GENERATED["reader"], "tasks": ["sudoku"]}}}, {}, "tasks is 'sudoku'; accepted"),
        (
            {"a": {"reader": {"type": "package", "package": "p", "version": "1", "sha256": "x", "path": "*"}}},
            {},
            "expected 64 hexadecimal digits",
        ),
        *(
            (
                {
                    "a": {
                        "reader": {
                            "type": "package",
                            "package": name,
                            "version": version,
                            "sha256": "0" * 64,
                            "path": "*",
                            "archive": archive,
                        }
                    }
                },
                {},
                f"reader.{key} is .*; expected the {key} of the {archive} as its index has it",
            )
            for name, version, archive, key in (
                ("--pre", "1", "wheel", "package"),
                ("p @ https://x/p.whl", "1", "sdist", "package"),
                ("./p", "1", "npm", "package"),
                ("git+ssh://x", "1", "npm", "package"),
                ("p", "1 --pre", "wheel", "version"),
                ("p", "1\n-e .", "sdist", "version"),
            )
        ),
        ({"a": {**GENERATED, "heldout": 1.0}}, {}, "heldout is 1.0; expected a share"),
        ({"a": {**GENERATED, "max_documents": 0}}, {}, "max_documents is 0; expected a whole number of at least 1"),
        ({"a": {**GENERATED, "licence": " "}}, {}, "licence is empty"),
        *(
            (
                {"a": {**GENERATED, "language": came}},
                {},
                rf"a.language is '{came}'; expected an ISO 639 code .*{meant}$",
            )
            for came, meant in (
                ("german", r"did you mean de\?"),
                ("Englisch", r"did you mean en\?"),
                ("EN", r"did you mean en\?"),
                ("zh-Hant", r"did you mean zh\?"),
                ("tlhIngan", "each document's own"),
            )
        ),
        ({"a": {**GENERATED, "licence": "GPL-2.0"}}, {"sources": "permissive"}, "sources=permissive leaves none of a"),
        ({"a": GENERATED}, {"dedup": {"threshold": 1.5}}, "threshold is 1.5; expected a number above 0 and at most 1"),
        ({"a": GENERATED}, {"dedup": {"minhash": {"bands": 0}}}, "bands is 0; expected a whole number of at least 1"),
        ({"a": GENERATED}, {"dedup": {"thresold": 0.5}}, "did you mean corpus.dedup.threshold"),
    ],
)
def test_recipes_that_cannot_work_are_refused(sources: Any, recipe: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(sources, **recipe)


@pytest.mark.parametrize(
    ("licence", "permissive"),
    [
        ("MIT", True),
        ("MIT AND public-domain (speeches)", True),
        ("GPL-2.0 OR Apache-2.0", True),
        ("MIT AND CC-BY-NC-4.0", False),
        ("unclear-upstream (packaged as Apache-2.0)", False),
        ("", False),
    ],
)
def test_permissive(licence: str, permissive: bool) -> None:
    config = config_of({"a": {**GENERATED, "licence": licence or "?"}})
    assert config.corpus.sources["a"].permissive is permissive


@pytest.mark.parametrize("name", ["demo", "own_data"])
def test_shipped_recipes_state_the_defaults_of_the_code(name: str) -> None:
    """The YAML lists every threshold so that each can be changed on the command line; its numbers are the
    dataclasses'.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base=None):
        composed = compose("corpus", [f"corpus={name}", "corpus.dedup.minhash.bands=9"])
    values: Any = OmegaConf.to_container(composed, resolve=True)
    config = parse(CorpusConfig, values)
    assert config.corpus.dedup.minhash.bands == 9
    values["corpus"]["dedup"]["minhash"]["bands"] = 14
    listed = parse(CorpusConfig, values)
    bare = parse(CorpusConfig, {**values, "corpus": {"sources": values["corpus"]["sources"]}})
    assert plain(listed.corpus.quality) == plain(bare.corpus.quality) == values["corpus"]["quality"]
    assert plain(listed.corpus.dedup) == plain(bare.corpus.dedup) == values["corpus"]["dedup"]
    assert plain(listed.corpus.language) == plain(bare.corpus.language) == values["corpus"]["language"]


def test_text_of_evaluation_sets_is_dropped_and_reported(tmp_path: Path, write: Any) -> None:
    exam, texts = tmp_path / "exam.jsonl", [article(i) for i in range(40)]
    question = " ".join(VOCABULARY[:20])
    exam.write_text(json.dumps({"question": question, "key": "q1"}) + "\n")
    texts[7] += f"\nThe {question}."
    texts[9] += f"\n{question.upper()}"
    reader = {"type": "files", "path": str(exam), "id_field": "key"}
    config = config_of(
        {"web": write("web", texts, 2)}, decontaminate={"sets": {"exam": {"fields": ["question"], "reader": reader}}}
    )
    corpus = make(tmp_path / "store", config)
    assert corpus.statistics["sources"]["web"]["dropped"] == {"contaminated.exam": 2}
    assert corpus.statistics["contamination"] == {"exam": {"documents": 2, "items": 1}}
    assert pq.read_table(corpus.path("contamination.parquet")).to_pylist() == [
        {"set": "exam", "item": "q1", "source": "web", "id": "web/7", "text": question},
        {"set": "exam", "item": "q1", "source": "web", "id": "web/9", "text": question.upper()},
    ]
    examples, _ = dropped_examples(corpus, "contaminated.exam")
    assert [(row["where"], row["text"]) for row in examples] == [("web/7", question), ("web/9", question.upper())]


def test_overlaps_shown_do_not_depend_on_the_cut(tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "HITS", 3)
    monkeypatch.setattr(pieces, "HITS", 3)
    question = " ".join(VOCABULARY[:20])
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": question}) + "\n")
    sets = {"exam": {"reader": {"type": "files", "path": str(tmp_path / "exam.jsonl")}}}
    texts = [article(i) + (f"\n{question}" if i % 2 else "") for i in range(40)]
    sources = {"a": write("a", texts), "b": write("b", [text + " More." for text in texts])}
    shown = []
    for piece_bytes in (10_000, 1 << 20):
        config = config_of(sources, piece_bytes=piece_bytes, decontaminate={"sets": sets})
        corpus = make(tmp_path / f"{piece_bytes}", config)
        assert corpus.statistics["contamination"]["exam"]["documents"] == 40
        shown.append([row["id"] for row in pq.read_table(corpus.path("contamination.parquet")).to_pylist()])
    assert shown == [["a/1", "a/3", "a/5", "b/1", "b/3", "b/5"]] * 2


def test_the_plan_names_the_files_that_are_passed_over(tmp_path: Path) -> None:
    for folder in ("data", "exam", "spam"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text('{"text": "x"}\n')
        (tmp_path / folder / "README.md").write_text("a card")
    reader = {folder: {"type": "files", "path": str(tmp_path / folder)} for folder in ("data", "exam", "spam")}
    config = parse(
        CorpusConfig,
        {
            "name": "x",
            "corpus": {
                "sources": {"data": {"licence": "MIT", "reader": reader["data"]}},
                "decontaminate": {"sets": {"exam": {"reader": reader["exam"]}}},
                "quality": {
                    "model": {
                        "good": ["data"],
                        "bad": ["spam"],
                        "examples": {"spam": {"licence": "MIT", "reader": reader["spam"]}},
                    }
                },
            },
        },
    )
    listed = corpus_workflow._listed(config)
    plan = corpus_workflow._announcement(config, listed)
    for name in ("data", "spam", "set exam"):
        assert plan[f"{name} passes over"] == "1 file: README.md (about the data)"


def test_a_folder_of_mixed_kinds_is_told_and_front_matter_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "my notes"
    folder.mkdir()
    for i in range(8):
        front = f"---\ntitle: Note {i}\ndate: 2026-01-0{i + 1}\ntags: [a, b]\n---\n"
        (folder / f"{i} é.md").write_text(front + article(i), encoding="utf-8")
    (folder / "broken.md").write_text(f"---\ntitle: a: b\n---\n{article(8)}", encoding="utf-8")
    (folder / "plain.txt").write_text(article(9), encoding="utf-8")
    (folder / "report.docx").write_bytes(b"PK")
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (folder / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    config = config_of({"notes": {"reader": {"type": "files", "path": str(folder)}}})
    listed = corpus_workflow._listed(config)
    plan = corpus_workflow._announcement(config, listed)
    assert plan["notes reads"].startswith("11 files, ")
    assert plan["notes reads"].endswith(f", below {folder}: 9 Markdown, 1 JSON Lines, 1 text")
    assert plan["notes passes over"].startswith("1 file: report.docx (not read: make Markdown of it")
    assert plan["notes also holds"].startswith("chats.jsonl holds conversations")
    draft = ArtifactStore(str(tmp_path / "s")).begin("corpus", config.name, identity(config))
    assert isinstance(draft, Draft)
    corpus = build(config, draft, serial_map, taken={"notes": listed["notes"].by_format()})
    facts = corpus.statistics["sources"]["notes"]
    assert facts["dropped"] == {"records.is_conversation": 1}
    assert facts["unreadable"] == {"front matter": 1}
    assert corpus_workflow._unreadable(corpus.statistics["sources"]) == [
        "notes: what stands beside a text could not be read, and the text was kept: front matter (of 1)"
    ]
    kept = {row["id"]: row for split in ("train", "heldout") for row in rows(corpus, split, "notes")}
    assert len(kept) == 10
    assert "title" not in "".join(row["text"] for row in kept.values())
    assert json.loads(kept["notes/3 é.md"]["metadata"]) == {
        "title": "Note 3",
        "date": "2026-01-04",
        "tags": ["a", "b"],
    }
    assert json.loads(kept["notes/broken.md"]["metadata"]) == {"unreadable": "front matter"}
    page = corpus.path("data_card.html").read_text()
    assert "Files that were read" in page
    assert "<td>Markdown</td>" in page
