"""The corpus over real Ray workers: the same bytes as in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.cluster import Cluster, serial_map
from pipelines.config import parse
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.errors import DataError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from tests.unit.test_corpus import planted
from tests.waits import PATIENCE_SECONDS


def make(store: Path, map_shards: Any, count: int, **source: Any) -> Artifact:
    problems = {"type": "generated", "generator": "chinese_problems", "count": count}
    sources = {
        "problems": {"language": "zh", "content": "math", "licence": "MIT", "reader": problems, **source},
        "pairs": {
            "kind": "preferences",
            "licence": "MIT",
            "reader": {"type": "generated", "generator": "chinese_judged", "count": 500},
        },
    }
    config = parse(CorpusConfig, {"name": "ray", "corpus": {"sources": sources, "dedup": {"task_memory": 2_000_000}}})
    draft = ArtifactStore(str(store)).begin("corpus", "ray", identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, map_shards)


def test_ray_and_one_process_write_the_same_bytes(cluster: Cluster, tmp_path: Path) -> None:
    there, here = make(tmp_path / "ray", cluster.map_shards, 9_000), make(tmp_path / "serial", serial_map, 9_000)
    assert there.manifest["files"] == here.manifest["files"]
    assert there.statistics == here.statistics


_EIGHT = """
import json, sys
from pathlib import Path
from pipelines.cluster.cluster import Cluster
from pipelines.config import ClusterConfig
from tests.integration.test_corpus import planted_corpus

with Cluster(ClusterConfig(workers=8)) as cluster:
    made = planted_corpus(Path(sys.argv[1]), Path(sys.argv[2]), cluster.map_shards, 15_000, 20_000)
print(json.dumps(made.manifest["files"]))
"""


def planted_corpus(store: Path, raw: Path, map_shards: Any, piece_bytes: int, task_memory: int) -> Artifact:
    """250 articles with 40 near and 10 exact copies among them, cut and shared out as asked."""
    reader = {"type": "files", "path": str(raw), "id_field": "key"}
    sources = {"web": {"language": "en", "licence": "MIT", "heldout": 0.05, "reader": reader}}
    recipe = {
        "sources": sources,
        "piece_bytes": piece_bytes,
        "file_bytes": 60_000,
        "dedup": {"task_memory": task_memory},
    }
    config = parse(CorpusConfig, {"name": "planted", "corpus": recipe, "quality_report": False})
    draft = ArtifactStore(str(store)).begin("corpus", "planted", identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, map_shards)


def test_survivors_do_not_depend_on_workers_pieces_or_memory(cluster: Cluster, tmp_path: Path) -> None:
    raw = tmp_path / "web.jsonl"
    raw.write_text("".join(json.dumps({"key": str(i), "text": text}) + "\n" for i, text in enumerate(planted())))
    one = planted_corpus(tmp_path / "one", raw, serial_map, 1 << 20, 1 << 30)
    two = planted_corpus(tmp_path / "two", raw, cluster.map_shards, 60_000, 60_000)
    command = [sys.executable, "-c", _EIGHT, str(tmp_path / "eight"), str(raw)]
    eight = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    ).stdout.splitlines()[-1]

    def data(files: dict[str, Any]) -> dict[str, Any]:
        return {name: entry for name, entry in files.items() if not name.endswith((".html", ".json"))}

    assert len(data(one.manifest["files"])) > 15
    assert data(one.manifest["files"]) == data(two.manifest["files"]) == data(json.loads(eight))
    tasks = two.statistics["dedup"]["tasks"]
    assert min(tasks["key_ranges"], tasks["node_ranges"]) > 1


def test_a_worker_that_refuses_its_input_ends_the_job_with_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    reader = {"type": "files", "path": str(tmp_path / "data.bin")}
    (tmp_path / "data.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="its name tells no format"):
        make(tmp_path / "s", cluster.map_shards, 0, reader=reader)
    assert not list(tmp_path.rglob("manifest.json"))
