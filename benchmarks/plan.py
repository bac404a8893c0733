"""What `dry_run=true` predicts of a corpus against what the corpus then costs and leaves.

    python -m benchmarks.plan --megabytes 1000

Text: installed documentation, taken again and again with some letters exchanged, so that each round has the statistics
of real text and shares next to no shingle with another; and near-copies planted of every eighth document. Two sources,
one under the rules for prose, which drop most of it, and one under those for dialogue. Printed: predicted, actual and
their ratio, stage by stage and in all. Actual core seconds are those of the tasks on `--workers` Ray workers.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.texts import documents, plant
from pipelines.cluster.cluster import Cluster
from pipelines.config import parse
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.plan.estimate import estimate, show
from pipelines.data.plan.metering import Meter
from pipelines.display.progress import table
from pipelines.identity import identity
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

_FILE_BYTES = 32_000_000


def write_texts(folder: Path, megabytes: float, base_megabytes: float = 25.0) -> int:
    """JSON Lines of so much text into `folder`, in turn for two sources; returns its documents."""
    base = documents(min(base_megabytes, megabytes))
    size = number = round_ = files = 0
    out: Any = None
    while size < megabytes * 1e6:
        moved = _moved_letters(round_)
        texts = [text.encode().translate(moved).decode() for text in base]
        for text in plant(texts, seed=round_).texts:
            if out is None or out.tell() > _FILE_BYTES:
                out = (folder / f"{('prose', 'talk')[files % 2]}-{files:04d}.jsonl").open("w", encoding="utf-8")
                files += 1
            line = json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n"
            out.write(line)
            number, size = number + 1, size + len(line)
            if size >= megabytes * 1e6:
                break
        round_ += 1
    out.close()
    return number


def _moved_letters(round_: int) -> bytes:
    """A table that exchanges letters which no stop word of the quality rules has; the first round keeps them."""
    letters = list(b"cgjklmpqrsuxyz")
    exchanged = letters.copy()
    if round_:
        random.Random(round_).shuffle(exchanged)
    pairs = [
        *zip(letters, exchanged, strict=True),
        *((a - 32, b - 32) for a, b in zip(letters, exchanged, strict=True)),
    ]
    return bytes(dict(pairs).get(code, code) for code in range(256))


def main() -> None:
    """Predict, build, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--texts", type=Path, help="a folder where the texts are kept for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trunkline-plan-") as name:
        folder = Path(name)
        raw = (options.texts or folder / "raw") / f"{options.megabytes:g}"
        if not raw.exists():
            raw.mkdir(parents=True)
            print(f"{write_texts(raw, options.megabytes):,} documents", flush=True)
        sources = {
            name: {
                "language": "en", "licence": "MIT", "content": content,
                "reader": {"type": "files", "path": f"{raw}/{name}-*.jsonl", "id_field": "id"},
            }
            for name, content in (("prose", "prose"), ("talk", "dialogue"))
        }  # fmt: skip
        values = {"name": "plan", "corpus": {"sources": sources}, "cluster": {"workers": options.workers}}
        config = parse(CorpusConfig, values)
        began = time.monotonic()
        plan = estimate(config)
        print(f"predicted in {time.monotonic() - began:.0f} s:", flush=True)
        show(plan, config)
        store = folder / "store"
        draft = ArtifactStore(str(store)).begin("corpus", "plan", identity(config))
        assert isinstance(draft, Draft)
        with Cluster(config.cluster) as cluster:
            meter = Meter(cluster.map_shards, store)
            began = time.monotonic()
            corpus = build(config, draft, meter)
            took = time.monotonic() - began
    facts = [held[split] for held in corpus.statistics["sources"].values() for split in ("train", "heldout")]
    actual = {
        "text kept, MB": sum(part["bytes"] for part in facts) / 1e6,
        "documents kept": float(sum(part["documents"] for part in facts)),
        "files, MB": sum(entry["bytes"] for entry in corpus.manifest["files"].values()) / 1e6,
        "temporary, MB": sum(s.left_bytes for label, s in meter.stages.items() if label != "write") / 1e6,
        "core seconds": sum(stage.core_seconds for stage in meter.stages.values()),
        "wall seconds": took,
    }
    predicted = {
        "text kept, MB": plan.kept_bytes / 1e6,
        "documents kept": plan.kept_documents,
        "files, MB": plan.output_bytes / 1e6,
        "temporary, MB": plan.temporary_bytes / 1e6,
        "core seconds": plan.core_seconds,
        "wall seconds": plan.seconds(options.workers),
    }
    rows = [[what, predicted[what], value, f"{predicted[what] / value:.2f}"] for what, value in actual.items()]
    print(table(["in all", "predicted", "actual", "ratio"], [[w, round(p, 1), round(a, 1), r] for w, p, a, r in rows]))
    stages = [
        [
            stage.name,
            stage.tasks,
            meter.stages[stage.name].tasks,
            round(stage.core_seconds, 1),
            round(meter.stages[stage.name].core_seconds, 1),
            round(stage.left_bytes / 1e6, 1),
            round(meter.stages[stage.name].left_bytes / 1e6, 1),
            round(stage.memory_bytes / 1e6),
            round(meter.stages[stage.name].memory_bytes / 1e6),
        ]
        for stage in plan.stages
        if stage.name in meter.stages
    ]
    print()
    print(
        table(
            ["predicted / actual", "tasks", "", "core s", "", "leaves, MB", "", "memory, MB", "(added to the process)"],
            stages,
        )
    )


if __name__ == "__main__":
    main()
