"""Parquet and datasets: only needed columns are read, and one bad value costs its own row, under a name."""

from __future__ import annotations

import datetime
import io
import json
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources.columns import Wanted, parquet_records
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.data.text.document import Document, Dropped

FAR = 2**62


def source(path: Path, **changes: Any) -> SourceConfig:
    kind = changes.pop("kind", "documents")
    return SourceConfig(kind=kind, licence="MIT", reader=ReaderConfig(type="files", path=str(path), **changes))


def read(config: SourceConfig, piece_bytes: int = 1 << 20) -> tuple[list[Document], list[Dropped]]:
    items = [item for piece in plan_pieces("mine", config, piece_bytes) for item in read_piece(piece, config)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Dropped)]


def strings(*values: bytes) -> pa.Array:
    """Strings of these bytes, valid UTF-8 or not."""
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value))
    buffers = [None, pa.py_buffer(struct.pack(f"{len(offsets)}i", *offsets)), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


BESIDE = {
    "timestamp": pa.array([0, FAR, 1], pa.timestamp("us")),
    "zone": pa.array([0, FAR, 1], pa.timestamp("us", tz="nowhere")),
    "date": pa.array([0, 2**31 - 1, 1], pa.int32()).view(pa.date32()),
    "time": pa.array([0, FAR, 1], pa.int64()).view(pa.time64("us")),
    "duration": pa.array([0, FAR, 1], pa.int64()).view(pa.duration("us")),
    "decimal": pa.array([Decimal("1.5"), None, Decimal("2")]),
    "struct": pa.array([{"a": datetime.datetime(1, 1, 1)}, None, {}]),
    "list": pa.array([["a"], None, []]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "binary": pa.array([b"\xff", None, b""]),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_column_that_nobody_reads_does_no_harm(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"text": ["one", "two", "three"], name: BESIDE[name]}), tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet"))
    assert ([d.text for d in documents], dropped) == (["one", "two", "three"], [])
    assert all(set(d.metadata) == {"source", "licence"} for d in documents)


def test_a_bad_value_beside_the_text_is_left_out_and_named(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two", "three"], "author": strings(b"a", b"\xff\xfe", b"c"), "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet"))
    assert not dropped
    assert [d.metadata.get("author") for d in documents] == ["a", None, "c"]
    assert [d.metadata.get("unreadable") for d in documents] == [None, "author", None]
    assert [d.metadata["n"] for d in documents] == [1, 2, 3]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (strings(b"one", b"\xff\xfe", b"three"), "read.not_utf8"),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), strings(b"one", b"\xff", b"three")), "read.not_utf8"),
        (pa.array(["one", None, "three"], pa.large_string()), "read.no_text"),
        (pa.array(["one", None, "three"], pa.string_view()), "read.no_text"),
    ],
)
def test_a_bad_text_costs_its_own_row(tmp_path: Path, column: Any, reason: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet"))
    assert [d.text for d in documents] == ["one", "three"]
    assert [(d.reason, d.where) for d in dropped] == [(reason, f"{tmp_path}/a.parquet:1")]


def test_a_bad_id_costs_its_own_row(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two", "three"], "id": pa.array([0, FAR, 1], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet", id_field="id"))
    assert [d.id for d in documents] == ["mine/1970-01-01 00:00:00", "mine/1970-01-01 00:00:00.000001"]
    assert [d.reason for d in dropped] == ["read.bad_value"]
    assert "column id: " in dropped[0].text


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.struct([("a", pa.string())]), pa.int64(), pa.binary()])
def test_a_text_of_another_type_is_dropped_by_row(tmp_path: Path, kind: Any) -> None:
    pq.write_table(pa.table({"text": pa.array([None, None], kind)}), tmp_path / "a.parquet")
    assert [d.reason for d in read(source(tmp_path / "a.parquet"))[1]] == ["read.no_text"] * 2


def test_a_column_that_one_of_several_files_lacks(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["two", "three"], "when": BESIDE["date"][:2]}), tmp_path / "b.parquet")
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["one"]
    assert [(d.reason, d.text) for d in dropped] == [
        ("read.no_column", "expected a column text; the file's columns: body, when")
    ] * 2


def test_files_without_rows_or_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "no_rows.parquet")
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"text": ["x"] * 3}).select([]), tmp_path / "no_columns.parquet")
    documents, dropped = read(source(tmp_path))
    assert [d.text for d in documents] == ["one"]
    assert {d.reason for d in dropped} <= {"read.no_column", "read.empty_file"}


def test_a_cut_file_and_an_empty_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"] * 50}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(b"")
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    config = SourceConfig(
        licence="MIT", reader=ReaderConfig(type="files", path=[str(tmp_path / f"{n}.parquet") for n in "abcd"])
    )
    documents, dropped = read(config)
    assert len(documents) == 50
    assert [d.reason for d in dropped] == ["read.corrupt_parquet"] * 3


def test_damage_beside_the_text_costs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    notes = [f"note {i} {i * 7919}" for i in range(3_000)]
    table = pa.table({"text": [f"row {i}" for i in range(3_000)], "note": notes})
    pq.write_table(table, path, use_dictionary=False, compression="gzip")
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    end = column.data_page_offset + column.total_compressed_size
    data[end - 90 : end - 20] = bytes(70)
    path.write_bytes(data)
    documents, dropped = read(source(path))
    assert [d.text for d in documents] == [f"row {i}" for i in range(3_000)]
    assert not dropped
    assert {d.metadata.get("unreadable") for d in documents} == {"note"}


def test_turns_in_parquet_and_a_bad_one_among_them(tmp_path: Path) -> None:
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("at", pa.timestamp("us"))])
    said = [{"role": "user", "content": "Q", "at": 0}, {"role": "assistant", "content": "A", "at": 0}]
    late = [said[0], {**said[1], "at": FAR}]
    pq.write_table(pa.table({"messages": pa.array([said, late, said], pa.list_(turn))}), tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet", kind="conversations", record="messages"))
    assert [d.id for d in documents] == ["mine/a.parquet:0", "mine/a.parquet:2"]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [("read.bad_value", "a.parquet:1")]


def test_columns_with_dots_and_several_alike(tmp_path: Path) -> None:
    table = pa.table({"doc.text": ["one"], "doc": [{"text": "other"}], "doc.textual": ["more"]})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, _ = read(source(tmp_path / "a.parquet", text_field="doc.text"))
    assert [d.text for d in documents] == ["one"]


def test_every_row_is_read_once_whatever_the_batches(tmp_path: Path) -> None:
    bad = strings(*(b"\xff" if i % 700 == 699 else b"%d" % i for i in range(2_500)))
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet", row_group_size=1_100)
    stream = io.BytesIO((tmp_path / "a.parquet").read_bytes())
    found = list(parquet_records(stream, "a", 0, None, Wanted(("text",))))
    assert [where for where, _ in found] == [f"a:{i}" for i in range(2_500)]
    assert [i for i, (_, record) in enumerate(found) if isinstance(record, Dropped)] == [699, 1399, 2099]


def test_a_bad_value_in_a_dataset_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    table = pa.table(
        {"text": ["one", "two", "three"], "when": BESIDE["timestamp"], "author": strings(b"a", b"\xff", b"c")}
    )
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    reader = ReaderConfig(type="huggingface", dataset=str(tmp_path / "set"))
    documents, dropped = read(SourceConfig(licence="MIT", reader=reader))
    assert ([d.text for d in documents], dropped) == (["one", "two", "three"], [])
    assert [d.metadata.get("unreadable") for d in documents] == [None, "author", None]
    other = ReaderConfig(type="huggingface", dataset=str(tmp_path / "set"), text_field="body")
    _, dropped = read(SourceConfig(licence="MIT", reader=other))
    assert [d.reason for d in dropped] == ["read.no_column"] * 3


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_turns_of_a_dataset_whose_types_differ_from_row_to_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    asked, parts = {"role": "user", "content": "Q"}, {"role": "user", "content": [{"type": "text", "text": "Q"}]}
    said = {"role": "assistant", "content": "A"}
    turns = [[asked, said], [parts, said], [asked, {**said, "calls": 5}], 5][
        :rows
    ]  # the more, the more is written as JSON
    lines = "".join(json.dumps({"messages": turn, "url": "u"}) + "\n" for turn in turns)
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    reader = ReaderConfig(type="huggingface", dataset=str(tmp_path / "set"), record="messages")
    documents, dropped = read(SourceConfig(kind="conversations", licence="MIT", reader=reader))
    assert [d.metadata["messages"] for d in documents] == [[asked, said]] * min(rows, 3)
    assert [d.reason for d in dropped] == ["records.no_messages"] * (rows > 3)


def test_json_columns_of_parquet_mean_what_they_say_and_damaged_ones_cost_their_row(tmp_path: Path) -> None:
    said = json.dumps([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])
    column = pa.array([said, "[{", None, said], pa.json_())
    pq.write_table(pa.table({"messages": column}), tmp_path / "a.parquet")
    documents, dropped = read(source(tmp_path / "a.parquet", kind="conversations", record="messages"))
    assert [d.text for d in documents] == ["Q\nA"] * 2
    assert [d.reason for d in dropped] == ["read.bad_value", "records.no_messages"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_damage_ends_the_job(tmp_path: Path, compression: str) -> None:
    rows = {
        "text": [f"row {i}" for i in range(120)],
        "messages": [[{"role": "user", "content": "Q"}]] * 120,
        "n": range(120),
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=50, compression=compression)
    whole, random = (tmp_path / "a.parquet").read_bytes(), np.random.default_rng(7)
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 3):
            data[place] ^= 1 << int(random.integers(8))
        for wanted in (Wanted(("text",)), Wanted(("messages",), plain_beside=False)):
            assert list(parquet_records(io.BytesIO(bytes(data)), "a", 0, None, wanted))


def test_a_footer_that_contradicts_itself_ends_no_process(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", None] * 40})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=30)
    data = (tmp_path / "a.parquet").read_bytes()
    # the column's text is said to be there in every row: Arrow aborts when it is asked what the column's statistics are
    assert data.count(b"\x25\x02\x18\x04text") == 1
    (tmp_path / "b.parquet").write_bytes(data.replace(b"\x25\x02\x18\x04text", b"\x25\x00\x18\x04text"))
    code = (
        "import sys; from pipelines.data.sources.columns import Wanted, parquet_records\n"
        f"for start, stop in ((0, {len(data) // 2}), ({len(data) // 2}, None)):\n"
        "    print(len(list(parquet_records(open(sys.argv[1], 'rb'), 'x', start, stop, Wanted(('text',))))))\n"
    )
    counts = []
    for name in ("a", "b"):
        command = [sys.executable, "-c", code, str(tmp_path / f"{name}.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        counts.append([int(line) for line in done.stdout.split()])
    assert sum(counts[0]) == 80
    assert sum(counts[1]) > 0  # rows, or under a name that they could not be read
