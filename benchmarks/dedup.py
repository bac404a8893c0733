"""Near-duplicate removal against datatrove's four MinHash stages, on the same documents, in one run.

    python -m benchmarks.dedup                        20 MB, whitespace words for datatrove
    python -m benchmarks.dedup --peer-words spacy     datatrove as it comes: needs `pip install spacy==3.8.18`

Both read JSON Lines and write the survivors as JSON Lines, in one process, 14 bands × 8, 5-gram words, taking turns
`--rounds` times. Printed: MB/s of CPU time, the ratio of medians, and the recall on planted copies by edit rate (a planted
pair counts as found when exactly one of the two survives).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.texts import Planted, documents, plant
from pipelines.data.clusters import candidate_pairs, components
from pipelines.data.minhash import MinHashConfig, band_keys
from pipelines.progress import table


def ours(source: Path, target: Path) -> set[int]:
    """JSON Lines to surviving JSON Lines: keys, candidate pairs, components; the longest document of a cluster stays."""
    lines = source.read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    keys, worded = band_keys([record["text"] for record in records], MinHashConfig())
    nodes = np.flatnonzero(worded)
    pairs = candidate_pairs(keys[nodes].ravel(), np.repeat(nodes, keys.shape[1]))
    label = components(len(records), pairs)
    best: dict[int, int] = {}
    for i, cluster in enumerate(label.tolist()):
        held = best.get(cluster)
        if held is None or len(lines[i]) > len(lines[held]):
            best[cluster] = i
    kept = sorted(best.values())
    target.write_bytes(b"".join(lines[i] + b"\n" for i in kept))
    return {int(records[i]["id"]) for i in kept}


def datatrove(source: Path, target: Path, words: str) -> set[int]:
    """datatrove's signature, buckets, cluster and filter stages, each in this process."""
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.word_tokenizers import WordTokenizer
    from loguru import logger

    logger.remove()
    work, config = target.parent / f"work-{target.stem}", MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)

    def read() -> Any:
        return JsonlReader(str(source.parent), glob_pattern=source.name, doc_progress=False, file_progress=False)

    class Whitespace(WordTokenizer):
        """`str.split`, so that the peer is not judged by spaCy's speed."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return text.splitlines()

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError("MinHash does not ask for spans")

    language = "en" if words == "spacy" else Whitespace()
    _run([read(), MinhashDedupSignature(str(work / "sig"), config=config, language=language)])
    for bucket in range(14):
        _run([MinhashDedupBuckets(str(work / "sig"), str(work / "buckets"), config=config)], bucket, 14)
    _run([MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=config)])
    out = JsonlWriter(str(target.parent), output_filename=target.name, compression=None)
    _run([read(), MinhashDedupFilter(str(work / "remove")), out])
    written = next(path for path in (target, target.with_name(f"00000_{target.name}")) if path.exists())
    return {int(json.loads(line)["id"]) for line in written.read_bytes().splitlines()}


def _run(blocks: list[Any], rank: int = 0, world: int = 1) -> None:
    data: Any = None
    for block in blocks:
        data = block(data, rank, world)
    if data is not None:
        for _ in data:
            pass


def recall(kept: set[int], planted: Planted) -> dict[int, float]:
    """Share of planted pairs of which exactly one document survived, by percent of words edited."""
    return {
        percent: sum((a in kept) != (b in kept) for a, b in pairs) / len(pairs)
        for percent, pairs in planted.pairs.items()
        if pairs
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-words", choices=("split", "spacy"), default="split")
    options = parser.parse_args()
    planted = plant(documents(options.megabytes))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(planted.texts)]
        source.write_text("\n".join(lines) + "\n")
        size = source.stat().st_size / 1e6
        print(f"{len(lines):,} documents, {size:.1f} MB, {sum(map(len, planted.pairs.values())):,} planted near-copies")
        ours(source, Path(folder) / "warm.jsonl")  # numba compiles once
        contenders: dict[str, Callable[[Path], set[int]]] = {
            "ours": lambda target: ours(source, target),
            f"datatrove ({options.peer_words})": lambda target: datatrove(source, target, options.peer_words),
        }
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        found: dict[str, dict[int, float]] = {}
        for round_ in range(options.rounds):
            for i, (name, work) in enumerate(contenders.items()):
                began = time.process_time()
                kept = work(Path(folder) / f"out-{i}-{round_}.jsonl")
                speeds[name].append(size / (time.process_time() - began))
                found[name] = recall(kept, planted)
    base = statistics.median(speeds[f"datatrove ({options.peer_words})"])
    rows = [
        [
            name,
            statistics.median(values),
            f"{min(values):.2f}–{max(values):.2f}",
            f"{statistics.median(values) / base:.1f}×",
        ]
        + [f"{found[name][percent]:.3f}" for percent in sorted(planted.pairs)]
        for name, values in speeds.items()
    ]
    print(
        table(["JSONL to JSONL", "MB/s CPU", "range", "ratio", *(f"recall {p} %" for p in sorted(planted.pairs))], rows)
    )


if __name__ == "__main__":
    main()
