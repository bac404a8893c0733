"""The plan of a corpus from a trial: what comes out, what it costs, and what cannot be known."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.config import parse
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.plan import estimate as module
from pipelines.data.plan.estimate import NothingLeft, estimate, show
from pipelines.data.plan.metering import Meter
from pipelines.errors import ConfigError, DataError
from tests.unit.test_corpus import article, make


def config_of(folder: Path, texts: dict[str, list[str]], **top: Any) -> CorpusConfig:
    sources = {}
    for name, written in texts.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text, "key": str(i)}) + "\n" for i, text in enumerate(written)))
        reader = {"type": "files", "path": str(path), "id_field": "key"}
        sources[name] = {"licence": "MIT", "language": "en", "heldout_minimum": 0, "reader": reader}
    recipe = {"sources": sources, "piece_bytes": 20_000, **top.pop("corpus", {})}
    return parse(CorpusConfig, {"name": "plan", "corpus": recipe, **top})


def test_a_sample_predicts_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the documents are too short; of the rest every fifth is a copy of the one before."""
    texts = [article(i - 1 if i % 5 == 4 else i) for i in range(900)] + ["Too short to be read."] * 100
    texts = [texts[(i * 37) % 1000] for i in range(1000)]  # copies lie in other pieces
    config = config_of(tmp_path, {"web": texts, "more": [article(10_000 + i) for i in range(300)]})
    monkeypatch.setattr(module, "SAMPLE_BYTES", 700_000)
    plan = estimate(config)
    assert 0.3 < plan.sampled_bytes / plan.raw_bytes < 0.7
    corpus = make(tmp_path / "store", config)
    parts = [held[split] for held in corpus.statistics["sources"].values() for split in ("train", "heldout")]
    assert plan.kept_documents == pytest.approx(sum(part["documents"] for part in parts), rel=0.1)
    assert plan.kept_bytes == pytest.approx(sum(part["bytes"] for part in parts), rel=0.1)
    assert plan.documents == pytest.approx(1300, rel=0.1)
    low, high = plan.copies
    assert low < 180 / 1200 < high
    stages = {stage.name: stage for stage in plan.stages}
    assert {"clean", "near-duplicates", "compare: decide", "settle", "write"} <= set(stages)
    assert stages["clean"].read_bytes == pytest.approx(plan.raw_bytes)
    assert all(stage.core_seconds >= 0 and stage.memory_bytes > 0 for stage in plan.stages)
    assert plan.seconds(2) < plan.core_seconds
    assert not [path for path in tmp_path.iterdir() if path.name not in ("store", "web.jsonl", "more.jsonl")]


def test_everything_tried_is_everything_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(
        tmp_path,
        {"web": [*(article(i) for i in range(40)), article(3), article(4)]},
        cluster={"price_per_core_hour": 3600.0, "workers": 3},
    )
    plan = estimate(config)
    assert (round(plan.documents), round(plan.kept_documents)) == (42, 40)
    assert plan.copies == pytest.approx((2 / 42, 2 / 42))
    show(plan, config)
    shown = capsys.readouterr().out
    assert "42 read, 40 kept" in shown
    assert "with 3 tasks at once" in shown
    assert f"{plan.core_seconds:,.2g}"[:2] in shown.split("money")[1]
    assert "at 3600 per core-hour" in shown


def test_caps_bound_what_is_predicted(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"web": [article(i) for i in range(60)]})
    capped = parse(
        CorpusConfig,
        {"name": "plan", "corpus": {"piece_bytes": 20_000, "sources": {"web": {
            "licence": "MIT", "language": "en", "max_documents": 7,
            "reader": {"type": "files", "path": str(tmp_path / "web.jsonl"), "id_field": "key"},
        }}}},
    )  # fmt: skip
    assert estimate(config).kept_documents == pytest.approx(60)
    assert estimate(capped).kept_documents == pytest.approx(7)


def test_what_cannot_be_tried_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reader = {
        "type": "package",
        "package": "not-there",
        "version": "1",
        "sha256": "0" * 64,
        "path": "*",
        "archive_bytes": 3_000_000,
    }
    absent = {"licence": "MIT", "reader": reader}
    problems = {
        "licence": "MIT", "language": "en", "content": "math", "duplicates": "exact",
        "reader": {"type": "generated", "generator": "chinese_problems", "count": 200},
    }  # fmt: skip
    config = parse(CorpusConfig, {"name": "plan", "corpus": {"sources": {"absent": absent, "problems": problems}}})
    plan = estimate(config)
    assert any("not fetched yet" in note and "absent" in note for note in plan.notes)
    assert plan.raw_bytes > 9_000_000
    alone = parse(CorpusConfig, {"name": "plan", "corpus": {"sources": {"absent": absent}}})
    with pytest.raises(ConfigError, match="nothing to measure on"):
        estimate(alone)
    empty = config_of(tmp_path, {"web": ["short"] * 5})
    with pytest.raises(DataError, match="source web leaves no document"):
        estimate(empty)


def test_a_meter_counts_what_tasks_cost_and_leave(tmp_path: Path) -> None:
    def work(shard: int) -> int:
        block = bytearray(os.urandom(1000) * (shard * 20_000))  # 20 MB of memory for each
        (tmp_path / f"{shard}.bin").write_bytes(block[: shard * 1000])
        return sum(i * i for i in range(300_000))

    meter = Meter(serial_map, tmp_path)
    assert meter(work, [1, 2], "work") == [work(1)] * 2
    stage = meter.stages["work"]
    assert (stage.tasks, stage.left_bytes) == (2, 3000)
    assert 0 < stage.core_seconds <= 1.5 * stage.seconds + 0.1
    assert 25e6 < stage.memory_bytes < 200e6
    assert [shard for shard, _, _ in stage.shards] == [1, 2]


def test_where_the_sample_is_the_whole_what_leaves_nothing_is_refused(tmp_path: Path) -> None:
    short = ["Too short."] * 3
    with pytest.raises(NothingLeft, match=r"source web leaves no document \(quality.too_short 3\)"):
        estimate(config_of(tmp_path, {"web": short, "more": [article(1)]}))
    # of more than that is tried the rest may leave some
    config = config_of(tmp_path, {"web": short * 2_000, "more": [article(i) for i in range(20)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SAMPLE_BYTES", 20_000)
        with pytest.raises(DataError, match="source web leaves no document") as raised:
            estimate(config)
    assert not isinstance(raised.value, NothingLeft)


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import workflows.corpus as workflow

    config = config_of(tmp_path, {"web": ["Too short."]})
    with pytest.raises(NothingLeft):
        workflow._show_estimate(config)
    monkeypatch.setattr(module, "_uncapped", lambda sources: {})  # as if there were more than was tried
    assert workflow._show_estimate(config) is None
