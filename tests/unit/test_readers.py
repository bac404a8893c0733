"""Readers: every format, and what bad bytes cost: their own document, under a name of its own."""

import bz2
import dataclasses
import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.corpus import checks
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.files import parse_file
from pipelines.data.sources.formats import FORMATS
from pipelines.data.sources.opened import Opened
from pipelines.data.sources.readers import inventory, listings, plan_pieces, read_piece, taken_in_words, uncut
from pipelines.data.sources.records import RECORDS, RecordKind
from pipelines.data.text.document import Document, Dropped
from pipelines.errors import ConfigError, DataError, StorageError


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
        ("a.jsonl.gz", gzip.compress(lines("one", "两"), mtime=0)),
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


def test_a_line_without_text_is_named_by_file_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = lines("one")
    path.write_bytes(first + b'{"body": "x"}\n\n{"text": "  "}\nnot json\n{"text": 5}\n' + lines("two"))
    documents, dropped = read(source(path))
    assert [d.text for d in documents] == ["one", "two"]
    assert [(d.reason, d.where.removeprefix(str(tmp_path))) for d in dropped] == [
        ("read.no_text", f"/a.jsonl@{len(first)}"),
        ("read.no_text", f"/a.jsonl@{len(first) + 15}"),
        ("read.not_json", f"/a.jsonl@{len(first) + 30}"),
        ("read.no_text", f"/a.jsonl@{len(first) + 39}"),
    ]


def test_a_truncated_gzip_keeps_what_precedes_the_cut(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*(f"document number {i} {i * 7919}" for i in range(5_000))))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    documents, dropped = read(source(tmp_path / "a.jsonl.gz"))
    assert 1_000 < len(documents) < 4_000
    assert [d.text for d in documents] == [f"document number {i} {i * 7919}" for i in range(len(documents))]
    assert [d.reason for d in dropped] == ["read.truncated_gzip"]
    given = lines(*(d.text for d in documents))
    assert dropped[0].where == f"{tmp_path}/a.jsonl.gz@{len(given)}"


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize("suffix", ["zst", "bz2", "gz"])
@pytest.mark.parametrize("count", [1, 30_000])
def test_all_that_precedes_damage_is_given(tmp_path: Path, suffix: str, count: int) -> None:
    squeeze = {"zst": zstd, "bz2": bz2.compress, "gz": gzip.compress}[suffix]
    texts = [f"document number {i} {i * 7919}" for i in range(count)]
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(squeeze(lines(*texts)) + squeeze(lines("more")) + b"garbage!")
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == [*texts, "more"]
    kind = {"zst": "zstd", "bz2": "bz2", "gz": "gzip"}[suffix]
    given = len(lines(*texts, "more"))
    assert [(d.reason, d.where) for d in dropped] == [(f"read.corrupt_{kind}", f"{tmp_path}/a.jsonl.{suffix}@{given}")]


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_in_zstandard_costs_nothing_before_its_block(tmp_path: Path, seed: int) -> None:
    """Arrow gives out a megabyte at once, and nothing of it where damage follows."""
    texts = [f"line {i}" for i in range(50_000)]
    damaged = bytearray(zstd(lines(*texts)))
    rng, where = random.Random(seed), -1
    while where < 0:  # most flips give other text, not an error: this frame has no checksum
        place = rng.randrange(len(damaged) // 2, len(damaged))
        damaged[place] ^= 1
        try:
            pa.decompress(bytes(damaged), len(lines(*texts)), codec="zstd")
        except OSError:
            where = place
        else:
            damaged[place] ^= 1
    (tmp_path / "a.jsonl.zst").write_bytes(damaged)
    documents, dropped = read(source(tmp_path))
    assert len(documents) > 10_000
    assert [d.text for d in documents] == texts[: len(documents)]
    assert [d.reason for d in dropped] == ["read.corrupt_zstd"]


def test_a_truncated_bzip2_keeps_its_whole_blocks(tmp_path: Path) -> None:
    texts = [f"document number {i} {i * 7919 % 1_000_003}" for i in range(60_000)]
    whole = bz2.compress(lines(*texts))
    (tmp_path / "a.jsonl.bz2").write_bytes(whole[: len(whole) * 3 // 4])
    documents, dropped = read(source(tmp_path))
    assert len(documents) > 20_000
    assert [d.text for d in documents] == texts[: len(documents)]
    assert [d.reason for d in dropped] == ["read.truncated_bz2"]


def test_a_file_without_a_record_is_counted(tmp_path: Path) -> None:
    empty = {
        "a.jsonl": b"",
        "b.jsonl": b"\n\n",
        "c.jsonl.gz": b"",
        "d.jsonl.zst": b"",
        "e.jsonl.bz2": b"",
        "f.json": b"[]",
        "g.warc": b"",
    }
    for name, data in empty.items():
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "h.parquet")
    (tmp_path / "i.jsonl").write_bytes(lines("one"))
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["one"]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [
        ("read.empty_file", name) for name in (*empty, "h.parquet")
    ]
    assert read(source(tmp_path / "i.jsonl"), piece_bytes=4)[1] == []


def test_a_number_that_python_does_not_take_is_no_bad_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "n": ' + b"9" * 5_000 + b"}\n" + lines("b"))
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["b"]
    assert [d.reason for d in dropped] == ["read.bad_value"]


def test_damage_inside_a_gzip_and_a_file_that_is_none(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(lines(*(f"document {i * 7919}" for i in range(5_000)))))
    whole[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    (tmp_path / "b.jsonl.gz").write_bytes(b"this is no gzip")
    (tmp_path / "c.jsonl").write_bytes(lines("after"))
    documents, dropped = read(source(tmp_path))
    assert documents[-1].text == "after"
    # the damaged stretch may also decompress to lines that are no JSON, before the checksum tells
    corrupt = [Path(d.where).name.split("@")[0] for d in dropped if d.reason == "read.corrupt_gzip"]
    assert corrupt == ["a.jsonl.gz", "b.jsonl.gz"]


def test_files_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("première\ndeuxième ligne".encode("latin-1"))
    (tmp_path / "b.txt").write_text("good", encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "caf\xe9"}\n' + lines("fine"))
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["good", "fine"]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [
        ("read.not_utf8", "a.txt:1"),
        ("read.not_utf8", "c.jsonl@0"),
    ]


def test_corrupt_parquet_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    documents, dropped = read(source(tmp_path / "a.parquet"))
    assert not documents
    assert [d.reason for d in dropped] == ["read.corrupt_parquet"]


def by_piece_bytes(config: SourceConfig, sizes: tuple[int, ...]) -> list[tuple[list[Any], list[Dropped], int]]:
    """What is read, and in how many pieces, when the source is cut into pieces of these sizes."""
    found = []
    for size in sizes:
        documents, dropped = read(config, size)
        pieces = plan_pieces("mine", config, size)
        assert len({piece.key for piece in pieces}) == len(pieces)
        found.append(([(d.id, d.text, d.metadata) for d in documents], dropped, len(pieces)))
    return found


def test_a_large_jsonl_is_read_the_same_whatever_its_cut(tmp_path: Path) -> None:
    # lines from nothing to several pieces long, a BOM, a bad line, bad UTF-8, blank lines, no newline at the end
    texts = [f"{i} " + "é两" * (i * i % 97) for i in range(40)] + ["x" * 900]
    damaged = b"\n\nnot json\n" + b'{"text": "caf\xe9"}\r\n' + b'{"text": 1}\n'
    whole = b"\xef\xbb\xbf" + lines(*texts[:20]) + damaged + lines(*texts[20:])
    (tmp_path / "a.jsonl").write_bytes(whole[:-1])
    (tmp_path / "b.jsonl").write_bytes(lines("after"))
    config = source(tmp_path)
    (ids, dropped, one), *others = by_piece_bytes(config, (1 << 20, 1, 7, 100, 333, 5_000))
    assert one == 1
    assert [text for _, text, _ in ids] == [*texts, "after"]
    assert [d.reason for d in dropped] == ["read.not_json", "read.not_utf8", "read.no_text"]
    assert len({i for i, _, _ in ids}) == len(ids)
    offset = int(ids[30][0].split("@")[1])
    assert json.loads(whole[offset:].splitlines()[0])["text"] == texts[30]
    assert [found[:2] for found in others] == [(ids, dropped)] * len(others)
    assert [count for _, _, count in others][-2:] == [len(whole) // 333 + 1, 3]


def test_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {i} {i * 7919}" for i in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=9)
    size = (tmp_path / "a.parquet").stat().st_size
    (ids, dropped, one), *others = by_piece_bytes(source(tmp_path), (1 << 20, size // 2, size // 12, 40))
    assert one == 1
    assert [i for i, _, _ in ids] == [f"mine/a.parquet:{i}" for i in range(100)]
    assert not dropped
    assert [found[:2] for found in others] == [(ids, [])] * 3
    assert next(count for _, _, count in others) == 2


def test_damage_costs_one_row_group_whatever_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"row {i} " + "x" * (i % 7) for i in range(60)]})
    pq.write_table(table, path, row_group_size=20, use_dictionary=False, compression="gzip")
    data = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0)
    end = middle.data_page_offset + middle.total_compressed_size
    data[end - 60 : end - 10] = bytes(50)
    path.write_bytes(data)
    (ids, dropped, _), *others = by_piece_bytes(source(tmp_path), (1 << 20, 300, 50))
    assert [i for i, _, _ in ids] == [f"mine/a.parquet:{i}" for i in [*range(20), *range(40, 60)]]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [("read.corrupt_parquet", "a.parquet:20")]
    assert [found[:2] for found in others] == [(ids, dropped)] * 2


def test_what_cannot_be_cut_is_one_piece_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"document {i} {i * 7919}" for i in range(2_000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*rows)))
    (tmp_path / "b.jsonl").write_bytes(lines(*rows))
    pieces = plan_pieces("mine", source(tmp_path), 1_000)
    assert [p.stretches[0].label for p in uncut(pieces, 1_000)] == ["a.jsonl.gz"]
    assert len(pieces) > 40
    assert f"mine: 1 of {len(pieces)} tasks read up to 14.5 kB" in capsys.readouterr().out


def test_a_cap_reads_the_beginning_of_a_large_file_whatever_the_cut(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*(f"document {i:06}" for i in range(1_000))))
    capped = SourceConfig(licence="MIT", reader=source(tmp_path).reader, max_bytes=500)
    (ids, _, _), *others = by_piece_bytes(capped, (1 << 20, 100, 3_000))
    line = len(lines("document 000000"))
    assert [text for _, text, _ in ids] == [f"document {i:06}" for i in range(-(-2_000 // line))]
    assert [found[0] for found in others] == [ids] * 2


def test_a_long_text_becomes_documents_at_blank_lines(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {i}\n" + "words of it\n" * (i % 5) for i in range(60)]
    text = "\n".join(paragraphs)
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(("no blank line\n" * 100).encode()))
    documents, dropped = read(source(tmp_path, document_bytes=200))
    first = [d for d in documents if "a.txt" in d.id]
    assert "".join(d.text for d in first) == text
    assert all(200 <= len(d.text) < 400 and d.text.endswith("\n\n") for d in first[:-1])
    assert [int(d.id.split("@")[1]) for d in first] == [text.index(d.text) for d in first]
    assert [len(d.text) for d in documents if "b.txt" in d.id] == [406, 406, 406, 182]
    assert not dropped


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
    assert [d.reason for d in dropped] == ["records.same_answers"]


def test_a_hugging_face_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    for i in range(2):
        (tmp_path / "set" / f"{i}.jsonl").write_bytes(lines(f"first {i}", f"second {i}"))
    config = SourceConfig(licence="MIT", reader=ReaderConfig(type="huggingface", dataset=str(tmp_path / "set")))
    documents, _ = read(config)
    assert sorted(d.text for d in documents) == ["first 0", "first 1", "second 0", "second 1"]
    assert len({d.id for d in documents}) == 4


def test_a_json_file_of_lines_and_one_of_a_single_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines("one", "two") + b"not json\n" + lines("three"))
    (tmp_path / "b.json").write_text(json.dumps({"text": "four", "url": "no document of its own"}))
    (tmp_path / "c.json").write_text(json.dumps({"first": "five", "second": "six"}))
    (tmp_path / "d.json").write_text('{"text":\n"seven"} {"text": "eight"}')
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["one", "two", "three", "four", "five", "six"]
    assert [d.id for d in documents][3:] == ["mine/b.json", "mine/c.json:first", "mine/c.json:second"]
    assert [d.reason for d in dropped] == ["read.not_json"] * 2


def test_lines_of_any_json_cost_themselves_alone(tmp_path: Path) -> None:
    odd = [
        "5",
        "null",
        "true",
        "[1]",
        "{}",
        "NaN",
        "1" * 5_000,
        "[" * 200_000,
        '{"text": {"text": "x"}}',
        '{"text": ["x"]}',
    ]
    odd += ["\x00\x00", '{"n": ' + "[" * 990 + "]" * 990 + "}"]
    (tmp_path / "a.jsonl").write_bytes(
        lines("one")
        + b"\xef\xbb\xbf"
        + lines("of a file that was put behind it")
        + "\n".join(odd).encode()
        + b"\n"
        + lines("two")
    )
    documents, dropped = read(source(tmp_path / "a.jsonl"))
    assert [d.text for d in documents] == ["one", "of a file that was put behind it", "two"]
    assert len(dropped) == len(odd)
    assert {d.reason for d in dropped} == {"read.no_text", "read.not_json", "read.bad_value"}


@pytest.mark.parametrize(
    ("value", "kept"), [("k", True), (7, True), (0.5, True), ("", True), (None, False), ([1], False), (True, False)]
)
def test_an_id_is_a_single_value(tmp_path: Path, value: Any, kept: bool) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one", "key": value}) + "\n")
    documents, dropped = read(source(tmp_path / "a.jsonl", id_field="key"))
    assert [d.id for d in documents] == [f"mine/{value}"] * kept
    assert [d.reason for d in dropped] == ["read.no_id"] * (not kept)


def test_a_fault_in_one_record_is_a_drop_by_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(record: Any, field: str) -> Any:
        if "two" in record["text"]:
            raise ZeroDivisionError("of nobody's foresight")
        return record["text"], {}

    monkeypatch.setitem(RECORDS, "text", RecordKind("documents", read_text))
    (tmp_path / "a.jsonl").write_bytes(lines("one", "two", "three"))
    documents, dropped = read(source(tmp_path / "a.jsonl"))
    assert [d.text for d in documents] == ["one", "three"]
    assert [d.reason for d in dropped] == ["records.ZeroDivisionError"]


def test_a_fault_in_a_format_ends_its_file_alone_and_a_lost_server_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(lines(name))
    error: Exception = RuntimeError("of nobody's foresight")
    lines_of = FORMATS["jsonl"]

    def jsonl(opened: Opened) -> Any:
        if opened.path.endswith("a.jsonl"):
            raise error
        return lines_of.read(opened)

    monkeypatch.setitem(FORMATS, "jsonl", dataclasses.replace(lines_of, read=jsonl))
    documents, dropped = read(source(tmp_path))
    assert ([d.text for d in documents], [d.reason for d in dropped]) == (["b"], ["read.RuntimeError"])
    for kind in (StorageError, OSError, MemoryError):
        error = kind("the server is gone")
        with pytest.raises(kind, match="gone"):
            read(source(tmp_path))


def test_upper_case_and_linked_files_are_part_of_the_identity(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(lines("one", "two")))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "A.JSONL.GZ").symlink_to("../blob")
    sources = {"mine": source(tmp_path / "set")}
    before = inventory(sources, listings(sources))
    assert [d.text for d in read(sources["mine"])[0]] == ["one", "two"]
    (tmp_path / "blob").write_bytes(gzip.compress(lines("one", "two", "three")))
    assert inventory(sources, listings(sources)) != before


def test_a_name_that_is_no_utf8_is_read_and_shown(tmp_path: Path) -> None:
    for name, data in ((b"\xff.jsonl", lines("one")), (b"\xfe.7z", b"x")):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(data)
    config = source(tmp_path)
    listed = listings({"mine": config})
    assert inventory({"mine": config}, listed)["mine"].startswith("1 files ")
    assert json.dumps(listed["mine"].counts(), ensure_ascii=False).encode()
    assert listed["mine"].in_words() == "1 file: ?.7z (not read: unpack it)"
    (document,), dropped = read(config)
    assert (document.id, document.text, dropped) == ("mine/?.jsonl@0", "one", [])


def test_a_paragraph_or_a_line_is_a_document(tmp_path: Path) -> None:
    text = "\n\nfirst é\r\nline\r\n \t\r\n\r\nsecond\n\nthird, without an end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\n\ntwo"))
    (tmp_path / "c.jsonl").write_bytes(lines("three\n\nstays whole"))
    documents, dropped = read(source(tmp_path, document="paragraph"))
    assert [d.text for d in documents] == [
        "first é\r\nline\r\n \t", "second", "third, without an end", "one", "two", "three\n\nstays whole",
    ]  # fmt: skip
    assert not dropped
    raw = text.encode()
    offsets = [int(d.id.split("@")[1]) for d in documents[:3]]
    assert offsets == [raw.index(d.text.encode()) for d in documents[:3]]
    documents, _ = read(source(tmp_path / "a.txt", document="line"))
    assert [d.text for d in documents] == ["first é", "line", "second", "third, without an end"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("document", ["file", "paragraph", "line"])
def test_a_text_in_another_encoding(tmp_path: Path, encoding: str, document: str) -> None:
    # characters whose halves look like line ends and blanks in UTF-16: U+0A0A, U+2020
    paragraphs = (
        ["Où est l'été ?\r\nIci.", "†", "fin"] if encoding == "cp1252" else ["\u0a0a\u0d0a x\ny", "†", "é\u2020"]
    )
    (tmp_path / "a.txt").write_bytes("\n\n".join(paragraphs).encode(encoding))
    stated = {"encoding": encoding} if encoding in ("cp1252", "utf-16-be") else {}
    documents, dropped = read(source(tmp_path, document=document, **stated))
    split = {"file": ["\n\n".join(paragraphs)], "paragraph": paragraphs}
    assert [d.text for d in documents] == split.get(document, [t for p in paragraphs for t in p.splitlines()])
    assert not dropped


GERMAN = "Die Häuser der Straße wurden früher über längere Zeit von Bürgern gepflegt. Größere Änderungen gab es kaum. "
RUSSIAN = "Сегодня хорошая погода, и дети играют во дворе. Вечером мы пойдём в театр смотреть новую пьесу. "
POLISH = (
    "Dzisiaj jest ładna pogoda i dzieci bawią się na podwórku. Wieczorem pójdziemy do teatru obejrzeć nową sztukę. "
)
JAPANESE = "今日は天気がいいので、子供たちは庭で遊んでいます。夜は劇場へ新しい芝居を見に行きます。"
CHINESE = "今天天气很好，孩子们在院子里玩耍。晚上我们去剧院看一部新戏，大家都很高兴。"


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        (GERMAN, "cp1252", "cp1252"),
        (f"“{GERMAN}”", "cp1252", "cp1252"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (RUSSIAN, "cp1251", "cp1251"),
        (POLISH, "iso-8859-2", "iso8859-2"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (CHINESE, "gb18030", "gb18030"),
    ],
)
def test_the_encoding_that_a_text_looks_like_is_named(tmp_path: Path, text: str, encoding: str, told: str) -> None:
    (tmp_path / "a.txt").write_bytes((3 * text).encode(encoding))
    _, (dropped,) = read(source(tmp_path))
    assert f"it looks like {told}: set reader.encoding: {told} if this reads right: '{text[:40]}" in dropped.text
    documents, _ = read(source(tmp_path, encoding=told))
    assert [d.text for d in documents] == [3 * text]


def test_what_is_damaged_utf8_has_no_other_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes((3 * CHINESE).encode() + b"\xff" + (3 * GERMAN).encode())
    (tmp_path / "b.txt").write_bytes(bytes(range(128, 256)))
    _, dropped = read(source(tmp_path))
    assert "some of it is damaged: save it anew as UTF-8" in dropped[0].text
    assert "set reader.encoding to what it is in" in dropped[1].text


def test_an_encoding_is_for_what_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("été".encode())
    (tmp_path / "b.txt").write_bytes("été".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes("été".encode("utf-16"))
    (tmp_path / "d.jsonl").write_bytes(json.dumps({"text": "été"}, ensure_ascii=False).encode("latin-1"))
    (tmp_path / "e.txt").write_bytes(b"\x81 in cp1252 is nothing")
    (tmp_path / "f.txt").write_bytes("ete".encode("utf-16-le"))
    documents, dropped = read(source(tmp_path, encoding="cp1252"))
    assert [d.text for d in documents] == ["été"] * 4 + ["e\0t\0e\0"]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [("read.not_utf8", "e.txt:1")]
    assert "nor is it cp1252" in dropped[0].text
    documents, dropped = read(source(tmp_path))
    assert [(d.reason, Path(d.where).name) for d in dropped] == [
        ("read.not_utf8", "b.txt:1"),
        ("read.not_utf8", "d.jsonl@0"),
        ("read.not_utf8", "e.txt:1"),
        ("read.not_text", "f.txt"),
    ]
    assert all("set reader.encoding" in d.text for d in dropped)
    (tmp_path / "c.txt").write_bytes("été".encode("utf-16")[:-1])
    assert [d.reason for d in read(source(tmp_path / "c.txt"))[1]] == ["read.not_utf16"]


def test_a_long_paragraph_ends_at_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a line without a blank one behind it\n" * 60_000)
    documents, _ = read(source(tmp_path, document="paragraph"))
    assert [len(d.text) + 1 for d in documents] == [1_000_000 // 37 * 37 + 37] * 2 + [
        60_000 * 37 - 2 * (1_000_000 // 37 + 1) * 37
    ]


def test_what_cannot_be_cut_or_fits_no_memory_is_refused_when_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines("one"))
    for key, value in (("document", "paragraph"), ("document_bytes", 100)):
        with pytest.raises(
            DataError, match=rf"reader.{key} is {value}, but no file of it can be cut: it reads 1 JSON Lines"
        ):
            listings({"mine": source(tmp_path, **{key: value})})
    with open(tmp_path / "b.txt", "wb") as file:
        file.truncate(1_500_000_000)  # of holes
    with pytest.raises(DataError, match=r"b.txt would be one document of 1.5 GB.*reader.document=paragraph"):
        listings({"mine": source(tmp_path)})
    assert listings({"mine": source(tmp_path, document_bytes=8_000)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "2 files, 2 B, below {}: 1 Markdown, 1 text"),
        ({"document": "paragraph"}, "1 Markdown, 1 text; of text and Markdown each paragraph is one document"),
        ({"document_bytes": 8_000}, "1 Markdown, 1 text; text and Markdown in documents of about 8 kB"),
        ({"document": "line", "format": "text"}, "2 text files, 2 B, below {}; of text each line is one document"),
    ],
)
def test_the_plan_says_what_one_document_is(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text("x")
    config = source(tmp_path, **changes)
    words = taken_in_words(config, listings({"mine": config})["mine"])
    assert words.endswith(said.format(tmp_path))


def test_the_plan_says_that_pages_have_all_of_a_source_masked(tmp_path: Path) -> None:
    for name in ("a.txt", "b.html"):
        (tmp_path / name).write_text("x")
    for pii, is_told in (("auto", True), ("keep", False), ("mask", False)):
        config = dataclasses.replace(source(tmp_path), pii=pii)
        words = taken_in_words(config, listings({"mine": config})["mine"])
        assert ("masked in all of it, since web pages are among it" in words) is is_told


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (
            {"document": "paragraph", "document_bytes": 9},
            "document is paragraph and document_bytes 9; expected one of the two",
        ),
        ({"encoding": "klingon"}, "encoding is 'klingon'; expected an encoding that Python knows, e.g. cp1252"),
        ({"encoding": "base64"}, "encoding is 'base64'"),
        (
            {"split": "paragraph"},
            "split is 'paragraph', which only a reader of type huggingface takes.*document: file, paragraph",
        ),
        (
            {"record": "messages"},
            "record is 'messages'; accepted.*messages makes conversations: set corpus.sources.mine.kind=conv",
        ),
        ({"record": "mesages"}, "record is 'mesages'; accepted for this kind of source: text, [a-z_, ]*$"),
        ({"generator": "problems"}, "generator is 'problems', which only a reader of type generated takes"),
        ({"type": "huggingface", "dataset": "x", "document": "line"}, "has no text files to cut: remove"),
    ],
)
def test_what_a_reader_cannot_be_is_refused(reader: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"corpus.sources.mine.reader.*{said}"):
        checks.check_source(
            "corpus.sources.mine",
            "mine",
            SourceConfig(licence="MIT", reader=ReaderConfig(**{"type": "files", "path": "x", **reader})),
        )


def test_a_format_of_texts_makes_no_conversations() -> None:
    reader = ReaderConfig(type="files", path="x", format="markdown", record="messages")
    with pytest.raises(
        ConfigError, match="reader.format is markdown, which gives texts.*accepted: json, jsonl, parquet, warc"
    ):
        checks.check_source(
            "corpus.sources.mine", "mine", SourceConfig(kind="conversations", licence="MIT", reader=reader)
        )
