"""Clusters of copies as a reader sees them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.corpus.browse import composition, differences, lines, read_clusters, shortened
from pipelines.data.dedup.duplicates import CLUSTERS


def row(cluster: int, size: int, role: str, name: str, text: str, similarity: float | None = None) -> dict[str, Any]:
    return dict(zip(CLUSTERS.names, (cluster, size, role, name, "web", similarity, text), strict=True))


ROWS = [
    row(0, 9, "kept", "web/1", "The river is wide. 我们去北京。"),
    row(0, 9, "near", "web/2", "The river was wide. 我们去南京。", 0.75),
    row(0, 9, "exact", "web/3", "The river is wide. 我们去北京。", 1.0),
    row(1, 2, "known", "old/1", "Known text."),
    row(1, 2, "known_near", "web/9", "Known text!"),
]


ROOT = Path(__file__).parents[2]
# in a process of its own: in this one Arrow's threads may have been started by another test
THREADS = """
import os, sys
from pipelines.data.corpus.browse import read_clusters
import pyarrow.parquet as pq
threads = lambda: len(os.listdir("/proc/self/task"))
before, data = threads(), open(sys.argv[1], "rb").read()
read_clusters(data)
after = threads()
pq.read_table(sys.argv[1], use_threads=False, pre_buffer=False)
print(after - before, threads() - after)
"""


def test_differences_are_of_words_and_of_single_chinese_characters() -> None:
    assert differences("The river is wide. 我们去北京。", "The river was wide. 我们去南京。") == [
        ("=", "The river "), ("-", "is"), ("+", "was"), ("=", " wide. 我们去"), ("-", "北"), ("+", "南"), ("=", "京。"),
    ]  # fmt: skip
    assert differences("same  text", "same\ntext") == [("=", "same  text")]
    assert differences("", "new") == [("+", "new")]


def test_what_differs_only_because_the_excerpts_end_is_left_out() -> None:
    text = " ".join(f"w{i}" for i in range(200))
    runs = differences(text[:400], f"HEADER {text}"[:400])
    assert runs[0] == ("+", "HEADER ")
    assert [sign for sign, _ in runs] == ["+", "="]


def test_long_equal_runs_are_shortened_between_differences() -> None:
    runs = [("-", "a"), ("=", "x" * 500), ("+", "b"), ("=", "y" * 500)]
    short = shortened(runs)
    assert short[1] == ("=", "x" * 60 + " … " + "x" * 60)
    assert short[3] == ("=", "y" * 60 + " … ")
    assert shortened([("=", "z" * 500)]) == [("=", "z" * 500)]


def test_clusters_are_printed_with_their_differences() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS, schema=CLUSTERS), buffer)
    first, second = read_clusters(buffer.getvalue())
    assert (len(first), len(second)) == (3, 2)
    shown = "\n".join(lines(first, 1, rows=1))
    assert "── 1 · 9 documents: among the first 2, 1 near, 1 exact" in shown
    assert "web/2  Jaccard 0.750" in shown
    assert "The river [-is-]{+was+} wide. 我们去[-北-]{+南+}京。" in shown
    assert "the same text  web/3" in shown
    assert shown.endswith("and 6 more")
    near = [first[0], {**first[1], "text": first[0]["text"]}]
    assert "(no difference in the first 400 characters)" in "\n".join(lines(near, 1))
    assert "\033[32m!" in "\n".join(lines(second, 2, colours=True))
    assert composition(second) == "1 known_near"


def test_a_file_in_memory_is_read_without_threads_which_could_abort_the_end_of_a_command(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS, schema=CLUSTERS), tmp_path / "clusters.parquet")
    line = [sys.executable, "-c", THREADS, str(tmp_path / "clusters.parquet")]
    begun, by_another_way = map(int, subprocess.run(line, cwd=ROOT, capture_output=True, check=True).stdout.split())
    assert begun == 0
    assert by_another_way, "this way of reading begins threads no more: the line above cannot fail"


def test_no_other_module_has_arrow_read_what_is_in_memory() -> None:
    files = (file for room in ("pipelines", "workflows") for file in (ROOT / room).rglob("*.py"))
    assert [file.name for file in files if "BufferReader" in file.read_text(encoding="utf-8")] == ["browse.py"]
