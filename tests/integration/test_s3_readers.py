"""Sources and store on a real S3 server: the same corpus as from a folder; wrong keys and missing paths are named."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.config import parse
from pipelines.data.cleaning.config import DecontaminationConfig, EvaluationSet
from pipelines.data.cleaning.decontaminate import contents
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.listing import list_files
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.errors import DataError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from tests.integration.s3_server import S3Server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three files of worked problems, as JSON Lines, gzip and Parquet."""
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    texts = [f"Problem {i}: what is {i} times {i + 7}? The answer is {i * (i + 7)}." for i in range(300)]
    rows = [json.dumps({"text": text}).encode() + b"\n" for text in texts]
    (folder / "a.jsonl").write_bytes(b"".join(rows[:100]))
    (folder / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(rows[100:200])))
    pq.write_table(pa.table({"text": texts[200:]}), folder / "deep" / "c.parquet")
    return folder


def make(store: str, path: str, **recipe: Any) -> Artifact:
    source = {
        "language": "en",
        "content": "math",
        "licence": "MIT",
        "duplicates": "exact",
        "reader": {"type": "files", "path": path},
    }
    config = parse(CorpusConfig, {"name": "s3", "corpus": {"sources": {"mine": source}, **recipe}})
    draft = ArtifactStore(store).begin("corpus", "s3", identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, serial_map)


def upload(server: S3Server, raw: Path) -> None:
    for path in raw.rglob("*.*"):
        server.client().upload_file(str(path), server.bucket, f"raw/{path.relative_to(raw).as_posix()}")


def hashes(corpus: Artifact) -> dict[str, Any]:
    return {f: e["sha256"] for f, e in corpus.manifest["files"].items() if f.startswith(("train", "heldout"))}


@pytest.mark.parametrize("pattern", ["raw", "raw/**"])
def test_the_same_corpus_from_s3_to_s3(server: S3Server, raw: Path, tmp_path: Path, pattern: str) -> None:
    local = make(str(tmp_path / "store"), str(raw))
    upload(server, raw)
    with server.environment():
        store = f"s3://{server.bucket}/store-{len(pattern)}"
        remote = make(store, f"s3://{server.bucket}/{pattern}")
        assert hashes(remote) == hashes(local)
        assert remote.statistics == local.statistics
        found = ArtifactStore(store).get("corpus/s3")
        assert (
            pq.read_table(found.verified("train/mine/00000.parquet")).num_rows
            == local.statistics["sources"]["mine"]["train"]["documents"]
        )
        assert not [key for key in found.storage.keys(found.folder) if "/work/" in key]


def test_large_files_are_read_by_ranges_whatever_their_cut(server: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    texts = [
        f"Problem {i}: what is {i} times {i + 7}? The answer is {i * (i + 7)}. " + "两" * (i % 50) for i in range(4_000)
    ]
    (folder / "a.jsonl").write_bytes(b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts[:2_000]))
    pq.write_table(pa.table({"text": texts[2_000:]}), folder / "b.parquet", row_group_size=300)
    for path in folder.iterdir():
        server.client().upload_file(str(path), server.bucket, f"large/{path.name}")
    whole = make(str(tmp_path / "store"), str(folder))
    with server.environment():
        cut = make(str(tmp_path / "cut"), f"s3://{server.bucket}/large", piece_bytes=25_000)
    assert whole.statistics["sources"]["mine"]["train"]["documents"] > 1_000
    assert hashes(cut) == hashes(whole)
    assert cut.statistics == whole.statistics


def test_wrong_keys_and_missing_paths_are_named(server: S3Server, raw: Path, tmp_path: Path) -> None:
    upload(server, raw)
    with (
        server.environment(AWS_SECRET_ACCESS_KEY="wrong"),
        pytest.raises(DataError, match=r"source mine: cannot read s3://bucket/raw.*AWS_ACCESS_KEY_ID"),
    ):
        make(str(tmp_path / "a"), f"s3://{server.bucket}/raw")
    with server.environment(), pytest.raises(DataError, match=r"nothing matches s3://bucket/nowhere/\*\.jsonl"):
        make(str(tmp_path / "b"), f"s3://{server.bucket}/nowhere/*.jsonl")
    assert not list(tmp_path.rglob("manifest.json"))


def test_keys_are_listed_as_files_are(server: S3Server, tmp_path: Path) -> None:
    names = [
        "dir [v2]/part-[1].jsonl",
        "dir [v2]/a::b.jsonl",
        "dir [v2]/what?.jsonl",
        "dir [v2]/100%.jsonl",
        "dir [v2]/a#b c.jsonl",
        "dir [v2]/Zürich 二.JSONL",
        "dir [v2]/README.md",
        "dir [v2]/_SUCCESS",
        "dir [v2]/.part.crc",
        "dir [v2]/sub/star*.jsonl",
        "dir [v2]/x.jsonl.tmp",
        "dir v/part-1.jsonl",
    ]
    for i, name in enumerate(names):
        line = json.dumps({"text": f"what is {i}?"}) + "\n"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(line)
        server.client().put_object(Bucket=server.bucket, Key=f"odd/{name}", Body=line.encode())
    server.client().put_object(
        Bucket=server.bucket, Key="odd/dir [v2]/sub/", Body=b""
    )  # what consoles make of a folder
    with server.environment():
        for path in (
            "dir [v2]",
            "dir [v2]/",
            "dir [v2]/*",
            "dir [v2]/**",
            "dir [v2]/*.jsonl",
            "dir [v2]/**/*.jsonl",
            "dir [uvw]",
            "dir*/part-*",
            *names[:6],
            names[9],
        ):
            local, remote = (
                list_files("corpus.sources.mine.reader", [f"{root}/{path}"])
                for root in (tmp_path, f"s3://{server.bucket}/odd")
            )
            assert [(file.label, file.size) for file in remote.files] == [(f.label, f.size) for f in local.files]
            assert remote.in_words() == local.in_words()
        reader = ReaderConfig(type="files", path=f"s3://{server.bucket}/odd/dir [v2]")
        source = SourceConfig(licence="MIT", reader=reader)
        items = [item for piece in plan_pieces("mine", source, 1 << 20) for item in read_piece(piece, source)]
        assert sorted(item.text for item in items) == sorted(f"what is {i}?" for i in (0, 1, 2, 3, 4, 5, 9))
        sets = {"exam": EvaluationSet(reader=replace(reader, path=f"s3://{server.bucket}/odd/{names[2]}"))}
        assert contents(DecontaminationConfig(sets=sets)).keys() == {"exam"}
