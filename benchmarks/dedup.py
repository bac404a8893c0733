"""Near-duplicate removal against datatrove's four MinHash stages, on the same documents, in one run.

    python -m benchmarks.dedup                        20 MB, whitespace words for datatrove
    python -m benchmarks.dedup --peer-words spacy     datatrove as it comes: needs `pip install spacy==3.8.18`
    python -m benchmarks.dedup --peer none            ours alone

All read JSON Lines and write the survivors, in one process, 14 bands × 8, 5-gram words, taking turns `--rounds` times:

    kernels     texts to signatures to pairs to components, all in memory: what the arithmetic costs
    corpus      `workflows.corpus` with nothing but deduplication on: pieces, shuffle files, receipts, checksums,
    Parquet;
                candidates taken as they are, as the peer does
    verified    the same with `verify: true`: what is below the threshold stays, so it recalls less of the heavily
    edited
    datatrove   signature, buckets, cluster, filter

Printed: MB/s of CPU time, the ratio of medians, and the recall on planted copies by edit rate (a planted pair counts as
found when exactly one of the two survives), with the recall that the curve predicts from the pairs' exact similarities.
Copies are planted among texts of which neither side drops any: else a pair would also count where one of it is dropped
for a third text, and whoever drops more of the unplanted ones would seem to find more of the planted.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.texts import Planted, documents, plant
from pipelines.cluster.cluster import serial_map
from pipelines.config import parse
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.dedup.components import contract
from pipelines.data.dedup.minhash import MinHashConfig, band_keys, jaccard, shingles, signatures
from pipelines.data.dedup.pairs import candidates
from pipelines.display.progress import table
from pipelines.identity import identity
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft


def kernels(source: Path, target: Path) -> set[int]:
    """JSON Lines to surviving JSON Lines: keys, links, components; the longest document of a cluster stays."""
    lines = source.read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    keys, worded = band_keys([record["text"] for record in records], MinHashConfig())
    nodes = np.flatnonzero(worded)
    label = np.arange(len(records))
    root, member = contract(*candidates(keys[nodes].ravel(), np.repeat(nodes, keys.shape[1]), own=len(records)))
    label[member] = root
    best: dict[int, int] = {}
    for i, cluster in enumerate(label.tolist()):
        held = best.get(cluster)
        if held is None or len(lines[i]) > len(lines[held]):
            best[cluster] = i
    kept = sorted(best.values())
    target.write_bytes(b"".join(lines[i] + b"\n" for i in kept))
    return {int(records[i]["id"]) for i in kept}


def corpus(source: Path, target: Path, verify: bool) -> set[int]:
    """The real path, with rules that drop nothing."""
    reader = {"type": "files", "path": str(source), "id_field": "id"}
    everything = {
        "language": {"min_characters": 1 << 40},  # no detection: the declared language stands
        "quality": {"math": {"min_characters": 0, "max_repeated_lines": 1.0}},
        "dedup": {"verify": verify},
        "sources": {"web": {"licence": "MIT", "language": "en", "content": "math", "heldout": 0, "reader": reader}},
    }
    config = parse(CorpusConfig, {"name": "bench", "corpus": everything, "quality_report": False})
    draft = ArtifactStore(str(target)).begin("corpus", "bench", identity(config))
    assert isinstance(draft, Draft)
    made = build(config, draft, serial_map)
    files = made.statistics["sources"]["web"]["train"]["files"]
    return {int(i.split("/")[1]) for file in files for i in pq.read_table(made.path(file))["id"].to_pylist()}


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


def distinct(texts: list[str], sides: list[Callable[[Path, Path], set[int]]]) -> list[str]:
    """The texts that every side keeps."""
    kept = set(range(len(texts)))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        source.write_text(
            "".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)), encoding="utf-8"
        )
        for number, side in enumerate(sides):
            kept &= side(source, Path(folder) / f"out-{number}")
    return [texts[i] for i in sorted(kept)]


def recall(kept: set[int], planted: Planted) -> dict[int, float]:
    """Share of planted pairs of which exactly one document survived, by percent of words edited."""
    return {
        percent: sum((a in kept) != (b in kept) for a, b in pairs) / len(pairs)
        for percent, pairs in planted.pairs.items()
    }


def predicted(planted: Planted) -> dict[int, float]:
    """The recall that the pairs' exact similarities and the curve 1 - (1 - s⁸)¹⁴ predict: free of sampling noise."""
    return {
        percent: statistics.mean(
            1 - (1 - jaccard(shingles(planted.texts[a]), shingles(planted.texts[b])) ** 8) ** 14 for a, b in pairs
        )
        for percent, pairs in planted.pairs.items()
    }


def signature_speed(texts: list[str], rounds: int) -> float:
    """MB/s of CPU time from text to signatures, the median."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    speeds = []
    for _ in range(rounds):
        began = time.process_time()
        signatures(texts, MinHashConfig())
        speeds.append(size / (time.process_time() - began))
    return statistics.median(speeds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the planted copies")
    parser.add_argument("--every", type=int, default=4, help="one copy for so many texts")
    parser.add_argument("--peer", choices=("datatrove", "none"), default="datatrove")
    parser.add_argument("--peer-words", choices=("split", "spacy"), default="split")
    options = parser.parse_args()
    peer = partial(datatrove, words=options.peer_words)
    sides = [kernels, peer] if options.peer == "datatrove" else [kernels]
    planted = plant(distinct(documents(options.megabytes), sides), every=options.every, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(planted.texts)]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        size = source.stat().st_size / 1e6
        print(f"{len(lines):,} documents, {size:.1f} MB, {sum(map(len, planted.pairs.values())):,} planted near-copies")
        contenders: dict[str, Callable[[Path], set[int]]] = {
            "kernels": partial(kernels, source),
            "corpus": partial(corpus, source, verify=False),
            "verified": partial(corpus, source, verify=True),
        }
        for name, work in contenders.items():  # what is compiled is compiled once
            work(Path(folder) / f"warm-{name}")
        print(f"text to signatures: {signature_speed(planted.texts, options.rounds):.1f} MB/s of CPU time")
        if options.peer == "datatrove":
            contenders[f"datatrove ({options.peer_words})"] = partial(peer, source)
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        found: dict[str, dict[int, float]] = {}
        for round_ in range(options.rounds):
            for name, work in contenders.items():
                began = time.process_time()
                kept = work(Path(folder) / f"out-{name.split()[0]}-{round_}")
                speeds[name].append(size / (time.process_time() - began))
                found[name] = recall(kept, planted)
    base = statistics.median(list(speeds.values())[-1])
    rows: list[list[Any]] = []
    for name, values in speeds.items():
        speed = statistics.median(values)
        spread = f"{min(values):.2f}–{max(values):.2f}"
        rows.append(
            [name, speed, spread, f"{speed / base:.1f}×", *(f"{r:.3f}" for _, r in sorted(found[name].items()))]
        )
    curve = predicted(planted)
    rows.append(["curve", None, "", "", *(f"{r:.3f}" for _, r in sorted(curve.items()))])
    print(table(["JSONL to survivors", "MB/s CPU", "range", "ratio", *(f"recall {p} %" for p in sorted(curve))], rows))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
