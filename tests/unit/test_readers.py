"""Readers: every format, and what bad bytes cost: their own document, under a name of its own."""

import bz2
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.corpus import ReaderConfig, SourceConfig
from pipelines.data.document import Document, Dropped
from pipelines.data.formats import parse_file
from pipelines.data.readers import plan_pieces, read_piece
from pipelines.errors import DataError


def source(path: Path | str | list[str], **changes: Any) -> SourceConfig:
    kind = changes.pop("kind", "documents")
    reader = ReaderConfig(type="files", path=path if isinstance(path, list) else str(path), **changes)
    return SourceConfig(kind=kind, licence="MIT", reader=reader)


def read(config: SourceConfig, piece_bytes: int = 1 << 20) -> tuple[list[Document], list[Dropped]]:
    items = [item for piece in plan_pieces("mine", config, piece_bytes) for item in read_piece(piece, config)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Dropped)]


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text, "url": "u"}, ensure_ascii=False).encode() + b"\n" for text in texts)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", lines("one", "两")),
        ("a.jsonl.gz", gzip.compress(lines("one", "两"))),
        ("a.jsonl.bz2", bz2.compress(lines("one", "两"))),
        ("a.jsonl.zst", pa.compress(lines("one", "两"), codec="zstd", asbytes=True)),
        ("a.json", json.dumps([{"text": "one", "url": "u"}, {"text": "两", "url": "u"}]).encode()),
    ],
)
def test_json_formats(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    documents, dropped = read(source(tmp_path / name))
    assert [d.text for d in documents] == ["one", "两"]
    assert all(d.metadata["url"] == "u" and d.metadata["source"] == "mine" for d in documents)
    assert not dropped


def test_parquet_with_its_own_ids(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x", None, "z"], "key": ["k1", "k2", "k3"]}), tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet", text_field="content", id_field="key"))
    assert [(d.id, d.text) for d in documents] == [("mine/k1", "x"), ("mine/k3", "z")]
    assert [(d.reason, d.where) for d in dropped] == [("read.no_text", f"{tmp_path}/a.parquet:1")]


def test_ids_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    ids = []
    for place in ("here", "there/deeper"):
        folder = tmp_path / place / "set"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "b.txt").write_text("b")
        (folder / "a.txt").write_text("a")
        ids.append([d.id for d in read(source(folder))[0]])
        assert [d.id for d in read(source(f"{folder}/**/*.txt"))[0]] == ids[-1]
    assert ids[0] == ids[1] == ["mine/a.txt", "mine/sub/b.txt"]


def test_pieces_cover_the_files_in_order_whatever_their_size(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.txt").write_text("x" * 10 * (i + 1))
    config = source(tmp_path)
    expected = [f"mine/{i}.txt" for i in range(7)]
    for piece_bytes in (1, 50, 10_000):
        assert [d.id for d in read(config, piece_bytes)[0]] == expected
    assert len(plan_pieces("mine", config, 1)) == 7
    assert len(plan_pieces("mine", config, 10_000)) == 1


def test_a_line_without_text_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines("one") + b'{"body": "x"}\n\n{"text": "  "}\nnot json\n{"text": 5}\n' + lines("two"))
    documents, dropped = read(source(path))
    assert [d.text for d in documents] == ["one", "two"]
    assert [(d.reason, d.where.removeprefix(str(tmp_path))) for d in dropped] == [
        ("read.no_text", "/a.jsonl:2"),
        ("read.no_text", "/a.jsonl:4"),
        ("read.not_json", "/a.jsonl:5"),
        ("read.no_text", "/a.jsonl:6"),
    ]


def test_a_truncated_gzip_keeps_what_precedes_the_cut(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*(f"document number {i} {i * 7919}" for i in range(5_000))))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    documents, dropped = read(source(tmp_path / "a.jsonl.gz"))
    assert 1_000 < len(documents) < 4_000
    assert [d.text for d in documents] == [f"document number {i} {i * 7919}" for i in range(len(documents))]
    assert [d.reason for d in dropped] == ["read.truncated_gzip"]
    assert f":{len(documents) + 1}" in dropped[0].where


def test_damage_inside_a_gzip_and_a_file_that_is_none(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(lines(*(f"document {i * 7919}" for i in range(5_000)))))
    whole[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    (tmp_path / "b.jsonl.gz").write_bytes(b"this is no gzip")
    (tmp_path / "c.jsonl").write_bytes(lines("after"))
    documents, dropped = read(source(tmp_path))
    assert documents[-1].text == "after"
    # the damaged stretch may also decompress to lines that are no JSON, before the checksum tells
    corrupt = [Path(d.where).name.split(":")[0] for d in dropped if d.reason == "read.corrupt_gzip"]
    assert corrupt == ["a.jsonl.gz", "b.jsonl.gz"]


def test_files_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("première\ndeuxième ligne".encode("latin-1"))
    (tmp_path / "b.txt").write_text("good", encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "caf\xe9"}\n' + lines("fine"))
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["good", "fine"]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [
        ("read.not_utf8", "a.txt:1"),
        ("read.not_utf8", "c.jsonl:1"),
    ]


def test_corrupt_parquet_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    documents, dropped = read(source(tmp_path / "a.parquet"))
    assert not documents
    assert [d.reason for d in dropped] == ["read.corrupt_parquet"]


def test_a_name_without_format_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.bin: its name tells no format; accepted: \.txt"):
        list(parse_file(io.BytesIO(b"x"), "data.bin"))


@pytest.mark.parametrize("path", ["missing.jsonl", "*.jsonl", "nowhere/**"])
def test_a_path_that_matches_nothing(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="correct corpus.sources.mine.reader.path"):
        plan_pieces("mine", source(tmp_path / path), 1)


def test_conversations_and_preferences(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"messages": [{"role": "user", "content": "Q"}]},  # no answer
        {
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "tool", "content": "?"},
                {"role": "assistant", "content": "A"},
            ]
        },
    ]
    (tmp_path / "chats.json").write_text(json.dumps(rows))
    documents, dropped = read(source(tmp_path / "chats.json", kind="conversations", record="messages"))
    assert [d.metadata["messages"] for d in documents] == [
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    ]
    assert len(dropped) == 2
    pairs = [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        {"prompt": "Q", "chosen": "same", "rejected": "same"},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    documents, dropped = read(source(tmp_path / "pairs.json", kind="preferences", record="preference"))
    assert [(d.metadata["chosen"], d.metadata["rejected"]) for d in documents] == [("good", "bad"), ("A", "B")]
    assert [d.reason for d in dropped] == ["read.no_text"]


def test_a_hugging_face_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    for i in range(2):
        (tmp_path / "set" / f"{i}.jsonl").write_bytes(lines(f"first {i}", f"second {i}"))
    config = SourceConfig(licence="MIT", reader=ReaderConfig(type="huggingface", dataset=str(tmp_path / "set")))
    documents, _ = read(config)
    assert sorted(d.text for d in documents) == ["first 0", "first 1", "second 0", "second 1"]
    assert len({d.id for d in documents}) == 4
