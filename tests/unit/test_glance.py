"""Files whose records are of another kind than the source states are told before anything is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.glance import of_another_kind
from pipelines.data.sources.readers import listings, plan_pieces, read_piece
from pipelines.data.text.document import Dropped
from pipelines.errors import DataError

WHERE = "corpus.sources.mine.reader"
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
ROW = {"body": "words", "title": "T"}
TEXT = {"text": "words"}


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def told(path: Path, kind: str = "documents", **changes: Any) -> list[str]:
    source = SourceConfig(kind=kind, licence="MIT", reader=ReaderConfig(type="files", path=str(path), **changes))
    return of_another_kind(WHERE, source, listings({"mine": source})["mine"])


def test_chats_among_documents_are_told_and_dropped_under_their_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "chats.jsonl.gz").write_bytes(gzip.compress(lines(CHAT, CHAT).encode()))
    (tmp_path / "pairs.json").write_text(json.dumps([PAIR]))
    (tmp_path / "fine.jsonl").write_text(lines(TEXT, CHAT))
    pq.write_table(pa.table({"instruction": ["q"], "output": ["a"]}), tmp_path / "asked.parquet")
    assert told(tmp_path) == [
        "asked.parquet holds conversations (its first records have the fields instruction, output), not documents of "
        "record: text, and is dropped: give it a source of its own with kind: conversations and reader.record: "
        "instruction",
        "chats.jsonl.gz holds conversations (its first records have the fields messages), not documents of record: "
        "text, and is dropped: give it a source of its own with kind: conversations and reader.record: messages",
        "pairs.json holds preferences (its first records have the fields chosen, prompt, rejected), not documents of "
        "record: text, and is dropped: give it a source of its own with kind: preferences and reader.record: "
        "preference",
    ]
    source = SourceConfig(licence="MIT", reader=ReaderConfig(type="files", path=str(tmp_path)))
    items = [item for piece in plan_pieces("mine", source, 1 << 20) for item in read_piece(piece, source)]
    assert sorted(item.reason for item in items if isinstance(item, Dropped)) == [
        *["read.no_column"],
        *["records.is_conversation"] * 3,
        "records.is_preference",
    ]


@pytest.mark.parametrize(
    ("records", "kind", "changes", "said"),
    [
        (
            [CHAT],
            "documents",
            {},
            "set corpus.sources.mine.kind: conversations and corpus.sources.mine.reader.record: messages",
        ),
        ([PAIR], "conversations", {"record": "messages"}, "kind: preferences and .*reader.record: preference"),
        ([CHAT], "conversations", {"record": "instruction"}, "kind: conversations and .*reader.record: messages"),
        (
            [ROW],
            "documents",
            {},
            "no field text; its first records have the fields body, title: set .*text_field to the one",
        ),
        (
            [TEXT],
            "conversations",
            {"record": "messages"},
            "holds no conversations.*fields text: a source of kind: documents",
        ),
        ([5, "x"], "documents", {}, "no field text; its first records have no fields"),
        (
            [TEXT],
            "documents",
            {"record": "poem"},
            "holds no documents of record: poem.*correct corpus.sources.mine.reader.record",
        ),
    ],
)
def test_a_source_that_holds_nothing_of_its_kind_is_refused(
    tmp_path: Path, records: list[Any], kind: str, changes: dict[str, Any], said: str
) -> None:
    (tmp_path / "a.jsonl").write_text(lines(*records * 3))
    with pytest.raises(DataError, match=f"source mine: a.jsonl.*{said}"):
        told(tmp_path, kind, **changes)
    (tmp_path / "b.txt").write_text("words")
    if kind == "documents" and "record" not in changes:
        assert len(told(tmp_path)) == 1  # with another file to read it is told, and no more


def test_what_may_fit_further_down_is_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(*[ROW] * 30, TEXT))
    assert len(told(tmp_path)) == 1
    (tmp_path / "a.jsonl").write_text(lines(*[ROW] * 10, TEXT))
    assert told(tmp_path) == told(tmp_path, text_field="body") == []
    for data in (b"", b"\xff\xff", b"not json", b'{"text": "cut off'):
        (tmp_path / "a.jsonl").write_bytes(data)
        assert told(tmp_path) == []
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    assert told(tmp_path) == []


def test_of_many_files_a_few_are_opened_one_of_each_folder_first(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.jsonl").write_text(lines(TEXT))
    (tmp_path / "zz").mkdir()
    (tmp_path / "zz" / "chats.jsonl").write_text(lines(CHAT))
    assert [sentence.split(" ")[0] for sentence in told(tmp_path)] == ["zz/chats.jsonl"]


def test_json_lines_that_a_windows_shell_wrote_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(TEXT).encode("utf-16"))
    with pytest.raises(DataError, match=r"a.jsonl is utf-16-le, and JSON Lines are UTF-8: iconv -f UTF-16"):
        told(tmp_path)
