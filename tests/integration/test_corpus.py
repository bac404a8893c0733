"""The corpus over real Ray workers: the same bytes as in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import Artifact, ArtifactStore, Draft
from pipelines.cluster import Cluster, serial_map
from pipelines.config import identity, parse
from pipelines.data.assemble import build
from pipelines.data.corpus import CorpusConfig
from pipelines.errors import DataError


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
    config = parse(CorpusConfig, {"name": "ray", "corpus": {"sources": sources, "dedup": {"task_memory": 200_000}}})
    draft = ArtifactStore(str(store)).begin("corpus", "ray", identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, map_shards)


def test_ray_and_one_process_write_the_same_bytes(cluster: Cluster, tmp_path: Path) -> None:
    there, here = make(tmp_path / "ray", cluster.map_shards, 9_000), make(tmp_path / "serial", serial_map, 9_000)
    assert there.manifest["files"] == here.manifest["files"]
    assert there.statistics == here.statistics


def test_a_worker_that_refuses_its_input_ends_the_job_with_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    reader = {"type": "files", "path": str(tmp_path / "data.bin")}
    (tmp_path / "data.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="its name tells no format"):
        make(tmp_path / "s", cluster.map_shards, 0, reader=reader)
    assert not list(tmp_path.rglob("manifest.json"))
